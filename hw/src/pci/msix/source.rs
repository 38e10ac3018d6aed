//! Event descriptors that stand for interrupts: who signals one is in another process or in the kernel.

use std::sync::{Arc, Mutex, PoisonError};

use accel::{IrqChip, MsiMessage, MsiRoute};
use mainloop::{Interest, Watch};
use vmm_sys_util::eventfd::EventFd;

/// An event whose signals are a vector, once [connected](super::Msix::connect).
///
/// It always goes one of two ways: the accelerator delivers the message itself, or the watch hears of the signal, whose callback
/// does what is right at that time. A signal that comes between the two stays in the event and is not lost.
pub struct MsixSource {
    event: Arc<EventFd>,
    watch: Watch,
    route: Mutex<Route>,
}

#[derive(Default)]
struct Route {
    /// Kept while the source goes the other way: it may soon go this way again.
    route: Option<Box<dyn MsiRoute>>,
    connected: bool,
}

impl MsixSource {
    /// A source on `event`, which `watch` waits for.
    pub fn new(event: Arc<EventFd>, watch: Watch) -> Arc<Self> {
        Arc::new(Self { event, watch, route: Mutex::default() })
    }

    /// The event.
    pub fn event(&self) -> &Arc<EventFd> {
        &self.event
    }

    /// Has the accelerator deliver `message` for each signal, or the watch hear of them.
    pub(super) fn set_direct(&self, irq: &Arc<dyn IrqChip>, message: Option<MsiMessage>) {
        // Both fields are changed after what they say is so.
        let mut state = self.route.lock().unwrap_or_else(PoisonError::into_inner);
        let connected = message.is_some_and(|message| self.connect(&mut state, irq, message));
        if !connected && state.connected {
            if let Some(route) = &state.route {
                route.disconnect();
            }
            state.connected = false;
        }
        // After the accelerator let go, before which the watch would take its signals.
        self.watch.set_interest(if connected { Interest::NONE } else { Interest::READ });
    }

    fn connect(&self, state: &mut Route, irq: &Arc<dyn IrqChip>, message: MsiMessage) -> bool {
        if state.route.is_none() {
            state.route = Arc::clone(irq).msi_route(message).ok();
        }
        let Some(route) = &state.route else { return false };
        if let Err(error) = route.update(message) {
            trace::emit!(pliant_msix_detour, &error);
            return false;
        }
        if !state.connected {
            match route.connect(&self.event) {
                Ok(()) => state.connected = true,
                Err(error) => trace::emit!(pliant_msix_detour, &error),
            }
        }
        state.connected
    }
}

#[cfg(test)]
mod tests;

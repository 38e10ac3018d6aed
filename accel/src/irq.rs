//! Interrupts as devices deliver them: numbered lines (GSIs) and messages (MSI, PCI 3.0 §6.8).
//!
//! [`UserIrqChip`] is the controller of accelerators without one in the kernel: it remembers the level of each line and
//! hands everything to its listeners (`sim` wakes its program, `qtest` reports lines to its client). It models no PIC, IOAPIC or
//! LAPIC: no masking, no priorities, no vectors.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use qapi::Error;
use vmm_sys_util::eventfd::EventFd;

pub use guest::MsiMessage;

/// Lines of the interrupt controllers: 16 of the PIC pair, which are also 0–15 of the IOAPIC's 24.
pub const GSI_COUNT: u32 = 24;

/// Delivers interrupts to the guest. Callable from any thread, also with a device's lock held.
pub trait IrqChip: Send + Sync {
    /// Sets the level of line `gsi` (0–23). Other numbers are ignored.
    fn set_gsi(&self, gsi: u32, level: bool);

    /// Delivers one message.
    fn send_msi(&self, message: MsiMessage);

    /// Prepares a message for repeated delivery. Dropping the route takes it back.
    ///
    /// # Errors
    /// The host has no memory left.
    fn msi_route(self: Arc<Self>, message: MsiMessage) -> qapi::Result<Box<dyn MsiRoute>>;

    /// How often devices raised each line, by controller; nothing if nobody counts.
    fn statistics(&self) -> Vec<LineStatistics> {
        Vec::new()
    }
}

/// How often lines of a controller were raised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineStatistics {
    /// Name of the controller.
    pub controller: &'static str,
    /// By number of the line.
    pub raised: Vec<u64>,
}

/// Levels of lines, and how often each was raised. What kernels and other processes raise by themselves is not in it.
#[derive(Debug, Default)]
pub(crate) struct LineCounter {
    /// A bit for each line that is high.
    levels: AtomicU32,
    raised: [AtomicU64; GSI_COUNT as usize],
}

impl LineCounter {
    /// Takes note of a level; numbers that do not exist are ignored.
    pub(crate) fn set(&self, gsi: u32, level: bool) {
        let Some(raised) = self.raised.get(gsi as usize) else { return };
        let bit = 1 << gsi;
        if !level {
            self.levels.fetch_and(!bit, Ordering::Relaxed);
        } else if self.levels.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            raised.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts of the first `lines` lines.
    pub(crate) fn raised(&self, lines: u32) -> Vec<u64> {
        self.raised[..lines as usize].iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

/// A message that is delivered again and again, as an unmasked MSI-X table entry is.
pub trait MsiRoute: Send + Sync {
    /// The message delivered from now on.
    ///
    /// # Errors
    /// The kernel refused the new routing table; the old message stays.
    fn update(&self, message: MsiMessage) -> qapi::Result<()>;

    /// Delivers the message now.
    fn trigger(&self);

    /// Whoever writes to `event` has the message delivered without a word to us, until [`disconnect`](Self::disconnect): for back
    /// ends in the kernel and in other processes. What was written before is delivered now. One event at a time; the one
    /// before is disconnected.
    ///
    /// # Errors
    /// The accelerator has no such thing (then the caller watches the event itself and calls [`MsiRoute::trigger`]), or no route
    /// number is left. No event is connected then.
    fn connect(&self, event: &Arc<EventFd>) -> qapi::Result<()>;

    /// Undoes [`connect`](Self::connect). What is written from now on stays in the event.
    fn disconnect(&self);
}

/// What a [`UserIrqChip`] tells its listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    /// A line changed its level.
    Line {
        /// The line, 0–23.
        gsi: u32,
        /// Its new level.
        level: bool,
    },
    /// A message was sent.
    Msi(MsiMessage),
}

type Listener = Arc<dyn Fn(Interrupt) + Send + Sync>;

/// Line levels and a listener; see the module documentation.
#[derive(Default)]
pub struct UserIrqChip {
    state: Mutex<UserState>,
    counter: LineCounter,
}

#[derive(Default)]
struct UserState {
    levels: [bool; GSI_COUNT as usize],
    listeners: Vec<Listener>,
}

impl UserIrqChip {
    /// Its name for people.
    pub const NAME: &'static str = "interrupt-lines";

    /// All lines low, nobody listening.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Hears of every later message and change of a line, for as long as the chip lives. It is called on the thread that
    /// raised the interrupt, with the device's locks held, so it must not call devices.
    pub fn listen(&self, listener: impl Fn(Interrupt) + Send + Sync + 'static) {
        self.lock().listeners.push(Arc::new(listener));
    }

    /// The level of a line; low for numbers that do not exist.
    #[must_use]
    pub fn level(&self, gsi: u32) -> bool {
        self.lock().levels.get(gsi as usize).copied().unwrap_or(false)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, UserState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deliver(&self, message: MsiMessage) {
        // Called without the lock: a listener may look at levels.
        let listeners = self.lock().listeners.clone();
        listeners.iter().for_each(|listener| listener(Interrupt::Msi(message)));
    }
}

/// The chip's face to devices.
#[derive(Clone)]
pub(crate) struct UserIrq(pub(crate) Arc<UserIrqChip>);

impl IrqChip for UserIrq {
    fn set_gsi(&self, gsi: u32, level: bool) {
        self.0.counter.set(gsi, level);
        let listeners = {
            let mut state = self.0.lock();
            match state.levels.get_mut(gsi as usize) {
                Some(current) if *current != level => *current = level,
                _ => return,
            }
            state.listeners.clone()
        };
        listeners.iter().for_each(|listener| listener(Interrupt::Line { gsi, level }));
    }

    fn send_msi(&self, message: MsiMessage) {
        self.0.deliver(message);
    }

    fn msi_route(self: Arc<Self>, message: MsiMessage) -> qapi::Result<Box<dyn MsiRoute>> {
        Ok(Box::new(UserRoute { chip: Arc::clone(&self.0), message: Mutex::new(message) }))
    }

    fn statistics(&self) -> Vec<LineStatistics> {
        let raised = self.0.counter.raised(GSI_COUNT);
        vec![LineStatistics { controller: UserIrqChip::NAME, raised }]
    }
}

struct UserRoute {
    chip: Arc<UserIrqChip>,
    message: Mutex<MsiMessage>,
}

impl MsiRoute for UserRoute {
    fn update(&self, message: MsiMessage) -> qapi::Result<()> {
        *self.message.lock().unwrap_or_else(PoisonError::into_inner) = message;
        Ok(())
    }

    fn trigger(&self) {
        let message = *self.message.lock().unwrap_or_else(PoisonError::into_inner);
        self.chip.deliver(message);
    }

    fn connect(&self, _event: &Arc<EventFd>) -> qapi::Result<()> {
        Err(Error::generic("irqfd is not available"))
    }

    fn disconnect(&self) {}
}

#[cfg(test)]
mod tests;

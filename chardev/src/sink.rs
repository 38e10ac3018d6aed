//! The upward side of a character device: who gets its input and events.
//!
//! A plain device has one port, a mux several of which one has the focus. Events are derived from states (what a port
//! was told against what is true), so that attaching, connecting and switching may happen in any order and on any
//! thread: the next [`Sink::sync`] on the loop thread tells each port what it does not know.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use mainloop::Handle;

use crate::device::Target;
use crate::frontend::{CharEvent, Frontend};

/// Front ends of one mux, as in QEMU.
pub(crate) const MAX_MUX_PORTS: usize = 4;

type Handler = Arc<Mutex<Box<dyn Frontend>>>;

pub(crate) struct Sink {
    handle: Handle,
    this: Weak<Sink>,
    is_mux: bool,
    /// See [`Sink::hold_events`].
    held: AtomicBool,
    state: Mutex<State>,
}

/// Who uses a device that is no mux.
pub(crate) enum User {
    /// Nobody.
    Nobody,
    /// A front end that goes on when the device is replaced.
    Movable(Arc<Target>),
    /// One that does not.
    Fixed,
}

#[derive(Default)]
struct State {
    ports: Vec<PortState>,
    next_port: u64,
    focus: Option<u64>,
    /// Counts connections; odd while the far end is there.
    connection: u64,
}

pub(crate) struct PortState {
    id: u64,
    /// Of the port itself.
    target: Weak<Target>,
    handler: Option<Handler>,
    /// What the handler says of it. It cannot be asked later: a monitor may ask for its own.
    supports_change: bool,
    /// The connection it was told `Opened` of.
    told_open: Option<u64>,
    told_focus: Option<bool>,
    frontend_open: bool,
    /// Wants to hear that the queue has drained.
    owed: bool,
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Sink")
            .field("ports", &state.ports.len())
            .field("connection", &state.connection)
            .finish()
    }
}

impl Sink {
    pub(crate) fn new(handle: Handle, is_mux: bool) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            handle,
            this: this.clone(),
            is_mux,
            held: AtomicBool::new(false),
            state: Mutex::default(),
        })
    }

    /// Tells front ends nothing until [`Self::release_events`]: which of them has the terminal is not known yet.
    pub(crate) fn hold_events(&self) {
        self.held.store(true, Ordering::Release);
    }

    /// All front ends are there.
    pub(crate) fn release_events(&self) {
        if self.held.swap(false, Ordering::AcqRel) {
            self.post_sync();
        }
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether several front ends share it.
    pub(crate) fn is_mux(&self) -> bool {
        self.is_mux
    }

    // --- ports ---

    /// A new port, or `None` if all are taken.
    pub(crate) fn reserve(&self, target: Weak<Target>) -> Option<u64> {
        let mut state = self.lock();
        let limit = if self.is_mux { MAX_MUX_PORTS } else { 1 };
        if state.ports.len() >= limit {
            return None;
        }
        let id = state.next_port;
        state.next_port += 1;
        state.ports.push(PortState {
            id,
            target,
            handler: None,
            supports_change: false,
            told_open: None,
            told_focus: None,
            frontend_open: false,
            owed: false,
        });
        Some(id)
    }

    pub(crate) fn set_handler(&self, port: u64, frontend: Box<dyn Frontend>) {
        let mut old = None;
        {
            let mut state = self.lock();
            if let Some(port) = state.port(port) {
                // A handler that replaces another knows nothing yet.
                (port.told_open, port.told_focus) = (None, None);
                port.supports_change = frontend.supports_change();
                old = port.handler.replace(Arc::new(Mutex::new(frontend)));
                port.frontend_open = true;
            }
            // The last to come gets the terminal: with `-nographic` the serial port, created after the monitor.
            state.focus = Some(port);
        }
        drop(old);
        self.post_sync();
    }

    pub(crate) fn release(&self, port: u64) {
        let removed = {
            let mut state = self.lock();
            let Some(index) = state.ports.iter().position(|known| known.id == port) else { return };
            let removed = state.ports.remove(index);
            if state.focus == Some(port) {
                state.focus = state.ports.last().map(|port| port.id);
            }
            removed
        };
        drop(removed);
        self.post_sync();
    }

    /// The port of a device that is no mux: where it may be moved from, if its front end agrees.
    pub(crate) fn user(&self) -> User {
        let state = self.lock();
        let Some(port) = state.ports.first() else { return User::Nobody };
        match port.target.upgrade() {
            Some(target) if port.supports_change => User::Movable(target),
            _ => User::Fixed,
        }
    }

    /// Takes the only port away, to put it on another device. Its front end is not told.
    pub(crate) fn take_port(&self) -> Option<PortState> {
        self.lock().ports.pop()
    }

    /// A port of another device. Its front end hears of the end of the connection it knew, and of the one that is here.
    pub(crate) fn put_port(&self, mut port: PortState) {
        // No connection of this device has that number.
        port.told_open = port.told_open.map(|_| u64::MAX);
        port.told_focus = None;
        port.owed = true;
        {
            let mut state = self.lock();
            state.next_port = state.next_port.max(port.id + 1);
            state.focus = Some(port.id);
            state.ports.push(port);
        }
        self.post_sync();
    }

    pub(crate) fn is_busy(&self) -> bool {
        !self.lock().ports.is_empty()
    }

    pub(crate) fn frontend_open(&self) -> bool {
        self.lock().ports.iter().any(|port| port.frontend_open)
    }

    pub(crate) fn set_frontend_open(&self, port: u64, open: bool) {
        if let Some(port) = self.lock().port(port) {
            port.frontend_open = open;
        }
    }

    pub(crate) fn set_owed(&self, port: u64) {
        if let Some(port) = self.lock().port(port) {
            port.owed = true;
        }
    }

    // --- focus (mux) ---

    /// Gives the terminal to the next port in order of attachment.
    pub(crate) fn focus_next(&self) {
        {
            let mut state = self.lock();
            let Some(current) = state.ports.iter().position(|port| Some(port.id) == state.focus) else {
                return;
            };
            let next = (current + 1) % state.ports.len();
            state.focus = Some(state.ports[next].id);
        }
        self.sync();
    }

    fn focused(&self) -> Option<Handler> {
        let mut state = self.lock();
        let id = if self.is_mux { state.focus } else { state.ports.first().map(|port| port.id) };
        id.and_then(|id| state.port(id)?.handler.clone())
    }

    /// The port that has the terminal.
    pub(crate) fn focus(&self) -> Option<u64> {
        self.lock().focus
    }

    pub(crate) fn has_port(&self, port: u64) -> bool {
        self.lock().port(port).is_some()
    }

    /// Room of one port, focused or not; `None` if it is gone.
    pub(crate) fn can_read_of(&self, port: u64) -> Option<usize> {
        let handler = self.lock().port(port)?.handler.clone()?;
        let room = lock_handler(&handler).can_read();
        Some(room)
    }

    pub(crate) fn read_of(&self, port: u64, data: &[u8]) {
        let handler = self.lock().port(port).and_then(|port| port.handler.clone());
        if let Some(handler) = handler {
            lock_handler(&handler).read(data);
        }
    }

    // --- from the back end, on the loop thread ---

    pub(crate) fn can_read(&self) -> usize {
        self.focused().map_or(0, |handler| lock_handler(&handler).can_read())
    }

    pub(crate) fn read(&self, data: &[u8]) {
        if let Some(handler) = self.focused() {
            lock_handler(&handler).read(data);
        }
    }

    pub(crate) fn must_drain(&self) -> bool {
        self.focused().is_some_and(|handler| lock_handler(&handler).must_drain())
    }

    pub(crate) fn send_break(&self) {
        if let Some(handler) = self.focused() {
            lock_handler(&handler).event(CharEvent::Break);
        }
    }

    /// The queue has drained.
    pub(crate) fn writable(&self) {
        let owed: Vec<Handler> = {
            let mut state = self.lock();
            let ports = state.ports.iter_mut().filter(|port| port.owed);
            ports
                .filter_map(|port| {
                    port.owed = false;
                    port.handler.clone()
                })
                .collect()
        };
        for handler in owed {
            lock_handler(&handler).writable();
        }
    }

    pub(crate) fn post_writable(&self) {
        self.post(Self::writable);
    }

    /// As [`Self::send_break`], soon: the caller may be the front end itself (a monitor breaking its own device).
    pub(crate) fn post_break(&self) {
        self.post(Self::send_break);
    }

    fn post(&self, work: fn(&Self)) {
        let this = self.this.clone();
        self.handle.post(move || {
            if let Some(sink) = this.upgrade() {
                work(&sink);
            }
        });
    }

    // --- state and events ---

    pub(crate) fn is_open(&self) -> bool {
        self.lock().is_open()
    }

    /// The far end came or went. Told to the front end at once on the loop thread, soon on others.
    pub(crate) fn set_open(&self, open: bool) {
        {
            let mut state = self.lock();
            if state.is_open() == open {
                return;
            }
            state.connection += 1;
        }
        // While a VM is being built, front ends expect no call before the loop runs.
        self.post_sync();
    }

    /// As [`Self::set_open`], telling the front end before it returns: input of the new connection must not come
    /// first. Loop thread only.
    pub(crate) fn set_open_now(&self, open: bool) {
        self.set_open(open);
        self.sync();
    }

    fn post_sync(&self) {
        self.post(Self::sync);
    }

    /// Tells every port what it does not know yet. Loop thread only.
    pub(crate) fn sync(&self) {
        if self.held.load(Ordering::Acquire) {
            return;
        }
        loop {
            let next = {
                let mut state = self.lock();
                state.next_event(self.is_mux)
            };
            let Some((handler, event)) = next else { return };
            lock_handler(&handler).event(event);
        }
    }
}

impl State {
    fn port(&mut self, id: u64) -> Option<&mut PortState> {
        self.ports.iter_mut().find(|port| port.id == id)
    }

    fn is_open(&self) -> bool {
        self.connection % 2 == 1
    }

    /// The next thing somebody must be told: who loses the focus before who gains it, then closings and openings.
    fn next_event(&mut self, is_mux: bool) -> Option<(Handler, CharEvent)> {
        let focus = self.focus;
        if is_mux {
            for has_focus in [false, true] {
                let untold = self.ports.iter_mut().find(|port| {
                    port.handler.is_some()
                        && (focus == Some(port.id)) == has_focus
                        && port.told_focus != Some(has_focus)
                });
                if let Some(port) = untold {
                    port.told_focus = Some(has_focus);
                    let event = if has_focus { CharEvent::MuxIn } else { CharEvent::MuxOut };
                    return port.handler.clone().map(|handler| (handler, event));
                }
            }
        }
        let current = self.is_open().then_some(self.connection);
        let port = self.ports.iter_mut().find(|port| port.handler.is_some() && port.told_open != current)?;
        let event = if port.told_open.is_some() {
            // A new connection replaced the one it knew: it hears of the end first, of the new one in the next round.
            port.told_open = None;
            CharEvent::Closed
        } else {
            port.told_open = current;
            CharEvent::Opened
        };
        port.handler.clone().map(|handler| (handler, event))
    }
}

fn lock_handler(handler: &Handler) -> MutexGuard<'_, Box<dyn Frontend>> {
    handler.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

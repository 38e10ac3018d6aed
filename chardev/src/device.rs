//! A character device and the port through which one front end uses it.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError, RwLock};

use crate::backend::Backend;
use crate::connection::{Connection, Patience};
use crate::frontend::Frontend;
use crate::log::Log;
use crate::sink::{MAX_MUX_PORTS, Sink};
use crate::tty::Terminal;
use crate::{CONGESTION, QUEUE_CAP, WRITE_QUEUE};

/// One character device: its name, its host side, and who uses it.
pub struct Chardev {
    label: String,
    kind: &'static str,
    sink: Arc<Sink>,
    backend: Box<dyn Backend>,
    log: Option<Log>,
}

impl fmt::Debug for Chardev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chardev")
            .field("label", &self.label)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl Chardev {
    pub(crate) fn new(
        label: &str,
        kind: &'static str,
        sink: Arc<Sink>,
        backend: Box<dyn Backend>,
        log: Option<Log>,
    ) -> Self {
        Self { label: label.to_owned(), kind, sink, backend, log }
    }

    /// Its id.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The name of the back end, as in `-chardev KIND,...` (`tty` is called `serial`, as in QEMU).
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// As `query-chardev` prints it: `stdio`, `pty:/dev/pts/3`, `disconnected:unix:/path,server=on`, ...
    pub fn filename(&self) -> String {
        self.backend.filename()
    }

    /// Whether a front end uses it and has not closed it.
    pub fn frontend_open(&self) -> bool {
        self.sink.frontend_open()
    }

    /// Whether the far end is there.
    pub fn is_open(&self) -> bool {
        self.sink.is_open()
    }

    /// Whether anybody uses it, so that it cannot be removed.
    pub fn is_busy(&self) -> bool {
        self.sink.is_busy()
    }

    /// The terminal to connect to, if this is a pty.
    pub fn pty_path(&self) -> Option<&str> {
        self.backend.pty_path()
    }

    /// The program's own terminal, if that is what people at this device sit at.
    pub fn terminal(&self) -> Option<Terminal> {
        self.backend.terminal()
    }

    /// Takes the device for a front end whose functions are given later, with [`Port::set_handler`].
    ///
    /// # Errors
    ///
    /// `chardev 'ID' is already in use` if another front end has it; a mux has room for four.
    pub fn reserve(self: &Arc<Self>) -> qapi::Result<Port> {
        let target = Arc::new(Target(RwLock::new(Arc::clone(self))));
        match self.sink.reserve(Arc::downgrade(&target)) {
            Some(id) => Ok(Port { target, id }),
            None if self.sink.is_mux() => Err(qapi::Error::generic(format!(
                "too many uses of multiplexed chardev '{}' (maximum is {MAX_MUX_PORTS})",
                self.label
            ))),
            None => Err(qapi::Error::generic(format!("chardev '{}' is already in use", self.label))),
        }
    }

    /// Takes the device for `frontend`. If the far end is there, `Opened` follows from the loop.
    ///
    /// # Errors
    ///
    /// As [`Self::reserve`].
    pub fn attach(self: &Arc<Self>, frontend: Box<dyn Frontend>) -> qapi::Result<Port> {
        let port = self.reserve()?;
        port.set_handler(frontend);
        Ok(port)
    }

    /// Gives the front end a break soon, as `chardev-send-break`. From any thread.
    pub fn send_break(&self) {
        self.sink.post_break();
    }

    /// Bytes written and not taken by the host yet.
    pub fn queued(&self) -> usize {
        self.backend.queued()
    }

    /// As [`Port::connection`], for who looks at a device that is another's.
    pub fn connection(&self) -> Option<Connection> {
        self.backend.connection()
    }

    pub(crate) fn sink(&self) -> &Sink {
        &self.sink
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// Lets the host side go, whoever still holds the device. Loop thread only.
    pub(crate) fn close(&self) {
        if let Some(stream) = self.backend.stream() {
            stream.close();
        }
        self.backend.shut_down();
    }

    fn write(&self, data: &[u8], limit: usize) -> usize {
        let taken = self.backend.write(data, limit);
        if let Some(log) = &self.log {
            log.write(&data[..taken]);
        }
        taken
    }
}

/// A front end's hold on a [`Chardev`]. Dropping it gives the device back; its functions are not called any more
/// (on another thread than the loop's, a call that has begun may still be finishing).
#[must_use = "dropping a port detaches the front end"]
pub struct Port {
    target: Arc<Target>,
    id: u64,
}

/// The device that a port is on, which `chardev-change` replaces under it.
pub(crate) struct Target(RwLock<Arc<Chardev>>);

impl Target {
    fn chardev(&self) -> Arc<Chardev> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Moves the only port of `old` to `new`: the port knows either, and is known to one, at any moment. Loop thread only, so that
    /// the old device tells it nothing meanwhile.
    pub(crate) fn replace(&self, old: &Chardev, new: &Arc<Chardev>) {
        {
            let mut target = self.0.write().unwrap_or_else(PoisonError::into_inner);
            let Some(port) = old.sink.take_port() else { return };
            new.sink.put_port(port);
            *target = Arc::clone(new);
        }
        // What the old device took no more of, the new one may.
        new.sink.post_writable();
        new.backend.accept_input();
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Port").field(&self.chardev().label).field(&self.id).finish()
    }
}

impl Port {
    /// Sets (or replaces) the front end's functions and opens the front end.
    pub fn set_handler(&self, frontend: Box<dyn Frontend>) {
        let chardev = self.chardev();
        chardev.sink.set_handler(self.id, frontend);
        chardev.backend.accept_input();
    }

    /// The device; another one of the same id after `chardev-change`.
    pub fn chardev(&self) -> Arc<Chardev> {
        self.target.chardev()
    }

    /// Writes without blocking and returns how many bytes were taken. Fewer than given means that the host is slow:
    /// [`Frontend::writable`] follows when it is worth trying again. With nobody at the far end, all are taken and
    /// lost. For serial ports.
    pub fn write(&self, data: &[u8]) -> usize {
        let chardev = self.chardev();
        let taken = chardev.write(data, WRITE_QUEUE);
        if taken < data.len() {
            self.owe_writable(&chardev);
        }
        taken
    }

    /// Writes without blocking, queueing what the host does not take. For monitors: a message is written whole or
    /// not at all. False if that would exceed [`QUEUE_CAP`]: the queue is thrown away and the peer disconnected.
    pub fn write_all(&self, data: &[u8]) -> bool {
        let chardev = self.chardev();
        if chardev.backend.queued().saturating_add(data.len()) > QUEUE_CAP
            || chardev.write(data, QUEUE_CAP) < data.len()
        {
            chardev.backend.give_up();
            return false;
        }
        true
    }

    /// Whether so much is queued that the front end had better produce no more (a monitor: read no further command).
    /// If so, [`Frontend::writable`] follows when the queue has drained.
    pub fn is_congested(&self) -> bool {
        let chardev = self.chardev();
        let congested = chardev.queued() > CONGESTION;
        if congested {
            self.owe_writable(&chardev);
        }
        congested
    }

    fn owe_writable(&self, full: &Arc<Chardev>) {
        // It may have been replaced meanwhile.
        let chardev = self.chardev();
        chardev.sink.set_owed(self.id);
        // It may have drained just before, and then nothing else would tell.
        if chardev.queued() == 0 || !Arc::ptr_eq(full, &chardev) {
            chardev.sink.post_writable();
        }
    }

    /// Says that [`Frontend::can_read`] may say more than 0 again. Cheap; from any thread.
    pub fn accept_input(&self) {
        self.chardev().backend.accept_input();
    }

    /// Opens or closes the front end as `query-chardev` shows it. Attached front ends start open.
    pub fn set_frontend_open(&self, open: bool) {
        self.chardev().sink.set_frontend_open(self.id, open);
    }

    /// Whether the terminal shows what is typed (off at first: a monitor with line editing does that itself).
    pub fn set_echo(&self, on: bool) {
        self.chardev().backend.set_echo(on);
    }

    /// The descriptors that came over a unix socket last (`getfd`, `add-fd`), unless they were taken, with the input that
    /// [`Frontend::read`] has just been given or some time before. Those that nobody takes are closed when others come or the peer leaves.
    pub fn take_fds(&self) -> Vec<OwnedFd> {
        self.chardev().backend.take_fds()
    }

    /// A copy of the socket to the peer, for a front end that speaks on it itself; see [`Connection`]. `None` while nobody is
    /// connected, and always for anything but a unix socket.
    pub fn connection(&self) -> Option<Connection> {
        self.chardev().backend.connection()
    }

    /// Ends connection `id`, unless it ended already: the front end hears `Closed` before this returns (if it heard `Opened`), and
    /// [`Self::wait_connected`] makes a new one. Loop thread only; on others, shut the copy of the socket down.
    pub fn hang_up(&self, id: u64) {
        self.chardev().backend.hang_up(id);
    }

    /// Has another loop, on a thread of its own, read the present connection for `reader`, whose `can_read`, `read`, `must_drain` and `writable`
    /// are called there; output that is queued is written there, too. Events still go to the port's own front end, on the main loop, and
    /// the next connection is read there again. Of input that was read before, nothing is given to `reader`.
    ///
    /// False if this device cannot do it (a mux, or nobody is connected): everything stays as it is. Loop thread only.
    pub fn read_on(&self, handle: &mainloop::Handle, reader: Box<dyn Frontend>) -> bool {
        self.chardev().backend.read_on(handle, reader)
    }

    /// Waits until a socket is connected. Other devices have nothing to wait for. On the loop thread; the events follow from
    /// the loop as always.
    ///
    /// # Errors
    ///
    /// Why it could not be connected, or that a signal ended the wait.
    pub fn wait_connected(&self, patience: Patience) -> qapi::Result<()> {
        self.chardev().backend.wait_connected(patience)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.chardev().sink.release(self.id);
    }
}

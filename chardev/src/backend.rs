//! What a back end implements, and the two that do nothing.

use std::os::fd::OwnedFd;

use crate::connection::{Connection, Patience};
use crate::frontend::Frontend;
use crate::stream::Stream;
use crate::tty::Terminal;

/// The host's side of a character device.
pub(crate) trait Backend: Send + Sync {
    /// As `query-chardev` prints it.
    fn filename(&self) -> String;

    /// The stream of descriptors behind it, which then does what the defaults below say.
    fn stream(&self) -> Option<&Stream> {
        None
    }

    /// Takes bytes for the host without blocking, queueing until `limit` bytes are queued; returns how many it took.
    /// While nobody is at the far end, everything is taken and lost. Any thread; never calls the front end.
    fn write(&self, data: &[u8], limit: usize) -> usize {
        self.stream().map_or(data.len(), |stream| stream.write(data, limit))
    }

    /// Throws the queue away and the peer out: it does not read. Any thread.
    fn give_up(&self) {
        if let Some(stream) = self.stream() {
            stream.give_up();
        }
    }

    /// Bytes queued for the host.
    fn queued(&self) -> usize {
        self.stream().map_or(0, Stream::queued)
    }

    /// The front end may have room again. Any thread, cheap when nothing waits.
    fn accept_input(&self) {
        if let Some(stream) = self.stream() {
            stream.accept_input();
        }
    }

    /// Whether the terminal echoes what is typed.
    fn set_echo(&self, _on: bool) {}

    /// The program ends: what was changed on the host is put back, nothing is read or written any more. Loop thread.
    fn shut_down(&self) {}

    /// The descriptors that came with the last input, unless they were taken.
    fn take_fds(&self) -> Vec<OwnedFd> {
        Vec::new()
    }

    /// A copy of the socket to the peer, while there is one that can pass descriptors.
    fn connection(&self) -> Option<Connection> {
        None
    }

    /// Takes a connected socket for the peer, as if it had connected here; false if there is one already, or never is. Loop thread.
    #[doc(alias = "chr_add_client")]
    fn add_client(&self, _socket: OwnedFd) -> bool {
        false
    }

    /// Ends connection `id`, if it is still the present one. Loop thread.
    fn hang_up(&self, id: u64) {
        if let Some(stream) = self.stream() {
            stream.end(id);
        }
    }

    /// Has the loop of `handle` read the present connection for `reader`; false if that cannot be. Loop thread.
    fn read_on(&self, handle: &mainloop::Handle, reader: Box<dyn Frontend>) -> bool {
        self.stream().is_some_and(|stream| stream.read_on(handle, reader))
    }

    /// Waits until the peer is there. Loop thread.
    fn wait_connected(&self, _patience: Patience) -> qapi::Result<()> {
        Ok(())
    }

    /// The ring buffer, if this is one.
    fn ring(&self) -> Option<&crate::ringbuf::RingBuf> {
        None
    }

    /// The program's own terminal, if input and output of the program are one.
    fn terminal(&self) -> Option<Terminal> {
        None
    }

    /// The terminal a pty gave out.
    fn pty_path(&self) -> Option<&str> {
        None
    }
}

/// Swallows everything, gives nothing, is never open. Also the virtual console nobody can see.
pub(crate) struct Null {
    pub(crate) filename: &'static str,
}

impl Backend for Null {
    fn filename(&self) -> String {
        self.filename.to_owned()
    }
}

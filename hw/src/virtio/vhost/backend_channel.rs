//! The socket on which a back end sends requests of its own: that its configuration space changed.
//!
//! Nothing else was negotiated; anything else ends the connection. Reading never waits.

use std::os::fd::{AsFd, OwnedFd};

use mainloop::Watch;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};

use super::channel::{Fault, receive};
use super::message::{CONFIG_CHANGE, HEADER, Header};

/// Requests of one turn of the main loop.
const REQUESTS_PER_TURN: usize = 16;

/// Our end, watched by the main loop for as long as this lives.
pub(super) struct BackendChannel {
    _watch: Watch,
}

impl BackendChannel {
    pub(super) fn new(watch: Watch) -> Self {
        Self { _watch: watch }
    }
}

/// Our end and theirs.
///
/// # Errors
/// No descriptor is left.
pub(super) fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

/// Reads requests.
pub(super) struct Requests {
    socket: OwnedFd,
    head: [u8; HEADER],
    have: usize,
}

impl Requests {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket, head: [0; HEADER], have: 0 }
    }

    /// Reads what is there; true if the configuration space changed.
    ///
    /// # Errors
    /// The back end hung up, or sent what nobody asked for.
    pub(super) fn read(&mut self) -> Result<bool, Fault> {
        let mut changed = false;
        for _ in 0..REQUESTS_PER_TURN {
            match self.next()? {
                Some(()) => changed = true,
                None => break,
            }
        }
        Ok(changed)
    }

    /// The next request, if it is there; it is answered.
    fn next(&mut self) -> Result<Option<()>, Fault> {
        let mut fds = Vec::new();
        while self.have < HEADER {
            match receive(self.socket.as_fd(), &mut self.head[self.have..], &mut fds) {
                Ok(0) => return Err(Fault::HungUp),
                Ok(count) => self.have += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(_) => return Err(Fault::HungUp),
            }
            if !fds.is_empty() {
                return Err(Fault::Descriptors(fds.len()));
            }
        }
        self.have = 0;
        let header = Header::from_bytes(self.head);
        if header.request != CONFIG_CHANGE || !header.is_current() || header.is_reply() {
            return Err(Fault::Type { expected: CONFIG_CHANGE, received: header.request });
        }
        if header.size != 0 {
            return Err(Fault::Size);
        }
        if header.needs_reply() {
            let answer = [&Header::reply(header.request, 8).to_bytes()[..], &0u64.to_ne_bytes()].concat();
            // A back end that asks and does not read has itself to blame.
            send(&self.socket, &answer, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
                .map_err(|_| Fault::HungUp)?;
        }
        Ok(Some(()))
    }
}

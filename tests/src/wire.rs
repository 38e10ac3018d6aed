//! A byte stream to the program under test: reads and writes that end by a deadline, and never by sleeping.
//!
//! While it waits to write, a [`Wire`] takes in what the other side sends, so that two sides with full buffers do not wait for
//! each other. Bytes that were read and not yet asked for stay in the wire.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// Why a wait ended without what was waited for.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Nothing (or not enough) came in time.
    #[error("deadline passed while waiting for {what}; so far: {got:?}")]
    Deadline {
        /// What was waited for.
        what: String,
        /// What had come.
        got: String,
    },
    /// The other side hung up.
    #[error("closed while waiting for {what}; so far: {got:?}")]
    Closed {
        /// What was waited for.
        what: String,
        /// What had come.
        got: String,
    },
    /// The kernel refused.
    #[error("{what}: {source}")]
    Io {
        /// What was done.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// How long anything may take: 60 seconds, or `PLIANT_TEST_DEADLINE`.
///
/// It is far longer than anything should take, so that a loaded machine does not fail a test.
pub fn patience() -> Duration {
    let given = std::env::var("PLIANT_TEST_DEADLINE").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(given.unwrap_or(60))
}

/// Waits until one of the descriptors is ready; which ones are, in order; none are when the time is over.
pub(crate) fn ready(fds: &[(&dyn AsFd, PollFlags)], until: Instant) -> io::Result<Vec<PollFlags>> {
    let mut polled: Vec<PollFd<'_>> = fds.iter().map(|(fd, flags)| PollFd::new(fd, *flags)).collect();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut polled, Some(&timeout)) {
            Ok(_) => return Ok(polled.iter().map(PollFd::revents).collect()),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// A stream socket or a terminal, with what was read from it and not yet used.
#[derive(Debug)]
pub struct Wire {
    fd: OwnedFd,
    got: Vec<u8>,
    closed: bool,
}

impl Wire {
    /// Takes a connected descriptor over.
    pub fn new(fd: OwnedFd) -> Self {
        rustix::io::ioctl_fionbio(&fd, true).expect("sockets and terminals can be non-blocking");
        Self { fd, got: Vec::new(), closed: false }
    }

    /// Sends all of the bytes.
    ///
    /// # Errors
    ///
    /// The other side hung up, or did not take the bytes in time.
    pub fn send(&mut self, mut bytes: &[u8]) -> Result<(), WireError> {
        let until = Instant::now() + patience();
        while !bytes.is_empty() {
            match rustix::io::write(&self.fd, bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let both = PollFlags::IN | PollFlags::OUT;
                    let flags = ready(&[(&self.fd, both)], until).map_err(|e| io_error("send", e))?[0];
                    if flags.is_empty() {
                        return Err(self.deadline("room to send"));
                    }
                    if flags.contains(PollFlags::IN) {
                        self.fill()?;
                    }
                }
                Err(e) => return Err(io_error("send", e.into())),
            }
        }
        Ok(())
    }

    /// Sends bytes with descriptors (`SCM_RIGHTS`), over a unix socket. They fit into the socket's buffer.
    ///
    /// # Errors
    ///
    /// The other side hung up.
    pub fn send_with_fds(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), WireError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(32))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)), "room for all descriptors");
        let sent = sendmsg(&self.fd, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
        let sent = sent.map_err(|e| io_error("send", e.into()))?;
        assert_eq!(sent, bytes.len(), "a short message");
        Ok(())
    }

    /// The bytes up to where `end` says they end, waiting for more as long as it says nothing.
    ///
    /// # Errors
    ///
    /// The other side hung up, or the end did not come in time; what came stays in the wire.
    pub fn take(
        &mut self,
        what: &str,
        end: impl FnMut(&[u8]) -> Option<usize>,
    ) -> Result<Vec<u8>, WireError> {
        self.take_by(Instant::now() + patience(), what, end)
    }

    /// As [`Wire::take`], with another deadline.
    ///
    /// # Errors
    ///
    /// As [`Wire::take`].
    pub fn take_by(
        &mut self,
        until: Instant,
        what: &str,
        mut end: impl FnMut(&[u8]) -> Option<usize>,
    ) -> Result<Vec<u8>, WireError> {
        loop {
            if let Some(n) = end(&self.got) {
                return Ok(self.got.drain(..n).collect());
            }
            if self.closed {
                return Err(WireError::Closed { what: what.into(), got: self.text() });
            }
            let flags = ready(&[(&self.fd, PollFlags::IN)], until).map_err(|e| io_error(what, e))?[0];
            if flags.is_empty() {
                return Err(self.deadline(what));
            }
            self.fill()?;
        }
    }

    /// The next line without its end (`\n` or `\r\n`).
    ///
    /// # Errors
    ///
    /// As [`Wire::take`].
    pub fn line(&mut self) -> Result<String, WireError> {
        let line = self.take("a line", |got| got.iter().position(|&b| b == b'\n').map(|at| at + 1))?;
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        Ok(String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned())
    }

    /// Everything up to and with a text.
    ///
    /// # Errors
    ///
    /// As [`Wire::take`].
    pub fn until(&mut self, text: &str) -> Result<String, WireError> {
        let end =
            |got: &[u8]| got.windows(text.len()).position(|w| w == text.as_bytes()).map(|at| at + text.len());
        Ok(String::from_utf8_lossy(&self.take(text, end)?).into_owned())
    }

    /// Everything until the other side hangs up.
    ///
    /// # Errors
    ///
    /// It did not hang up in time.
    pub fn rest(&mut self) -> Result<Vec<u8>, WireError> {
        match self.take("the end", |_| None) {
            Err(WireError::Closed { .. }) => Ok(std::mem::take(&mut self.got)),
            Err(e) => Err(e),
            Ok(_) => unreachable!("no end was named"),
        }
    }

    /// Bytes that come before what has come and was not taken yet.
    pub fn put_back(&mut self, bytes: &[u8]) {
        self.got.splice(..0, bytes.iter().copied());
    }

    /// What has come and was not taken yet.
    pub fn peek(&self) -> &[u8] {
        &self.got
    }

    /// The descriptor, for what only this kind of stream can do.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// One read into the buffer.
    fn fill(&mut self) -> Result<(), WireError> {
        let mut chunk = [0; 16384];
        match rustix::io::read(&self.fd, &mut chunk) {
            Ok(0) => self.closed = true,
            Ok(n) => self.got.extend_from_slice(&chunk[..n]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // A terminal whose other end is closed says EIO, a socket whose other end died says ECONNRESET.
            Err(Errno::IO | Errno::CONNRESET) => self.closed = true,
            Err(e) => return Err(io_error("read", e.into())),
        }
        Ok(())
    }

    fn deadline(&self, what: &str) -> WireError {
        WireError::Deadline { what: what.into(), got: self.text() }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.got).into_owned()
    }
}

fn io_error(what: &str, source: io::Error) -> WireError {
    WireError::Io { what: what.into(), source }
}

#[cfg(test)]
mod tests;

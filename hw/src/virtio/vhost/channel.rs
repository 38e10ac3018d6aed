//! A connected unix socket on which one request is asked at a time, and no answer is waited for longer than a deadline.
//!
//! Whoever is at the other end may be dead, stalled or hostile: everything it sends is measured against what was asked. After a
//! [`Fault`] nothing more can be made of the stream, and the connection ends. The texts of faults that QEMU knows are QEMU's.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, sendmsg, shutdown};

use super::message::{HEADER, Header, MAX_BODY, Request, word};

/// Descriptors that one message may carry: as many as a table of memory regions has.
const MAX_FDS: usize = 8;

/// Why a connection cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("Failed to write msg. Wrote {wrote} instead of {wanted}.")]
    Write { wrote: isize, wanted: usize },
    #[error("Failed to read msg header. Read {read} instead of {HEADER}. Original request {request}.")]
    ReadHeader { read: isize, request: u32 },
    #[error("Failed to read msg payload. Read {read} instead of {wanted}.")]
    ReadBody { read: isize, wanted: usize },
    #[error("Failed to read msg header. Flags {0:#x} instead of 0x5.")]
    Flags(u32),
    #[error("Failed to read msg header. Size {0} exceeds the maximum {MAX_BODY}.")]
    Oversized(u32),
    #[error("Received unexpected msg type. Expected {expected} received {received}")]
    Type { expected: u32, received: u32 },
    #[error("Received bad msg size.")]
    Size,
    #[error("Received {0} unexpected descriptors.")]
    Descriptors(usize),
    #[error("No answer to request {0} in time.")]
    Timeout(u32),
    #[error("Request {0} failed at the back end.")]
    Refused(u32),
    #[error("{0}")]
    Unusable(String),
    #[error("The back end hung up.")]
    HungUp,
}

/// A point in time after which nobody is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(Instant);

impl Deadline {
    /// The deadline of an operation that begins now.
    pub(super) fn after(patience: Duration) -> Self {
        Self(Instant::now() + patience)
    }

    /// Waits until `fd` is ready; false once the time is up.
    fn wait(self, fd: &OwnedFd, events: PollFlags) -> bool {
        loop {
            let left = self.0.saturating_duration_since(Instant::now());
            // At most a patience, which is seconds.
            let left = Timespec::try_from(left).unwrap_or_default();
            match poll(&mut [PollFd::new(fd, events)], Some(&left)) {
                Ok(ready) => return ready > 0,
                Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot wait for a vhost-user back end");
                    return false;
                }
            }
        }
    }
}

/// What a request is answered with.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) body: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Channel {
    socket: OwnedFd,
}

impl Channel {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Sends a request. Whether it asks for an answer is for the caller to remember.
    pub(super) fn send(
        &self,
        request: Request,
        need_reply: bool,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
        deadline: Deadline,
    ) -> Result<(), Fault> {
        let header = Header::request(request, need_reply, body.len());
        trace::emit!(vhost_user_write, header.request, header.flags);
        let message = [&header.to_bytes(), body].concat();
        self.write(&message, fds, request as u32, deadline)
    }

    fn write(
        &self,
        message: &[u8],
        fds: &[BorrowedFd<'_>],
        request: u32,
        deadline: Deadline,
    ) -> Result<(), Fault> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut done = 0;
        while done < message.len() {
            let mut control = SendAncillaryBuffer::new(&mut space);
            // Descriptors go with the first byte.
            if done == 0 && !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(Fault::Descriptors(fds.len()));
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match sendmsg(&self.socket, &[IoSlice::new(&message[done..])], &mut control, flags) {
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if !deadline.wait(&self.socket, PollFlags::OUT) {
                        return Err(Fault::Timeout(request));
                    }
                }
                Err(_) => return Err(Fault::Write { wrote: -1, wanted: message.len() }),
            }
        }
        Ok(())
    }

    /// The answer to `request`, which has `size` bytes and at most `fds` descriptors.
    pub(super) fn answer(
        &self,
        request: Request,
        size: usize,
        fds: usize,
        deadline: Deadline,
    ) -> Result<Answer, Fault> {
        let number = request as u32;
        let mut received = Vec::new();
        let mut header = [0; HEADER];
        let read = self.read(&mut header, &mut received, number, deadline)?;
        if read != HEADER {
            return Err(Fault::ReadHeader { read: read as isize, request: number });
        }
        let header = Header::from_bytes(header);
        trace::emit!(vhost_user_read, header.request, header.flags);
        if !header.is_current() || !header.is_reply() {
            return Err(Fault::Flags(header.flags));
        }
        if header.size as usize > MAX_BODY {
            return Err(Fault::Oversized(header.size));
        }
        if header.request != number {
            return Err(Fault::Type { expected: number, received: header.request });
        }
        if header.size as usize != size {
            return Err(Fault::Size);
        }
        let mut body = vec![0; size];
        let read = self.read(&mut body, &mut received, number, deadline)?;
        if read != size {
            return Err(Fault::ReadBody { read: read as isize, wanted: size });
        }
        if received.len() > fds {
            return Err(Fault::Descriptors(received.len()));
        }
        Ok(Answer { body, fds: received })
    }

    /// Waits for the word that says whether `request` succeeded.
    pub(super) fn acknowledged(&self, request: Request, deadline: Deadline) -> Result<(), Fault> {
        let answer = self.answer(request, 8, 0, deadline)?;
        match word(&answer.body, 0) {
            Some(0) => Ok(()),
            _ => Err(Fault::Refused(request as u32)),
        }
    }

    /// Fills `data` unless the peer hangs up before; gives how many bytes came.
    fn read(
        &self,
        data: &mut [u8],
        fds: &mut Vec<OwnedFd>,
        request: u32,
        deadline: Deadline,
    ) -> Result<usize, Fault> {
        let mut done = 0;
        while done < data.len() {
            // Before they use up all that this process may have.
            if fds.len() > MAX_FDS {
                return Err(Fault::Descriptors(fds.len()));
            }
            match receive(self.socket.as_fd(), &mut data[done..], fds) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if !deadline.wait(&self.socket, PollFlags::IN) {
                        return Err(Fault::Timeout(request));
                    }
                }
                Err(_) => return Err(Fault::ReadHeader { read: -1, request }),
            }
        }
        Ok(done)
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // The character device has a copy. Peer and device hear now.
        let _ = shutdown(&self.socket, Shutdown::Both);
    }
}

/// Reads without blocking; descriptors that came along are appended to `fds`, those beyond the limit closed by the kernel.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    data: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    ::chardev::receive_within(socket, data, fds, &mut space)
}

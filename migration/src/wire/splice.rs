//! Guest memory into a local socket without a copy here: its pages go through a pipe into the socket's queue by reference, and whoever reads at
//! the other end copies them once.
//!
//! What is read there is what the page holds by then. A page that the guest writes meanwhile is in the dirty log again, as its mark was
//! taken before it was handed over, and comes once more; a guest that was stopped writes none. Our own bytes between the pages must not
//! change any more, so they lie in memory that is never used twice: its pages are let go, and the kernel frees them when they were read.

#![expect(unsafe_code, reason = "vmsplice of guest memory")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use crate::channel::Channel;

/// Pages that the pipe holds at once, if we may have as much; each piece is one, however short.
const PIPE: usize = 1 << 20;
/// Our own bytes of one go at most.
const OWN: usize = 256 << 10;

/// A pipe on the way to a socket, and room for our own bytes.
#[derive(Debug)]
pub(super) struct Splicer {
    from: OwnedFd,
    into: OwnedFd,
    own: *mut u8,
}

// SAFETY: the room belongs to this value alone.
unsafe impl Send for Splicer {}

impl Splicer {
    /// One, if the host allows it.
    pub(super) fn new() -> Option<Self> {
        let (from, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // With less each call would take so little that copying is faster.
        fcntl_setpipe_size(&into, PIPE).ok()?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: new memory, wherever the kernel likes.
        let own =
            unsafe { mmap_anonymous(std::ptr::null_mut(), OWN, ProtFlags::READ | ProtFlags::WRITE, flags) };
        Some(Self { from, into, own: own.ok()?.cast() })
    }

    /// Puts our own bytes where they stay as they are; `None` if they are too many.
    pub(super) fn keep(&mut self, bytes: &[u8]) -> Option<*const u8> {
        if bytes.len() > OWN {
            return None;
        }
        // SAFETY: the room is as long, and nobody else's.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.own, bytes.len()) };
        Some(self.own)
    }

    /// Writes all that `iov` names.
    ///
    /// # Errors
    /// The system's, or the channel was shut. What was in the pipe is lost then, and the channel of no use any more.
    ///
    /// # Safety
    /// Each entry names memory that stays mapped during the call: guest memory, or what [`keep`](Self::keep) gave.
    pub(super) unsafe fn write_all(
        &mut self,
        channel: &Channel,
        mut iov: &mut [libc::iovec],
    ) -> io::Result<()> {
        while !iov.is_empty() {
            let count = iov.len().min(libc::UIO_MAXIOV as usize);
            // SAFETY: the entries are as the caller promises. The pipe is empty, so this does not wait.
            let taken = unsafe {
                libc::vmsplice(self.into.as_raw_fd(), iov.as_ptr(), count, libc::SPLICE_F_NONBLOCK)
            };
            let taken = match usize::try_from(taken) {
                Ok(taken) => taken,
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => continue,
                    error => return Err(error),
                },
            };
            iov = super::output::advance(iov, taken);
            let mut left = taken;
            while left > 0 {
                match channel
                    .write_with(|to| Ok(splice(&self.from, None, to, None, left, SpliceFlags::NONBLOCK)?))?
                {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    moved => left -= moved,
                }
            }
        }
        // Whatever of it is still on its way stays as it is; the next bytes get pages of their own.
        // SAFETY: the room is ours, and nothing refers to it.
        let _ = unsafe { madvise(self.own.cast(), OWN, Advice::LinuxDontNeed) };
        Ok(())
    }
}

impl Drop for Splicer {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nothing refers to it.
        let _ = unsafe { munmap(self.own.cast(), OWN) };
    }
}

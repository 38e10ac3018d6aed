//! Descriptors: received over a unix socket (`SCM_RIGHTS`), and inherited by number.
#![expect(
    unsafe_code,
    reason = "a descriptor named by number on the command line can only be borrowed unsafely"
)]

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// Descriptors taken with one message; the rest is closed. As in QEMU.
const MAX_FDS: usize = 16;

/// Reads without blocking; descriptors that came along, up to [`MAX_FDS`], go to `fds`, which is empty.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    data: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let result = receive_within(socket, data, fds, &mut space);
    // The space is aligned, which leaves room for one or two more.
    fds.truncate(MAX_FDS);
    result
}

/// Reads without blocking; descriptors that came along are appended to `fds`, as many as `space` has room for
/// (`rustix::cmsg_space!`). The kernel closes the rest.
///
/// # Errors
/// The system's; `AGAIN` when there is nothing to read.
pub fn receive_within(
    socket: BorrowedFd<'_>,
    data: &mut [u8],
    fds: &mut Vec<OwnedFd>,
    space: &mut [MaybeUninit<u8>],
) -> Result<usize, Errno> {
    let mut control = RecvAncillaryBuffer::new(space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut [IoSliceMut::new(data)], &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok(received.bytes)
}

/// A copy of the descriptor this process inherited under a number. The original stays open, as it may be named twice.
pub(crate) fn inherited(number: RawFd) -> Result<OwnedFd, Errno> {
    if number < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: the borrow lasts for this one system call, which checks the number: a closed one gives EBADF, and the result
    // is a descriptor of our own. Nothing is closed or written through the borrowed number.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_dupfd_cloexec(borrowed, 0)
}

/// As [`inherited`], of one that really was: what this program opens is closed when another one is executed.
pub(crate) fn inherited_only(number: RawFd) -> Result<OwnedFd, Errno> {
    if number < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: as in `inherited`, for a system call that only looks.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    if rustix::io::fcntl_getfd(borrowed)?.contains(rustix::io::FdFlags::CLOEXEC) {
        return Err(Errno::BADF);
    }
    inherited(number)
}

/// Closes the descriptor that this process inherited under a number, unless something of our own has it.
pub(crate) fn close_inherited(number: RawFd) {
    if inherited_only(number).is_ok() {
        // SAFETY: it was inherited, so nothing in this program owns it: everything we open is marked close-on-exec, and `inherited`
        // gives out copies only.
        drop(unsafe { OwnedFd::from_raw_fd(number) });
    }
}

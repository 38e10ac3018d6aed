//! One way for bytes: a socket, a pipe, a program or a file. Waiting for the other side ends when the channel is *shut*, by anybody.

#![expect(unsafe_code, reason = "guest memory is read and written, which no slice of Rust's can stand for")]

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use chardev::fds::Claim;
use memory::RamBlock;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{FileType, OFlags, SeekFrom, fcntl_getfl, fcntl_setfl, fstat, seek};
use rustix::net::{AddressFamily, sockopt};

/// What a local socket is to hold, in bytes: with the 208 KiB of the kernel's default the two sides wait for each other in turns.
const LOCAL_BUFFER: usize = 2 << 20;

/// What is at the other end, for error texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A socket.
    Socket,
    /// A regular file, or something that behaves as one.
    File,
    /// A pipe or another descriptor.
    Pipe,
    /// A program.
    Command,
}

impl Kind {
    /// The noun in `Unable to write to NOUN`.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            // QEMU has one kind of channel for both.
            Self::File | Self::Pipe => "file",
            Self::Command => "command",
        }
    }
}

/// A channel; several threads may use it, each for a direction.
#[derive(Debug)]
pub struct Channel {
    fd: OwnedFd,
    kind: Kind,
    /// A socket whose other end is on this machine.
    is_local: bool,
    /// Readable for ever once the channel is shut.
    shut: OwnedFd,
    is_shut: AtomicBool,
    child: Mutex<Option<Child>>,
    /// The claim on the set that a file is from.
    claim: Option<Claim>,
}

impl Channel {
    /// A channel over `fd`, which it finds out the kind of.
    ///
    /// # Errors
    /// The system's.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let kind = match FileType::from_raw_mode(fstat(&fd)?.st_mode) {
            FileType::Socket => Kind::Socket,
            FileType::RegularFile | FileType::BlockDevice => Kind::File,
            _ => Kind::Pipe,
        };
        Self::with(fd, kind, None)
    }

    /// A channel to a program's standard input or output.
    ///
    /// # Errors
    /// The system's.
    pub fn of_child(fd: OwnedFd, child: Child) -> io::Result<Self> {
        Self::with(fd, Kind::Command, Some(child))
    }

    /// The same, of a file that may be from a set.
    #[must_use]
    pub fn claimed(mut self, claim: Option<Claim>) -> Self {
        self.claim = claim;
        self
    }

    fn with(fd: OwnedFd, kind: Kind, child: Option<Child>) -> io::Result<Self> {
        if kind != Kind::File {
            // Waiting is done in `wait`, where it can be ended.
            fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        }
        let is_local = kind == Kind::Socket && sockopt::socket_domain(&fd)? == AddressFamily::UNIX;
        if is_local {
            grow(&fd);
        }
        let shut = eventfd(0, EventfdFlags::CLOEXEC)?;
        let (is_shut, child) = (AtomicBool::new(false), Mutex::new(child));
        Ok(Self { fd, kind, is_local, shut, is_shut, child, claim: None })
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether it is a socket whose other end is on this machine, so that pages can be handed over.
    pub fn is_local(&self) -> bool {
        self.is_local
    }

    /// Whether bytes can be put anywhere.
    pub fn is_seekable(&self) -> bool {
        self.kind == Kind::File
    }

    /// Goes to a place in a file.
    ///
    /// # Errors
    /// The system's.
    pub fn seek(&self, offset: u64) -> io::Result<()> {
        seek(&self.fd, SeekFrom::Start(offset))?;
        Ok(())
    }

    /// Ends all waiting, now and later: whoever reads or writes gets an error.
    pub fn shut(&self) {
        self.is_shut.store(true, Ordering::SeqCst);
        // An event counter takes one.
        let _ = rustix::io::write(&self.shut, &1u64.to_ne_bytes());
        if self.kind == Kind::Socket {
            // The peer hears of it at once; a socket that is not connected any more needs none.
            let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Both);
        }
    }

    /// Whether somebody shut it.
    pub fn is_shut(&self) -> bool {
        self.is_shut.load(Ordering::SeqCst)
    }

    /// Whether nothing can come any more: it was shut, or the other side closed it. What came before may still be there to be read.
    pub fn is_gone(&self) -> bool {
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let mut fds = [PollFd::new(&self.fd, PollFlags::RDHUP)];
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        let polled = poll(&mut fds, Some(&now));
        self.is_shut() || (polled.is_ok() && fds[0].revents().intersects(gone))
    }

    /// Tells the other side that nothing more comes; of a program it waits for the end.
    ///
    /// # Errors
    /// The program failed, or the channel was shut.
    pub fn finish(mut self) -> io::Result<()> {
        if self.kind == Kind::Socket {
            // What was sent arrives all the same.
            let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Write);
        }
        let Some(child) = self.child.get_mut().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        // A program sees the end of its input once nobody has the other end of the pipe.
        self.fd = self.shut.try_clone()?;
        end(child, &self.shut)
    }

    fn wait(&self, direction: PollFlags) -> io::Result<()> {
        let mut fds = [PollFd::new(&self.fd, direction), PollFd::new(&self.shut, PollFlags::IN)];
        loop {
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) if fds[1].revents().contains(PollFlags::IN) => return Err(shut_error()),
                Ok(_) => return Ok(()),
            }
        }
    }

    fn retry(&self, direction: PollFlags, mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
        loop {
            if self.is_shut() {
                return Err(shut_error());
            }
            match call() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(direction)?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Reads some bytes; none at the end.
    ///
    /// # Errors
    /// The system's, or the channel was shut.
    pub fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.retry(PollFlags::IN, || Ok(rustix::io::read(&self.fd, &mut *buf)?))
    }

    /// Fills `buf`.
    ///
    /// # Errors
    /// The stream ended, the system's, or the channel was shut.
    pub fn read_exact(&self, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read(buf)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => buf = &mut buf[count..],
            }
        }
        Ok(())
    }

    /// Fills guest memory with what comes next, without a copy of ours.
    ///
    /// # Errors
    /// The stream ended, the memory cannot be written, the system's, or the channel was shut.
    pub fn read_guest(&self, block: &RamBlock, offset: u64, len: u64) -> io::Result<()> {
        if offset.checked_add(len).is_none_or(|end| end > block.max_size()) {
            return Err(io::Error::other("memory outside of its block"));
        }
        let mut at = 0;
        while at < len {
            let base = block.host_address().wrapping_add((offset + at) as usize);
            let count = self.retry(PollFlags::IN, || {
                // SAFETY: inside of the block, which is borrowed; guest memory is never referred to, and the kernel writes it.
                let read = unsafe { libc::read(self.fd.as_raw_fd(), base.cast(), (len - at) as usize) };
                usize::try_from(read).map_err(|_| io::Error::last_os_error())
            })?;
            match count {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => at += count as u64,
            }
        }
        Ok(())
    }

    /// Writes some of what `iov` names, one after another; says how many bytes.
    ///
    /// # Errors
    /// The system's, or the channel was shut. Nothing was written then.
    ///
    /// # Safety
    /// Each entry names memory that stays mapped during the call. It may change: the kernel reads it.
    pub unsafe fn write_some(&self, iov: &[libc::iovec]) -> io::Result<usize> {
        let count = iov.len().min(libc::UIO_MAXIOV as usize);
        self.retry(PollFlags::OUT, || {
            let written = if self.kind == Kind::Socket {
                // SAFETY: all zeroes are a message without anything.
                let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
                message.msg_iov = iov.as_ptr().cast_mut();
                message.msg_iovlen = count;
                // SAFETY: the message lives through the call, and its entries are as the caller promises.
                unsafe { libc::sendmsg(self.fd.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) }
            } else {
                // SAFETY: the entries are as the caller promises.
                unsafe { libc::writev(self.fd.as_raw_fd(), iov.as_ptr(), count as i32) }
            };
            usize::try_from(written).map_err(|_| io::Error::last_os_error())
        })
    }

    /// Waits until something can be written; a file always takes it.
    ///
    /// # Errors
    /// The system's, or the channel was shut.
    pub fn await_room(&self) -> io::Result<()> {
        if self.kind == Kind::File { Ok(()) } else { self.wait(PollFlags::OUT) }
    }

    /// Waits until the other side has read all that was written into a local socket, but for a few bytes. Of others nobody on this machine
    /// knows.
    ///
    /// # Errors
    /// The system's, or the channel was shut.
    #[doc(alias = "SO_SNDBUF")]
    pub fn await_read(&self) -> io::Result<()> {
        if !self.is_local {
            return Ok(());
        }
        // There is room where a quarter of what it may hold is taken at most: of the least that can be asked for, that is one small write.
        sockopt::set_socket_send_buffer_size(&self.fd, 0)?;
        let taken = self.wait(PollFlags::OUT);
        grow(&self.fd);
        taken
    }

    /// Writes by a call that takes the descriptor, which may do less than it was asked to, as often as it would block.
    ///
    /// # Errors
    /// The call's, or the channel was shut.
    pub fn write_with(&self, mut call: impl FnMut(BorrowedFd<'_>) -> io::Result<usize>) -> io::Result<usize> {
        self.retry(PollFlags::OUT, || call(self.fd.as_fd()))
    }

    /// Reads into what `iov` names, one after another; says how many bytes, none at the end.
    ///
    /// # Errors
    /// The system's, or the channel was shut. Nothing was read then.
    ///
    /// # Safety
    /// Each entry names memory that stays mapped during the call, and nothing of Rust's refers to it: the kernel writes it.
    pub unsafe fn read_some(&self, iov: &[libc::iovec]) -> io::Result<usize> {
        let count = iov.len().min(libc::UIO_MAXIOV as usize);
        self.retry(PollFlags::IN, || {
            // SAFETY: the entries are as the caller promises.
            let read = unsafe { libc::readv(self.fd.as_raw_fd(), iov.as_ptr(), count as i32) };
            usize::try_from(read).map_err(|_| io::Error::last_os_error())
        })
    }

    /// Where the next byte of a file goes, or comes from.
    ///
    /// # Errors
    /// The system's.
    pub fn position(&self) -> io::Result<u64> {
        Ok(seek(&self.fd, SeekFrom::Current(0))?)
    }

    /// Writes some of `len` bytes from `base` to a place in a file; says how many.
    ///
    /// # Errors
    /// The system's, or the channel was shut.
    ///
    /// # Safety
    /// The memory stays mapped during the call. It may change: the kernel reads it.
    pub unsafe fn write_at(&self, base: *const u8, len: usize, offset: u64) -> io::Result<usize> {
        let place = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        self.retry(PollFlags::OUT, || {
            // SAFETY: the memory is as the caller promises.
            let written = unsafe { libc::pwrite(self.fd.as_raw_fd(), base.cast(), len, place) };
            usize::try_from(written).map_err(|_| io::Error::last_os_error())
        })
    }

    /// Reads some of `len` bytes from a place in a file to `base`; says how many, none at the end of the file.
    ///
    /// # Errors
    /// The system's, or the channel was shut.
    ///
    /// # Safety
    /// The memory stays mapped during the call, and nothing of Rust's refers to it: the kernel writes it.
    pub unsafe fn read_at(&self, base: *mut u8, len: usize, offset: u64) -> io::Result<usize> {
        let place = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        self.retry(PollFlags::IN, || {
            // SAFETY: the memory is as the caller promises.
            let read = unsafe { libc::pread(self.fd.as_raw_fd(), base.cast(), len, place) };
            usize::try_from(read).map_err(|_| io::Error::last_os_error())
        })
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// The system's, or the channel was shut.
    pub fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            // SAFETY: the bytes are borrowed.
            match unsafe { self.write_some(&[iov])? } {
                0 => return Err(ErrorKind::WriteZero.into()),
                count => bytes = &bytes[count..],
            }
        }
        Ok(())
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut child) = child {
            // Whoever wanted it to end by itself called `finish`.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Lets a socket hold more, as far as we may.
fn grow(fd: &OwnedFd) {
    let is_enough = |size| size >= LOCAL_BUFFER;
    // Who may not exceed the machine's limit gets as much as that.
    if !sockopt::socket_send_buffer_size(fd).is_ok_and(is_enough)
        && sockopt::set_socket_send_buffer_size_force(fd, LOCAL_BUFFER).is_err()
    {
        let _ = sockopt::set_socket_send_buffer_size(fd, LOCAL_BUFFER);
    }
}

fn shut_error() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

/// Waits for a program; kills it when `shut` says so.
fn end(mut child: Child, shut: &OwnedFd) -> io::Result<()> {
    let process = rustix::process::pidfd_open(
        rustix::process::Pid::from_child(&child),
        rustix::process::PidfdFlags::empty(),
    );
    if let Ok(process) = &process {
        let mut fds = [PollFd::new(process, PollFlags::IN), PollFd::new(shut, PollFlags::IN)];
        while let Err(rustix::io::Errno::INTR) = poll(&mut fds, None) {}
        if !fds[0].revents().contains(PollFlags::IN) {
            // It may have ended by itself.
            let _ = child.kill();
        }
    }
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(shut_error()) }
}

#[cfg(test)]
mod tests;

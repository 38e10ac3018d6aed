//! Pages that are yet to come: whoever touches one waits until it is put in its place.
//!
//! A [`Userfault`] watches parts of blocks. The kernel stops whoever touches a page there that the host has none for, be it this program,
//! the guest, or the kernel on behalf of either, and tells ([`Userfault::take`]). It goes on once somebody has [put](Userfault::put) the
//! page there, or when the watch [ends](Userfault::end): the page is zero then.
//!
//! As long as a block is watched it counts as [arriving](RamBlock::is_arriving): what the host has no page for is not zero there, so that
//! nobody may skip it.
//!
//! Linux `Documentation/admin-guide/mm/userfaultfd.rst`, `<linux/userfaultfd.h>`.

#![expect(
    unsafe_code,
    reason = "ioctls of userfaultfd, which put pages into memory that no reference stands for"
)]

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::RamBlock;
use super::file::{host_page_size, is_tmpfs};

/// `UFFDIO_API`'s only version.
const API: u64 = 0xaa;
/// `UFFDIO_REGISTER_MODE_MISSING`
const MISSING: u64 = 1;
/// `UFFD_FEATURE_MISSING_SHMEM`
const SHMEM: u64 = 1 << 5;
/// `UFFD_EVENT_PAGEFAULT`
const PAGEFAULT: u8 = 0x12;
/// Bytes of a message: kind at 0, address at 16.
const MESSAGE: usize = 32;

const WRITE: u64 = 1;
const READ: u64 = 2;

/// The number of an ioctl.
const fn ioctl(direction: u64, number: u64, size: usize) -> libc::c_ulong {
    (direction << 30) | ((size as u64) << 16) | (API << 8) | number
}

const NEW: libc::c_ulong = ioctl(0, 0, 0);
const HANDSHAKE: libc::c_ulong = ioctl(READ | WRITE, 0x3f, size_of::<Handshake>());
const REGISTER: libc::c_ulong = ioctl(READ | WRITE, 0, size_of::<Register>());
const UNREGISTER: libc::c_ulong = ioctl(READ, 1, size_of::<Span>());
const WAKE: libc::c_ulong = ioctl(READ, 2, size_of::<Span>());
const COPY: libc::c_ulong = ioctl(READ | WRITE, 3, size_of::<Copy>());
const ZERO: libc::c_ulong = ioctl(READ | WRITE, 4, size_of::<Zero>());

#[repr(C)]
#[derive(Debug, Default)]
struct Handshake {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct Span {
    start: u64,
    len: u64,
}

#[repr(C)]
#[derive(Debug, Default)]
struct Register {
    range: Span,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
#[derive(Debug, Default)]
struct Copy {
    to: u64,
    from: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

#[repr(C)]
#[derive(Debug, Default)]
struct Zero {
    range: Span,
    mode: u64,
    zeroed: i64,
}

/// Somebody touched a page that is not there.
#[derive(Debug)]
pub struct Fault {
    /// In which block.
    pub block: Arc<RamBlock>,
    /// What was touched, from the start of the block, down to a page of the host.
    pub offset: u64,
}

/// Watches parts of blocks.
#[derive(Debug)]
pub struct Userfault {
    fd: File,
    shmem: bool,
    watched: Mutex<Vec<(Arc<RamBlock>, Range<u64>)>>,
}

impl Userfault {
    /// Nothing is watched yet.
    ///
    /// # Errors
    /// The host has no userfaultfd, or this program may not use it.
    pub fn open() -> io::Result<Self> {
        const FLAGS: libc::c_int = libc::O_CLOEXEC | libc::O_NONBLOCK;
        let device = OpenOptions::new().read(true).write(true).open("/dev/userfaultfd");
        let raw = match &device {
            // SAFETY: the request takes flags, no pointer, and gives a new descriptor.
            Ok(device) => unsafe { libc::ioctl(device.as_raw_fd(), NEW, FLAGS) },
            // SAFETY: takes flags and gives a new descriptor.
            Err(_) => unsafe { libc::syscall(libc::SYS_userfaultfd, FLAGS) as libc::c_int },
        };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and belongs to nobody else.
        let fd = unsafe { File::from_raw_fd(raw) };
        let mut handshake = Handshake { api: API, ..Handshake::default() };
        // SAFETY: the request is given the structure that it is for.
        call(|| unsafe { libc::ioctl(fd.as_raw_fd(), HANDSHAKE, &raw mut handshake) })?;
        Ok(Self { shmem: handshake.features & SHMEM != 0, fd, watched: Mutex::default() })
    }

    /// Whether pages of a block can be waited for.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, block: &RamBlock) -> Result<(), String> {
        if block.page_size() != host_page_size() {
            return Err(format!("huge pages of '{}' cannot arrive one by one", block.label()));
        }
        match block.file() {
            Some((file, _)) if !is_tmpfs(file) => {
                Err("Host backend files need to be TMPFS or HUGETLBFS only".to_owned())
            }
            Some(_) if !self.shmem => Err("Userfault on this host does not support shared memory".to_owned()),
            Some(_) | None => Ok(()),
        }
    }

    fn watched(&self) -> MutexGuard<'_, Vec<(Arc<RamBlock>, Range<u64>)>> {
        // Entries are added and taken whole.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches a part of a block: multiples of the page size, and accessible.
    ///
    /// # Errors
    /// The range is outside, or the kernel cannot watch such memory.
    pub fn watch(&self, block: &Arc<RamBlock>, range: Range<u64>) -> io::Result<()> {
        let mut register = Register { range: span(block, &range)?, mode: MISSING, ..Register::default() };
        // SAFETY: the request is given the structure that it is for; the range is memory of the block.
        call(|| unsafe { libc::ioctl(self.fd.as_raw_fd(), REGISTER, &raw mut register) })?;
        block.arriving.fetch_add(1, Ordering::SeqCst);
        self.watched().push((Arc::clone(block), range));
        Ok(())
    }

    /// The next that touched a page, if there is one; the descriptor is readable then.
    ///
    /// # Errors
    /// The system's.
    pub fn take(&self) -> io::Result<Option<Fault>> {
        loop {
            let mut message = [0; MESSAGE];
            match (&self.fd).read(&mut message) {
                Ok(MESSAGE) if message[0] == PAGEFAULT => {
                    let mut raw = [0; 8];
                    raw.copy_from_slice(&message[16..24]);
                    if let Some(fault) = self.fault(u64::from_ne_bytes(raw)) {
                        return Ok(Some(fault));
                    }
                }
                Ok(MESSAGE) => {}
                Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Nothing of a range that is not watched any more: who waited there was woken.
    fn fault(&self, address: u64) -> Option<Fault> {
        self.watched().iter().find_map(|(block, range)| {
            let offset = address.checked_sub(block.host_address() as u64)?;
            let offset = offset - offset % host_page_size();
            range.contains(&offset).then(|| Fault { block: Arc::clone(block), offset })
        })
    }

    /// Puts pages where there are none, and wakes who waited for them; marks them dirty. `false` if there was one already, which stays.
    ///
    /// # Errors
    /// The range is outside or not watched, or the host has no memory.
    pub fn put(&self, block: &RamBlock, offset: u64, bytes: &[u8]) -> io::Result<bool> {
        let range = span(block, &(offset..offset.saturating_add(bytes.len() as u64)))?;
        let put = self.retry(range, |range, done| {
            let mut copy = Copy {
                to: range.start,
                from: bytes.as_ptr() as u64 + done,
                len: range.len,
                ..Copy::default()
            };
            // SAFETY: the request is given the structure that it is for; the kernel reads `bytes`, which are borrowed, and writes memory
            // of the block, to which nothing of Rust's refers.
            let result = call(|| unsafe { libc::ioctl(self.fd.as_raw_fd(), COPY, &raw mut copy) });
            (result, copy.copied)
        })?;
        block.mark_dirty(offset, bytes.len() as u64);
        Ok(put)
    }

    /// Puts pages of zeroes where there are none, as [`put`](Self::put).
    ///
    /// # Errors
    /// As there.
    pub fn put_zeroes(&self, block: &RamBlock, offset: u64, len: u64) -> io::Result<bool> {
        let range = span(block, &(offset..offset.saturating_add(len)))?;
        let put = self.retry(range, |range, _| {
            let mut zero = Zero { range, ..Zero::default() };
            // SAFETY: the request is given the structure that it is for; what it writes is memory of the block.
            let result = call(|| unsafe { libc::ioctl(self.fd.as_raw_fd(), ZERO, &raw mut zero) });
            (result, zero.zeroed)
        })?;
        block.mark_dirty(offset, len);
        Ok(put)
    }

    /// Calls until all of a range is done: the kernel stops in between when the address space changes.
    fn retry(
        &self,
        range: Span,
        mut step: impl FnMut(Span, u64) -> (io::Result<()>, i64),
    ) -> io::Result<bool> {
        let mut done = 0;
        while done < range.len {
            let rest = Span { start: range.start + done, len: range.len - done };
            let (result, count) = step(rest, done);
            match result {
                Ok(()) => return Ok(true),
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                    done += u64::try_from(count).unwrap_or(0);
                }
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                    let mut span = rest;
                    // SAFETY: the request is given the structure that it is for.
                    call(|| unsafe { libc::ioctl(self.fd.as_raw_fd(), WAKE, &raw mut span) })?;
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Has whoever waits for pages touch them again.
    ///
    /// # Errors
    /// The range is outside.
    pub fn wake(&self, block: &RamBlock, offset: u64, len: u64) -> io::Result<()> {
        let mut span = span(block, &(offset..offset.saturating_add(len)))?;
        // SAFETY: the request is given the structure that it is for.
        call(|| unsafe { libc::ioctl(self.fd.as_raw_fd(), WAKE, &raw mut span) })
    }

    /// Watches nothing any more, and wakes all who wait.
    pub fn end(&self) {
        for (block, range) in std::mem::take(&mut *self.watched()) {
            if let Ok(mut span) = span(&block, &range) {
                // Cannot fail for what was registered.
                // SAFETY: the request is given the structure that it is for.
                let _ = call(|| unsafe { libc::ioctl(self.fd.as_raw_fd(), UNREGISTER, &raw mut span) });
            }
            block.arriving.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl AsFd for Userfault {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Userfault {
    fn drop(&mut self) {
        self.end();
    }
}

/// Host addresses of a part of a block.
fn span(block: &RamBlock, range: &Range<u64>) -> io::Result<Span> {
    if range.start >= range.end || range.end > block.max_size() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(Span { start: block.host_address() as u64 + range.start, len: range.end - range.start })
}

fn call(ioctl: impl FnOnce() -> libc::c_int) -> io::Result<()> {
    if ioctl() < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests;

//! A region of host memory whose blocks can be opened, closed and given back, by each of the means that are compared.
#![expect(unsafe_code, reason = "mapping memory and changing what may be done with it is what is measured")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// A virtio-mem block, and a huge page of the host.
pub(crate) const BLOCK: u64 = 2 << 20;
pub(crate) const PAGE: u64 = 4096;

/// What the kernel is told about pages.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Advice {
    /// Give them back.
    DontNeed,
    /// Fault them in, as if written to.
    Populate,
    HugePages,
    SmallPages,
    /// Mark them so that every access fails, which also gives them back.
    Guard,
    /// Take the marks away.
    Unguard,
}

impl Advice {
    fn raw(self) -> libc::c_int {
        match self {
            Self::DontNeed => libc::MADV_DONTNEED,
            Self::Populate => libc::MADV_POPULATE_WRITE,
            Self::HugePages => libc::MADV_HUGEPAGE,
            Self::SmallPages => libc::MADV_NOHUGEPAGE,
            // <linux/mman.h>, since Linux 6.13; libc does not have them.
            Self::Guard => 102,
            Self::Unguard => 103,
        }
    }
}

/// Private anonymous memory, all of it closed and nothing reserved.
#[derive(Debug)]
pub(crate) struct Region {
    reserved: *mut libc::c_void,
    span: usize,
    /// Aligned to a block.
    base: u64,
    size: u64,
}

impl Region {
    pub(crate) fn new(size: u64) -> io::Result<Self> {
        let span = usize::try_from(size + BLOCK).map_err(io::Error::other)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh mapping replaces nothing.
        let reserved = unsafe { libc::mmap(std::ptr::null_mut(), span, libc::PROT_NONE, flags, -1, 0) };
        if reserved == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = (reserved as u64).next_multiple_of(BLOCK);
        Ok(Self { reserved, span, base, size })
    }

    /// Host address of the first byte.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn whole(&self) -> Range<u64> {
        0..self.size
    }

    /// Host address and length of bytes of the region.
    pub(crate) fn place(&self, range: &Range<u64>) -> (u64, u64) {
        assert!(range.start <= range.end && range.end <= self.size, "{range:?} is inside");
        (self.base + range.start, range.end - range.start)
    }

    /// Lets a range be read and written, or lets nobody touch it.
    pub(crate) fn set_open(&self, range: &Range<u64>, open: bool) -> io::Result<()> {
        let (addr, len) = self.place(range);
        let prot = if open { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_NONE };
        // SAFETY: the range is inside the mapping, which nothing in this process points into: only the kernel touches it, and
        // answers with an error what is closed.
        check(unsafe { libc::mprotect(addr as *mut _, len as usize, prot) })
    }

    pub(crate) fn advise(&self, range: &Range<u64>, advice: Advice) -> io::Result<()> {
        let (addr, len) = self.place(range);
        // SAFETY: as in `set_open`; the range stays mapped.
        check(unsafe { libc::madvise(addr as *mut _, len as usize, advice.raw()) })
    }

    /// Has the kernel write a byte, on this thread.
    pub(crate) fn poke(&self, zero: &File, at: u64) -> io::Result<()> {
        let (addr, _) = self.place(&(at..at + 1));
        // SAFETY: one byte inside the mapping, written by the kernel, which checks the address.
        match unsafe { libc::read(zero.as_raw_fd(), addr as *mut _, 1) } {
            1 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing points into it; VMs that were told of it hold a reference to `self`.
        unsafe { libc::munmap(self.reserved, self.span) };
    }
}

/// CPU time of the calling thread.
pub(crate) fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills in `time`.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

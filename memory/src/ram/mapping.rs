//! The only place that maps memory and forms pointers into it.
//!
//! Rules of the road: a [`Mapping`] owns `len` bytes at `addr` from construction to drop, nothing else unmaps or
//! remaps them, and every access is bounds-checked here. The bytes are shared with the guest and with other
//! threads at all times, so they are only ever touched through volatile slices, never through references.
#![expect(unsafe_code, reason = "mapping memory and touching it volatile is what this module is for")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};

use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

/// What one entry of the third level of page tables covers, bytes. A mapping that is at least as large shares none with its neighbours at
/// its start: the kernel tells KVM of a change of protection only where such entries are there, and KVM looks at each page of
/// the whole range then.
const UPPER_ENTRY: usize = 1 << 30;

/// How to map.
#[derive(Debug, Clone, Copy)]
pub(super) struct MapRequest<'a> {
    /// Bytes; a multiple of the page size.
    pub(super) len: usize,
    /// Alignment of the address; a power of two and a multiple of the page size.
    pub(super) align: usize,
    /// File and the offset in it; anonymous if absent.
    pub(super) file: Option<(&'a File, u64)>,
    /// `MAP_SHARED` instead of `MAP_PRIVATE`.
    pub(super) shared: bool,
    /// Whether swap space is reserved (`reserve=on`).
    pub(super) reserve: bool,
    /// Whether the mapping can be written.
    pub(super) writable: bool,
}

/// NUMA policy for the memory of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[doc(alias = "HostMemPolicy")]
pub enum HostPolicy {
    /// `MPOL_DEFAULT`
    Default,
    /// `MPOL_PREFERRED_MANY`, or `MPOL_PREFERRED` where the kernel does not know it.
    Preferred,
    /// `MPOL_BIND`
    Bind,
    /// `MPOL_INTERLEAVE`
    Interleave,
}

/// What the kernel is told about pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Advice {
    /// Drop the pages of a private mapping.
    DontNeed,
    /// Drop the pages of a shared mapping and of what is behind it.
    Remove,
    /// Merge equal pages, or stop.
    Mergeable(bool),
    /// Keep the pages in core dumps, or not.
    Dump(bool),
    /// Use transparent huge pages.
    HugePage,
    /// Do not.
    NoHugePage,
    /// Do not copy the mapping to children.
    DontFork,
    /// Allocate the pages, as if written to.
    PopulateWrite,
}

impl Advice {
    fn raw(self) -> libc::c_int {
        match self {
            Self::DontNeed => libc::MADV_DONTNEED,
            Self::Remove => libc::MADV_REMOVE,
            Self::Mergeable(true) => libc::MADV_MERGEABLE,
            Self::Mergeable(false) => libc::MADV_UNMERGEABLE,
            Self::Dump(true) => libc::MADV_DODUMP,
            Self::Dump(false) => libc::MADV_DONTDUMP,
            Self::HugePage => libc::MADV_HUGEPAGE,
            Self::NoHugePage => libc::MADV_NOHUGEPAGE,
            Self::DontFork => libc::MADV_DONTFORK,
            Self::PopulateWrite => libc::MADV_POPULATE_WRITE,
        }
    }
}

/// Owned memory; unmapped when dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    addr: NonNull<u8>,
    len: usize,
    writable: bool,
}

// SAFETY: the mapping belongs to no thread; `addr` and `len` never change, and the bytes behind them are only touched
// through volatile slices, which is the contract this module keeps.
unsafe impl Send for Mapping {}
// SAFETY: as above; all methods take `&self` and none hands out a reference to the bytes.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(super) fn new(request: &MapRequest<'_>) -> io::Result<Self> {
        let len = request.len;
        let align = if len < UPPER_ENTRY { request.align } else { request.align.max(UPPER_ENTRY) };
        let span = len.checked_add(align).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        // Reserve enough to find an aligned address inside, map there, give back both ends.
        // SAFETY: a fresh anonymous mapping without MAP_FIXED replaces nothing.
        let reserved = unsafe {
            libc::mmap(
                ptr::null_mut(),
                span,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if reserved == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = reserved as usize;
        let aligned = base.next_multiple_of(align);
        let (fd, offset) = request.file.map_or((-1, 0), |(file, offset)| (file.as_raw_fd(), offset));
        let mut flags = libc::MAP_FIXED;
        flags |= if request.shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
        if request.file.is_none() {
            flags |= libc::MAP_ANONYMOUS;
        }
        if !request.reserve {
            flags |= libc::MAP_NORESERVE;
        }
        let prot = if request.writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        let mapped = match libc::off_t::try_from(offset) {
            // SAFETY: `aligned..aligned + len` lies inside the range reserved above (`len + align` bytes), which this
            // function owns, so MAP_FIXED replaces only that.
            Ok(offset) => unsafe { libc::mmap(aligned as *mut _, len, prot, flags, fd, offset) },
            Err(_) => libc::MAP_FAILED,
        };
        if mapped == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            // SAFETY: the reservation is ours and nothing points into it.
            unsafe { libc::munmap(reserved, span) };
            return Err(error);
        }
        if aligned > base {
            // SAFETY: the head of the reservation, before the mapping; nothing points into it.
            unsafe { libc::munmap(reserved, aligned - base) };
        }
        let tail = aligned + len;
        if base + span > tail {
            // SAFETY: the tail of the reservation, after the mapping; nothing points into it.
            unsafe { libc::munmap(tail as *mut _, base + span - tail) };
        }
        let addr = NonNull::new(mapped.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        Ok(Self { addr, len, writable: request.writable })
    }

    /// Host address of the first byte.
    pub(super) fn addr(&self) -> *mut u8 {
        self.addr.as_ptr()
    }

    /// Bytes mapped.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether stores are allowed.
    pub(super) fn writable(&self) -> bool {
        self.writable
    }

    /// A volatile slice of `len` bytes at `offset`, or nothing if they are not all inside.
    pub(super) fn slice<B: BitmapSlice>(
        &self,
        offset: u64,
        len: usize,
        bitmap: B,
    ) -> Option<VolatileSlice<'_, B>> {
        let offset = usize::try_from(offset).ok()?;
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: `offset + len <= self.len`, checked above; the mapping lives as long as `&self`, which the slice
        // borrows, and the bytes are only touched through such volatile slices.
        Some(unsafe { VolatileSlice::with_bitmap(self.addr.as_ptr().add(offset), len, bitmap, None) })
    }

    /// `madvise` on `len` bytes at `offset`.
    pub(super) fn advise(&self, offset: u64, len: u64, advice: Advice) -> io::Result<()> {
        let (addr, len) = self.range(offset, len)?;
        // SAFETY: the range is inside the mapping. Whatever the advice does to the pages (zero, populate), they stay
        // mapped, and all accesses to them are volatile.
        let done = unsafe { libc::madvise(addr.cast(), len, advice.raw()) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Lets `len` bytes at `offset` be touched, or stops everybody who would: the guest, this program, the kernel on behalf of
    /// either. Pages stay as they are.
    pub(super) fn set_accessible(&self, offset: u64, len: u64, accessible: bool) -> io::Result<()> {
        let (addr, len) = self.range(offset, len)?;
        let prot = match (accessible, self.writable) {
            (false, _) => libc::PROT_NONE,
            (true, false) => libc::PROT_READ,
            (true, true) => libc::PROT_READ | libc::PROT_WRITE,
        };
        // SAFETY: the range is inside the mapping, which stays mapped. That nobody in this program touches what is not
        // accessible is kept by `RamBlock`, which gives out no slice of it.
        let done = unsafe { libc::mprotect(addr.cast(), len, prot) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// `mbind` on the whole mapping. `nodes` is a bit mask, lowest node first.
    pub(super) fn bind(&self, policy: HostPolicy, nodes: &[u64], max_node: u64) -> io::Result<()> {
        // From <linux/mempolicy.h>; libc does not have these.
        const MPOL_PREFERRED_MANY: libc::c_int = 5;
        const MPOL_MF_STRICT: libc::c_ulong = 1;
        const MPOL_MF_MOVE: libc::c_ulong = 2;
        let call = |mode: libc::c_int| {
            // SAFETY: the range is the mapping; `nodes` holds at least `max_node - 1` bits and is only read.
            let done = unsafe {
                libc::syscall(
                    libc::SYS_mbind,
                    self.addr.as_ptr(),
                    self.len,
                    libc::c_ulong::from(mode.unsigned_abs()),
                    nodes.as_ptr(),
                    max_node,
                    MPOL_MF_STRICT | MPOL_MF_MOVE,
                )
            };
            if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
        };
        match policy {
            HostPolicy::Default => call(libc::MPOL_DEFAULT),
            HostPolicy::Bind => call(libc::MPOL_BIND),
            HostPolicy::Interleave => call(libc::MPOL_INTERLEAVE),
            HostPolicy::Preferred => match call(MPOL_PREFERRED_MANY) {
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => call(libc::MPOL_PREFERRED),
                other => other,
            },
        }
    }

    fn range(&self, offset: u64, len: u64) -> io::Result<(*mut u8, usize)> {
        let inside = || {
            let (offset, len) = (usize::try_from(offset).ok()?, usize::try_from(len).ok()?);
            (offset.checked_add(len)? <= self.len).then_some((offset, len))
        };
        let (offset, len) = inside().ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        // SAFETY: `offset <= self.len`, so the result is inside the mapping or one past its end.
        Ok((unsafe { self.addr.as_ptr().add(offset) }, len))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and whoever could point into it borrows `self` or holds the block.
        unsafe { libc::munmap(self.addr.as_ptr().cast(), self.len) };
    }
}

/// Stores a byte past all marks, as a guest does.
#[cfg(test)]
pub(crate) fn poke(addr: *mut u8, value: u8) {
    // SAFETY: the caller has `addr` from a block that lives, whose bytes are touched volatile only.
    unsafe { addr.write_volatile(value) };
}

/// Has the kernel read a byte at `addr` into a pipe, whatever is there.
#[cfg(test)]
pub(crate) fn probe_read(pipe: &io::PipeWriter, addr: *mut u8) -> io::Result<()> {
    // SAFETY: the kernel checks the address it reads from and answers EFAULT where nothing can be read.
    match unsafe { libc::write(pipe.as_raw_fd(), addr.cast(), 1) } {
        1 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests;

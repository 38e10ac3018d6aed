//! Files behind RAM blocks: page sizes and memfds.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{MemfdFlags, SealFlags};

use crate::error::{Error, Result};

/// Bytes of a page of the host.
pub fn host_page_size() -> u64 {
    rustix::param::page_size() as u64
}

/// Bytes of a page of `file`: huge pages for hugetlbfs, else the host's.
#[doc(alias = "qemu_fd_getpagesize")]
pub fn file_page_size(file: &File) -> u64 {
    const HUGETLBFS_MAGIC: u64 = 0x958458f6;
    match rustix::fs::fstatfs(file) {
        Ok(stat) if stat.f_type as u64 == HUGETLBFS_MAGIC => stat.f_bsize as u64,
        _ => host_page_size(),
    }
}

/// Whether `file` is in memory: tmpfs, or a memfd.
pub(super) fn is_tmpfs(file: &File) -> bool {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    rustix::fs::fstatfs(file).is_ok_and(|stat| stat.f_type as u64 == TMPFS_MAGIC)
}

/// What a memfd is made from.
#[derive(Debug, Clone, Copy, Default)]
pub struct MemfdSpec<'a> {
    /// Name in `/proc/PID/maps`.
    pub name: &'a str,
    /// Huge pages, of this many bytes or of the default size if 0.
    pub hugetlb: Option<u64>,
    /// Forbids growing and shrinking.
    pub seal: bool,
}

/// Creates a memfd of `size` bytes.
///
/// # Errors
/// [`Error::CreateMemfd`], [`Error::ResizeMemfd`], [`Error::SealMemfd`].
pub fn create_memfd(spec: &MemfdSpec<'_>, size: u64) -> Result<File> {
    let mut flags = MemfdFlags::CLOEXEC;
    if let Some(page) = spec.hugetlb {
        flags |= MemfdFlags::HUGETLB;
        if page != 0 {
            // The size is encoded as its logarithm in six bits.
            flags |= MemfdFlags::from_bits_retain(page.trailing_zeros() << libc::MFD_HUGE_SHIFT);
        }
    }
    if spec.seal {
        flags |= MemfdFlags::ALLOW_SEALING;
    }
    let fd = rustix::fs::memfd_create(spec.name, flags).map_err(|e| Error::CreateMemfd(e.into()))?;
    rustix::fs::ftruncate(&fd, size).map_err(|e| Error::ResizeMemfd { size, source: e.into() })?;
    if spec.seal {
        let seals = SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&fd, seals).map_err(|e| Error::SealMemfd(e.into()))?;
    }
    Ok(fd.into())
}

/// `fallocate(PUNCH_HOLE | KEEP_SIZE)`.
pub(super) fn punch_hole(file: impl AsFd, offset: u64, len: u64) -> io::Result<()> {
    use rustix::fs::FallocateFlags;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(file, flags, offset, len).map_err(Into::into)
}

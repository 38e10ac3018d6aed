//! Where the memory of each kind of backend comes from.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use qapi::{Error, Result, strerror};

use super::{Config, Kind, Rom};
use crate::memory::Memory;
use crate::ram::{
    Backing, FileBacking, MemfdSpec, RamBlock, RamSpec, create_memfd, file_page_size, host_page_size,
};

/// Allocates the memory of a backend named `name`; settles `rom`.
pub(super) fn allocate(
    memory: &Memory,
    kind: Kind,
    name: &str,
    config: &mut Config,
) -> Result<Arc<RamBlock>> {
    if config.size == 0 {
        return Err(Error::generic("can't create backend with size 0"));
    }
    let (backing, fresh) = match kind {
        Kind::Ram if config.share => (Backing::AnonymousShared, None),
        Kind::Ram => (Backing::Anonymous, None),
        Kind::File => file(name, config)?,
        Kind::Memfd => (fd_backing(name, config, memfd(config)?)?, None),
        Kind::Shm => {
            if !config.share {
                return Err(Error::generic("can't create shm backend with `share=off`"));
            }
            (fd_backing(name, config, shm(config.size)?)?, None)
        }
    };
    let spec = RamSpec {
        reserve: config.reserve,
        align: config.align,
        rom: config.rom == Rom::On,
        ..RamSpec::anonymous(name, config.size).backing(backing)
    };
    let block = memory.create_ram(spec).map_err(|error| {
        // A file that only exists because of this attempt goes again.
        if let Some(path) = fresh
            && let Err(error) = std::fs::remove_file(&path)
        {
            trace::emit!(pliant_backing_file_left, path.display(), &error);
        }
        Error::from(error)
    })?;
    if matches!(kind, Kind::File) {
        block.set_named_file();
    }
    Ok(block)
}

fn memfd(config: &Config) -> Result<File> {
    if config.hugetlb && config.hugetlb_size != 0 && !config.hugetlb_size.is_power_of_two() {
        return Err(Error::generic("Hugepage size must be a power of 2"));
    }
    let spec = MemfdSpec {
        name: "memory-backend-memfd",
        hugetlb: config.hugetlb.then_some(config.hugetlb_size),
        seal: config.seal,
    };
    Ok(create_memfd(&spec, config.size)?)
}

/// POSIX shared memory that no other process can find by name.
fn shm(size: u64) -> Result<File> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let failed = |what: &str, e: rustix::io::Errno| {
        Error::generic(format!("{what}: {}", strerror(&io::Error::from(e))))
    };
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("/pliant-{}-shm-{number}", std::process::id());
    let flags = rustix::shm::OFlags::RDWR | rustix::shm::OFlags::CREATE | rustix::shm::OFlags::EXCL;
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    let fd = rustix::shm::open(&name, flags, mode)
        .map_err(|e| failed("failed to create POSIX shared memory", e))?;
    rustix::shm::unlink(&name).map_err(|e| failed("failed to unlink POSIX shared memory", e))?;
    rustix::fs::ftruncate(&fd, size)
        .map_err(|e| failed(&format!("failed to resize POSIX shared memory to {size}"), e))?;
    Ok(fd.into())
}

/// The checks for a descriptor whose file has its size already.
fn fd_backing(name: &str, config: &Config, file: File) -> Result<Backing> {
    check_size(name, config, &file)?;
    Ok(Backing::File(FileBacking { file, offset: 0, shared: config.share, readonly_fd: false }))
}

/// Bytes in the file; refuses one that has some and not enough.
fn check_size(name: &str, config: &Config, file: &File) -> Result<u64> {
    let size = config.size.checked_next_multiple_of(host_page_size()).unwrap_or(u64::MAX);
    // Not the metadata: devices know their size only this way.
    let file_size = rustix::fs::seek(file, rustix::fs::SeekFrom::End(0)).unwrap_or(0);
    let offset = config.offset;
    if file_size > 0 && offset.checked_add(size).is_none_or(|end| file_size < end) {
        let name = name.to_owned();
        return Err(crate::Error::FileTooSmall { name, file_size, size, offset }.into());
    }
    Ok(file_size)
}

/// The backing of a file, and its path if it did not exist before.
#[doc(alias = "file_backend_memory_alloc")]
fn file(name: &str, config: &mut Config) -> Result<(Backing, Option<PathBuf>)> {
    let Some(path) = config.mem_path.clone() else {
        return Err(Error::generic("mem-path property not set"));
    };
    match config.rom {
        // Opening the file read-only has always made it ROM.
        Rom::Auto => config.rom = if config.readonly { Rom::On } else { Rom::Off },
        Rom::On if !config.readonly => {
            return Err(Error::generic("property 'rom' = 'on' is not supported with 'readonly' = 'off'"));
        }
        Rom::Off if config.readonly && config.share => {
            return Err(Error::generic(
                "property 'rom' = 'off' is incompatible with 'readonly' = 'on' and 'share' = 'on'",
            ));
        }
        Rom::On | Rom::Off => {}
    }
    let (file, created) = open(&path, name, config.readonly).map_err(|e| {
        let (path, reason) = (path.display(), strerror(&e));
        Error::generic(format!("can't open backing store {path} for guest RAM: {reason}"))
    })?;
    let fresh = created.then_some(path);
    let prepared = prepare(name, config, &file);
    if let (Err(_), Some(path)) = (&prepared, &fresh)
        && let Err(error) = std::fs::remove_file(path)
    {
        trace::emit!(pliant_backing_file_left, path.display(), &error);
    }
    prepared?;
    let backing =
        FileBacking { file, offset: config.offset, shared: config.share, readonly_fd: config.readonly };
    Ok((Backing::File(backing), fresh))
}

/// Checks the file against the properties and gives an empty one its size.
fn prepare(name: &str, config: &Config, file: &File) -> Result<()> {
    let file_size = check_size(name, config, file)?;
    let page = file_page_size(file);
    let (align, offset) = (config.align, config.offset);
    if !align.is_multiple_of(page) {
        let text = format!("alignment {align:#x} must be multiples of page size {page:#x}");
        return Err(Error::generic(text));
    }
    if align != 0 && !align.is_power_of_two() {
        return Err(Error::generic(format!("alignment {align:#x} must be a power of two")));
    }
    if !offset.is_multiple_of(page) {
        return Err(Error::generic(format!("offset {offset:#x} must be multiples of page size {page:#x}")));
    }
    if config.size < page && page > host_page_size() {
        let size = config.size;
        let text = format!("memory size {size:#x} must be equal to or larger than page size {page:#x}");
        return Err(Error::generic(text));
    }
    if file_size == 0 {
        let size = config.size.checked_next_multiple_of(page).and_then(|s| s.checked_add(offset));
        let sized = size.map_or(Err(rustix::io::Errno::FBIG), |s| rustix::fs::ftruncate(file, s));
        if let Err(error) = sized {
            // QEMU goes on; mapping the file decides. It says so with `perror`, which the target stands for.
            tracing::warn!(target: "perror", "ftruncate: {}", strerror(&error.into()));
        }
    }
    Ok(())
}

/// Opens or creates the file; in a directory, makes one without a name. Tells whether it was created.
#[doc(alias = "file_ram_open")]
fn open(path: &Path, name: &str, readonly: bool) -> io::Result<(File, bool)> {
    let mut options = OpenOptions::new();
    options.read(true).write(!readonly).custom_flags(libc::O_CLOEXEC);
    match options.open(path) {
        Ok(file) => {
            let kind = file.metadata()?.file_type();
            // Read-only, a directory opens like a file; neither it nor a pipe can be mapped.
            if kind.is_dir() || kind.is_fifo() {
                return Err(io::Error::from_raw_os_error(libc::EISDIR));
            }
            Ok((file, false))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound && !readonly => {
            let mut fresh = options.clone();
            fresh.create_new(true).mode(0o644);
            match fresh.open(path) {
                Ok(file) => Ok((file, true)),
                // Somebody else was faster.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok((options.open(path)?, false)),
                Err(e) => Err(e),
            }
        }
        Err(e) if e.kind() == io::ErrorKind::IsADirectory && !readonly => Ok((unnamed(path, name)?, false)),
        Err(e) => Err(e),
    }
}

/// A file in a directory that goes with its last descriptor. Created under a name first: not every file system
/// (hugetlbfs before 4.19) can do without.
fn unnamed(dir: &Path, name: &str) -> io::Result<File> {
    let name = name.replace('/', "_");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    for attempt in 0..100 {
        let path = dir.join(format!("qemu_back_mem.{name}.{:06x}{attempt:02}", std::process::id()));
        match options.open(&path) {
            Ok(file) => {
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

//! One RAM block.

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use vm_memory::VolatileSlice;

use super::dirty::Logs;
use super::file::{file_page_size, host_page_size};
use super::mapping::{Advice, HostPolicy, MapRequest, Mapping};
use super::range::BlockRange;
use crate::discard_manager::{DiscardManager, Pin};
use crate::error::{Error, Result};
use crate::guest_memory::DirtySlice;

/// Alignment of a block's host address: what transparent huge pages need.
#[doc(alias = "QEMU_VMALLOC_ALIGN")]
const HOST_ALIGN: u64 = 2 << 20;
/// Threads that allocate one block at most.
#[doc(alias = "MAX_MEM_PREALLOC_THREAD_COUNT")]
const MAX_PREALLOC_THREADS: usize = 16;
/// Bytes that a thread allocates before it says so.
const PREALLOC_STEP: u64 = 64 << 20;

/// Where the memory of a block comes from.
#[derive(Debug)]
pub enum Backing {
    /// Private anonymous memory: unused parts read as the shared zero page.
    Anonymous,
    /// Anonymous memory that other processes can map (a memfd inside).
    AnonymousShared,
    /// A file or memfd.
    File(FileBacking),
}

/// A file that backs a block.
#[derive(Debug)]
pub struct FileBacking {
    /// The open file.
    pub file: File,
    /// Where the block starts in it; a multiple of the page size.
    pub offset: u64,
    /// Whether stores reach the file.
    pub shared: bool,
    /// Whether the descriptor was opened for reading only.
    pub readonly_fd: bool,
}

/// What a block is made from.
#[derive(Debug)]
pub struct RamSpec {
    /// Name in `info ramblock` until a device renames it.
    pub name: String,
    /// Bytes in use; rounded up to the page size.
    pub size: u64,
    /// Bytes it may grow to; `size` if smaller.
    pub max_size: u64,
    /// Where it comes from.
    pub backing: Backing,
    /// Whether swap space is reserved.
    pub reserve: bool,
    /// Alignment of the host address beyond the usual, a power of two or 0.
    pub align: u64,
    /// Whether the mapping is read-only (ROM).
    pub rom: bool,
}

impl RamSpec {
    /// Private anonymous memory of `size` bytes.
    pub fn anonymous(name: impl Into<String>, size: u64) -> Self {
        Self {
            name: name.into(),
            size,
            max_size: size,
            backing: Backing::Anonymous,
            reserve: true,
            align: 0,
            rom: false,
        }
    }

    /// The same with another backing.
    #[must_use]
    pub fn backing(mut self, backing: Backing) -> Self {
        self.backing = backing;
        self
    }
}

/// A contiguous piece of host memory for the guest.
#[derive(Debug)]
#[doc(alias = "RAMBlock")]
pub struct RamBlock {
    label: String,
    name: Mutex<String>,
    offset: u64,
    used: AtomicU64,
    page_size: u64,
    file: Option<FileBacking>,
    shared_anonymous: bool,
    /// Whether another process can open the file by its name.
    named_file: AtomicBool,
    /// Shown as `ro` by `info ramblock`.
    rom: AtomicBool,
    pub(super) mapping: Mapping,
    pub(super) dirty: ArcSwapOption<Logs>,
    discard: ArcSwapOption<DiscardManager>,
    /// Parts in which pages are waited for.
    pub(super) arriving: AtomicU32,
}

impl RamBlock {
    /// Maps the memory. `offset` is the block's place in the space of all RAM.
    pub(super) fn map(spec: RamSpec, offset: u64) -> Result<Self> {
        let RamSpec { name, size, max_size, backing, reserve, align, rom } = spec;
        let (file, shared_anonymous) = match backing {
            Backing::Anonymous => (None, false),
            Backing::AnonymousShared => {
                let memfd = super::file::MemfdSpec { name: "ram-block", ..Default::default() };
                let file = super::file::create_memfd(&memfd, aligned(size.max(max_size), host_page_size())?)?;
                (Some(FileBacking { file, offset: 0, shared: true, readonly_fd: false }), true)
            }
            Backing::File(file) => (Some(file), false),
        };
        let page_size = file.as_ref().map_or_else(host_page_size, |f| file_page_size(&f.file));
        let used = aligned(size, page_size)?;
        let max = aligned(max_size.max(size), page_size)?;
        let len = usize::try_from(max).map_err(|_| Error::BadSize(max))?;
        let mapping = Mapping::new(&MapRequest {
            len,
            align: usize::try_from(HOST_ALIGN.max(page_size).max(align))
                .map_err(|_| Error::BadSize(align))?,
            file: file.as_ref().map(|f| (&f.file, f.offset)),
            shared: file.as_ref().is_some_and(|f| f.shared),
            reserve,
            writable: !rom,
        })
        .map_err(|source| match &file {
            Some(_) if !shared_anonymous => Error::MapFile(source),
            _ => Error::MapAnonymous { name: name.clone(), source },
        })?;
        let block = Self {
            name: Mutex::new(name.clone()),
            label: name,
            offset,
            used: AtomicU64::new(used),
            page_size,
            file,
            shared_anonymous,
            named_file: AtomicBool::new(false),
            rom: AtomicBool::new(rom),
            mapping,
            dirty: ArcSwapOption::empty(),
            discard: ArcSwapOption::empty(),
            arriving: AtomicU32::new(0),
        };
        // Hints: a kernel without the feature, or a mapping it does not apply to, is no error.
        for advice in [Advice::HugePage, Advice::DontFork] {
            if let Err(error) = block.mapping.advise(0, max, advice) {
                trace::emit!(pliant_ram_block_advise_failed, &block.label, advice, &error);
            }
        }
        Ok(block)
    }

    /// Name, as `info ramblock` and the migration stream have it.
    #[doc(alias = "idstr")]
    pub fn name(&self) -> String {
        self.name.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Renames the block; see [`register_name`](Self::register_name) for the usual names.
    pub fn set_name(&self, name: impl Into<String>) {
        *self.name.lock().unwrap_or_else(PoisonError::into_inner) = name.into();
    }

    /// The name it was created with, which error texts have.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Gives the block its name for `info ramblock` and migration: the label, behind the path of the device that maps
    /// it (`0000:00:02.0/mem0`) if there is one.
    #[doc(alias = "vmstate_register_ram")]
    pub fn register_name(&self, device: Option<&str>) {
        self.set_name(device.map_or_else(|| self.label.clone(), |path| format!("{path}/{}", self.label)));
    }

    /// Takes the name away again.
    #[doc(alias = "vmstate_unregister_ram")]
    pub fn unregister_name(&self) {
        self.set_name("");
    }

    /// Place in the space of all RAM.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes in use.
    pub fn size(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes mapped.
    pub fn max_size(&self) -> u64 {
        self.mapping.len() as u64
    }

    /// Changes the bytes in use, up to [`max_size`](Self::max_size).
    ///
    /// # Errors
    /// [`Error::OutOfBlock`] beyond it.
    pub fn resize(&self, size: u64) -> Result<()> {
        let size = aligned(size, self.page_size)?;
        if size > self.max_size() {
            return Err(self.out_of_block(0, size));
        }
        self.used.store(size, Ordering::Relaxed);
        Ok(())
    }

    /// Bytes of a page of what backs the block.
    pub fn page_size(&self) -> u64 {
        self.page_size
    }

    /// Whether other processes see stores.
    pub fn is_shared(&self) -> bool {
        self.file.as_ref().is_some_and(|f| f.shared)
    }

    /// Whether stores reach a file that another process can open by its name: a machine that is moved on this host need not send it.
    #[doc(alias = "qemu_ram_is_named_file")]
    pub fn is_shared_by_name(&self) -> bool {
        self.is_shared() && self.named_file.load(Ordering::Relaxed)
    }

    /// Says that the file has a name.
    pub(crate) fn set_named_file(&self) {
        self.named_file.store(true, Ordering::Relaxed);
    }

    /// Whether unpopulated parts read as the shared zero page, costing no memory.
    #[doc(alias = "virtio_mem_has_shared_zeropage")]
    pub fn has_shared_zeropage(&self) -> bool {
        self.file.is_none() && self.page_size == host_page_size()
    }

    /// File and offset, for those that share the memory with other processes.
    pub fn file(&self) -> Option<(&File, u64)> {
        self.file.as_ref().map(|f| (&f.file, f.offset))
    }

    pub(super) fn backing(&self) -> Option<&FileBacking> {
        self.file.as_ref()
    }

    /// Whether it is `memory-backend-ram,share=on` rather than a file of the user.
    pub fn is_shared_anonymous(&self) -> bool {
        self.shared_anonymous
    }

    /// Whether `info ramblock` shows it as `ro`.
    pub fn is_rom(&self) -> bool {
        self.rom.load(Ordering::Relaxed)
    }

    /// Shows the block as `ro`. The mapping stays as it is.
    pub fn set_rom(&self, rom: bool) {
        self.rom.store(rom, Ordering::Relaxed);
    }

    /// Whether the host mapping can be written.
    pub fn is_writable(&self) -> bool {
        self.mapping.writable()
    }

    /// Host address of the first byte. Whoever keeps it keeps the block.
    pub fn host_address(&self) -> *mut u8 {
        self.mapping.addr()
    }

    /// `len` bytes at `offset`.
    pub fn range(self: &Arc<Self>, offset: u64, len: u64) -> Option<BlockRange> {
        BlockRange::of(self, offset, len)
    }

    /// A volatile slice whose writes are marked dirty; absent outside of the block and where memory is
    /// [inaccessible](Self::is_accessible). Of a block that is not [writable](Self::is_writable) it must only be read: the host's
    /// protection stops a write with a signal. Memory that a slice shows cannot be unplugged, so hold it for a copy and no
    /// longer, and never while a device is called.
    pub fn slice(&self, offset: u64, len: usize) -> Option<VolatileSlice<'_, DirtySlice<'_>>> {
        let pin = self.pin(offset, len as u64)?;
        self.mapping.slice(offset, len, DirtySlice::new(self, offset, pin))
    }

    /// Keeps bytes that are accessible so; the inner option is empty where nothing is protected.
    fn pin(&self, offset: u64, len: u64) -> Option<Option<Pin>> {
        match &*self.discard.load() {
            None => Some(None),
            Some(manager) => Pin::take(manager, &(offset..offset.checked_add(len)?)),
        }
    }

    /// Whether this program may touch the bytes: not if they are unplugged and their device protects what is.
    pub fn is_accessible(&self, offset: u64, len: u64) -> bool {
        let Some(end) = offset.checked_add(len) else { return false };
        self.discard.load().as_ref().is_none_or(|manager| manager.is_accessible(offset..end))
    }

    /// Opens or closes the host mapping of a range for everybody.
    pub(crate) fn set_accessible(&self, offset: u64, len: u64, accessible: bool) -> std::io::Result<()> {
        self.mapping.set_accessible(offset, len, accessible)
    }

    /// Copies out of the block.
    ///
    /// # Errors
    /// [`Error::OutOfBlock`], [`Error::Unplugged`].
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let slice = self.slice(offset, buf.len());
        slice.ok_or_else(|| self.refused(offset, buf.len() as u64))?.copy_to(buf);
        Ok(())
    }

    /// Copies into the block and marks what was written dirty.
    ///
    /// # Errors
    /// [`Error::OutOfBlock`], also where the mapping is read-only; [`Error::Unplugged`].
    pub fn write(&self, offset: u64, buf: &[u8]) -> Result<()> {
        if !self.mapping.writable() {
            return Err(self.out_of_block(offset, buf.len() as u64));
        }
        let slice = self.slice(offset, buf.len());
        slice.ok_or_else(|| self.refused(offset, buf.len() as u64))?.copy_from(buf);
        Ok(())
    }

    /// The manager that knows which parts are populated, if the block has one.
    pub fn discard_manager(&self) -> Option<Arc<DiscardManager>> {
        self.discard.load_full()
    }

    pub(crate) fn set_discard_manager(&self, manager: Option<Arc<DiscardManager>>) {
        self.discard.store(manager);
    }

    /// Whether pages are yet to come, so that what the host has none for is not zero.
    pub fn is_arriving(&self) -> bool {
        self.arriving.load(Ordering::SeqCst) != 0
    }

    /// Lets the kernel use transparent huge pages, as at the start, or not.
    pub fn set_huge_pages(&self, on: bool) {
        self.hint(if on { Advice::HugePage } else { Advice::NoHugePage });
    }

    /// Lets the kernel merge equal pages, or stop.
    pub fn set_mergeable(&self, on: bool) {
        self.hint(Advice::Mergeable(on));
    }

    /// Includes the block in core dumps, or not.
    pub fn set_dump(&self, on: bool) {
        self.hint(Advice::Dump(on));
    }

    fn hint(&self, advice: Advice) {
        if let Err(error) = self.mapping.advise(0, self.max_size(), advice) {
            trace::emit!(pliant_ram_block_advise_failed, &self.label, advice, &error);
        }
    }

    /// Binds the memory to host nodes.
    ///
    /// # Errors
    /// [`Error::Bind`].
    pub fn bind(&self, policy: HostPolicy, nodes: &[u16]) -> Result<()> {
        let Some(&last) = nodes.iter().max() else { return Ok(()) };
        let mut mask = vec![0u64; usize::from(last) / 64 + 1];
        for &node in nodes {
            mask[usize::from(node) / 64] |= 1 << (node % 64);
        }
        // The kernel looks at one bit less than it is told.
        self.mapping.bind(policy, &mask, u64::from(last) + 2).map_err(Error::Bind)
    }

    /// Allocates all pages of a range with `threads` threads, but no more than 16 or than the host has processors: the number
    /// is the user's.
    ///
    /// # Errors
    /// [`Error::Prealloc`]; what was allocated stays.
    pub fn prealloc(&self, offset: u64, len: u64, threads: u32) -> Result<()> {
        self.prealloc_told(offset, len, threads, &|_| {})
    }

    /// [`prealloc`](Self::prealloc) that calls `told` with the bytes that are done, now and then and by any of the threads.
    ///
    /// # Errors
    /// As `prealloc`.
    pub(crate) fn prealloc_told(
        &self,
        offset: u64,
        len: u64,
        threads: u32,
        told: &(dyn Fn(u64) + Sync),
    ) -> Result<()> {
        let done = AtomicU64::new(0);
        let step = PREALLOC_STEP.max(self.page_size);
        let pages = len.div_ceil(self.page_size);
        let useful =
            std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MAX_PREALLOC_THREADS);
        let workers = u64::from(threads.max(1)).min(useful as u64).min(pages).max(1);
        let share = pages.div_ceil(workers) * self.page_size;
        let run = |part: u64| {
            let start = part * share;
            let len = share.min(len.saturating_sub(start));
            let mut at = 0;
            while at < len {
                let part = step.min(len - at);
                self.mapping.advise(offset + start + at, part, Advice::PopulateWrite)?;
                at += part;
                told(done.fetch_add(part, Ordering::Relaxed) + part);
            }
            Ok(())
        };
        if workers == 1 {
            return run(0).map_err(Error::Prealloc);
        }
        std::thread::scope(|scope| {
            let spawn =
                |part| std::thread::Builder::new().spawn_scoped(scope, move || run(part)).map_err(|_| part);
            let parts: Vec<_> = (1..workers).map(spawn).collect();
            let mut result = run(0);
            for part in parts {
                let done = match part {
                    Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                    // The host has no thread left: slower, then.
                    Err(part) => run(part),
                };
                result = result.and(done);
            }
            result
        })
        .map_err(Error::Prealloc)
    }

    /// Why there is no slice of a range.
    fn refused(&self, offset: u64, len: u64) -> Error {
        match offset.checked_add(len) {
            Some(end) if end <= self.max_size() => Error::Unplugged { name: self.label.clone(), offset, len },
            _ => self.out_of_block(offset, len),
        }
    }

    fn out_of_block(&self, offset: u64, len: u64) -> Error {
        Error::OutOfBlock { name: self.label.clone(), offset, len }
    }
}

fn aligned(size: u64, page: u64) -> Result<u64> {
    match size.checked_next_multiple_of(page) {
        Some(size) if size > 0 => Ok(size),
        _ => Err(Error::BadSize(size)),
    }
}

//! Trace events of this crate: accesses to devices, views, and what is populated.

trace::events! {
    /// A device was read: by vCPU `cpu` (-1: by somebody else), of its region `mr` called `name`, `size` bytes at the address `addr`.
    memory_region_ops_read(cpu: i64, mr: trace::Id, addr: u64, value: u64, size: u8, name: &str)
        "cpu {cpu} mr {mr} addr {addr:#x} value {value:#x} size {size} name '{name}'";
    /// A device was written to; see `memory_region_ops_read`.
    memory_region_ops_write(cpu: i64, mr: trace::Id, addr: u64, value: u64, size: u8, name: &str)
        "cpu {cpu} mr {mr} addr {addr:#x} value {value:#x} size {size} name '{name}'";
    /// The listener of the section called `mr` has brought the dirty bitmap up to date; `global` if for a migration.
    memory_region_sync_dirty(mr: &str, listener: trace::Id, global: u8) "mr '{mr}' listener '{listener}' synced (global={global})";
    /// A view was made, of everything below the region `root`.
    flatview_new(view: trace::Id, root: impl std::fmt::Display) "{view} (root {root})";
    /// The address space `space` looks different now: like `view`, which has so many ranges.
    pliant_view_changed(space: &str, view: trace::Id, ranges: usize) "space '{space}' view {view} ranges {ranges}";
    /// RAM was given back to the host: `len` bytes at `offset` of the block `name`, with a hole in a file, by advice about pages.
    ram_block_discard_range(name: &str, offset: u64, len: u64, madvise: u8, fallocate: u8, ret: i32)
        "{name}@{offset:#x} + {len:#x}: madvise: {madvise} fallocate: {fallocate} ret: {ret}";
    /// A RAM block was made: `used` of at most `max` bytes in pages of `page`.
    pliant_ram_block_new(name: &str, used: u64, max: u64, page: u64) "{name} used {used:#x} max {max:#x} page {page:#x}";
    /// A hint about memory of the block `name` was not taken by the kernel.
    pliant_ram_block_advise_failed(name: &str, advice: impl std::fmt::Debug, error: &std::io::Error) "{name} {advice:?}: {error}";
    /// Blocks of memory `manager` were populated, after everybody agreed: bytes of the block, as an offset and a length.
    pliant_discard_manager_populate(manager: trace::Id, offset: u64, len: u64) "manager {manager} offset {offset:#x} len {len:#x}";
    /// Somebody refused to have blocks populated, or they could not be made ready.
    pliant_discard_manager_refuse(manager: trace::Id, offset: u64, len: u64, error: &crate::Error)
        "manager {manager} offset {offset:#x} len {len:#x}: {error}";
    /// Blocks are going to be discarded, everybody knows.
    pliant_discard_manager_discard(manager: trace::Id, offset: u64, len: u64) "manager {manager} offset {offset:#x} len {len:#x}";
    /// A mapping of populated blocks is made later.
    pliant_discard_manager_put_off(manager: trace::Id, offset: u64, len: u64) "manager {manager} offset {offset:#x} len {len:#x}";
    /// A write at `addr` should have signalled an event descriptor, which is full or gone.
    pliant_ioeventfd_lost(addr: u64, error: &std::io::Error) "addr {addr:#x}: {error}";
    /// A section cannot be mapped for DMA, as it is not aligned to pages.
    pliant_dma_section_unaligned(name: &str, addr: u64) "'{name}' addr {addr:#x}";
    /// A region is not shown in the object tree.
    pliant_region_object_missing(name: &str, error: &qapi::Error) "'{name}': {error}";
    /// The region of a back end that is gone stays.
    pliant_backend_region_left(error: &crate::Error) "{error}";
    /// A file that was made for a back end, which then failed, stays.
    pliant_backing_file_left(path: impl std::fmt::Display, error: &std::io::Error) "{path}: {error}";
}

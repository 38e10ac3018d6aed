//! Guest memory: RAM blocks, the tree of memory regions, the flat views rendered from it, and the objects that
//! provide memory (`memory-backend-*`).
//!
//! The semantics are those of QEMU's memory API (`docs/devel/memory.rst` there): regions form a tree with
//! priorities and aliases, each address space renders its root into a sorted list of ranges, and listeners
//! (accelerators) are told the difference. Everything changes through a [`Transaction`]; readers look up a
//! published [`FlatView`] and never take a lock.
//!
//! ```
//! use memory::{Memory, RegionDesc, RamSpec, SIZE_ALL};
//!
//! let memory = Memory::new();
//! let block = memory.create_ram(RamSpec::anonymous("ram0", 1 << 20)).unwrap();
//! let mut tx = memory.transaction();
//! let system = tx.container(RegionDesc::new("system", SIZE_ALL));
//! let ram = tx.ram(RegionDesc::new("ram0", 1 << 20), block);
//! tx.add_subregion(system, 0x1000, ram, 0);
//! let space = tx.address_space("memory", system);
//! drop(tx); // commits
//!
//! assert!(space.write(0x1000, &[1, 2, 3]).is_ok());
//! assert_eq!(space.read_uint(0x1000, 4).0, 0x00030201);
//! ```
//!
//! | part | how mature |
//! | --- | --- |
//! | topology, flat views, listeners | complete for PCI machines; checked against a model and the oracle's trees |
//! | access dispatch | complete; little endian only |
//! | RAM blocks, discard | every backing and page size; pages of the host are counted |
//! | dirty bitmaps | several clients, 4 KiB pages |
//! | discard manager, claims on discards | complete |
//! | map for DMA | library with a recording client; no device server can be attached yet |
//! | `info mtree` | complete |
//! | backends | `prealloc-context` knows no object; `pmem` maps the file and nothing more |
//!
//! Left out: IOMMU regions, ROM devices, memory attributes (secure, requester id), big-endian devices.

mod access;
mod backend;
mod children;
mod damage;
mod dirty_log;
mod discard_manager;
mod discard_policy;
mod dispatch;
mod dma;
mod error;
mod flatview;
mod guest_memory;
mod ioeventfd;
mod listener;
mod memory;
mod object;
mod ops;
mod ram;
mod ranges;
mod region;
mod render;
mod space;
mod text;
pub mod trace_events;
mod transaction;

pub use backend::{BackendDefaults, MemdevInfo, MemoryBackend, register};
pub use discard_manager::{Admission, DiscardListener, DiscardListenerId, DiscardManager, PopulatedBitmap};
pub use discard_policy::{DiscardClaim, DiscardConflict, DiscardGuard, DiscardPolicy, Suspension};
pub use dma::{DmaError, DmaLimits, DmaMapper, DmaSink};
pub use error::{DiscardError, Error, Result};
pub use flatview::{FlatRange, FlatView};
pub use guest_memory::{DirtyMarker, DirtySlice, GuestRam};
pub use ioeventfd::{IoEventFd, event_descriptor};
pub use listener::{IoEventFdSection, MemoryListener, Section};
pub use memory::{Memory, PreallocObserver};
pub use ops::{AccessConstraints, MemTx, RegionOps, UnassignedIo};
pub use ram::{
    Backing, BlockRange, BlockReader, DirtyBitmap, DirtyClient, Fault, FileBacking, HostPolicy, MemfdSpec,
    RamBlock, RamSpec, Userfault, create_memfd, file_page_size, host_page_size,
};
pub use ranges::Ranges;
pub use region::{Owner, RegionDesc, RegionId, RegionKind};
pub use space::AddressSpace;
pub use text::MtreeOptions;
pub use transaction::Transaction;

/// Size of a region that covers all 64-bit addresses.
pub const SIZE_ALL: u128 = 1 << 64;

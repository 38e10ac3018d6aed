//! A map of guest memory for DMA by a device outside of this program, as VFIO and vfio-user keep one.
//!
//! A [`DmaMapper`] follows an address space and tells a [`DmaSink`] which guest addresses the device may reach: each RAM
//! section is one mapping. Of a section whose block has a [`DiscardManager`](crate::DiscardManager) only what is populated is mapped,
//! as it comes and goes: pages that are mapped are pinned or held open elsewhere, so that giving them back would give back nothing.
//!
//! Populated memory is mapped granule by granule of its manager, never merged. An IOMMU (VFIO type 1) and a vfio-user server take
//! back only what was mapped as one; were two granules one mapping, discarding one would take both away and map the other
//! anew, and a device that reaches for it in between would fail. So any whole granules can be unmapped at any time, each by an
//! [`unmap`](DmaSink::unmap) of its own. The price are many mappings (1 TiB in granules of 2 MiB: 524,288; 65,535 is a common
//! limit), hence [`DmaLimits`]:
//!
//! - Populating more than the budget allows is refused before anything is mapped: a virtio-mem guest gets BUSY and may go on.
//! - A section that comes when the budget is used up (or that the sink refuses) cannot be refused: [`DmaMapper::attach`] fails; later
//!   the sink is told that its map is [`incomplete`](DmaSink::incomplete), and whoever owns it stops the device.
//! - When what could be populated exceeds the budget, the user is warned, in QEMU's words, once a mapper.
//!
//! ```
//! use std::sync::Arc;
//! use memory::{BlockRange, DmaLimits, DmaMapper, DmaSink, Memory, RamSpec, RegionDesc, SIZE_ALL};
//!
//! struct Print;
//! impl DmaSink for Print {
//!     fn map(&self, iova: u64, memory: &BlockRange, writable: bool) -> Result<(), String> {
//!         println!("{iova:#x}+{:#x} writable: {writable}", memory.len());
//!         Ok(())
//!     }
//!     fn unmap(&self, iova: u64, len: u64) {
//!         println!("{iova:#x}+{len:#x} is gone");
//!     }
//!     fn incomplete(&self, why: &str) {
//!         println!("stop the device: {why}");
//!     }
//! }
//!
//! let memory = Memory::new();
//! let block = memory.create_ram(RamSpec::anonymous("ram", 1 << 20)).unwrap();
//! let mut tx = memory.transaction();
//! let system = tx.container(RegionDesc::new("system", SIZE_ALL));
//! let ram = tx.ram(RegionDesc::new("ram", 1 << 20), block);
//! tx.add_subregion(system, 0x10_0000, ram, 0);
//! let space = tx.address_space("memory", system);
//! drop(tx);
//! let mapper = DmaMapper::attach(&memory, &space, Arc::new(Print), DmaLimits::default()).unwrap();
//! assert_eq!(mapper.mappings(), 1);
//! ```
//!
//! Left out: IOMMUs of the guest; the device's dirty pages, for which there is no log here (so a migration is refused while a
//! mapper is attached); memory of other devices (peer to peer).

mod budget;
mod section;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use crate::discard_manager::{DiscardListenerId, DiscardManager};
use crate::discard_policy::{DiscardClaim, DiscardConflict, DiscardGuard};
use crate::listener::{MemoryListener, Section};
use crate::memory::Memory;
use crate::ram::BlockRange;
use crate::space::AddressSpace;
use budget::Budget;
use section::{Part, Sparse};

/// Who keeps the map: an IOMMU, a device server.
///
/// Called with locks of the memory room held (topology, discard manager): must not call back into [`Memory`] or a discard manager.
pub trait DmaSink: Send + Sync {
    /// Lets the device reach `memory` at the guest addresses from `iova` on. Whole pages; never overlaps what is mapped.
    ///
    /// # Errors
    /// Why not, for the user. Nothing is mapped then.
    fn map(&self, iova: u64, memory: &BlockRange, writable: bool) -> Result<(), String>;

    /// Takes a mapping away: address and length of one [`map`](Self::map) that succeeded. The device does not reach the memory any
    /// more on return.
    fn unmap(&self, iova: u64, len: u64);

    /// From now on memory is missing in the map that the guest may use for DMA. Called once at most; the device must be stopped.
    /// Mappings still come and go.
    fn incomplete(&self, why: &str);
}

/// How many mappings there can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DmaLimits {
    /// Mappings the sink can have, if it has a limit.
    #[doc(alias = "dma_max_mappings")]
    pub max_mappings: Option<u64>,
    /// Memory slots of the accelerator: the best guess of how many sections there will ever be beside those of sparse blocks.
    pub max_memslots: u64,
}

impl Default for DmaLimits {
    fn default() -> Self {
        Self { max_mappings: None, max_memslots: 512 }
    }
}

/// Why a mapper cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum DmaError {
    /// Somebody gives memory back without announcing it.
    #[error("Cannot set discarding of RAM broken: {0}")]
    Discards(#[from] DiscardConflict),
    /// A section could not be mapped.
    #[error("{0}")]
    Map(String),
}

/// Keeps a sink's map in step with an address space until it is dropped, when everything is unmapped. Must not be dropped inside
/// a transaction or a callback of the sink.
pub struct DmaMapper {
    memory: Weak<Memory>,
    space: Arc<AddressSpace>,
    follower: Arc<Follower>,
    _discards: DiscardGuard,
}

impl DmaMapper {
    /// Maps what `space` shows, populated parts only, and follows it.
    ///
    /// # Errors
    /// [`DmaError`]; nothing is mapped then.
    pub fn attach(
        memory: &Arc<Memory>,
        space: &Arc<AddressSpace>,
        sink: Arc<dyn DmaSink>,
        limits: DmaLimits,
    ) -> Result<Self, DmaError> {
        let discards = memory.discard_policy().claim(DiscardClaim::UncoordinatedDisabled)?;
        let shared = Arc::new(Shared {
            sink,
            budget: Budget::new(limits),
            fault: OnceLock::new(),
            attached: AtomicBool::new(false),
        });
        let follower = Arc::new(Follower { shared, sections: Mutex::default() });
        memory.add_listener(space, Arc::clone(&follower) as _);
        let (memory, space) = (Arc::downgrade(memory), Arc::clone(space));
        let mapper = Self { memory, space, follower, _discards: discards };
        // First, so that no fault is missed by both.
        mapper.follower.shared.attached.store(true, Ordering::Release);
        match mapper.fault() {
            Some(why) => Err(DmaError::Map(why.to_owned())),
            None => Ok(mapper),
        }
    }

    /// Mappings there are.
    pub fn mappings(&self) -> u64 {
        self.follower.shared.budget.used()
    }

    /// Why the map is incomplete, if it is.
    pub fn fault(&self) -> Option<&str> {
        self.follower.shared.fault.get().map(String::as_str)
    }
}

impl Drop for DmaMapper {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.upgrade() {
            let listener: Arc<dyn MemoryListener> = Arc::clone(&self.follower) as _;
            memory.remove_listener(&self.space, &listener);
        }
    }
}

/// What sections share.
struct Shared {
    sink: Arc<dyn DmaSink>,
    budget: Budget,
    /// The first section that could not be mapped.
    fault: OnceLock<String>,
    /// Whether the sink is told of faults; before, whoever attaches is.
    attached: AtomicBool,
}

impl Shared {
    fn fail(&self, section: &Section, why: &str) {
        let (name, addr, size) = (&section.name, section.addr, section.size);
        let why = format!("cannot map '{name}' at {addr:#x}+{size:#x} for DMA: {why}");
        if self.fault.set(why).is_ok() && self.attached.load(Ordering::Acquire) {
            let why = self.fault.get().map_or("", String::as_str);
            tracing::error!("{why}");
            self.sink.incomplete(why);
        }
    }
}

/// A section that is mapped, as far as it is populated.
enum Followed {
    Whole { len: u64 },
    Sparse { manager: Arc<DiscardManager>, id: DiscardListenerId, possible: u64 },
}

/// The listener. Its lock is not held while a manager or the sink is called.
struct Follower {
    shared: Arc<Shared>,
    /// By the guest address of the part that is mapped.
    sections: Mutex<BTreeMap<u64, Followed>>,
}

impl Follower {
    fn sections(&self) -> MutexGuard<'_, BTreeMap<u64, Followed>> {
        // Changed by whole insertions and removals only.
        self.sections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn map(&self, part: &Part) -> Result<Followed, String> {
        let Some(manager) = part.memory.block().discard_manager() else {
            let Shared { sink, budget, .. } = &*self.shared;
            budget.take(1)?;
            sink.map(part.iova, &part.memory, part.writable).inspect_err(|_| budget.give(1))?;
            return Ok(Followed::Whole { len: part.memory.len() });
        };
        let sparse = Sparse::new(&self.shared, part.clone(), manager.granularity())?;
        let possible = sparse.possible();
        let id = manager.register(part.range(), Arc::new(sparse)).map_err(|e| e.to_string())?;
        Ok(Followed::Sparse { manager, id, possible })
    }

    /// Warns when sparse sections could come to need more mappings than there can be.
    fn warn(&self) {
        let possible: Vec<u64> = self.sections().values().filter_map(Followed::possible).collect();
        self.shared.budget.warn(possible.iter().sum(), possible.len() as u64);
    }
}

impl Followed {
    fn possible(&self) -> Option<u64> {
        match self {
            Self::Whole { .. } => None,
            Self::Sparse { possible, .. } => Some(*possible),
        }
    }
}

impl MemoryListener for Follower {
    fn region_add(&self, section: &Section) {
        let Some(part) = Part::of(section) else { return };
        match self.map(&part) {
            Ok(followed) => {
                let sparse = followed.possible().is_some();
                self.sections().insert(part.iova, followed);
                if sparse {
                    self.warn();
                }
            }
            Err(why) => self.shared.fail(section, &why),
        }
    }

    fn region_del(&self, section: &Section) {
        let Some(part) = Part::of(section) else { return };
        // Nothing if it could not be mapped.
        let followed = self.sections().remove(&part.iova);
        match followed {
            None => {}
            Some(Followed::Whole { len }) => {
                self.shared.sink.unmap(part.iova, len);
                self.shared.budget.give(1);
            }
            Some(Followed::Sparse { manager, id, .. }) => manager.unregister(id),
        }
    }

    fn log_global_start(&self) -> Result<(), String> {
        Err("a device outside of the program writes memory, which cannot be logged".to_owned())
    }
}

#[cfg(test)]
mod tests;

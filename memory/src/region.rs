//! Memory regions: nodes of the tree, and the arena they live in.
//!
//! A region is named by a [`RegionId`] with a generation, so that an id kept after
//! [`destroy`](crate::Transaction::destroy) never names another region.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Weak};

use qom::{Object, ObjectRef};

use crate::children::Children;
use crate::ioeventfd::IoEventFd;
use crate::ops::RegionOps;
use crate::ram::RamBlock;

/// Names a region of one [`crate::Memory`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegionId {
    index: u32,
    generation: u32,
}

impl fmt::Display for RegionId {
    /// As traces name it: one number for each region there ever was.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", u64::from(self.generation) << 32 | u64::from(self.index))
    }
}

/// To whom a region belongs: printed by `info mtree -o`.
#[derive(Clone, Default)]
pub enum Owner {
    /// Nobody; the object tree has it under `/machine/unattached`.
    #[default]
    None,
    /// An object: the region becomes its child `NAME[0]`, and goes when the region is destroyed.
    Qom(Weak<dyn Object>),
    /// An object that is no device, only to be printed, by its canonical path.
    Object {
        /// Such as `/objects/mem0`.
        path: String,
    },
    /// A device, only to be printed: by id if it has one, else by path.
    Device {
        /// The user's id.
        id: Option<String>,
        /// Such as `/machine/peripheral/vm0`.
        path: String,
    },
}

impl Owner {
    /// An object of the tree.
    pub fn of(object: &ObjectRef) -> Self {
        Self::Qom(Arc::downgrade(object))
    }

    /// An object at `path`.
    pub fn object(path: impl Into<String>) -> Self {
        Self::Object { path: path.into() }
    }

    /// A device at `path`, with `id` if the user gave one.
    pub fn device(id: Option<&str>, path: impl Into<String>) -> Self {
        Self::Device { id: id.map(str::to_owned), path: path.into() }
    }
}

/// What every region is made from.
#[derive(Debug, Clone)]
pub struct RegionDesc {
    /// Name shown by `info mtree`; need not be unique.
    pub name: String,
    /// Bytes, up to 2^64.
    pub size: u128,
    /// To whom it belongs.
    pub owner: Owner,
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Qom(object) => write!(f, "Qom({:?})", object.upgrade().map(|o| o.path())),
            Self::Object { path } => write!(f, "Object({path})"),
            Self::Device { id, path } => write!(f, "Device({id:?}, {path})"),
        }
    }
}

impl RegionDesc {
    /// A region without owner.
    pub fn new(name: impl Into<String>, size: u128) -> Self {
        Self { name: name.into(), size, owner: Owner::None }
    }

    /// The same with an owner.
    #[must_use]
    pub fn owned_by(mut self, owner: Owner) -> Self {
        self.owner = owner;
        self
    }
}

/// What a region is.
#[derive(Clone)]
pub enum RegionKind {
    /// Only holds subregions.
    Container,
    /// A device answers.
    Io(Arc<dyn RegionOps>),
    /// RAM or, when the region is read-only, ROM.
    Ram(Arc<RamBlock>),
    /// A window onto another region.
    Alias(RegionId),
}

impl fmt::Debug for RegionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container => f.write_str("Container"),
            Self::Io(_) => f.write_str("Io"),
            Self::Ram(block) => write!(f, "Ram({})", block.label()),
            Self::Alias(id) => write!(f, "Alias({id:?})"),
        }
    }
}

/// The part of a region that never changes; flat views share it.
#[derive(Debug)]
pub(crate) struct RegionCore {
    pub(crate) id: RegionId,
    pub(crate) name: Arc<str>,
    pub(crate) kind: RegionKind,
}

/// Cores are the same when they are of the same region.
impl PartialEq for RegionCore {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

/// A region as the topology holds it.
pub(crate) struct Region {
    pub(crate) core: Arc<RegionCore>,
    pub(crate) owner: Owner,
    /// What stands for it in the object tree.
    pub(crate) object: Option<ObjectRef>,
    pub(crate) size: u128,
    /// Offset in the container.
    pub(crate) addr: u64,
    pub(crate) container: Option<RegionId>,
    pub(crate) priority: i32,
    pub(crate) enabled: bool,
    pub(crate) readonly: bool,
    pub(crate) unmergeable: bool,
    /// Whether writes are logged for a client of this region.
    pub(crate) log: bool,
    pub(crate) alias_offset: u64,
    /// The aliases that name this region: a change goes up through them, too.
    pub(crate) aliases: BTreeSet<RegionId>,
    /// How many address spaces have it as root.
    pub(crate) spaces: u32,
    pub(crate) subregions: Children,
    pub(crate) ioeventfds: Vec<IoEventFd>,
}

impl Region {
    /// Whether the region answers where none of its subregions does.
    pub(crate) fn terminates(&self) -> bool {
        matches!(self.core.kind, RegionKind::Io(_) | RegionKind::Ram(_))
    }

    pub(crate) fn alias_target(&self) -> Option<RegionId> {
        if let RegionKind::Alias(target) = self.core.kind { Some(target) } else { None }
    }
}

/// All regions of a [`crate::Memory`].
#[derive(Default)]
pub(crate) struct Arena {
    slots: Vec<(u32, Option<Region>)>,
    free: Vec<u32>,
}

impl Arena {
    pub(crate) fn insert(&mut self, desc: RegionDesc, kind: RegionKind) -> RegionId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 regions fit in memory")
        });
        let slot = &mut self.slots[index as usize];
        let id = RegionId { index, generation: slot.0 };
        slot.1 = Some(Region {
            core: Arc::new(RegionCore { id, name: desc.name.into(), kind }),
            owner: desc.owner,
            object: None,
            size: desc.size.min(crate::SIZE_ALL),
            addr: 0,
            container: None,
            priority: 0,
            enabled: true,
            readonly: false,
            unmergeable: false,
            log: false,
            alias_offset: 0,
            aliases: BTreeSet::new(),
            spaces: 0,
            subregions: Children::default(),
            ioeventfds: Vec::new(),
        });
        id
    }

    pub(crate) fn remove(&mut self, id: RegionId) -> Option<Region> {
        let slot = self.slots.get_mut(id.index as usize).filter(|s| s.0 == id.generation)?;
        let region = slot.1.take()?;
        slot.0 = slot.0.wrapping_add(1);
        self.free.push(id.index);
        Some(region)
    }

    pub(crate) fn ids(&self) -> Vec<RegionId> {
        self.slots.iter().filter_map(|slot| Some(slot.1.as_ref()?.core.id)).collect()
    }

    pub(crate) fn get(&self, id: RegionId) -> Option<&Region> {
        self.slots.get(id.index as usize).filter(|s| s.0 == id.generation)?.1.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: RegionId) -> Option<&mut Region> {
        self.slots.get_mut(id.index as usize).filter(|s| s.0 == id.generation)?.1.as_mut()
    }
}

impl std::ops::Index<RegionId> for Arena {
    type Output = Region;

    fn index(&self, id: RegionId) -> &Region {
        self.get(id).expect("a region id is used only until its region is destroyed")
    }
}

impl std::ops::IndexMut<RegionId> for Arena {
    fn index_mut(&mut self, id: RegionId) -> &mut Region {
        self.get_mut(id).expect("a region id is used only until its region is destroyed")
    }
}

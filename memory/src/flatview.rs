//! What an address space looks like once its tree is rendered: a sorted list of ranges that do not overlap.
//!
//! A view is immutable and published whole; whoever holds it may look up addresses without a lock.

use std::sync::Arc;

use crate::guest_memory::GuestRam;
use crate::ioeventfd::IoEventFd;
use crate::listener::Section;
use crate::ram::RamBlock;
use crate::ranges::Ranges;
use crate::region::{RegionCore, RegionId, RegionKind};

/// A range of a view: guest addresses that one region answers.
#[derive(Debug, Clone, PartialEq)]
pub struct FlatRange {
    pub(crate) core: Arc<RegionCore>,
    /// First guest address.
    pub addr: u64,
    /// Last guest address.
    pub last: u64,
    /// Offset in the region of the first address.
    pub offset: u64,
    /// Whether writes are refused.
    pub readonly: bool,
    /// Whether the range is never merged with its neighbours.
    pub unmergeable: bool,
    /// Whether writes are logged.
    pub log: bool,
}

impl FlatRange {
    /// The region that answers.
    pub fn region(&self) -> RegionId {
        self.core.id
    }

    /// Name of the region.
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// Bytes.
    pub fn size(&self) -> u128 {
        u128::from(self.last - self.addr) + 1
    }

    /// The RAM behind the range; absent for I/O.
    pub fn block(&self) -> Option<&Arc<RamBlock>> {
        if let RegionKind::Ram(block) = &self.core.kind { Some(block) } else { None }
    }

    /// Whether both are the same mapping; logging does not count.
    pub(crate) fn same_mapping(&self, other: &Self) -> bool {
        self.core.id == other.core.id
            && (self.addr, self.last, self.offset) == (other.addr, other.last, other.offset)
            && (self.readonly, self.unmergeable) == (other.readonly, other.unmergeable)
    }

    /// Whether `next`, which follows in the list, continues this range.
    pub(crate) fn merges_with(&self, next: &Self) -> bool {
        !self.unmergeable
            && !next.unmergeable
            && self.core.id == next.core.id
            && self.last.checked_add(1) == Some(next.addr)
            && self.offset.checked_add(self.last - self.addr + 1) == Some(next.offset)
            && (self.readonly, self.log) == (next.readonly, next.log)
    }

    pub(crate) fn section(&self) -> Section {
        Section {
            region: self.core.id,
            name: self.core.name.clone(),
            block: self.block().cloned(),
            offset_in_region: self.offset,
            addr: self.addr,
            size: self.size(),
            readonly: self.readonly,
            unmergeable: self.unmergeable,
            log: self.log,
        }
    }
}

/// A rendered address space.
#[derive(Debug, Default)]
pub struct FlatView {
    /// The region that was rendered, after following whole aliases and only children; none if nothing is there.
    pub(crate) root: Option<RegionId>,
    pub(crate) ram: GuestRam,
    pub(crate) ioeventfds: Vec<IoEventFd>,
}

impl FlatView {
    pub(crate) fn new(root: Option<RegionId>, ranges: Ranges, ioeventfds: Vec<IoEventFd>) -> Self {
        Self { root, ram: GuestRam(ranges), ioeventfds }
    }

    /// The region the view was rendered from.
    pub fn root(&self) -> Option<RegionId> {
        self.root
    }

    /// Ranges by ascending address.
    pub fn ranges(&self) -> &Ranges {
        &self.ram.0
    }

    /// Event descriptors by ascending address, with guest addresses.
    pub fn ioeventfds(&self) -> &[IoEventFd] {
        &self.ioeventfds
    }

    /// The range that holds an address.
    pub fn lookup(&self, addr: u64) -> Option<&FlatRange> {
        self.ranges().reaching(addr).filter(|r| r.addr <= addr)
    }

    /// The start of the first range above an address where nothing is.
    pub fn next_start(&self, addr: u64) -> Option<u64> {
        self.ranges().reaching(addr).map(|r| r.addr)
    }

    /// The RAM of the view for `vm-memory` users such as `virtio-queue`.
    pub fn guest_memory(&self) -> &GuestRam {
        &self.ram
    }
}

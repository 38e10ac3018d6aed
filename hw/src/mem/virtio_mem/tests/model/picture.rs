//! What follows from the model's state: how memory looks in the address spaces, what a device with DMA maps, who has how many slots.

use std::collections::BTreeMap;
use std::ops::Range;

use super::super::super::protection::Protection;
use super::device::Device;
use super::naive::Naive;
use super::steps::{Life, RAM};
use super::users::Mapped;
use crate::mem::memslots::Policy;

/// A piece of RAM in an address space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) addr: u64,
    pub(super) size: u64,
    /// The device; none for RAM that is always there.
    pub(super) device: Option<usize>,
    pub(super) offset: u64,
    pub(super) unmergeable: bool,
}

impl Piece {
    /// Name of the block.
    pub(super) fn name(&self) -> String {
        self.device.map_or_else(|| "ram".to_owned(), |number| format!("mem{number}"))
    }
}

/// What an address space shows, ascending.
pub(super) type View = Vec<Piece>;
/// What both show.
pub(super) type Views = [View; 2];

/// Somebody's memory slots.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Slots {
    pub(super) limit: u64,
    pub(super) used: u64,
    pub(super) reserved: u64,
}

impl Slots {
    pub(super) fn free(&self) -> u64 {
        self.limit.saturating_sub(self.used + self.reserved)
    }
}

impl Device {
    /// Bytes of a part.
    fn part(&self, part: u64) -> Range<u64> {
        let size = self.shape.part();
        part * size..((part + 1) * size).min(self.shape.region())
    }

    /// Whether something in a range of whole blocks is plugged.
    pub(super) fn is_used(&self, range: &Range<u64>) -> bool {
        let block = self.shape.block;
        (range.start / block..range.end / block).any(|block| self.plugged[block as usize])
    }

    fn is_mapped(&self, part: &Range<u64>) -> bool {
        match self.shape.policy() {
            None => true,
            Some(Policy::WhileUsable) => part.start < self.usable,
            Some(Policy::WhilePlugged) => self.is_used(part),
        }
    }

    /// Whether the host lets anybody touch a block: also while its pages are allocated for a request that was not served yet.
    pub(super) fn is_open(&self, block: usize) -> bool {
        let ready = |range: Range<usize>| {
            self.preparing
                .as_ref()
                .is_some_and(|(blocks, _)| blocks.start < range.end && range.start < blocks.end)
        };
        match self.shape.protection {
            Protection::Off | Protection::Auto => true,
            Protection::Block => self.plugged[block] || ready(block..block + 1),
            Protection::Slot => {
                let size = self.shape.block;
                let part = self.part(block as u64 * size / self.shape.part());
                self.is_used(&part) || ready((part.start / size) as usize..(part.end / size) as usize)
            }
        }
    }

    /// The parts that are mapped.
    fn parts(&self) -> impl Iterator<Item = Range<u64>> {
        let all = if self.present { 0..self.shape.part_count() } else { 0..0 };
        all.map(|part| self.part(part)).filter(|part| self.is_mapped(part))
    }

    pub(super) fn mapped_parts(&self) -> u64 {
        self.parts().count() as u64
    }

    /// Whether each block can be touched; none where the first address space shows nothing.
    pub(super) fn reach(&self) -> Vec<Option<bool>> {
        let mut reach = vec![None; self.plugged.len()];
        for part in self.parts() {
            let used = self.is_used(&part);
            let blocks = part.start / self.shape.block..part.end / self.shape.block;
            for block in blocks.map(|block| block as usize) {
                reach[block] = Some(match self.shape.protection {
                    Protection::Slot => used,
                    Protection::Block => self.plugged[block],
                    Protection::Off | Protection::Auto => true,
                });
            }
        }
        reach
    }
}

impl Naive {
    pub(super) fn views(&self) -> Views {
        let ram = Piece { addr: 0, size: RAM, device: None, offset: 0, unmergeable: false };
        let piece = |(number, device): (usize, &Device), part: Range<u64>| Piece {
            addr: Life::addr(number) + part.start,
            size: part.end - part.start,
            device: Some(number),
            offset: part.start,
            unmergeable: device.shape.policy().is_some(),
        };
        let devices = self.devices.iter().enumerate();
        let all: View = std::iter::once(ram)
            .chain(devices.flat_map(|d| d.1.parts().map(move |part| piece(d, part))))
            .collect();
        let seen = all.iter().filter_map(|piece| self.through_window(piece)).collect();
        [all, seen]
    }

    fn through_window(&self, piece: &Piece) -> Option<Piece> {
        let start = piece.addr.max(self.window.start);
        let end = (piece.addr + piece.size).min(self.window.end);
        let addr = Life::in_window(&self.window, start).filter(|_| start < end)?;
        Some(Piece { addr, size: end - start, offset: piece.offset + (start - piece.addr), ..piece.clone() })
    }

    /// What a device with DMA maps of an address space.
    pub(super) fn map(&self, space: usize) -> BTreeMap<u64, Mapped> {
        self.map_of(&self.views()[space])
    }

    /// A mapping for each piece of RAM, of a device's memory one for each block of the piece that is plugged.
    pub(super) fn map_of(&self, view: &View) -> BTreeMap<u64, Mapped> {
        let mut map = BTreeMap::new();
        for piece in view {
            let Some(number) = piece.device else {
                map.insert(piece.addr, (piece.name(), piece.offset, piece.size));
                continue;
            };
            let device = &self.devices[number];
            let block = device.shape.block;
            for at in (0..device.plugged.len()).filter(|at| device.plugged[*at]).map(|at| at as u64 * block) {
                let start = at.max(piece.offset);
                let end = (at + block).min(piece.offset + piece.size);
                if start < end {
                    map.insert(piece.addr + (start - piece.offset), (piece.name(), start, end - start));
                }
            }
        }
        map
    }

    /// Whether a device with DMA that has `used` mappings can have `more`.
    pub(super) fn fits(&self, mapper: usize, used: usize, more: &BTreeMap<u64, Mapped>) -> bool {
        let Some((space, max)) = self.mappers[mapper].attached else { return true };
        let refused = self.refused_iova(mapper, space);
        let refuses = |(iova, mapped): (&u64, &Mapped)| {
            refused.is_some_and(|at| (*iova..iova + mapped.2).contains(&at))
        };
        // Nothing more is no more than there may be, whatever there is.
        more.is_empty()
            || max.is_none_or(|max| (used + more.len()) as u64 <= max) && !more.iter().any(refuses)
    }

    /// The address that a device with DMA cannot map, as it sees it.
    pub(super) fn refused_iova(&self, mapper: usize, space: usize) -> Option<u64> {
        let addr = self.mappers[mapper].refuses?;
        if space == 0 { Some(addr) } else { Life::in_window(&self.window, addr) }
    }

    /// Parts of all devices, and how many of them are mapped.
    pub(super) fn part_counts(&self) -> (u64, u64) {
        let present = self.devices.iter().filter(|device| device.present);
        present.fold((0, 0), |(all, mapped), d| (all + d.shape.part_count(), mapped + d.mapped_parts()))
    }

    /// Slots of somebody who can have `limit`, and needs one for each piece of a view.
    pub(super) fn slots(&self, view: &View, limit: u64) -> Slots {
        let (parts, mapped) = self.part_counts();
        Slots { limit, used: view.len() as u64, reserved: parts - mapped }
    }

    /// Everybody with slots: the hypervisor, and back ends in the order in which they came.
    pub(super) fn slot_users(&self, view: &View) -> Vec<Slots> {
        let limits = self.hypervisor.into_iter().chain(self.backends.iter().map(|(_, limit)| *limit));
        limits.map(|limit| self.slots(view, limit)).collect()
    }

    /// Whether there is a slot for each of a new device's parts, with everybody and below the limit of all devices.
    pub(super) fn may_add(&self, parts: u64) -> bool {
        self.slot_users(&self.views()[0]).iter().all(|slots| slots.free() >= parts)
            && self.part_counts().0 + parts <= 2048
    }

    /// Whether a new back end has a slot for everything that there is and may be. One with few slots would have had devices that
    /// decide for themselves decide otherwise.
    pub(super) fn may_connect(&self, limit: u64) -> bool {
        let decided = |d: &Device| {
            d.present && d.shape.policy() == Some(Policy::WhilePlugged) && d.shape.part_count() > 1
        };
        let Slots { used, reserved, .. } = self.slots(&self.views()[0], limit);
        limit >= used + reserved && (limit >= 509 || !self.devices.iter().any(decided))
    }
}

//! The subregions of a region, found by their addresses.
//!
//! A device that maps its memory in thousands of pieces has them all in one container. Whoever looks at a part of the
//! container meets only what can reach into that part: the search begins one largest child before it. With a child as
//! large as the container that is everything, as it is in the system's root, which has few children.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::region::RegionId;

/// A subregion, with what decides whether a walk has to look at it at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Child {
    pub(crate) id: RegionId,
    pub(crate) priority: i32,
    pub(crate) addr: u64,
    pub(crate) size: u128,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Children {
    /// By address, then by the number of the insertion.
    by_addr: BTreeMap<(u64, u64), Child>,
    /// No child is larger. Shrinks only when all are gone.
    largest: u128,
    insertions: u64,
}

impl Children {
    /// Adds a child, on top of those of the same priority.
    pub(crate) fn insert(&mut self, child: Child) {
        self.insertions += 1;
        self.largest = self.largest.max(child.size);
        self.by_addr.insert((child.addr, self.insertions), child);
    }

    fn key(&self, addr: u64, id: RegionId) -> Option<(u64, u64)> {
        let here = self.by_addr.range((addr, 0)..=(addr, u64::MAX));
        here.into_iter().find(|(_, child)| child.id == id).map(|(&key, _)| key)
    }

    /// Takes out the child that is at `addr`, if it is there.
    pub(crate) fn remove(&mut self, addr: u64, id: RegionId) {
        if let Some(key) = self.key(addr, id) {
            self.by_addr.remove(&key);
        }
        if self.by_addr.is_empty() {
            self.largest = 0;
        }
    }

    /// Changes the size of the child that is at `addr`.
    pub(crate) fn resize(&mut self, addr: u64, id: RegionId, size: u128) {
        self.largest = self.largest.max(size);
        let child = self.key(addr, id).and_then(|key| self.by_addr.get_mut(&key));
        child.into_iter().for_each(|child| child.size = size);
    }

    /// All, in no order that counts.
    pub(crate) fn ids(&self) -> impl Iterator<Item = RegionId> + '_ {
        self.by_addr.values().map(|child| child.id)
    }

    /// All, topmost first: by descending priority, of equals the one added last first.
    pub(crate) fn topmost_first(&self) -> Vec<Child> {
        Self::sorted(self.by_addr.iter())
    }

    /// Those that reach into a range of the region's addresses, topmost first.
    pub(crate) fn touching(&self, range: Range<i128>) -> Vec<Child> {
        // A child is below 2^64 + 2^64, and an address that is not below 2^64 is no start of a child.
        let first = (range.start + 1).saturating_sub_unsigned(self.largest).max(0);
        let (Ok(first), Ok(last)) = (u64::try_from(first), u128::try_from(range.end - 1)) else {
            return Vec::new();
        };
        let last = u64::try_from(last).unwrap_or(u64::MAX);
        if first > last {
            return Vec::new();
        }
        let near = self.by_addr.range((first, 0)..=(last, u64::MAX));
        Self::sorted(near.filter(|(_, child)| i128::from(child.addr) + child.size as i128 > range.start))
    }

    fn sorted<'a>(children: impl Iterator<Item = (&'a (u64, u64), &'a Child)>) -> Vec<Child> {
        let mut children: Vec<_> = children.map(|(&(_, age), child)| (age, *child)).collect();
        children.sort_unstable_by(|(a, left), (b, right)| (right.priority, b).cmp(&(left.priority, a)));
        children.into_iter().map(|(_, child)| child).collect()
    }
}

#[cfg(test)]
mod tests;

//! From the tree of regions to a flat view.
//!
//! Rendering walks the tree from the root with a window that shrinks at each level; higher priorities come first, so
//! a region fills only what is still free. Aliases continue in their target with the window moved. A commit renders
//! only the part of a view that changed ([`crate::damage`]).

use std::collections::BTreeMap;

use crate::flatview::{FlatRange, FlatView};
use crate::ioeventfd::{self, IoEventFd};
use crate::ranges::Ranges;
use crate::region::{Arena, RegionId};

/// Attributes a region hands down to everything below it.
#[derive(Debug, Clone, Copy, Default)]
struct Inherited {
    readonly: bool,
    unmergeable: bool,
}

/// Half-open range of addresses; signed, as an alias may move the base below zero.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) start: i128,
    pub(crate) end: i128,
}

impl Window {
    /// All addresses.
    pub(crate) const ALL: Self = Self { start: 0, end: 1 << 64 };

    pub(crate) fn shifted(self, by: i128) -> Self {
        Self { start: self.start + by, end: self.end + by }
    }

    pub(crate) fn union(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }

    pub(crate) fn intersect(self, other: Self) -> Option<Self> {
        let part = Self { start: self.start.max(other.start), end: self.end.min(other.end) };
        (part.start < part.end).then_some(part)
    }
}

struct Renderer<'a> {
    arena: &'a Arena,
    /// Rendered so far, by first address.
    ranges: BTreeMap<u64, FlatRange>,
}

/// A part of a view.
pub(crate) struct Drawn {
    pub(crate) ranges: Vec<FlatRange>,
    pub(crate) ioeventfds: Vec<IoEventFd>,
}

/// Renders what `root` shows of the 64-bit address space.
pub(crate) fn render(arena: &Arena, root: Option<RegionId>) -> FlatView {
    let Some(id) = root else { return FlatView::default() };
    let drawn = render_window(arena, id, Window::ALL);
    FlatView::new(root, Ranges::new(drawn.ranges), drawn.ioeventfds)
}

/// Renders what `root` shows in a window.
pub(crate) fn render_window(arena: &Arena, root: RegionId, window: Window) -> Drawn {
    let mut renderer = Renderer { arena, ranges: BTreeMap::new() };
    renderer.walk(root, 0, window, Inherited::default());
    let ranges = merge(renderer.ranges.into_values());
    let ioeventfds = ioeventfd::collect(arena, &ranges);
    Drawn { ranges, ioeventfds }
}

impl Renderer<'_> {
    fn walk(&mut self, id: RegionId, base: i128, window: Window, mut inherited: Inherited) {
        let region = &self.arena[id];
        if !region.enabled {
            return;
        }
        let base = base + i128::from(region.addr);
        inherited.readonly |= region.readonly;
        inherited.unmergeable |= region.unmergeable;
        let own = Window { start: base, end: base + region.size as i128 };
        let Some(window) = window.intersect(own) else { return };
        if let Some(target) = region.alias_target() {
            let base = base - i128::from(self.arena[target].addr) - i128::from(region.alias_offset);
            return self.walk(target, base, window, inherited);
        }
        let inside = window.shifted(-base);
        for child in region.subregions.touching(inside.start..inside.end) {
            self.walk(child.id, base, window, inherited);
        }
        if region.terminates() {
            self.fill(id, base, window, inherited);
        }
    }

    /// Puts the region where nothing is yet inside the window.
    fn fill(&mut self, id: RegionId, base: i128, window: Window, inherited: Inherited) {
        let region = &self.arena[id];
        // The window is inside 0..2^64 from the start of the walk, so its last address fits u64.
        let (mut at, last) = (window.start as u64, (window.end - 1) as u64);
        let mut gaps = Vec::new();
        let before = self.ranges.range(..=at).next_back().map(|(_, r)| (r.addr, r.last));
        let inside = self.ranges.range(at..=last).map(|(_, r)| (r.addr, r.last));
        let mut free = true;
        for (first, end) in before.into_iter().chain(inside) {
            if end < at {
                continue;
            }
            if first > at {
                gaps.push((at, first - 1));
            }
            match end.checked_add(1) {
                Some(next) if next <= last => at = next,
                _ => {
                    free = false;
                    break;
                }
            }
        }
        if free {
            gaps.push((at, last));
        }
        for (addr, last) in gaps {
            let range = FlatRange {
                core: region.core.clone(),
                addr,
                last,
                offset: (i128::from(addr) - base) as u64,
                readonly: inherited.readonly,
                unmergeable: inherited.unmergeable,
                log: region.log,
            };
            self.ranges.insert(addr, range);
        }
    }
}

fn merge(ranges: impl Iterator<Item = FlatRange>) -> Vec<FlatRange> {
    let mut merged: Vec<FlatRange> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(previous) if previous.merges_with(&range) => previous.last = range.last,
            _ => merged.push(range),
        }
    }
    merged
}

/// The region whose view an address space with this root has: aliases that show all of their target and containers
/// with a single child are followed, so that address spaces share views. `seen` gets every region that decided it, some
/// of them twice.
#[doc(alias = "memory_region_get_flatview_root")]
pub(crate) fn view_root(arena: &Arena, root: RegionId, seen: &mut Vec<RegionId>) -> Option<RegionId> {
    let mut id = root;
    loop {
        seen.push(id);
        let region = &arena[id];
        if !region.enabled {
            return None;
        }
        if let Some(target) = region.alias_target() {
            // Its size decides, also where it is not followed.
            seen.push(target);
            if region.alias_offset == 0 && region.size >= arena[target].size {
                id = target;
                continue;
            }
        } else if !region.terminates() {
            seen.extend(region.subregions.ids());
            let mut enabled = region.subregions.ids().filter(|&c| arena[c].enabled);
            match (enabled.next(), enabled.next()) {
                (None, _) => return None,
                (Some(only), None) if arena[only].addr == 0 && region.size >= arena[only].size => {
                    id = only;
                    continue;
                }
                _ => {}
            }
        }
        return Some(id);
    }
}

#[cfg(test)]
mod tests;

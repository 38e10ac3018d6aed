//! From the tree of regions to a flat view.
//!
//! Rendering walks the tree from the root with a window that shrinks at each level; higher priorities come first, so
//! a region fills only what is still free. Aliases continue in their target with the window moved. A commit renders
//! only the part of a view that changed ([`crate::damage`]), and no view that never looked at a changed region
//! (`FlatView::seen`).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::flatview::{FlatRange, FlatView};
use crate::ioeventfd::{self, IoEventFd};
use crate::region::{Arena, Child, RegionId};

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

    /// Whether a child of a region at `base` reaches into the window.
    pub(crate) fn touches(self, base: i128, child: &Child) -> bool {
        let start = base + i128::from(child.addr);
        start < self.end && start + child.size as i128 > self.start
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
    /// Regions that were looked at before, sorted.
    known: &'a [RegionId],
    /// Those that were not.
    seen: Vec<RegionId>,
}

/// A part of a view.
pub(crate) struct Drawn {
    pub(crate) ranges: Vec<FlatRange>,
    pub(crate) ioeventfds: Vec<IoEventFd>,
    pub(crate) seen: Arc<[RegionId]>,
}

/// Renders what `root` shows of the 64-bit address space.
pub(crate) fn render(arena: &Arena, root: Option<RegionId>) -> FlatView {
    let Some(id) = root else { return FlatView::default() };
    let drawn = render_window(arena, id, Window::ALL, &Arc::default());
    FlatView::new(root, drawn.ranges, drawn.ioeventfds, drawn.seen)
}

/// Renders what `root` shows in a window. `known` are regions that were looked at for other parts of the same view.
pub(crate) fn render_window(arena: &Arena, root: RegionId, window: Window, known: &Arc<[RegionId]>) -> Drawn {
    let mut renderer = Renderer { arena, ranges: BTreeMap::new(), known, seen: Vec::new() };
    renderer.walk(root, 0, window, Inherited::default());
    let Renderer { ranges, mut seen, .. } = renderer;
    let ranges = merge(ranges.into_values());
    let ioeventfds = ioeventfd::collect(arena, &ranges);
    let seen = if seen.is_empty() {
        known.clone()
    } else {
        // Regions that are gone drop out on this occasion.
        seen.extend(known.iter().filter(|&&id| arena.get(id).is_some()));
        seen.sort_unstable();
        seen.dedup();
        seen.into()
    };
    Drawn { ranges, ioeventfds, seen }
}

impl Renderer<'_> {
    fn walk(&mut self, id: RegionId, base: i128, window: Window, mut inherited: Inherited) {
        if self.known.binary_search(&id).is_err() {
            self.seen.push(id);
        }
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
        for child in region.subregions.iter().filter(|c| window.touches(base, c)) {
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
/// with a single child are followed, so that address spaces share views. `seen` gets every region that decided it.
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
            if region.alias_offset == 0 && region.size >= arena[target].size {
                id = target;
                continue;
            }
        } else if !region.terminates() {
            let children = region.subregions.iter().map(|c| c.id);
            seen.extend(children.clone());
            let mut enabled = children.filter(|&c| arena[c].enabled);
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

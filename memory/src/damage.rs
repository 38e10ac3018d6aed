//! What a transaction changed, and redrawing only that part of a view.
//!
//! Every change leaves a note: some region, and a range in its own addresses, whose looks may differ now. At commit each
//! note is followed *up*, through containers and the aliases that name them, to the roots of the views in which it
//! shows; the hull of those places, widened to whole ranges of the old view, is rendered anew and spliced in. So finding,
//! drawing, comparing and telling listeners cost what the change is worth, however many siblings it has.
//!
//! Widening makes the splice exact. An edge of the widened part is an edge between ranges of the old view; what lies on
//! both sides of it did not change, so it is an edge of the new view as well, and nothing is to be merged across it.

use std::ops::Range;

use crate::flatview::FlatView;
use crate::region::{Arena, RegionId};
use crate::render::{Window, render_window};

/// A note of a change.
#[derive(Debug, Clone)]
pub(crate) struct Damage {
    /// In whose addresses `range` is.
    pub(crate) region: RegionId,
    /// Where the region may look different.
    pub(crate) range: Range<u128>,
    /// Whether the region's own address changed: a view that has it as root must be drawn from scratch.
    pub(crate) moved: bool,
}

/// Which ranges of two views differ; all before and behind are the same in both.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) old: Range<usize>,
    pub(crate) new: Range<usize>,
}

impl Change {
    /// Everything may differ.
    pub(crate) fn all(old: &FlatView, new: &FlatView) -> Self {
        Self { old: 0..old.ranges().len(), new: 0..new.ranges().len() }
    }

    /// Whether a listener has nothing to hear of it.
    pub(crate) fn is_nothing(&self, old: &FlatView, new: &FlatView) -> bool {
        let (was, is) = (old.ranges().slice(self.old.clone()), new.ranges().slice(self.new.clone()));
        self.old.len() == self.new.len()
            && was.zip(is).all(|(a, b)| a.same_mapping(b) && a.log == b.log)
            && old.ioeventfds == new.ioeventfds
    }
}

/// Where notes show, for each of some roots.
pub(crate) struct Shown(Vec<(RegionId, Option<Window>)>);

impl Shown {
    /// Follows every note to the `roots`.
    pub(crate) fn new(arena: &Arena, roots: impl Iterator<Item = RegionId>, damage: &[Damage]) -> Self {
        let mut roots: Vec<_> = roots.map(|root| (root, None)).collect();
        roots.sort_unstable_by_key(|(root, _)| *root);
        roots.dedup_by_key(|(root, _)| *root);
        let mut shown = Self(roots);
        for note in damage {
            // Neither the region's own size nor its state cut the note: it may have been larger before, and shown.
            let range = Window { start: note.range.start as i128, end: note.range.end as i128 };
            shown.rise(arena, note.region, range);
        }
        shown
    }

    /// The hull of all that shows in the view of `root`.
    pub(crate) fn hull(&self, root: RegionId) -> Option<Window> {
        let at = self.0.binary_search_by_key(&root, |(root, _)| *root).ok()?;
        self.0[at].1
    }

    /// `range` is in the addresses of the region. Where it was before and is not any more has left a note of its own.
    fn rise(&mut self, arena: &Arena, id: RegionId, range: Window) {
        // A region that was destroyed was taken out of its container, which has a note.
        let Some(region) = arena.get(id).filter(|_| range.start < range.end) else { return };
        let outside = range.shifted(region.addr.into());
        if let Ok(at) = self.0.binary_search_by_key(&id, |(root, _)| *root)
            && let Some(part) = outside.intersect(Window::ALL)
        {
            let hull = &mut self.0[at].1;
            *hull = Some(hull.map_or(part, |hull| hull.union(part)));
        }
        if let Some(container) = region.container {
            self.enter(arena, container, outside);
        }
        for &alias in &region.aliases {
            let inside = range.shifted(-i128::from(arena[alias].alias_offset));
            self.enter(arena, alias, inside);
        }
    }

    /// Goes on with what `id` shows of a range of its addresses.
    fn enter(&mut self, arena: &Arena, id: RegionId, range: Window) {
        let region = &arena[id];
        let own = Window { start: 0, end: region.size as i128 };
        if let Some(range) = range.intersect(own).filter(|_| region.enabled) {
            self.rise(arena, id, range);
        }
    }
}

/// The view after something changed in a part of it. `old` has the same root.
pub(crate) fn redraw(arena: &Arena, old: &FlatView, root: RegionId, hull: Window) -> (FlatView, Change) {
    // The hull is not empty and inside 0..2^64.
    let (mut first, mut last) = (hull.start as u64, (hull.end - 1) as u64);
    let ranges = old.ranges();
    // From the first range that reaches or touches the hull to the last that does.
    let from = ranges.position(first.saturating_sub(1));
    let next = last.saturating_add(1);
    let mut to = ranges.position(next);
    to += usize::from(ranges.get(to).is_some_and(|r| r.addr <= next));
    if from < to {
        (first, last) = (first.min(ranges[from].addr), last.max(ranges[to - 1].last));
    }
    let window = Window { start: first.into(), end: i128::from(last) + 1 };
    let drawn = render_window(arena, root, window);
    let change = Change { old: from..to, new: from..from + drawn.ranges.len() };
    let before = old.ioeventfds.partition_point(|fd| fd.addr < first);
    let behind = old.ioeventfds.partition_point(|fd| fd.addr <= last);
    let view = FlatView::new(
        old.root,
        ranges.splice(from..to, drawn.ranges),
        splice(&old.ioeventfds, before..behind, drawn.ioeventfds),
    );
    (view, change)
}

fn splice<T: Clone>(old: &[T], gone: Range<usize>, new: Vec<T>) -> Vec<T> {
    let mut out = Vec::with_capacity(old.len() - gone.len() + new.len());
    out.extend_from_slice(&old[..gone.start]);
    out.extend(new);
    out.extend_from_slice(&old[gone.end..]);
    out
}

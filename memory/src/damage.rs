//! What a transaction changed, and redrawing only that part of a view.
//!
//! Every change leaves a note: some region, and a range in its own addresses, whose looks may differ now. At commit the
//! tree is walked without drawing to find where the noted ranges show; the hull of those places, widened to whole
//! ranges of the old view, is rendered anew and spliced in. So drawing, comparing and telling listeners cost what the
//! change is worth. What still grows with the view: its list of ranges is copied, and siblings that are elsewhere are
//! walked past, two comparisons each; mapping one of 256 memslots takes 10 µs, one of 1024 takes 80 µs.
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
        Self { old: 0..old.ranges.len(), new: 0..new.ranges.len() }
    }

    /// Whether a listener has nothing to hear of it.
    pub(crate) fn is_nothing(&self, old: &FlatView, new: &FlatView) -> bool {
        let (was, is) = (&old.ranges[self.old.clone()], &new.ranges[self.new.clone()]);
        was.len() == is.len()
            && was.iter().zip(is).all(|(a, b)| a.same_mapping(b) && a.log == b.log)
            && old.ioeventfds == new.ioeventfds
    }
}

/// The view after `damage`, or nothing if none of it shows. `old` has the same root.
pub(crate) fn redraw(arena: &Arena, old: &FlatView, damage: &[Damage]) -> Option<(FlatView, Change)> {
    let mut finder = Finder { arena, damage, hull: None };
    finder.walk(old.root?, 0, Window::ALL);
    let hull = finder.hull?;
    // The hull is not empty and inside 0..2^64.
    let (mut first, mut last) = (hull.start as u64, (hull.end - 1) as u64);
    let ranges = &old.ranges;
    // From the first range that reaches or touches the hull to the last that does.
    let from = ranges.partition_point(|r| r.last.checked_add(1).is_some_and(|next| next < first));
    let to = ranges.partition_point(|r| r.addr <= last.saturating_add(1));
    if from < to {
        (first, last) = (first.min(ranges[from].addr), last.max(ranges[to - 1].last));
    }
    let window = Window { start: first.into(), end: i128::from(last) + 1 };
    let drawn = render_window(arena, old.root?, window, &old.seen);
    let change = Change { old: from..to, new: from..from + drawn.ranges.len() };
    let before = old.ioeventfds.partition_point(|fd| fd.addr < first);
    let behind = old.ioeventfds.partition_point(|fd| fd.addr <= last);
    let view = FlatView::new(
        old.root,
        splice(ranges, from..to, drawn.ranges),
        splice(&old.ioeventfds, before..behind, drawn.ioeventfds),
        drawn.seen,
    );
    Some((view, change))
}

fn splice<T: Clone>(old: &[T], gone: Range<usize>, new: Vec<T>) -> Vec<T> {
    let mut out = Vec::with_capacity(old.len() - gone.len() + new.len());
    out.extend_from_slice(&old[..gone.start]);
    out.extend(new);
    out.extend_from_slice(&old[gone.end..]);
    out
}

struct Finder<'a> {
    arena: &'a Arena,
    damage: &'a [Damage],
    hull: Option<Window>,
}

impl Finder<'_> {
    /// Like rendering, but notes are looked at before the region's own size and state cut the window: they may have
    /// been larger before.
    fn walk(&mut self, id: RegionId, base: i128, window: Window) {
        let region = &self.arena[id];
        let base = base + i128::from(region.addr);
        for note in self.damage.iter().filter(|d| d.region == id) {
            let at = Window { start: base + note.range.start as i128, end: base + note.range.end as i128 };
            if let Some(shown) = window.intersect(at) {
                self.hull = Some(self.hull.map_or(shown, |hull| hull.union(shown)));
            }
        }
        let own = Window { start: base, end: base + region.size as i128 };
        let Some(window) = window.intersect(own).filter(|_| region.enabled) else { return };
        if let Some(target) = region.alias_target() {
            let base = base - i128::from(self.arena[target].addr) - i128::from(region.alias_offset);
            return self.walk(target, base, window);
        }
        // A child that is elsewhere now and was here before has left a note on this region.
        for child in region.subregions.iter().filter(|c| window.touches(base, c)) {
            self.walk(child.id, base, window);
        }
    }
}

//! `info mtree` in QEMU's format.
//!
//! Views are numbered in the order of their address spaces' creation, where QEMU has that of a hash table.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::sync::Arc;

use qom::ObjectRef;

use crate::dispatch::Dispatch;
use crate::flatview::FlatView;
use crate::memory::{SpaceEntry, Topology};
use crate::region::{Arena, Owner, Region, RegionId, RegionKind};

/// Options of `info mtree`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MtreeOptions {
    /// `-f`: flat views instead of trees.
    pub flatview: bool,
    /// `-d`: with `-f`, the dispatch tree.
    pub dispatch_tree: bool,
    /// `-o`: owners.
    pub owner: bool,
    /// `-D`: disabled regions too.
    pub disabled: bool,
}

/// Writes to a string cannot fail.
macro_rules! put {
    ($out:expr, $($arg:tt)*) => {{ let _ = write!($out, $($arg)*); }};
}

/// The text, and the owners that were looked at: the caller lets go of them after the topology lock, since the last
/// reference to one may be among them, and what is dropped then may take that lock.
pub(crate) fn mtree(topology: &Topology, options: MtreeOptions) -> (String, Vec<ObjectRef>) {
    let printer = Printer { arena: &topology.arena, options, owners: RefCell::default() };
    let text =
        if options.flatview { printer.flat_views(&topology.spaces) } else { printer.trees(&topology.spaces) };
    (text, printer.owners.into_inner())
}

struct Printer<'a> {
    arena: &'a Arena,
    options: MtreeOptions,
    owners: RefCell<Vec<ObjectRef>>,
}

impl Printer<'_> {
    /// Address spaces with the same root share a tree; then every region that an alias shows.
    fn trees(&self, spaces: &[SpaceEntry]) -> String {
        let mut out = String::new();
        let mut shown = Vec::new();
        let mut printed: Vec<RegionId> = Vec::new();
        for entry in spaces {
            let root = entry.space.root();
            if printed.contains(&root) {
                continue;
            }
            printed.push(root);
            let same = spaces.iter().filter(|e| e.space.root() == root);
            let mut names: Vec<_> = same.map(|e| e.space.name()).collect();
            names.sort_unstable();
            for name in names {
                put!(out, "address-space: {name}\n");
            }
            self.tree(&mut out, root, 1, 0, &mut shown);
            out.push('\n');
        }
        let mut next = 0;
        while let Some(&id) = shown.get(next) {
            put!(out, "memory-region: {}\n", self.arena[id].core.name);
            self.tree(&mut out, id, 1, 0, &mut shown);
            out.push('\n');
            next += 1;
        }
        out
    }

    fn tree(&self, out: &mut String, id: RegionId, level: usize, base: u64, shown: &mut Vec<RegionId>) {
        let region = &self.arena[id];
        let start = base.wrapping_add(region.addr);
        let last = start.wrapping_add(last_offset(region.size));
        let target = region.alias_target();
        if let Some(target) = target
            && !shown.contains(&target)
        {
            shown.push(target);
        }
        if region.enabled || self.options.disabled {
            let overflow = if start < base || last < start { "[DETECTED OVERFLOW!] " } else { "" };
            let (indent, kind, name) = (level * 2, self.kind(region), &region.core.name);
            put!(
                out,
                "{:indent$}{overflow}{start:016x}-{last:016x} (prio {}, {kind}): ",
                "",
                region.priority
            );
            match target {
                Some(target) => {
                    let first = region.alias_offset;
                    let end = first.wrapping_add(last_offset(region.size));
                    put!(out, "alias {name} @{} {first:016x}-{end:016x}", self.arena[target].core.name);
                }
                None => put!(out, "{name}"),
            }
            if !region.enabled {
                out.push_str(" [disabled]");
            }
            self.owner(out, region);
            out.push('\n');
        }
        let mut children = region.subregions.topmost_first();
        children.sort_by_key(|c| (c.addr, -i64::from(c.priority)));
        for child in children {
            self.tree(out, child.id, level + 1, start, shown);
        }
    }

    fn kind(&self, region: &Region) -> &'static str {
        match &region.core.kind {
            RegionKind::Alias(target) => self.kind(&self.arena[*target]),
            RegionKind::Ram(_) if region.readonly => "rom",
            RegionKind::Ram(_) => "ram",
            RegionKind::Io(_) | RegionKind::Container => "i/o",
        }
    }

    fn owner(&self, out: &mut String, region: &Region) {
        if !self.options.owner {
            return;
        }
        match &region.owner {
            Owner::None => out.push_str(" parent:{obj path=/machine/unattached}"),
            Owner::Qom(object) => match object.upgrade() {
                Some(object) => {
                    out.push_str(&owner_text(&object));
                    self.owners.borrow_mut().push(object);
                }
                None => out.push_str(" orphan"),
            },
            Owner::Object { path } => put!(out, " owner:{{obj path={path}}}"),
            Owner::Device { id: Some(id), .. } => put!(out, " owner:{{dev id={id}}}"),
            Owner::Device { id: None, path } => put!(out, " owner:{{dev path={path}}}"),
        }
    }

    /// Every view once, with the address spaces that share it.
    fn flat_views(&self, spaces: &[SpaceEntry]) -> String {
        let mut views: Vec<(Arc<FlatView>, Vec<&SpaceEntry>)> = Vec::new();
        for entry in spaces {
            let view = entry.space.view();
            // Empty views look alike and count as one.
            let same = |v: &FlatView| std::ptr::eq(v, &*view) || v.root.is_none() && view.root.is_none();
            match views.iter_mut().find(|(v, _)| same(v)) {
                Some((_, entries)) => entries.push(entry),
                None => views.push((view, vec![entry])),
            }
        }
        let mut out = String::new();
        for (number, (view, entries)) in views.iter().enumerate() {
            put!(out, "FlatView #{number}\n");
            self.flat_view(&mut out, view, entries);
        }
        out
    }

    fn flat_view(&self, out: &mut String, view: &FlatView, entries: &[&SpaceEntry]) {
        for entry in entries {
            let root = &self.arena[entry.space.root()];
            put!(out, " AS \"{}\", root: {}", entry.space.name(), root.core.name);
            if let Some(target) = root.alias_target() {
                put!(out, ", alias {}", self.arena[target].core.name);
            }
            out.push('\n');
        }
        let root = view.root.map_or("(none)", |id| &*self.arena[id].core.name);
        put!(out, " Root memory region: {root}\n");
        if view.ranges().is_empty() {
            out.push_str("  No rendered FlatView\n\n");
            return;
        }
        for range in view.ranges().iter() {
            let region = &self.arena[range.region()];
            let kind = match region.core.kind {
                RegionKind::Ram(_) if range.readonly => "rom",
                _ => self.kind(region),
            };
            put!(out, "  {:016x}-{:016x} (prio {}, {kind}): ", range.addr, range.last, region.priority);
            put!(out, "{}", range.name());
            if range.offset != 0 {
                put!(out, " @{:016x}", range.offset);
            }
            let section = range.section();
            let listeners = entries.iter().flat_map(|e| &e.listeners);
            for name in listeners.filter_map(|l| l.has_memory(&section)) {
                put!(out, " {name}");
            }
            self.owner(out, region);
            out.push('\n');
        }
        if self.options.dispatch_tree {
            let dispatch = Dispatch::new(view.ranges().iter().map(|range| (range.addr, range.last)));
            let label = |number: usize| {
                let range = &view.ranges()[number];
                (range.name(), Some(range.region()) == view.root)
            };
            put!(out, "{}", dispatch.text(label));
        }
        out.push('\n');
    }
}

/// A device with an id by that, everything else by path, or by type outside of the tree.
#[doc(alias = "mtree_expand_owner")]
pub(crate) fn owner_text(object: &ObjectRef) -> String {
    let device = object.core().class().is_a("device");
    let label = if device { "dev" } else { "obj" };
    let path = object.path();
    match path.strip_prefix("/machine/peripheral/") {
        Some(id) if device && !id.contains('/') => format!(" owner:{{{label} id={id}}}"),
        _ if path.is_empty() => format!(" owner:{{{label} type={}}}", object.core().class().name()),
        _ => format!(" owner:{{{label} path={path}}}"),
    }
}

/// What QEMU prints as the end of a region: its size less one, and 0 for an empty one.
fn last_offset(size: u128) -> u64 {
    size.saturating_sub(1).min(u128::from(u64::MAX)) as u64
}

#[cfg(test)]
mod tests;

//! QEMU's lookup structure of a flat view, built to be shown by `info mtree -f -d` and for nothing else.
//!
//! QEMU finds who answers an address in a radix tree over page numbers (9 bits a level, 6 levels) whose leaves name
//! *physical sections*. A range of the view is cut there at page bounds: what covers whole pages is one section; what
//! covers a page in part is a section of its own behind a nameless one that stands for the page. A node with a single
//! entry is walked past: whoever points to it points to what is behind it, with the levels that saves in `skip`. People
//! read this text to see how a view is fragmented, and what they know of QEMU holds here.
//!
//! Lookups of this program are a binary search of [`FlatView`](crate::FlatView); nothing of this is kept. Left out:
//! `[MRU]`, the section that QEMU's last lookup found, since no lookup here leaves a trace, and what regions that do
//! not exist here would add (`[iommu]`).

use std::fmt::{self, Display};

/// Bits of a page number that a level decides.
const LEVEL_BITS: u32 = 9;
const LEVELS: u32 = 6;
/// Entries of a node.
const WIDTH: u64 = 1 << LEVEL_BITS;
const PAGE_BITS: u32 = 12;
const OFFSET_MASK: u64 = (1 << PAGE_BITS) - 1;
/// What an entry shows that leads nowhere.
const NIL: usize = u32::MAX as usize >> 6;

/// Section 0: all addresses where nothing is.
const UNASSIGNED: usize = 0;
/// What QEMU prints behind the first sections, whatever they are: the first four were fixed once.
const FIRST: [&str; 4] = [" [unassigned]", " [not dirty]", " [ROM]", " [watch]"];

/// A physical section.
#[derive(Debug, Clone, Copy)]
struct Section {
    /// The range of the view that it is a piece of; none for what is nobody's.
    range: Option<usize>,
    addr: u64,
    last: u64,
}

/// Pages that one section answers.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: u64,
    last: u64,
    section: usize,
}

/// Where an entry leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Nil,
    Section(usize),
    /// To a node, so many levels down.
    Node {
        number: usize,
        skip: u32,
    },
}

/// Equal entries of a node that follow each other.
#[derive(Debug, Clone, Copy)]
struct Entries {
    first: u64,
    last: u64,
    entry: Entry,
}

/// Sections and tree of one view.
#[derive(Debug)]
pub(crate) struct Dispatch {
    sections: Vec<Section>,
    nodes: Vec<Vec<Entries>>,
    top: Entry,
}

impl Dispatch {
    /// From the first and last addresses of the ranges of a view, which are sorted and do not overlap.
    pub(crate) fn new(ranges: impl Iterator<Item = (u64, u64)>) -> Self {
        let mut sections = vec![Section { range: None, addr: 0, last: u64::MAX }];
        let mut runs = Vec::new();
        for (number, (addr, last)) in ranges.enumerate() {
            cut(number, addr, last, &mut sections, &mut runs);
        }
        let mut dispatch = Self { sections, nodes: Vec::new(), top: Entry::Nil };
        if !runs.is_empty() {
            dispatch.top = dispatch.plant(LEVELS - 1, 0, &runs);
        }
        dispatch
    }

    /// Grows the node whose first page is `base` from the runs that reach into it, and says what leads there.
    ///
    /// Nodes are numbered as QEMU allocates them, which adds ascending runs one by one: parents first, then by address.
    fn plant(&mut self, level: u32, base: u64, mut runs: &[Run]) -> Entry {
        let number = self.nodes.len();
        self.nodes.push(Vec::new());
        let shift = level * LEVEL_BITS;
        let step = 1 << shift;
        let gap = if level == 0 { Entry::Section(UNASSIGNED) } else { Entry::Nil };
        let mut node: Vec<Entries> = Vec::new();
        let mut slot = 0;
        while slot < WIDTH {
            let first = base + (slot << shift);
            runs = &runs[runs.partition_point(|run| run.last < first)..];
            let (end, entry) = match runs.first() {
                Some(run) if run.first <= first && run.last - first >= step - 1 => {
                    ((run.last - base + 1) >> shift, Entry::Section(run.section))
                }
                Some(run) if run.first < first + step => (slot + 1, self.descend(level, first, runs)),
                next => (next.map_or(WIDTH, |run| (run.first - base) >> shift), gap),
            };
            let end = end.min(WIDTH);
            match node.last_mut() {
                Some(before) if before.entry == entry => before.last = end - 1,
                _ => node.push(Entries { first: slot, last: end - 1, entry }),
            }
            slot = end;
        }
        let mut taken = node.iter().filter(|e| e.entry != Entry::Nil);
        let entry = match (taken.next(), taken.next()) {
            (Some(only), None) if only.first == only.last => match only.entry {
                Entry::Node { number, skip } => Entry::Node { number, skip: skip + 1 },
                leaf => leaf,
            },
            _ => Entry::Node { number, skip: 1 },
        };
        self.nodes[number] = node;
        entry
    }

    /// The entry of a slot that runs cover in part; `first` is its first page.
    fn descend(&mut self, level: u32, first: u64, runs: &[Run]) -> Entry {
        let end = first + (1 << (level * LEVEL_BITS));
        self.plant(level - 1, first, &runs[..runs.partition_point(|run| run.first < end)])
    }

    /// The text as `info mtree` has it below the ranges of a view. `label` gives the name of the region of a range, by
    /// its place among the ranges, and whether that is the root of the view.
    pub(crate) fn text<'a>(&'a self, label: impl Fn(usize) -> (&'a str, bool) + 'a) -> impl Display + 'a {
        fmt::from_fn(move |f| {
            f.write_str("  Dispatch\n    Physical sections\n")?;
            for (number, section) in self.sections.iter().enumerate() {
                let (name, is_root) = section.range.map_or(("(noname)", false), &label);
                let first = FIRST.get(number).unwrap_or(&"");
                let root = if is_root { " [ROOT]" } else { "" };
                let Section { addr, last, .. } = section;
                writeln!(f, "      #{number} @{addr:016x}..{last:016x} {name}{first}{root}")?;
            }
            let (ptr, skip) = self.top.parts();
            writeln!(f, "    Nodes ({LEVEL_BITS} bits per level, {LEVELS} levels) ptr=[{ptr}] skip={skip}")?;
            for (number, node) in self.nodes.iter().enumerate() {
                writeln!(f, "      [{number}]")?;
                node.iter().try_for_each(|entries| entries.fmt(f))?;
            }
            Ok(())
        })
    }
}

impl Entry {
    /// Its `ptr` and `skip`.
    fn parts(self) -> (usize, u32) {
        match self {
            Self::Nil => (NIL, 1),
            Self::Section(number) => (number, 0),
            Self::Node { number, skip } => (number, skip),
        }
    }
}

impl Display for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ptr, skip) = self.entry.parts();
        write!(f, "\t{:3}", self.first)?;
        match self.last {
            last if last == self.first => f.write_str("      ")?,
            last => write!(f, "..{last:<3} ")?,
        }
        write!(f, " skip={skip}  ptr=")?;
        match self.entry {
            Entry::Nil => f.write_str("NIL\n"),
            Entry::Section(_) => writeln!(f, "#{ptr}"),
            Entry::Node { .. } => writeln!(f, "[{ptr}]"),
        }
    }
}

/// Cuts a range at page bounds into sections, and says which pages they answer.
fn cut(range: usize, mut addr: u64, last: u64, sections: &mut Vec<Section>, runs: &mut Vec<Run>) {
    loop {
        let page = addr >> PAGE_BITS;
        let whole = addr & OFFSET_MASK == 0 && last - addr >= OFFSET_MASK;
        let end = match last & OFFSET_MASK {
            _ if !whole => last.min(addr | OFFSET_MASK),
            OFFSET_MASK => last,
            part => last - part - 1,
        };
        let number = sections.len();
        let run = Run { first: page, last: end >> PAGE_BITS, section: number };
        // The range before this one may have had a part of the page already.
        if whole {
            runs.push(run);
        } else if runs.last().is_none_or(|before| before.last != page) {
            runs.push(run);
            sections.push(Section { range: None, addr: page << PAGE_BITS, last: addr | OFFSET_MASK });
        }
        sections.push(Section { range: Some(range), addr, last: end });
        if end == last {
            return;
        }
        addr = end + 1;
    }
}

#[cfg(test)]
mod tests;

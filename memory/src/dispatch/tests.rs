//! Dispatch trees against those that QEMU printed, and against the look-up of this program.
//!
//! `qemu.txt` has flat views of QEMU 10.0.2 with their dispatch trees: from the oracle's transcripts, and of machines that were
//! started to see a certain shape. The replay of every transcript is in `tests/e2e/dispatch.rs`.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::Dispatch;
use crate::*;

/// A range line of a flat view.
struct Range<'a> {
    addr: u64,
    last: u64,
    name: &'a str,
}

impl<'a> Range<'a> {
    fn parse(line: &'a str) -> Self {
        let (bounds, rest) = line.trim_start().split_once(" (prio ").unwrap();
        let (addr, last) = bounds.split_once('-').unwrap();
        let name = rest.split_once("): ").unwrap().1;
        let name = name.split_once(" @").map_or(name, |(name, _)| name);
        Self { addr: hex(addr), last: hex(last), name }
    }
}

fn hex(digits: &str) -> u64 {
    u64::from_str_radix(digits, 16).unwrap()
}

#[test]
fn qemus_flat_views_give_qemus_dispatch_trees() {
    let views = include_str!("qemu.txt").trim_end().split("\n\n");
    let mut compared = 0;
    for view in views {
        let (head, tree) = view.split_once("  Dispatch\n").unwrap();
        let root = head.lines().find_map(|line| line.strip_prefix(" Root memory region: ")).unwrap();
        let ranges: Vec<Range<'_>> =
            head.lines().filter(|line| line.contains(" (prio ")).map(Range::parse).collect();
        let dispatch = Dispatch::new(ranges.iter().map(|range| (range.addr, range.last)));
        let text = dispatch.text(|at| (ranges[at].name, ranges[at].name == root)).to_string();
        assert_eq!(text.trim_end(), format!("  Dispatch\n{tree}").trim_end(), "{head}");
        compared += 1;
    }
    assert_eq!(compared, 10);
}

#[test]
fn an_empty_view_leads_nowhere() {
    let text = Dispatch::new(std::iter::empty()).text(|_| ("", false)).to_string();
    assert_eq!(
        text,
        "  Dispatch
    Physical sections
      #0 @0000000000000000..ffffffffffffffff (noname) [unassigned]
    Nodes (9 bits per level, 6 levels) ptr=[67108863] skip=1
"
    );
}

#[test]
fn a_region_of_all_addresses_takes_a_quarter_of_the_top_node() {
    let text = Dispatch::new(std::iter::once((0, u64::MAX))).text(|_| ("system", true)).to_string();
    let expected = "      #1 @0000000000000000..ffffffffffffffff system [not dirty] [ROOT]
    Nodes (9 bits per level, 6 levels) ptr=[0] skip=1
      [0]
\t  0..127  skip=0  ptr=#1
\t128..511  skip=1  ptr=NIL
";
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn thousands_of_memslots_need_no_more_nodes_than_they_have_unaligned_ends() {
    let slot = |n: u64| (n * 0x7d00_0000, (n + 1) * 0x7d00_0000 - 1);
    let dispatch = Dispatch::new((0..2048).map(slot));
    assert_eq!(dispatch.sections.len(), 2049);
    // Ends are multiples of 16 MiB, so that each cuts at most one node of each level above pages.
    assert!(dispatch.nodes.len() < 3 * 2048, "{}", dispatch.nodes.len());
    let entries: usize = dispatch.nodes.iter().map(Vec::len).sum();
    assert!(entries < 6 * 2048, "{entries}");
}

/// What somebody reads who looks up addresses in the text.
struct Text {
    /// First and last address, name.
    sections: Vec<(u64, u64, String)>,
    /// Per node, 512 times `ptr` and `skip`.
    nodes: Vec<Vec<(String, u32)>>,
    top: (String, u32),
}

impl Text {
    fn parse(text: &str) -> Self {
        let (mut sections, mut nodes) = (Vec::new(), Vec::<Vec<(String, u32)>>::new());
        let mut top = None;
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match *words.as_slice() {
                [number, bounds, name, ..] if number.starts_with('#') => {
                    assert_eq!(number[1..].parse(), Ok(sections.len()));
                    let (addr, last) = bounds[1..].split_once("..").unwrap();
                    sections.push((hex(addr), hex(last), name.to_owned()));
                }
                ["Nodes", .., ptr, skip] => top = Some(target(ptr, skip)),
                [number] if number.starts_with('[') => nodes.push(Vec::new()),
                [slots, skip, ptr] if slots.starts_with(char::is_numeric) => {
                    let (first, last) = slots.split_once("..").unwrap_or((slots, slots));
                    let node = nodes.last_mut().unwrap();
                    assert_eq!(first.parse(), Ok(node.len()));
                    node.resize(last.parse::<usize>().unwrap() + 1, target(ptr, skip));
                }
                _ => {}
            }
        }
        assert!(nodes.iter().all(|node| node.len() == 512));
        Self { sections, nodes, top: top.unwrap() }
    }

    /// Walks down from the top, `skip` levels at each step, until a section is reached; a nameless one stands for
    /// those that share its page.
    fn lookup(&self, addr: u64) -> Option<&str> {
        let (mut entry, mut level) = (&self.top, 6);
        while entry.1 > 0 {
            let node: usize = match entry.0.as_str() {
                "NIL" => return None,
                node => node.trim_matches(['[', ']']).parse().unwrap(),
            };
            level -= entry.1;
            entry = &self.nodes[node][(addr >> 12 >> (9 * level)) as usize & 511];
        }
        let number: usize = entry.0.trim_matches(['#', '[', ']']).parse().unwrap();
        let covers = |section: &&(u64, u64, String)| section.0 <= addr && addr <= section.1;
        // A leaf higher up may stand for more than the section covers.
        let found = Some(&self.sections[number]).filter(covers).filter(|_| number != 0)?;
        let (first, last, name) = found;
        if name != "(noname)" {
            return Some(name);
        }
        let of_page = self.sections.iter().skip(number + 1).take_while(|s| s.0 >= *first && s.1 <= *last);
        of_page.into_iter().find(covers).map(|section| section.2.as_str())
    }
}

fn target(ptr: &str, skip: &str) -> (String, u32) {
    (ptr["ptr=".len()..].to_owned(), skip["skip=".len()..].parse().unwrap())
}

/// Sizes that end within a page, at a page, at a whole node of some level.
fn sizes() -> impl Strategy<Value = u64> {
    let unit = prop::sample::select(vec![0_u32, 5, 11, 12, 13, 20, 21, 22, 29, 30, 31, 39, 48, 57, 62]);
    (unit, 1_u64..5, prop::sample::select(vec![-1_i64, 0, 0, 0, 1, 4096]))
        .prop_map(|(bits, count, more)| (count.saturating_mul(1 << bits)).saturating_add_signed(more))
}

/// Ranges one after the other with gaps, or none, between them.
fn layouts() -> impl Strategy<Value = Vec<(u64, u64)>> {
    prop::collection::vec((prop_oneof![Just(0), sizes()], sizes()), 1..24).prop_map(|steps| {
        let mut ranges = Vec::new();
        let mut at = Some(0_u64);
        for (gap, size) in steps {
            let Some(first) = at.and_then(|at| at.checked_add(gap)) else { break };
            let last = first.saturating_add(size.max(1) - 1);
            ranges.push((first, last));
            at = last.checked_add(1);
        }
        ranges
    })
}

/// An address space with an I/O region at each range.
fn space_of(ranges: &[(u64, u64)]) -> (Arc<Memory>, Arc<AddressSpace>) {
    let memory = Memory::new();
    let mut tx = memory.transaction();
    let system = tx.container(RegionDesc::new("system", SIZE_ALL));
    for (number, &(first, last)) in ranges.iter().enumerate() {
        let desc = RegionDesc::new(format!("r{number}"), u128::from(last - first) + 1);
        let region = tx.io(desc, Arc::new(UnassignedIo));
        tx.add_subregion(system, first, region, 0);
    }
    let space = tx.address_space("memory", system);
    drop(tx);
    (memory, space)
}

proptest! {
    #[test]
    fn whoever_follows_the_text_finds_what_a_lookup_finds(
        ranges in layouts(),
        more in prop::collection::vec(any::<u64>(), 20),
    ) {
        let (memory, space) = space_of(&ranges);
        let options = MtreeOptions { flatview: true, dispatch_tree: true, ..Default::default() };
        let text = Text::parse(&memory.mtree_text(options));
        let view = space.view();
        // Both sides of every bound of a range, of its pages, of the nodes it cuts, and anywhere.
        let near = |at: u64| [at.wrapping_sub(1), at, at.wrapping_add(1)];
        let bounds = ranges.iter().flat_map(|&(first, last)| [first, last]);
        let aligned = bounds.flat_map(|at| [0, 12, 21, 30, 39, 48].map(|bits| at >> bits << bits));
        for addr in aligned.flat_map(|at| [at, at | 0xfff]).flat_map(near).chain(more) {
            prop_assert_eq!(text.lookup(addr), view.lookup(addr).map(FlatRange::name), "{:#x}", addr);
        }
    }

    #[test]
    fn every_byte_of_a_range_is_in_one_section_of_it(ranges in layouts()) {
        let dispatch = Dispatch::new(ranges.iter().copied());
        let mut bytes: HashMap<usize, u128> = HashMap::new();
        let mut end = 0;
        for section in dispatch.sections.iter().filter(|s| s.range.is_some()) {
            prop_assert!(u128::from(section.addr) >= end);
            end = u128::from(section.last) + 1;
            *bytes.entry(section.range.unwrap()).or_default() += end - u128::from(section.addr);
        }
        for (number, &(first, last)) in ranges.iter().enumerate() {
            prop_assert_eq!(bytes[&number], u128::from(last - first) + 1);
        }
    }
}

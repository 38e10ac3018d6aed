//! The oracle's trees, read back into regions, print as the oracle printed them.
//!
//! The files are transcripts of QEMU 10.0.2: `info mtree`, `-f` and `-d -o` of a pc with a virtio-mem device under KVM
//! and of one with dynamic memslots. The order of address spaces and views is arbitrary there, so blocks are compared
//! as sets.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::*;

/// Regions that the text shows like containers and that answer themselves.
const ANSWERING: [&str; 2] = ["io", "rtc"];
/// Regions that show as plain I/O and answer nothing.
const EMPTY: [&str; 2] = [BUS_MASTER, "device-memory"];
const BUS_MASTER: &str = "bus master container";
/// Roots of which every address space has its own.
const OWN: [&str; 2] = [BUS_MASTER, "memory"];

#[derive(Debug, Clone)]
struct Line {
    level: usize,
    start: u64,
    last: u64,
    priority: i32,
    kind: String,
    name: String,
    /// Target and offset.
    alias: Option<(String, u64)>,
    owner: Owner,
}

fn parse(line: &str) -> Line {
    let text = line.trim_start();
    let level = (line.len() - text.len()) / 2;
    let (range, rest) = text.split_once(" (prio ").unwrap();
    let (start, last) = range.split_once('-').unwrap();
    let hex = |s: &str| u64::from_str_radix(s, 16).unwrap();
    let (attributes, rest) = rest.split_once("): ").unwrap();
    let (priority, kind) = attributes.split_once(", ").unwrap();
    let cut = rest.find(" owner:").or_else(|| rest.find(" parent:")).unwrap_or(rest.len());
    let (rest, owner) = rest.split_at(cut);
    let owner =
        match owner.trim_start().split_once('=').map(|(label, value)| (label, value.trim_end_matches('}'))) {
            Some(("owner:{dev id", id)) => Owner::device(Some(id), ""),
            Some(("owner:{dev path", path)) => Owner::device(None, path),
            Some(("owner:{obj path", path)) => Owner::object(path),
            _ => Owner::None,
        };
    let (name, alias) = match rest.strip_prefix("alias ") {
        Some(rest) => {
            let (name, target) = rest.split_once(" @").unwrap();
            let mut words = target.rsplitn(2, ' ');
            let window = words.next().unwrap();
            (name, Some((words.next().unwrap().to_owned(), hex(window.split_once('-').unwrap().0))))
        }
        None => (rest, None),
    };
    Line {
        level,
        start: hex(start),
        last: hex(last),
        priority: priority.parse().unwrap(),
        kind: kind.to_owned(),
        name: name.to_owned(),
        alias,
        owner,
    }
}

struct Built {
    memory: Arc<Memory>,
    spaces: HashMap<String, Arc<AddressSpace>>,
}

#[derive(Default)]
struct Builder {
    /// By name, first and last address.
    known: HashMap<(String, u64, u64), RegionId>,
    named: HashMap<String, RegionId>,
}

impl Builder {
    /// Regions of one block, aliases left out; returns them with their lines.
    fn block(
        &mut self,
        memory: &Memory,
        tx: &mut Transaction<'_>,
        lines: &[Line],
        later: &mut Vec<(RegionId, Line, u64)>,
    ) -> RegionId {
        let mut stack: Vec<(usize, RegionId, u64, bool)> = Vec::new();
        let mut root = None;
        // Those added last come first among equals, so the text is read from its end; parents need the reverse.
        let mut adds = Vec::new();
        for (index, line) in lines.iter().enumerate() {
            while stack.last().is_some_and(|s| s.0 >= line.level) {
                stack.pop();
            }
            if let Some(&(level, parent, start, fresh)) = stack.last()
                && line.level > level + 1
            {
                // The region between is disabled and not shown; it is the ACPI block, at 0 until programmed.
                let hidden = tx.container(RegionDesc::new("hidden", 64));
                tx.set_enabled(hidden, false);
                if fresh {
                    adds.push((parent, 0, hidden, 0));
                }
                stack.push((line.level - 1, hidden, start, fresh));
            }
            let parent = stack.last().copied();
            let base = parent.map_or(0, |p| p.2);
            let attach = parent.is_some_and(|p| p.3);
            if line.alias.is_some() {
                if let (true, Some(parent)) = (attach, parent) {
                    later.push((parent.1, line.clone(), line.start - base));
                }
                continue;
            }
            let key = (line.name.clone(), line.start, line.last);
            let container = EMPTY.contains(&line.name.as_str());
            let old = self.known.get(&key).filter(|_| !OWN.contains(&line.name.as_str())).copied();
            let id = old.unwrap_or_else(|| {
                let has_children = lines.get(index + 1).is_some_and(|next| next.level > line.level);
                let size = u128::from(line.last - line.start) + 1;
                let desc = RegionDesc::new(&line.name, size).owned_by(line.owner.clone());
                let block = || {
                    let spec = RamSpec { reserve: false, ..RamSpec::anonymous(&line.name, size as u64) };
                    memory.create_ram(spec).unwrap()
                };
                match line.kind.as_str() {
                    "ram" => tx.ram(desc, block()),
                    "rom" => tx.rom(desc, block()),
                    _ if container || has_children && !ANSWERING.contains(&line.name.as_str()) => {
                        tx.container(desc)
                    }
                    _ => tx.io(desc, Arc::new(UnassignedIo)),
                }
            });
            self.known.insert(key, id);
            self.named.insert(line.name.clone(), id);
            if let (true, Some(parent)) = (attach && old.is_none(), parent) {
                adds.push((parent.1, line.start - base, id, line.priority));
            } else if old.is_none() && line.start != 0 {
                tx.set_address(id, line.start);
            }
            root.get_or_insert(id);
            stack.push((line.level, id, line.start, old.is_none()));
        }
        for (parent, offset, child, priority) in adds.into_iter().rev() {
            tx.add_subregion(parent, offset, child, priority);
        }
        root.unwrap()
    }
}

/// Builds what an `info mtree` text shows.
fn build(text: &str) -> Built {
    let memory = Memory::new();
    let mut builder = Builder::default();
    let (mut later, mut roots, mut hidden) = (Vec::new(), Vec::new(), Vec::new());
    let mut tx = memory.transaction();
    let mut blocks: Vec<&str> = text.trim_end().split("\n\n").collect();
    // The system first, so that what other address spaces show of it is found there.
    blocks.sort_by_key(|b| (!b.contains("address-space: memory\n"), b.starts_with("memory-region")));
    for block in blocks {
        let lines: Vec<Line> = block.lines().filter(|l| l.starts_with(' ')).map(parse).collect();
        let root = builder.block(&memory, &mut tx, &lines, &mut later);
        if let [line] = &lines[..]
            && line.name == BUS_MASTER
        {
            // Its alias of the system is disabled, and counts as shown all the same.
            hidden.push(root);
        }
        let names = block.lines().filter_map(|l| l.strip_prefix("address-space: "));
        roots.extend(names.map(|name| (name.to_owned(), root)));
    }
    for (parent, line, offset) in later.into_iter().rev() {
        let (target, window) = line.alias.clone().unwrap();
        let size = u128::from(line.last - line.start) + 1;
        let alias =
            tx.alias(RegionDesc::new(&line.name, size).owned_by(line.owner), builder.named[&target], window);
        tx.add_subregion(parent, offset, alias, line.priority);
        tx.set_readonly(alias, line.name == "pam-rom");
    }
    for container in hidden {
        let alias = tx.alias(RegionDesc::new("bus master", SIZE_ALL), builder.named["system"], 0);
        tx.set_enabled(alias, false);
        tx.add_subregion(container, 0, alias, 0);
    }
    let spaces = roots.into_iter().map(|(name, root)| (name.clone(), tx.address_space(name, root))).collect();
    drop(tx);
    Built { memory, spaces }
}

/// Blocks between empty lines; of flat views without their number.
fn blocks(text: &str) -> BTreeSet<String> {
    let clean = |block: &str| {
        let mut lines: Vec<&str> = block.lines().filter(|l| !l.starts_with("FlatView #")).collect();
        // Address spaces of a view are listed in the order of their creation.
        let names = lines.iter().take_while(|l| l.starts_with(" AS ")).count();
        lines[..names].sort_unstable();
        lines.join("\n")
    };
    text.trim_end().split("\n\n").map(clean).collect()
}

fn assert_same_blocks(ours: &str, theirs: &str) {
    let (ours, theirs) = (blocks(ours), blocks(theirs));
    let missing: Vec<_> = theirs.difference(&ours).collect();
    let extra: Vec<_> = ours.difference(&theirs).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing: {missing:#?}\nextra: {extra:#?}");
}

struct Kvm;

impl MemoryListener for Kvm {
    fn has_memory(&self, section: &Section) -> Option<&'static str> {
        section.block.as_ref().map(|_| "KVM")
    }
}

#[test]
fn a_pc_under_kvm_prints_as_the_oracle() {
    let text = include_str!("kvm-pc.mtree.txt");
    let built = build(text);
    assert_same_blocks(&built.memory.mtree_text(MtreeOptions::default()), text);
    built.memory.add_listener(&built.spaces["memory"], Arc::new(Kvm));
    let flat = MtreeOptions { flatview: true, ..Default::default() };
    assert_same_blocks(&built.memory.mtree_text(flat), include_str!("kvm-pc.mtree-f.txt"));
}

#[test]
fn dynamic_memslots_and_owners_print_as_the_oracle() {
    let text = include_str!("dynslots.mtree-o.txt");
    // Regions of port lists have two owners, which is nothing of ours.
    let text = text.replace("owner:{obj type=memory-region-portio-list} parent:", "owner:");
    let text = text.replace("owner:{obj path=/machine/unattached}", "parent:{obj path=/machine/unattached}");
    let built = build(&text);
    let owner = MtreeOptions { owner: true, dispatch_tree: true, ..Default::default() };
    assert_same_blocks(&built.memory.mtree_text(owner), &text);
    let plain = built.memory.mtree_text(MtreeOptions::default());
    assert_same_blocks(&plain, include_str!("dynslots.mtree.txt"));
    let flat = MtreeOptions { flatview: true, ..Default::default() };
    let flat = built.memory.mtree_text(flat);
    assert_same_blocks(&flat, include_str!("dynslots.mtree-f.txt"));
}

#[test]
fn disabled_regions_show_only_when_asked_for() {
    let memory = Memory::new();
    let mut tx = memory.transaction();
    let io = tx.container(RegionDesc::new("io", 65536));
    let pm = tx.container(RegionDesc::new("piix4-pm", 64));
    tx.add_subregion(io, 0x600, pm, 0);
    tx.set_enabled(pm, false);
    let _space = tx.address_space("I/O", io);
    drop(tx);
    let shown = MtreeOptions { disabled: true, ..Default::default() };
    assert_eq!(
        memory.mtree_text(shown),
        "address-space: I/O
  0000000000000000-000000000000ffff (prio 0, i/o): io
    0000000000000600-000000000000063f (prio 0, i/o): piix4-pm [disabled]

"
    );
    for dispatch_tree in [false, true] {
        let flat = MtreeOptions { flatview: true, dispatch_tree, ..Default::default() };
        assert_eq!(
            memory.mtree_text(flat),
            "FlatView #0\n AS \"I/O\", root: io\n Root memory region: (none)\n  No rendered FlatView\n\n"
        );
    }
}

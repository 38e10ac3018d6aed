//! The dispatch trees of all transcripts, each rebuilt from the flat view that is printed above it.
//!
//! Our boards lack devices that QEMU's have, so that their flat views differ and so do the trees. Here a view of QEMU's
//! is built from regions of our own, and `info mtree -f -d` must then say what QEMU said.

use std::sync::Arc;

use memory::{Memory, MtreeOptions, RegionDesc, SIZE_ALL, UnassignedIo};
use tests::oracle::transcript::Step;
use tests::oracle::view::without_last_lookup;
use tests::{Need, have, program};

use crate::replay::lines;

/// A range of a flat view: first and last address, name of the region.
type Range<'a> = (u64, u64, &'a str);

#[test]
fn every_recorded_flat_view_has_the_recorded_dispatch_tree() {
    if !have(&[Need::Oracle]) {
        return;
    }
    let mut compared = 0;
    for file in transcripts() {
        for line in lines(&file, &["("]) {
            let Step::Hmp(command, output) = line.step else { continue };
            if !command.starts_with("info mtree -f -d") {
                continue;
            }
            for flat_view in output.split("\n\n").filter(|view| view.contains("  Dispatch\n")) {
                let (head, expected) = flat_view.split_once("  Dispatch\n").unwrap();
                let got = rebuilt(head);
                let got = got.split_once("  Dispatch\n").unwrap().1;
                let expected = without_last_lookup(expected);
                assert_eq!(got.trim_end(), expected.trim_end(), "{file}:{}\n{head}", line.number);
                compared += 1;
            }
        }
    }
    // What the oracle has: a transcript that is not read as meant would be a tree less.
    assert_eq!(compared, 81);
}

/// The transcripts of scenarios, below the oracle's folder.
fn transcripts() -> Vec<String> {
    const FOLDER: &str = "1-scenarios";
    let entries = std::fs::read_dir(program::oracle_folder().join(FOLDER)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut files: Vec<String> =
        names.filter(|name| name.ends_with(".txt")).map(|name| format!("{FOLDER}/{name}")).collect();
    files.sort();
    files
}

/// What we print of a flat view with the ranges that `head` lists.
fn rebuilt(head: &str) -> String {
    let root = head.lines().find_map(|line| line.strip_prefix(" Root memory region: ")).unwrap();
    let ranges: Vec<Range<'_>> = head.lines().filter_map(range).collect();
    let memory = Memory::new();
    let mut tx = memory.transaction();
    let top = if ranges.iter().any(|range| range.2 == root) {
        // A root that answers itself shows where nothing else is.
        let size = ranges.last().map_or(0, |range| u128::from(range.1) + 1);
        tx.io(RegionDesc::new(root, size), Arc::new(UnassignedIo))
    } else {
        let top = tx.container(RegionDesc::new(root, SIZE_ALL));
        // With a second child nothing passes for the whole of the root.
        let empty = tx.container(RegionDesc::new("", 1));
        tx.add_subregion(top, 0, empty, 0);
        top
    };
    for &(first, last, name) in ranges.iter().filter(|range| range.2 != root) {
        let region = tx.io(RegionDesc::new(name, u128::from(last - first) + 1), Arc::new(UnassignedIo));
        tx.add_subregion(top, first, region, 0);
    }
    let _space = tx.address_space("memory", top);
    drop(tx);
    memory.mtree_text(MtreeOptions { flatview: true, dispatch_tree: true, ..MtreeOptions::default() })
}

/// The range on a line such as `  0000000000001000-0000000000001fff (prio 0, ram): ram0 @0000000000001000 owner:{...}`.
fn range(line: &str) -> Option<Range<'_>> {
    let (bounds, rest) = line.strip_prefix("  ")?.split_once(" (prio ")?;
    let (first, last) = bounds.split_once('-')?;
    let name = rest.split_once("): ")?.1;
    let end = [" @", " owner:", " parent:", " KVM"].iter().filter_map(|mark| name.find(mark)).min();
    let number = |digits| u64::from_str_radix(digits, 16).ok();
    Some((number(first)?, number(last)?, &name[..end.unwrap_or(name.len())]))
}

//! What each mechanism needs of memory, of mappings and of slots.

use std::io;
use std::ops::Range;

use super::faults::Faults;
use super::figures::{Usage, head, mappings, row};
use super::host::{Advice, BLOCK, PAGE, Region};
use super::machine::{Machine, Pass};

const TERABYTE: u64 = 1 << 40;
const GIB: u64 = 1 << 30;

/// What of a device has slots, given what is plugged.
type SlotsOf = fn(&Setup, &[Range<u64>]) -> Vec<Range<u64>>;

/// A way of having a device's memory.
#[derive(Debug, Clone, Copy)]
struct Setup {
    name: &'static str,
    size: u64,
    /// The host mapping is open where nothing is plugged.
    open: bool,
    slots: SlotsOf,
    /// What is not plugged is registered.
    faults: bool,
    /// What is not plugged is marked.
    guards: bool,
}

fn all(setup: &Setup, _: &[Range<u64>]) -> Vec<Range<u64>> {
    std::iter::once(0..setup.size).collect()
}

fn all_if_any(setup: &Setup, plugged: &[Range<u64>]) -> Vec<Range<u64>> {
    if plugged.is_empty() { Vec::new() } else { all(setup, plugged) }
}

/// A thousandth of the device, as with `memslots=1024`.
fn parts(setup: &Setup, plugged: &[Range<u64>]) -> Vec<Range<u64>> {
    let part = setup.size / 1024;
    let touched = |n: &u64| plugged.iter().any(|run| run.start < (n + 1) * part && run.end > n * part);
    (0..1024).filter(touched).map(|n| n * part..(n + 1) * part).collect()
}

fn runs(_: &Setup, plugged: &[Range<u64>]) -> Vec<Range<u64>> {
    plugged.to_vec()
}

const PLAIN: Setup =
    Setup { name: "", size: TERABYTE, open: false, slots: all, faults: false, guards: false };

const SETUPS: [Setup; 8] = [
    Setup { name: "one slot, not protected (QEMU)", open: true, ..PLAIN },
    Setup { name: "one slot, PROT_NONE", ..PLAIN },
    Setup { name: "one slot once something is plugged, PROT_NONE", slots: all_if_any, ..PLAIN },
    Setup { name: "1024 parts, PROT_NONE", slots: parts, ..PLAIN },
    Setup { name: "a slot for each run, PROT_NONE", slots: runs, ..PLAIN },
    Setup { name: "one slot, userfaultfd", faults: true, open: true, ..PLAIN },
    Setup { name: "no slot, userfaultfd", slots: runs, faults: true, open: true, ..PLAIN },
    Setup {
        name: "no slot, guards, 64 GiB only",
        size: 64 * GIB,
        slots: runs,
        guards: true,
        open: true,
        ..PLAIN
    },
];

/// What is not plugged.
fn gaps(size: u64, plugged: &[Range<u64>]) -> Vec<Range<u64>> {
    let starts = std::iter::once(0).chain(plugged.iter().map(|run| run.end));
    let ends = plugged.iter().map(|run| run.start).chain([size]);
    starts.zip(ends).map(|(start, end)| start..end).filter(|gap| !gap.is_empty()).collect()
}

/// What is used of everything with the setup, the guest having written to a page of each plugged block.
fn usage(setup: &Setup, plugged: &[Range<u64>]) -> io::Result<Option<Usage>> {
    let region = Region::new(setup.size)?;
    let Some(mut machine) = Machine::new(&region) else { return Ok(None) };
    let before = Usage::now();
    region.set_open(&region.whole(), setup.open)?;
    region.advise(&region.whole(), Advice::SmallPages)?;
    let faults = setup.faults.then(Faults::new).transpose()?;
    for gap in gaps(setup.size, plugged) {
        if let Some(faults) = &faults {
            faults.register(&region, &gap)?;
        }
        if setup.guards {
            region.advise(&gap, Advice::Guard)?;
        }
    }
    for (number, range) in (1..).zip((setup.slots)(setup, plugged)) {
        machine.add(number, &range)?;
    }
    for run in plugged {
        region.set_open(run, true)?;
        let done = machine.write(run.start, (run.end - run.start) / BLOCK, BLOCK)?;
        if done != (Pass::Done { dropped: 0 }) {
            return Err(io::Error::other(format!("the guest cannot touch what is plugged: {done:?}")));
        }
    }
    Ok(Some(Usage::now().since(before)))
}

pub(crate) fn memory() -> io::Result<()> {
    head(
        "Memory of a device of 1 TiB, MiB",
        &["setup", "plugged", "resident", "page tables", "the guest's page tables", "large pieces"],
    );
    let scattered: Vec<_> = (0..512).map(|n| n * 4 * BLOCK..(n * 4 + 1) * BLOCK).collect();
    let one = 0..GIB;
    for setup in &SETUPS {
        for (plugged, name) in [
            (&[][..], "nothing"),
            (std::slice::from_ref(&one), "1 GiB, one run"),
            (&scattered, "1 GiB, 512 runs"),
        ] {
            let Some(usage) = usage(setup, plugged)? else {
                println!("no KVM");
                return Ok(());
            };
            let mib = |kib: i64| format!("{:.1}", kib as f64 / 1024.0);
            row(&[
                setup.name.into(),
                name.into(),
                mib(usage.resident),
                mib(usage.tables),
                mib(usage.guest_tables),
                mib(usage.large),
            ]);
        }
    }
    Ok(())
}

/// Blocks that are plugged, of so many.
type Pattern = (&'static str, u64, fn(u64) -> bool);

const PATTERNS: [Pattern; 6] = [
    ("nothing of 64 GiB", 64 * GIB, |_| false),
    ("the first half of 64 GiB", 64 * GIB, |block| block < 16_384),
    ("every 32nd block of 64 GiB", 64 * GIB, |block| block % 32 == 0),
    // Multiplied by an odd number, the high bits of a block's number are as good as random.
    ("half of the blocks of 64 GiB, at random", 64 * GIB, |block| {
        block.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 63 == 0
    }),
    ("every other block of 64 GiB", 64 * GIB, |block| block % 2 == 0),
    ("every other block of 256 GiB", 256 * GIB, |block| block % 2 == 0),
];

fn plugged(size: u64, is_plugged: fn(u64) -> bool) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for block in (0..size / BLOCK).filter(|block| is_plugged(*block)) {
        match runs.last_mut() {
            Some(run) if run.end == block * BLOCK => run.end += BLOCK,
            _ => runs.push(block * BLOCK..(block + 1) * BLOCK),
        }
    }
    runs
}

/// Mappings that the kernel has made of the region.
fn pieces(region: &Region) -> usize {
    mappings(region.base()..region.base() + region.size())
}

/// Opens the runs, writes a page of each, closes them: mappings in between and afterwards, and how many could be opened.
fn protect(size: u64, runs: &[Range<u64>]) -> io::Result<(usize, usize, usize)> {
    let region = Region::new(size)?;
    region.advise(&region.whole(), Advice::SmallPages)?;
    let opened = runs.iter().take_while(|run| region.set_open(run, true).is_ok()).count();
    let between = pieces(&region);
    for run in &runs[..opened] {
        region.advise(&(run.start..run.start + PAGE), Advice::Populate)?;
    }
    for run in &runs[..opened] {
        region.set_open(run, false)?;
        region.advise(run, Advice::DontNeed)?;
    }
    Ok((between, pieces(&region), opened))
}

pub(crate) fn fragments() -> io::Result<()> {
    head(
        "Mappings and slots of fragmented memory",
        &[
            "plugged",
            "runs",
            "mappings with PROT_NONE",
            "could be opened",
            "mappings after all is unplugged",
            "mappings with userfaultfd",
            "slots of a slot for each run",
        ],
    );
    let limit = Machine::new(&Region::new(BLOCK)?).map_or(0, |machine| machine.max_slots());
    for (name, size, is_plugged) in PATTERNS {
        let runs = plugged(size, is_plugged);
        let (between, after, opened) = protect(size, &runs)?;
        let registered = Faults::new().and_then(|faults| {
            let region = Region::new(size)?;
            region.set_open(&region.whole(), true)?;
            for gap in gaps(size, &runs) {
                faults.register(&region, &gap)?;
            }
            Ok(pieces(&region))
        });
        row(&[
            name.into(),
            runs.len().to_string(),
            between.to_string(),
            opened.to_string(),
            after.to_string(),
            registered.map_or_else(|error| error.to_string(), |pieces| pieces.to_string()),
            format!("{} of {limit}", runs.len()),
        ]);
    }
    Ok(())
}

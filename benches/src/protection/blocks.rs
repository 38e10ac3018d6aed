//! Opening, closing and giving back one block, by each mechanism.

use std::io;
use std::ops::Range;

use super::faults::Faults;
use super::figures::{Samples, head, row};
use super::host::{Advice, BLOCK, PAGE, Region};
use super::machine::{Machine, Pass};

/// 65536 blocks, so that 10000 runs have room between them.
const SIZE: u64 = 128 << 30;
const SAMPLES: u64 = 200;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mechanism {
    /// `PROT_NONE`
    Protection,
    /// `MADV_GUARD_INSTALL`
    Guard,
    /// Missing mode.
    UserFault,
    /// A memory slot for each run.
    Slots,
}

/// What is in the block when it closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Touched {
    Untouched,
    Small,
    Huge,
}

struct Case<'a> {
    mechanism: Mechanism,
    region: &'a Region,
    machine: Option<Machine<'a>>,
    faults: Option<Faults>,
}

impl Case<'_> {
    fn open(&self, slot: u32, range: &Range<u64>) -> io::Result<()> {
        match (self.mechanism, &self.faults, &self.machine) {
            (Mechanism::Protection, ..) => self.region.set_open(range, true),
            (Mechanism::Guard, ..) => self.region.advise(range, Advice::Unguard),
            (Mechanism::UserFault, Some(faults), _) => faults.unregister(self.region, range),
            (Mechanism::Slots, _, Some(machine)) => machine.add(slot, range),
            _ => Err(io::Error::other("not for this case")),
        }
    }

    fn close(&self, slot: u32, range: &Range<u64>) -> io::Result<()> {
        match (self.mechanism, &self.faults, &self.machine) {
            (Mechanism::Protection, ..) => self.region.set_open(range, false),
            (Mechanism::Guard, ..) => self.region.advise(range, Advice::Guard),
            (Mechanism::UserFault, Some(faults), _) => faults.register(self.region, range),
            (Mechanism::Slots, _, Some(machine)) => machine.delete(slot),
            _ => Err(io::Error::other("not for this case")),
        }
    }

    /// Closes everything.
    fn begin(&self) -> io::Result<()> {
        let whole = self.region.whole();
        if self.mechanism != Mechanism::Protection {
            self.region.set_open(&whole, true)?;
        }
        if self.mechanism == Mechanism::UserFault {
            self.close(0, &whole)?;
        }
        match &self.machine {
            Some(machine) if self.mechanism != Mechanism::Slots => machine.add(1, &whole),
            _ => Ok(()),
        }
    }

    /// Writes every page of a block, through the guest if there is one.
    fn touch(&mut self, range: &Range<u64>) -> io::Result<()> {
        match &mut self.machine {
            None => self.region.advise(range, Advice::Populate),
            Some(machine) => match machine.write(range.start, BLOCK / PAGE, PAGE)? {
                Pass::Done { dropped: 0 } => Ok(()),
                other => Err(io::Error::other(format!("the guest cannot touch an open block: {other:?}"))),
            },
        }
    }
}

/// Blocks `stride` apart.
fn block(index: u64, stride: u64, within: u64) -> Range<u64> {
    let start = (index * stride + within) * BLOCK;
    start..start + BLOCK
}

fn measure(case: &mut Case<'_>, runs: u64, touched: Touched) -> io::Result<[Samples; 3]> {
    let region = case.region;
    let whole = region.whole();
    region.advise(&whole, if touched == Touched::Huge { Advice::HugePages } else { Advice::SmallPages })?;
    let stride = region.size() / BLOCK / runs;
    let [mut open, mut close, mut discard] = [const { Samples::new() }; 3];
    // A slot that no run has.
    let spare = u32::try_from(runs).map_err(io::Error::other)? + 1;
    for sample in 0..SAMPLES {
        // Anywhere among the runs, never beside one.
        let block = block(sample * 7919 % runs, stride, 2 + sample % (stride - 3));
        if case.mechanism == Mechanism::Guard {
            // Is closed all the time with the other mechanisms; marks for all of it would take a page table a block.
            case.close(spare, &block)?;
        }
        open.time(|| case.open(spare, &block))?;
        if touched != Touched::Untouched {
            case.touch(&block)?;
        }
        close.time(|| case.close(spare, &block))?;
        discard.time(|| region.advise(&block, Advice::DontNeed))?;
        if case.mechanism == Mechanism::Guard {
            case.open(spare, &block)?;
        }
    }
    Ok([open, close, discard])
}

pub(crate) fn run(use_machine: bool) -> io::Result<()> {
    let guest = if use_machine { "with a guest" } else { "without a guest" };
    head(
        &format!("One block of 2 MiB, {guest}: median / nine of ten stay below"),
        &["mechanism", "runs", "block is", "open", "close", "then MADV_DONTNEED"],
    );
    for mechanism in [Mechanism::Protection, Mechanism::Guard, Mechanism::UserFault, Mechanism::Slots] {
        if mechanism == Mechanism::Slots && !use_machine {
            continue;
        }
        for runs in [1, 1000, 10_000] {
            let region = Region::new(SIZE)?;
            let machine = if use_machine { Machine::new(&region) } else { None };
            if use_machine && machine.is_none() {
                println!("no KVM");
                return Ok(());
            }
            let faults = (mechanism == Mechanism::UserFault).then(Faults::new).transpose()?;
            let mut case = Case { mechanism, region: &region, machine, faults };
            case.begin()?;
            let stride = SIZE / BLOCK / runs;
            for index in 0..runs {
                let slot = u32::try_from(index).map_err(io::Error::other)? + 1;
                case.open(slot, &block(index, stride, 0))?;
            }
            if mechanism == Mechanism::Slots {
                // This mechanism alone: the host mapping is open.
                region.set_open(&region.whole(), true)?;
            }
            for touched in [Touched::Untouched, Touched::Small, Touched::Huge] {
                let [open, close, discard] = measure(&mut case, runs, touched)?;
                row(&[
                    format!("{mechanism:?}"),
                    runs.to_string(),
                    format!("{touched:?}"),
                    open.to_string(),
                    close.to_string(),
                    discard.to_string(),
                ]);
            }
        }
    }
    Ok(())
}

//! What keeps discarded memory from being touched: the host's page protection, and a gate for this program's own accesses.
//!
//! A [`Barrier`] covers one RAM block in *units* (blocks of a device, or parts of several blocks). A unit is *open* while
//! something in it is populated. A closed unit is `PROT_NONE` in the host mapping, so that neither the guest nor the kernel
//! on anybody's behalf can fault a page in; a vCPU that tries leaves the guest with an error. This program's own
//! accesses would die of it, so they never get there: whoever wants bytes of the block takes a [`Pin`] first, which is
//! refused for closed units, and a unit is closed only after the pins that were taken before are gone.
//!
//! The order in which a pin is counted and the bits are read, and bits are cleared and pins are counted, is sequentially
//! consistent: either the pin sees the unit closed, or who closes it sees the pin.
//!
//! Left out: pins by range. A pin of any unit delays the closing of all, for the length of a copy.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::ram::RamBlock;

/// See the module.
#[derive(Debug)]
pub(super) struct Barrier {
    /// Weak, because the block has the manager and the manager has us.
    block: Weak<RamBlock>,
    unit: u64,
    size: u64,
    /// A bit a unit.
    open: Box<[AtomicU64]>,
    pins: AtomicU64,
    /// Where the host mapping was ever split: the host does not join all parts again.
    splits: Mutex<BTreeSet<u64>>,
    /// How many splits there may be.
    max_splits: usize,
    /// The host refused to protect a range; said once.
    leaky: AtomicBool,
}

/// The host's limit of mappings where it cannot be read.
const USUAL_MAX_MAPPINGS: usize = 65_530;

/// Splits that one block may have: half of the mappings that a program may have. A guest that plugs every other block must not keep the
/// program from getting memory or threads.
fn max_splits() -> usize {
    let text = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
    text.trim().parse().unwrap_or(USUAL_MAX_MAPPINGS) / 2
}

/// The right to touch bytes of a protected block; see the module. Held for the length of a copy, and never while the
/// manager is called.
#[derive(Debug)]
pub(crate) struct Pin(Arc<super::DiscardManager>);

impl Clone for Pin {
    fn clone(&self) -> Self {
        if let Some(barrier) = &self.0.barrier {
            barrier.pins.fetch_add(1, Ordering::SeqCst);
        }
        Self(Arc::clone(&self.0))
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(barrier) = &self.0.barrier {
            barrier.pins.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Pin {
    /// A pin for `range` of the block of `manager`, once mappings of it are there; `None` if part of it is closed. Without a barrier
    /// nothing is.
    pub(crate) fn take(manager: &Arc<super::DiscardManager>, range: &Range<u64>) -> Option<Option<Self>> {
        // Before the pin is counted: settling takes as long as it takes.
        manager.put_off.settle(range);
        let Some(barrier) = &manager.barrier else { return Some(None) };
        barrier.pins.fetch_add(1, Ordering::SeqCst);
        // From here on dropping it uncounts it.
        let pin = Self(Arc::clone(manager));
        barrier.is_open(range).then_some(Some(pin))
    }
}

impl Barrier {
    /// Closes all `size` bytes of `block`, in units of `unit` bytes.
    pub(super) fn new(block: &Arc<RamBlock>, size: u64, unit: u64) -> io::Result<Self> {
        block.set_accessible(0, size, false)?;
        let words = usize::try_from(size.div_ceil(unit).div_ceil(64)).map_err(io::Error::other)?;
        let open = std::iter::repeat_with(AtomicU64::default).take(words).collect();
        let (pins, leaky) = (AtomicU64::new(0), AtomicBool::new(false));
        let (splits, max_splits) = (Mutex::default(), max_splits());
        Ok(Self { block: Arc::downgrade(block), unit, size, open, pins, splits, max_splits, leaky })
    }

    /// Opens or closes the host mapping of a run.
    fn set_accessible(&self, block: &RamBlock, run: &Range<u64>, accessible: bool) -> io::Result<()> {
        let mut splits = self.splits.lock().unwrap_or_else(PoisonError::into_inner);
        let inside = |at: &u64| *at != 0 && *at != self.size;
        let fresh: Vec<u64> =
            [run.start, run.end].into_iter().filter(inside).filter(|at| !splits.contains(at)).collect();
        if splits.len() + fresh.len() > self.max_splits {
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        block.set_accessible(run.start, run.end - run.start, accessible)?;
        splits.extend(fresh);
        Ok(())
    }

    /// Bytes of a unit.
    pub(super) fn unit(&self) -> u64 {
        self.unit
    }

    /// Units that a range touches.
    fn units(&self, range: &Range<u64>) -> Range<u64> {
        range.start / self.unit..range.end.min(self.size).div_ceil(self.unit)
    }

    fn bytes(&self, units: &Range<u64>) -> Range<u64> {
        units.start * self.unit..(units.end * self.unit).min(self.size)
    }

    /// Whether all units that a range touches are open.
    pub(super) fn is_open(&self, range: &Range<u64>) -> bool {
        range.start >= range.end
            || words(&self.units(range)).all(|(i, mask)| self.open[i].load(Ordering::SeqCst) & mask == mask)
    }

    /// Maximal runs of closed units among those that the range touches, in bytes.
    pub(super) fn closed(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for unit in self.units(range) {
            if self.open[(unit / 64) as usize].load(Ordering::SeqCst) & 1 << (unit % 64) == 0 {
                join(&mut runs, self.bytes(&(unit..unit + 1)));
            }
        }
        runs
    }

    /// Lets the host mapping of the closed units around `range` be touched; pins are still refused. Gives what
    /// [`show`](Self::show) or [`retract`](Self::retract) has to be called with.
    ///
    /// # Errors
    /// The mapping cannot be split once more; nothing has changed.
    pub(super) fn admit(&self, range: &Range<u64>) -> io::Result<Vec<Range<u64>>> {
        let runs = self.closed(range);
        let Some(block) = self.block.upgrade() else { return Ok(runs) };
        for (done, run) in runs.iter().enumerate() {
            if let Err(error) = self.set_accessible(&block, run, true) {
                self.retract(&runs[..done]);
                return Err(error);
            }
        }
        Ok(runs)
    }

    /// Opens what was admitted.
    pub(super) fn show(&self, runs: &[Range<u64>]) {
        for (i, mask) in runs.iter().flat_map(|run| words(&self.units(run))) {
            self.open[i].fetch_or(mask, Ordering::SeqCst);
        }
    }

    /// Closes the host mapping of runs whose units are closed to pins.
    pub(super) fn retract(&self, runs: &[Range<u64>]) {
        let Some(block) = self.block.upgrade() else { return };
        for run in runs {
            if let Err(error) = self.set_accessible(&block, run, false)
                && !self.leaky.swap(true, Ordering::Relaxed)
            {
                let name = block.label();
                tracing::warn!(
                    "unplugged memory of '{name}' cannot be protected, the guest may use it: {}",
                    qapi::strerror(&error)
                );
            }
        }
    }

    /// Closes units, all of whose bytes `range` and `is_discarded` say are discarded.
    pub(super) fn close(&self, range: &Range<u64>, is_discarded: impl Fn(Range<u64>) -> bool) {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for unit in self.units(range) {
            let bytes = self.bytes(&(unit..unit + 1));
            let whole = range.start <= bytes.start && bytes.end <= range.end;
            if !whole && !is_discarded(bytes.clone()) {
                continue;
            }
            let mask = 1 << (unit % 64);
            if self.open[(unit / 64) as usize].fetch_and(!mask, Ordering::SeqCst) & mask == 0 {
                continue;
            }
            join(&mut runs, bytes);
        }
        if runs.is_empty() {
            return;
        }
        // A copy takes microseconds; whoever holds a pin waits for nothing that this thread holds.
        while self.pins.load(Ordering::SeqCst) != 0 {
            std::thread::yield_now();
        }
        self.retract(&runs);
    }

    /// Opens everything for good.
    pub(super) fn lift(&self) {
        if let Some(block) = self.block.upgrade()
            && let Err(error) = block.set_accessible(0, self.size, true)
        {
            tracing::error!(%error, "the memory of a device stays protected");
            return;
        }
        self.open.iter().for_each(|word| word.store(u64::MAX, Ordering::SeqCst));
    }
}

/// Adds the next range to ascending runs; one that continues the last run makes it longer.
fn join(runs: &mut Vec<Range<u64>>, next: Range<u64>) {
    match runs.last_mut() {
        Some(last) if last.end == next.start => last.end = next.end,
        _ => runs.push(next),
    }
}

/// Words and masks of a range of bits.
fn words(bits: &Range<u64>) -> impl Iterator<Item = (usize, u64)> + use<> {
    super::bitmap::words(bits.clone())
}

#[cfg(test)]
mod tests;

//! Which parts of a RAM block the guest may use, and who is told when that changes.
//!
//! A device that hands out its memory piece by piece (virtio-mem) owns a [`DiscardManager`]. Users of the block that
//! must not touch discarded parts (a pinning device, migration) register as listeners: they are asked before a part
//! becomes populated and may refuse, and are told before a part is discarded. Semantics of QEMU's
//! `RamDiscardManager`.
//!
//! The bitmap is one bit a granule: 64 KiB for 1 TiB in granules of 2 MiB, allocated zeroed, so that untouched parts
//! of it cost nothing either.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

/// Who must know which parts are populated. Called with the manager locked: must not call it back.
#[doc(alias = "RamDiscardListener")]
pub trait DiscardListener: Send + Sync {
    /// The part is about to be used. An error refuses: listeners that agreed before are told
    /// [`discard`](Self::discard), in reverse order, and nothing changes.
    ///
    /// # Errors
    /// Any; the text reaches whoever wanted to populate.
    fn populate(&self, range: Range<u64>) -> Result<(), String>;

    /// The part is about to be discarded, or its population was refused by another listener.
    fn discard(&self, range: Range<u64>);
}

/// Names a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DiscardListenerId(u64);

struct Registration {
    id: DiscardListenerId,
    range: Range<u64>,
    listener: Arc<dyn DiscardListener>,
}

struct State {
    populated: PopulatedBitmap,
    listeners: Vec<Registration>,
    next_id: u64,
}

/// State of a sparse RAM block. Ranges are byte offsets in the block.
#[doc(alias = "RamDiscardManager")]
pub struct DiscardManager {
    granularity: u64,
    size: u64,
    state: Mutex<State>,
}

impl std::fmt::Debug for DiscardManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DiscardManager({:#x} of {:#x})", self.populated_bytes(), self.size)
    }
}

impl DiscardManager {
    /// A block of `size` bytes, all discarded, whose state is kept in granules of `granularity` bytes (a power of
    /// two). The last granule may be partial.
    ///
    /// # Panics
    /// If `granularity` is no power of two.
    pub fn new(size: u64, granularity: u64) -> Self {
        assert!(granularity.is_power_of_two(), "granularity {granularity:#x} is a power of two");
        let populated = PopulatedBitmap::new(size.div_ceil(granularity));
        let state = State { populated, listeners: Vec::new(), next_id: 0 };
        Self { granularity, size, state: Mutex::new(state) }
    }

    /// Bytes of a granule.
    #[doc(alias = "get_min_granularity")]
    pub fn granularity(&self) -> u64 {
        self.granularity
    }

    /// Bytes of the block.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all of the range is populated; an empty range is.
    pub fn is_populated(&self, range: Range<u64>) -> bool {
        self.bits(&range).is_ok_and(|bits| self.state().populated.all(bits, true))
    }

    /// Whether all of the range is discarded; an empty range is.
    pub fn is_discarded(&self, range: Range<u64>) -> bool {
        self.bits(&range).is_ok_and(|bits| self.state().populated.all(bits, false))
    }

    /// Populated bytes.
    pub fn populated_bytes(&self) -> u64 {
        self.state().populated.count() * self.granularity
    }

    /// Populates what is not populated in the range, once every listener agreed.
    ///
    /// # Errors
    /// [`Error::BadDiscardRange`] or [`Error::Vetoed`]; nothing has changed then.
    pub fn populate(&self, range: Range<u64>) -> Result<()> {
        let bits = self.bits(&range)?;
        let mut state = self.state();
        let runs = self.runs(&state.populated, bits.clone(), false);
        let mut told: Vec<(usize, Range<u64>)> = Vec::new();
        for (index, registration) in state.listeners.iter().enumerate() {
            for part in runs.iter().filter_map(|run| intersect(run, &registration.range)) {
                if let Err(reason) = registration.listener.populate(part.clone()) {
                    for (index, part) in told.into_iter().rev() {
                        state.listeners[index].listener.discard(part);
                    }
                    return Err(Error::Vetoed(reason));
                }
                told.push((index, part));
            }
        }
        state.populated.set(bits, true);
        Ok(())
    }

    /// Tells the listeners and marks the range discarded. Giving the memory back is the caller's next step.
    ///
    /// # Errors
    /// [`Error::BadDiscardRange`].
    pub fn discard(&self, range: Range<u64>) -> Result<()> {
        let bits = self.bits(&range)?;
        let mut state = self.state();
        for run in self.runs(&state.populated, bits.clone(), true) {
            for registration in &state.listeners {
                if let Some(part) = intersect(&run, &registration.range) {
                    registration.listener.discard(part);
                }
            }
        }
        state.populated.set(bits, false);
        Ok(())
    }

    /// Registers a listener for a part of the block and replays what is populated there.
    ///
    /// # Errors
    /// [`Error::Vetoed`] if the listener refuses a part; it was told to discard the ones before, and is not
    /// registered.
    pub fn register(
        &self,
        range: Range<u64>,
        listener: Arc<dyn DiscardListener>,
    ) -> Result<DiscardListenerId> {
        let mut state = self.state();
        let parts = self.parts(&state.populated, &range, true);
        for (done, part) in parts.iter().enumerate() {
            if let Err(reason) = listener.populate(part.clone()) {
                parts[..done].iter().rev().for_each(|part| listener.discard(part.clone()));
                return Err(Error::Vetoed(reason));
            }
        }
        let id = DiscardListenerId(state.next_id);
        state.next_id += 1;
        state.listeners.push(Registration { id, range, listener });
        Ok(id)
    }

    /// Takes a listener out after telling it to discard what is populated. Unknown ids are ignored.
    pub fn unregister(&self, id: DiscardListenerId) {
        let mut state = self.state();
        if let Some(at) = state.listeners.iter().position(|r| r.id == id) {
            let registration = state.listeners.remove(at);
            for part in self.parts(&state.populated, &registration.range, true) {
                registration.listener.discard(part);
            }
        }
    }

    /// Calls `each` for every populated run inside `range`, ascending, adjacent granules as one run.
    pub fn replay_populated(&self, range: Range<u64>, mut each: impl FnMut(Range<u64>)) {
        let parts = self.parts(&self.state().populated, &range, true);
        parts.into_iter().for_each(&mut each);
    }

    /// Calls `each` for every discarded run inside `range`, ascending, adjacent granules as one run.
    pub fn replay_discarded(&self, range: Range<u64>, mut each: impl FnMut(Range<u64>)) {
        let parts = self.parts(&self.state().populated, &range, false);
        parts.into_iter().for_each(&mut each);
    }

    /// Granules of a range that is aligned and inside; the end of the block counts as aligned.
    fn bits(&self, range: &Range<u64>) -> Result<Range<u64>> {
        let aligned = |at: u64| at.is_multiple_of(self.granularity) || at == self.size;
        if range.start > range.end || range.end > self.size || !aligned(range.start) || !aligned(range.end) {
            let len = range.end.wrapping_sub(range.start);
            return Err(Error::BadDiscardRange { offset: range.start, len, granularity: self.granularity });
        }
        Ok(range.start / self.granularity..range.end.div_ceil(self.granularity))
    }

    fn runs(&self, map: &PopulatedBitmap, bits: Range<u64>, value: bool) -> Vec<Range<u64>> {
        let bytes = |bit: u64| bit.saturating_mul(self.granularity).min(self.size);
        map.runs(bits, value).map(|run| bytes(run.start)..bytes(run.end)).collect()
    }

    /// Runs that touch an arbitrary range, cut to it.
    fn parts(&self, map: &PopulatedBitmap, range: &Range<u64>, value: bool) -> Vec<Range<u64>> {
        let bits = range.start / self.granularity..range.end.min(self.size).div_ceil(self.granularity);
        self.runs(map, bits, value).iter().filter_map(|run| intersect(run, range)).collect()
    }
}

fn intersect(a: &Range<u64>, b: &Range<u64>) -> Option<Range<u64>> {
    let part = a.start.max(b.start)..a.end.min(b.end);
    (part.start < part.end).then_some(part)
}

/// A bitmap with range operations a word at a time.
#[derive(Debug, Clone)]
pub struct PopulatedBitmap {
    bits: u64,
    words: Vec<u64>,
    count: u64,
}

impl PopulatedBitmap {
    /// `bits` bits, all clear.
    pub fn new(bits: u64) -> Self {
        let words = usize::try_from(bits.div_ceil(64)).expect("a bitmap fits in memory");
        Self { bits, words: vec![0; words], count: 0 }
    }

    /// Number of bits.
    pub fn len(&self) -> u64 {
        self.bits
    }

    /// Whether there are no bits.
    pub fn is_empty(&self) -> bool {
        self.bits == 0
    }

    /// Number of bits that are set.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Sets or clears a range; bits beyond the end are ignored.
    pub fn set(&mut self, range: Range<u64>, value: bool) {
        for (index, mask) in self.words_of(range) {
            let word = &mut self.words[index];
            let new = if value { *word | mask } else { *word & !mask };
            self.count = self.count + u64::from(new.count_ones()) - u64::from(word.count_ones());
            *word = new;
        }
    }

    /// Whether all bits of a range have the value.
    pub fn all(&self, range: Range<u64>, value: bool) -> bool {
        self.words_of(range).all(|(i, mask)| self.words[i] & mask == if value { mask } else { 0 })
    }

    /// Maximal runs of bits with the value, inside the range, ascending.
    pub fn runs(&self, range: Range<u64>, value: bool) -> impl Iterator<Item = Range<u64>> {
        let end = range.end.min(self.bits);
        let mut at = range.start;
        std::iter::from_fn(move || {
            let start = self.next(at, end, value)?;
            at = self.next(start, end, !value).unwrap_or(end);
            Some(start..at)
        })
    }

    /// First bit with the value in `from..end`.
    fn next(&self, from: u64, end: u64, value: bool) -> Option<u64> {
        let mut at = from;
        while at < end {
            let word = self.words[(at / 64) as usize];
            let word = (if value { word } else { !word }) & (u64::MAX << (at % 64));
            if word != 0 {
                let found = at / 64 * 64 + u64::from(word.trailing_zeros());
                return (found < end).then_some(found);
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }

    fn words_of(&self, range: Range<u64>) -> impl Iterator<Item = (usize, u64)> + use<> {
        let (start, end) = (range.start, range.end.min(self.bits));
        let words = if start < end { start / 64..end.div_ceil(64) } else { 0..0 };
        words.map(move |word| {
            let mut mask = u64::MAX;
            if word * 64 < start {
                mask &= u64::MAX << (start % 64);
            }
            if end - word * 64 < 64 {
                mask &= (1 << (end % 64)) - 1;
            }
            (word as usize, mask)
        })
    }
}

#[cfg(test)]
mod tests;

//! Which parts of a RAM block the guest may use, and who is told when that changes.
//!
//! A device that hands out its memory piece by piece (virtio-mem) owns a [`DiscardManager`]. Users of the block that
//! must not touch discarded parts (a pinning device, migration) register as listeners: they are asked before a part
//! becomes populated and may refuse, and are told before a part is discarded. Semantics of QEMU's
//! `RamDiscardManager`.
//!
//! Two kinds of listeners follow the same changes at different moments. [`register`](DiscardManager::register): users that
//! are asked and may refuse. [`register_mapping`](DiscardManager::register_mapping): mappings through which the guest reaches the
//! memory (memory slots), which come last when memory is populated and go first when it is discarded.
//!
//! A manager may also protect what is discarded ([`protect`](DiscardManager::protect)). The order is always
//!
//! | populate | discard |
//! | --- | --- |
//! | the host mapping is opened | mappings are told |
//! | the caller readies the pages | listeners are told |
//! | listeners are asked | the bitmap changes |
//! | the bitmap changes, our own accesses are let in | our own accesses are kept out, those under way end |
//! | mappings are told, or put off for a moment ([`put_off`]) | the host mapping is closed; then the caller frees the pages |
//!
//! so that nobody faults a page back in after it was freed, and nobody sees memory that a listener refused.
//!
//! The bitmap is one bit a granule: 64 KiB for 1 TiB in granules of 2 MiB, allocated zeroed, so that untouched parts
//! of it cost nothing either.

mod admission;
mod barrier;
mod bitmap;
mod put_off;

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use admission::Admission;
pub(crate) use barrier::Pin;
pub use bitmap::PopulatedBitmap;

use crate::error::{Error, Result};
use crate::ram::RamBlock;
use barrier::Barrier;
use put_off::PutOff;

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

    /// [`populate`](Self::populate) for a mapping that may be made a moment later, since nobody else was told of the part. Gives
    /// whether it was put off; [`settle`](Self::settle) is called then before anybody but the guest uses the part.
    ///
    /// # Errors
    /// As `populate`.
    fn populate_soon(&self, range: Range<u64>) -> Result<bool, String> {
        self.populate(range).map(|()| false)
    }

    /// Makes what [`populate_soon`](Self::populate_soon) put off, if the part is still populated and that was not done yet, and
    /// returns when it is there. Called by any thread, with the manager locked or not.
    fn settle(&self, _range: Range<u64>) {}
}

/// Names a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DiscardListenerId(u64);

/// When a listener is called; see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    User,
    Mapping,
}

struct Registration {
    id: DiscardListenerId,
    role: Role,
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
    barrier: Option<Barrier>,
    follow: bool,
    put_off: PutOff,
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
        let put_off = PutOff::default();
        Self { granularity, size, state: Mutex::new(state), barrier: None, follow: false, put_off }
    }

    /// Has those that map the memory (memory slots, back ends) map a section of it only while something in the section is
    /// populated, instead of as long as it is in the address space. Protection implies it.
    #[must_use]
    pub fn followed_by_mappings(mut self) -> Self {
        self.follow = true;
        self
    }

    /// Whether a section is mapped only while something in it is populated.
    pub fn is_followed_by_mappings(&self) -> bool {
        self.follow || self.barrier.is_some()
    }

    /// Has what is discarded be protected from now on: units of `unit` bytes (a multiple of the granularity) in which nothing
    /// is populated can be touched neither by the guest nor by this program. `block` is the block that gets this manager;
    /// nothing is populated yet.
    ///
    /// # Errors
    /// The host's.
    pub fn protect(&mut self, block: &Arc<RamBlock>, unit: u64) -> std::io::Result<()> {
        assert!(unit.is_multiple_of(self.granularity) && unit > 0, "unit {unit:#x} is made of granules");
        self.barrier = Some(Barrier::new(block, self.size, unit)?);
        Ok(())
    }

    /// Whether discarded memory is protected.
    pub fn is_protecting(&self) -> bool {
        self.barrier.is_some()
    }

    /// Whether each granule is protected by itself, so that nothing that is discarded can be touched.
    pub fn is_protecting_granules(&self) -> bool {
        self.barrier.as_ref().is_some_and(|barrier| barrier.unit() == self.granularity)
    }

    /// Ends the protection: the block is going to be used otherwise.
    pub fn lift_protection(&self) {
        if let Some(barrier) = &self.barrier {
            barrier.lift();
        }
    }

    /// Whether accesses to the range are let in. Without protection all are.
    pub fn is_accessible(&self, range: Range<u64>) -> bool {
        self.barrier.as_ref().is_none_or(|barrier| barrier.is_open(&range))
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

    /// Bytes that are populated in each of the ranges, all at one moment. Costs a look at each word of the bitmap.
    pub fn populated_in(&self, ranges: impl IntoIterator<Item = Range<u64>>) -> Vec<u64> {
        let state = self.state();
        let bytes = |range: Range<u64>| {
            let bits = range.start / self.granularity..range.end.div_ceil(self.granularity);
            // The last granule may be partial.
            (state.populated.count_in(bits) * self.granularity).min(range.end.saturating_sub(range.start))
        };
        ranges.into_iter().map(bytes).collect()
    }

    /// Populates what is not populated in the range, once every listener agreed.
    ///
    /// # Errors
    /// [`Error::BadDiscardRange`], [`Error::Protect`] or [`Error::Vetoed`]; nothing has changed then.
    pub fn populate(&self, range: Range<u64>) -> Result<()> {
        self.populate_with(range, || Ok(()))
    }

    /// [`populate`](Self::populate), with the pages made ready by `ready` once they may be touched. Whoever gets an error
    /// frees the pages.
    ///
    /// # Errors
    /// As `populate`, and those of `ready`.
    pub fn populate_with(&self, range: Range<u64>, ready: impl FnOnce() -> Result<()>) -> Result<()> {
        let bits = self.bits(&range)?;
        let mut state = self.state();
        let admitted = match &self.barrier {
            Some(barrier) => barrier.admit(&range).map_err(Error::Protect)?,
            None => Vec::new(),
        };
        let runs = self.runs(&state.populated, bits.clone(), false);
        if let Err(error) = ready().and_then(|()| state.ask(&runs)) {
            if let Some(barrier) = &self.barrier {
                barrier.retract(&admitted);
            }
            let len = range.end - range.start;
            trace::emit!(pliant_discard_manager_refuse, trace::Id::of(self), range.start, len, &error);
            return Err(error);
        }
        state.populated.set(bits, true);
        if let Some(barrier) = &self.barrier {
            barrier.show(&admitted);
        }
        let len = range.end - range.start;
        trace::emit!(pliant_discard_manager_populate, trace::Id::of(self), range.start, len);
        for (listener, part) in state.told(&runs, Role::Mapping) {
            let put_off = if state.knows_alone(listener, &part) {
                listener.populate_soon(part.clone())
            } else {
                listener.populate(part.clone()).map(|()| false)
            };
            match put_off {
                Ok(true) => {
                    let len = part.end - part.start;
                    trace::emit!(pliant_discard_manager_put_off, trace::Id::of(self), part.start, len);
                    self.put_off.add(part, listener);
                }
                Ok(false) => {}
                Err(error) => tracing::error!("a mapping of guest memory cannot be made: {error}"),
            }
        }
        Ok(())
    }

    /// Tells the listeners and marks the range discarded. Giving the memory back is the caller's next step.
    ///
    /// # Errors
    /// [`Error::BadDiscardRange`].
    pub fn discard(&self, range: Range<u64>) -> Result<()> {
        let bits = self.bits(&range)?;
        let mut state = self.state();
        let runs = self.runs(&state.populated, bits.clone(), true);
        for role in [Role::Mapping, Role::User] {
            for (listener, part) in state.told(&runs, role) {
                listener.discard(part);
            }
        }
        state.populated.set(bits, false);
        let len = range.end - range.start;
        trace::emit!(pliant_discard_manager_discard, trace::Id::of(self), range.start, len);
        if let Some(barrier) = &self.barrier {
            barrier.close(&range, |unit| self.bits(&unit).is_ok_and(|bits| state.populated.all(bits, false)));
        }
        Ok(())
    }

    /// Registers a user of a part of the block and replays what is populated there.
    ///
    /// # Errors
    /// [`Error::Vetoed`] if the listener refuses a part; it was told to discard the ones before, and is not
    /// registered.
    pub fn register(
        &self,
        range: Range<u64>,
        listener: Arc<dyn DiscardListener>,
    ) -> Result<DiscardListenerId> {
        self.register_as(Role::User, range, listener)
    }

    /// Registers a mapping of a part of the block and replays what is populated there. It is told of populated parts after
    /// all users agreed, and of discarded parts before them; a refusal of its own is only logged.
    ///
    /// # Errors
    /// As [`register`](Self::register).
    pub fn register_mapping(
        &self,
        range: Range<u64>,
        listener: Arc<dyn DiscardListener>,
    ) -> Result<DiscardListenerId> {
        self.register_as(Role::Mapping, range, listener)
    }

    fn register_as(
        &self,
        role: Role,
        range: Range<u64>,
        listener: Arc<dyn DiscardListener>,
    ) -> Result<DiscardListenerId> {
        let mut state = self.state();
        self.settle(range.clone());
        let parts = self.parts(&state.populated, &range, true);
        for (done, part) in parts.iter().enumerate() {
            if let Err(reason) = listener.populate(part.clone()) {
                parts[..done].iter().rev().for_each(|part| listener.discard(part.clone()));
                return Err(Error::Vetoed(reason));
            }
        }
        let id = DiscardListenerId(state.next_id);
        state.next_id += 1;
        state.listeners.push(Registration { id, role, range, listener });
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
            self.put_off.forget(&registration.listener);
        }
    }

    /// Calls `with` with the populated runs inside `range` while nothing can change them. It must not call the manager.
    pub fn with_populated<T>(&self, range: Range<u64>, with: impl FnOnce(&[Range<u64>]) -> T) -> T {
        let state = self.state();
        with(&self.parts(&state.populated, &range, true))
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

impl State {
    /// Asks the users of the block about runs that are going to be populated; takes back on a refusal.
    fn ask(&self, runs: &[Range<u64>]) -> Result<()> {
        let mut told: Vec<(&Arc<dyn DiscardListener>, Range<u64>)> = Vec::new();
        for (listener, part) in self.told(runs, Role::User) {
            if let Err(reason) = listener.populate(part.clone()) {
                told.into_iter().rev().for_each(|(listener, part)| listener.discard(part));
                return Err(Error::Vetoed(reason));
            }
            told.push((listener, part));
        }
        Ok(())
    }

    /// Whether nobody else than `listener` hears of `part`.
    fn knows_alone(&self, listener: &Arc<dyn DiscardListener>, part: &Range<u64>) -> bool {
        let mut others = self.listeners.iter().filter(|r| !Arc::ptr_eq(&r.listener, listener));
        others.all(|r| intersect(&r.range, part).is_none())
    }

    /// Who hears of which part of the runs: listener by listener, each in ascending order.
    fn told<'a>(
        &'a self,
        runs: &'a [Range<u64>],
        role: Role,
    ) -> impl Iterator<Item = (&'a Arc<dyn DiscardListener>, Range<u64>)> {
        self.listeners.iter().filter(move |r| r.role == role).flat_map(move |r| {
            runs.iter().filter_map(move |run| Some((&r.listener, intersect(run, &r.range)?)))
        })
    }
}

fn intersect(a: &Range<u64>, b: &Range<u64>) -> Option<Range<u64>> {
    let part = a.start.max(b.start)..a.end.min(b.end);
    (part.start < part.end).then_some(part)
}

#[cfg(test)]
mod coordination_tests;
#[cfg(test)]
mod tests;

//! Those who use the memory: they record what they are told, and fail when it is nonsense.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, Weak};

use memory::{
    AddressSpace, BlockRange, DiscardListener, DiscardListenerId, DiscardManager, DmaSink, MemoryListener,
    RamBlock, Section,
};

use super::host::Pages;
use super::steps::PAGE;
use crate::mem::slot_plan::SlotUser;

/// What somebody was told, in the order in which it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    /// A user of a block is asked about a range; whether the host has the pages at its ends, and whether others may touch them.
    Asked { user: usize, range: Range<u64>, pages: bool, open: bool },
    /// It is told to give a range up; what it reads at the start of it.
    Lost { user: usize, range: Range<u64>, byte: Option<u8> },
    /// A back end has more memory, or less: by the discard manager of a section, or a section that it does not follow.
    Mapping { populate: bool },
    /// The first address space changed.
    Slot { add: bool },
}

/// Shared by all, so that it has one order.
#[derive(Default)]
pub(super) struct Log(Mutex<Vec<Told>>);

impl Log {
    pub(super) fn take(&self) -> Vec<Told> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    fn push(&self, told: Told) {
        self.0.lock().unwrap().push(told);
    }
}

/// A user of part of a block that may veto.
pub(super) struct User {
    pub(super) number: usize,
    pub(super) block: Arc<RamBlock>,
    pub(super) pages: Arc<Pages>,
    pub(super) log: Arc<Log>,
    /// Refuses what holds this byte.
    pub(super) vetoes: Mutex<Option<u64>>,
    /// What it believes to be populated: maximal runs by their start, as it was told of them.
    pub(super) holds: Mutex<Ranges>,
}

impl DiscardListener for User {
    fn populate(&self, range: Range<u64>) -> Result<(), String> {
        // Not read: that would bring the page.
        let ends = [range.start, range.end - 1];
        let pages = ends.iter().all(|at| self.pages.holds(&self.block, *at));
        let open = self.block.is_accessible(range.start, 1);
        self.log.push(Told::Asked { user: self.number, range: range.clone(), pages, open });
        if self.vetoes.lock().unwrap().is_some_and(|at| range.contains(&at)) {
            return Err("vetoed".into());
        }
        self.holds.lock().unwrap().insert(range);
        Ok(())
    }

    fn discard(&self, range: Range<u64>) {
        let mut byte = [0];
        let readable = self.block.read(range.start, &mut byte).is_ok();
        let byte = readable.then_some(byte[0]);
        self.log.push(Told::Lost { user: self.number, range: range.clone(), byte });
        self.holds.lock().unwrap().remove(range);
    }
}

/// A set of bytes. Inserting what is there and removing what is not are panics.
#[derive(Debug, Default)]
pub(super) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    fn insert(&mut self, range: Range<u64>) {
        assert!(range.start < range.end, "something");
        let before = self.0.range(..range.end).next_back();
        assert!(before.is_none_or(|(_, end)| *end <= range.start), "{range:x?} is there already");
        self.0.insert(range.start, range.end);
    }

    fn remove(&mut self, range: Range<u64>) {
        let mut at = range.start;
        while at < range.end {
            let (start, end) = self
                .0
                .range(..=at)
                .next_back()
                .map(|(start, end)| (*start, *end))
                .filter(|(_, end)| *end > at)
                .unwrap_or_else(|| panic!("{at:x} is not there"));
            self.0.remove(&start);
            if start < at {
                self.0.insert(start, at);
            }
            if end > range.end {
                self.0.insert(range.end, end);
            }
            at = end;
        }
    }

    /// Maximal runs, ascending.
    pub(super) fn runs(&self) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for (&start, &end) in &self.0 {
            match runs.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => runs.push(start..end),
            }
        }
        runs
    }
}

/// What is at an address of a DMA map: name of the block, offset, bytes.
pub(super) type Mapped = (String, u64, u64);

/// The map of a device with DMA.
#[derive(Default)]
pub(super) struct Server {
    pub(super) map: Mutex<BTreeMap<u64, Mapped>>,
    /// Cannot map what holds this address.
    pub(super) refuses: Mutex<Option<u64>>,
    pub(super) incomplete: Mutex<u32>,
}

impl DmaSink for Server {
    fn map(&self, iova: u64, memory: &BlockRange, writable: bool) -> Result<(), String> {
        let len = memory.len();
        assert!(writable && len > 0 && [iova, len, memory.offset()].iter().all(|n| n.is_multiple_of(PAGE)));
        if self.refuses.lock().unwrap().is_some_and(|at| (iova..iova + len).contains(&at)) {
            return Err("refused".into());
        }
        let mut map = self.map.lock().unwrap();
        let before = map.range(..iova + len).next_back();
        assert!(before.is_none_or(|(at, m)| at + m.2 <= iova), "{iova:x}+{len:x} overlaps {before:x?}");
        map.insert(iova, (memory.block().label().to_owned(), memory.offset(), len));
        Ok(())
    }

    fn unmap(&self, iova: u64, len: u64) {
        let gone = self.map.lock().unwrap().remove(&iova);
        assert_eq!(gone.map(|m| m.2), Some(len), "only what was mapped as one is unmapped: {iova:x}");
    }

    fn incomplete(&self, _why: &str) {
        *self.incomplete.lock().unwrap() += 1;
    }
}

/// A back end with memory slots, such as a vhost-user process: it has a section of a block whose manager says so only while something of
/// it is populated.
pub(super) struct BackEnd {
    this: Weak<Self>,
    limit: u64,
    space: Arc<AddressSpace>,
    log: Arc<Log>,
    sections: Mutex<BTreeMap<u64, Given>>,
}

struct Given {
    size: u64,
    follows: Option<(Arc<DiscardManager>, Option<DiscardListenerId>)>,
    populated: u64,
}

impl BackEnd {
    pub(super) fn new(limit: u64, space: &Arc<AddressSpace>, log: &Arc<Log>) -> Arc<Self> {
        let (space, log) = (Arc::clone(space), Arc::clone(log));
        Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            limit,
            space,
            log,
            sections: Mutex::default(),
        })
    }

    /// Address and size of what it has.
    pub(super) fn has(&self) -> Vec<(u64, u64)> {
        let sections = self.sections.lock().unwrap();
        let has = sections.iter().filter(|(_, given)| given.follows.is_none() || given.populated > 0);
        has.map(|(addr, given)| (*addr, given.size)).collect()
    }

    fn change(&self, addr: u64, by: impl FnOnce(u64) -> Option<u64>) {
        let mut sections = self.sections.lock().unwrap();
        let given = sections.get_mut(&addr).expect("a section that it follows");
        given.populated = by(given.populated).expect("as much as there is");
        assert!(given.populated <= given.size);
    }
}

impl MemoryListener for BackEnd {
    fn region_add(&self, section: &Section) {
        let Some(range) = section.ram() else { return };
        let manager = range.block().discard_manager().filter(|m| m.is_followed_by_mappings());
        let follows = manager.clone().map(|manager| (manager, None));
        let given = Given { size: range.len(), follows, populated: 0 };
        assert!(self.sections.lock().unwrap().insert(section.addr, given).is_none(), "a section twice");
        if manager.is_none() {
            self.log.push(Told::Mapping { populate: true });
        }
        if let Some(manager) = manager {
            let follower = Arc::new(Follower { backend: Weak::clone(&self.this), addr: section.addr });
            let bytes = range.offset()..range.offset() + range.len();
            let id = manager.register_mapping(bytes, follower).unwrap();
            self.sections.lock().unwrap().get_mut(&section.addr).unwrap().follows = Some((manager, Some(id)));
        }
    }

    fn region_del(&self, section: &Section) {
        let follows =
            self.sections.lock().unwrap().get_mut(&section.addr).expect("a section it has").follows.take();
        match follows {
            Some((manager, Some(id))) => manager.unregister(id),
            _ => self.log.push(Told::Mapping { populate: false }),
        }
        let gone = self.sections.lock().unwrap().remove(&section.addr).unwrap();
        assert_eq!((u128::from(gone.size), gone.populated), (section.size, 0));
    }
}

impl SlotUser for BackEnd {
    fn name(&self) -> String {
        "back end".into()
    }
    fn limit(&self) -> u64 {
        self.limit
    }
    fn used(&self) -> u64 {
        ram_sections(&self.space)
    }
}

/// Pieces of RAM that an address space shows, each of which takes a slot.
fn ram_sections(space: &AddressSpace) -> u64 {
    space.view().ranges().iter().filter(|range| range.block().is_some()).count() as u64
}

struct Follower {
    backend: Weak<BackEnd>,
    addr: u64,
}

impl DiscardListener for Follower {
    fn populate(&self, range: Range<u64>) -> Result<(), String> {
        let backend = self.backend.upgrade().expect("it unregisters before it goes");
        backend.log.push(Told::Mapping { populate: true });
        backend.change(self.addr, |populated| populated.checked_add(range.end - range.start));
        Ok(())
    }

    fn discard(&self, range: Range<u64>) {
        let backend = self.backend.upgrade().expect("it unregisters before it goes");
        backend.log.push(Told::Mapping { populate: false });
        backend.change(self.addr, |populated| populated.checked_sub(range.end - range.start));
    }
}

/// A hypervisor whose slots are limited.
pub(super) struct Hypervisor {
    pub(super) limit: u64,
    pub(super) space: Arc<AddressSpace>,
}

impl SlotUser for Hypervisor {
    fn name(&self) -> String {
        "hypervisor".into()
    }
    fn limit(&self) -> u64 {
        self.limit
    }
    fn used(&self) -> u64 {
        ram_sections(&self.space)
    }
}

/// Follows an address space and nothing else: whatever comes or goes is noted, each batch has something in it.
pub(super) struct Ledger {
    /// Of the first address space only.
    pub(super) log: Option<Arc<Log>>,
    state: Mutex<LedgerState>,
}

#[derive(Default)]
struct LedgerState {
    open: bool,
    /// The first batch, the replay, may be empty.
    replayed: bool,
    shown: BTreeSet<(u64, u64)>,
    /// Added or removed, address, size.
    trace: Vec<(bool, u64, u64)>,
    batch: usize,
}

impl Ledger {
    pub(super) fn new(log: Option<Arc<Log>>) -> Arc<Self> {
        Arc::new(Self { log, state: Mutex::default() })
    }

    pub(super) fn take_trace(&self) -> Vec<(bool, u64, u64)> {
        std::mem::take(&mut self.state.lock().unwrap().trace)
    }

    /// Address and size of all there is.
    pub(super) fn shown(&self) -> Vec<(u64, u64)> {
        self.state.lock().unwrap().shown.iter().copied().collect()
    }

    fn note(&self, add: bool, section: &Section) {
        if let Some(log) = &self.log {
            log.push(Told::Slot { add });
        }
        let mut state = self.state.lock().unwrap();
        let piece = (section.addr, section.size as u64);
        let changed = if add { state.shown.insert(piece) } else { state.shown.remove(&piece) };
        assert!(state.open && changed, "{add} {piece:x?}");
        state.trace.push((add, piece.0, piece.1));
        state.batch += 1;
    }
}

impl MemoryListener for Ledger {
    /// The last to hear of what comes, the first to hear of what goes.
    fn priority(&self) -> i32 {
        100
    }
    fn begin(&self) {
        let mut state = self.state.lock().unwrap();
        assert!(!std::mem::replace(&mut state.open, true));
        state.batch = 0;
    }
    fn commit(&self) {
        let mut state = self.state.lock().unwrap();
        assert!(std::mem::replace(&mut state.open, false));
        assert!(state.batch > 0 || !state.replayed, "a batch in which nothing changes");
        state.replayed = true;
    }
    fn region_add(&self, section: &Section) {
        self.note(true, section);
    }
    fn region_del(&self, section: &Section) {
        self.note(false, section);
    }
}

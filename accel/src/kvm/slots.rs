//! Memory slots: which guest-physical pages are backed by which host pages (`KVM_SET_USER_MEMORY_REGION`).
//!
//! The table is told of sections by the memory listener and keeps one slot a section: one ioctl when a section comes or goes, none
//! for those that stay. Slot numbers are reused, lowest free first. Only whole pages can be mapped; the edges of
//! a section that are not page aligned stay unmapped (accesses there exit to us). Sections above [`MAX_SLOT_BYTES`] take
//! several slots.
//!
//! Until [`SlotTable::start`] the table only keeps books: the first change to a fresh VM makes the kernel wait for several
//! milliseconds, which the vCPU threads do and start-up does not.
//!
//! # The dirty log
//!
//! With manual protection (`KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2`) a look at the log leaves its bits set and the pages unwatched, until
//! `KVM_CLEAR_DIRTY_LOG` is called with those bits that were reported ([`Window`]): a bit that nobody was told of is never cleared, and no bit is
//! cleared twice for one report. A new log has all bits set and watches nothing. Without it a look clears.
//!
//! Left out: `guest_memfd`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;

use super::PAGE_SIZE;

/// The kernel takes fewer than 2^31 pages a slot; larger sections are cut here.
pub(crate) const MAX_SLOT_BYTES: u64 = 1 << 42;

/// The ioctls, so that tests can count them.
pub(crate) trait SlotIoctls {
    /// Creates, changes or (size 0) deletes a slot.
    fn set(&mut self, slot: &Slot) -> io::Result<()>;
    /// Reads the dirty bits of a slot, one bit a page, and clears them unless protection is manual.
    /// They are put at the beginning of `bits`, which has room for them.
    fn dirty_log(&mut self, slot: &Slot, bits: &mut [u64]) -> io::Result<()>;
    /// Clears dirty bits of `pages` pages from `first` on, those that are set in `bits`, and has the pages watched. `first` is a multiple
    /// of 64, and so is `pages` unless it reaches to the end of the slot.
    fn clear_dirty_log(&mut self, slot: &Slot, first: u64, pages: u64, bits: &[u64]) -> io::Result<()>;
}

/// One memory slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) number: u32,
    /// Guest-physical address, page aligned.
    pub(crate) gpa: u64,
    /// Bytes, whole pages.
    pub(crate) size: u64,
    /// Host virtual address.
    pub(crate) hva: u64,
    pub(crate) readonly: bool,
    pub(crate) log: bool,
}

/// A piece of RAM at a guest-physical address, as the listener reports it. Not aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) gpa: u64,
    pub(crate) size: u64,
    pub(crate) hva: u64,
    pub(crate) readonly: bool,
    pub(crate) log: bool,
}

impl Mapping {
    /// The whole pages of it, at most [`MAX_SLOT_BYTES`] each time: guest address and size.
    fn pages(&self) -> impl Iterator<Item = (u64, u64)> + use<> {
        let mask = PAGE_SIZE - 1;
        let end = self.gpa.saturating_add(self.size) & !mask;
        let same_offset = (self.gpa ^ self.hva) & mask == 0;
        let mut next = self.gpa.checked_add(mask).map(|up| up & !mask).filter(|_| same_offset);
        std::iter::from_fn(move || {
            let start = next.filter(|start| *start < end)?;
            let size = (end - start).min(MAX_SLOT_BYTES);
            next = start.checked_add(size);
            Some((start, size))
        })
    }
}

/// All slots of a VM.
#[derive(Debug)]
pub(crate) struct SlotTable {
    by_gpa: BTreeMap<u64, Slot>,
    /// Numbers below `next` that are free.
    freed: BTreeSet<u32>,
    next: u32,
    max: u32,
    /// The kernel has the slots.
    started: bool,
    /// Slot ioctls made so far.
    changes: u64,
    /// Pages of logged slots are watched again only when asked for.
    manual: bool,
    /// Pages that were reported and are not watched, by the guest address of their slot.
    unwatched: BTreeMap<u64, Vec<Window>>,
    /// Where the kernel's bits of one slot are put, until [`end_looking`](Self::end_looking): megabytes for a large one, which need not be had
    /// from the host for each look.
    bits: Vec<u64>,
}

/// A part of a slot's dirty log as it was reported last, without what was cleared since.
#[derive(Debug)]
struct Window {
    /// First page in the slot, a multiple of 64.
    first: u64,
    bits: Vec<u64>,
}

impl Window {
    /// Copies the bits of some pages of a slot.
    fn of(bitmap: &[u64], pages: Range<u64>) -> Self {
        let words = (pages.start / 64) as usize..bitmap.len().min(pages.end.div_ceil(64) as usize);
        let first = pages.start / 64 * 64;
        let mut bits = bitmap.get(words).map(<[u64]>::to_vec).unwrap_or_default();
        if let Some(word) = bits.first_mut() {
            *word &= u64::MAX << (pages.start % 64);
        }
        if let Some(word) = bits.last_mut().filter(|_| !pages.end.is_multiple_of(64)) {
            *word &= (1 << (pages.end % 64)) - 1;
        }
        Self { first, bits }
    }

    /// Clears what is set of some pages and their neighbours, up to 63 on each side.
    fn clear(&mut self, kvm: &mut impl SlotIoctls, slot: &Slot, pages: &Range<u64>) -> io::Result<()> {
        let start = pages.start.saturating_sub(self.first) / 64;
        let end = pages.end.saturating_sub(self.first).div_ceil(64).min(self.bits.len() as u64);
        let Some(words) = self.bits.get_mut(start as usize..end as usize) else { return Ok(()) };
        let Some(skip) = words.iter().position(|word| *word != 0) else { return Ok(()) };
        let last = words.iter().rposition(|word| *word != 0).unwrap_or(skip);
        let words = &mut words[skip..=last];
        let first = self.first + (start + skip as u64) * 64;
        let count = (words.len() as u64 * 64).min(slot.size / PAGE_SIZE - first);
        kvm.clear_dirty_log(slot, first, count, words)?;
        words.fill(0);
        Ok(())
    }
}

impl SlotTable {
    /// `max` is `KVM_CAP_NR_MEMSLOTS`.
    pub(crate) fn new(max: u32) -> Self {
        Self {
            by_gpa: BTreeMap::new(),
            freed: BTreeSet::new(),
            next: 0,
            max,
            started: false,
            changes: 0,
            manual: false,
            unwatched: BTreeMap::new(),
            bits: Vec::new(),
        }
    }

    /// Has pages watched again only by [`SlotTable::clear_log`]. Before anything is logged.
    pub(crate) fn manual_protection(mut self, manual: bool) -> Self {
        self.manual = manual;
        self
    }

    /// Whether pages that were reported are unwatched.
    pub(crate) fn is_manual(&self) -> bool {
        self.manual
    }

    pub(crate) fn max(&self) -> u32 {
        self.max
    }

    pub(crate) fn free(&self) -> u32 {
        self.max - u32::try_from(self.by_gpa.len()).unwrap_or(self.max)
    }

    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    fn allocate(&mut self) -> Option<u32> {
        if let Some(number) = self.freed.pop_first() {
            return Some(number);
        }
        let number = (self.next < self.max).then_some(self.next)?;
        self.next += 1;
        Some(number)
    }

    fn set(&mut self, kvm: &mut impl SlotIoctls, slot: &Slot) -> io::Result<()> {
        if !self.started {
            return Ok(());
        }
        self.changes += 1;
        kvm.set(slot)
    }

    /// Gives the kernel all slots, and from now on every change at once.
    ///
    /// # Errors
    /// The last refusal of the kernel; slots that it refused are forgotten.
    pub(crate) fn start(&mut self, kvm: &mut impl SlotIoctls) -> io::Result<()> {
        if std::mem::replace(&mut self.started, true) {
            return Ok(());
        }
        let mut result = Ok(());
        for slot in self.by_gpa.values().copied().collect::<Vec<_>>() {
            if let Err(error) = self.set(kvm, &slot) {
                self.forget(&slot);
                result = Err(error);
            }
        }
        result
    }

    /// Whether the kernel has the slots.
    pub(crate) fn is_started(&self) -> bool {
        self.started
    }

    /// Books slots for the whole pages of `mapping`, which the caller gives to the kernel or [`forgets`](Self::forget).
    ///
    /// # Errors
    /// No slot left (`ENOSPC`); nothing is booked.
    pub(crate) fn book(&mut self, mapping: &Mapping) -> io::Result<Vec<Slot>> {
        let mut booked = Vec::new();
        for (gpa, size) in mapping.pages() {
            let Some(number) = self.allocate() else {
                booked.iter().for_each(|slot| self.forget(slot));
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            };
            let hva = mapping.hva + (gpa - mapping.gpa);
            let slot = Slot { number, gpa, size, hva, readonly: mapping.readonly, log: mapping.log };
            self.by_gpa.insert(gpa, slot);
            booked.push(slot);
        }
        if self.started {
            self.changes += booked.len() as u64;
        }
        Ok(booked)
    }

    /// A slot that the kernel does not have.
    pub(crate) fn forget(&mut self, slot: &Slot) {
        self.by_gpa.remove(&slot.gpa);
        self.unwatched.remove(&slot.gpa);
        self.freed.insert(slot.number);
    }

    /// Maps the whole pages of `mapping`.
    ///
    /// # Errors
    /// No slot left (`ENOSPC`, nothing is mapped) or the kernel's refusal; what was mapped of it before stays.
    pub(crate) fn map(&mut self, kvm: &mut impl SlotIoctls, mapping: &Mapping) -> io::Result<()> {
        let booked = self.book(mapping)?;
        for (at, slot) in booked.iter().enumerate().filter(|_| self.started) {
            if let Err(error) = kvm.set(slot) {
                booked[at..].iter().for_each(|slot| self.forget(slot));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Unmaps what [`SlotTable::map`] mapped for the same mapping; parts that are not mapped are skipped.
    ///
    /// # Errors
    /// The kernel's refusal. The slot is forgotten all the same: the kernel deletes a slot it knows.
    pub(crate) fn unmap(&mut self, kvm: &mut impl SlotIoctls, mapping: &Mapping) -> io::Result<()> {
        let mut result = Ok(());
        for (gpa, _) in mapping.pages() {
            let Some(slot) = self.by_gpa.remove(&gpa) else { continue };
            self.unwatched.remove(&gpa);
            let deleted = self.set(kvm, &Slot { size: 0, ..slot });
            self.freed.insert(slot.number);
            result = result.and(deleted);
        }
        result
    }

    /// Starts or stops the dirty log of a mapping.
    ///
    /// # Errors
    /// The kernel's refusal; the slot then keeps its state.
    pub(crate) fn set_log(
        &mut self,
        kvm: &mut impl SlotIoctls,
        mapping: &Mapping,
        log: bool,
    ) -> io::Result<()> {
        for (gpa, _) in mapping.pages() {
            let Some(slot) = self.by_gpa.get(&gpa).copied().filter(|slot| slot.log != log) else { continue };
            let slot = Slot { log, ..slot };
            self.set(kvm, &slot)?;
            self.by_gpa.insert(gpa, slot);
            self.unwatched.remove(&gpa);
        }
        Ok(())
    }

    /// Gives back what looks at the log needed.
    pub(crate) fn end_looking(&mut self) {
        self.bits = Vec::new();
    }

    /// Calls `found` with the guest address and page count of each run of pages written since the last call, and of those that are not
    /// watched since. Only pages in `visible` (guest addresses, ascending) count, if that is given.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(crate) fn sync_log(
        &mut self,
        kvm: &mut impl SlotIoctls,
        mapping: &Mapping,
        visible: Option<&[Range<u64>]>,
        mut found: impl FnMut(u64, u64),
    ) -> io::Result<()> {
        for (gpa, _) in mapping.pages() {
            let Some(slot) = self.by_gpa.get(&gpa).filter(|slot| slot.log && self.started) else { continue };
            let whole = std::slice::from_ref(&(gpa..gpa + slot.size)).to_vec();
            let parts = visible.map_or(whole, |visible| {
                let cut = |run: &Range<u64>| run.start.max(gpa)..run.end.min(gpa + slot.size);
                visible.iter().map(cut).filter(|run| run.start < run.end).collect()
            });
            if parts.is_empty() {
                continue;
            }
            let words = (slot.size / PAGE_SIZE).div_ceil(64) as usize;
            if self.bits.len() < words {
                self.bits.resize(words, 0);
            }
            let bitmap = &mut self.bits[..words];
            kvm.dirty_log(slot, bitmap)?;
            let page = |at: u64| (at - gpa) / PAGE_SIZE;
            let windows: Vec<_> = parts
                .iter()
                .map(|run| Window::of(bitmap, page(run.start)..page(run.end + PAGE_SIZE - 1)))
                .collect();
            for window in &windows {
                for (first, count) in runs(&window.bits, slot.size / PAGE_SIZE - window.first) {
                    found(gpa + (window.first + first) * PAGE_SIZE, count);
                }
            }
            if self.manual {
                self.unwatched.insert(gpa, windows);
            }
        }
        Ok(())
    }

    /// Has reported pages of a range of guest addresses watched again.
    ///
    /// # Errors
    /// The kernel's refusal; the pages are reported again then.
    pub(crate) fn clear_log(&mut self, kvm: &mut impl SlotIoctls, range: &Range<u64>) -> io::Result<()> {
        let first = self.by_gpa.range(..=range.start).next_back().map_or(range.start, |(gpa, _)| *gpa);
        for (gpa, windows) in self.unwatched.range_mut(first..range.end.max(first)) {
            let Some(slot) = self.by_gpa.get(gpa).filter(|slot| slot.gpa + slot.size > range.start) else {
                continue;
            };
            let start = range.start.saturating_sub(*gpa) / PAGE_SIZE;
            let end = (range.end - gpa).min(slot.size).div_ceil(PAGE_SIZE);
            for window in windows {
                window.clear(kvm, slot, &(start..end))?;
            }
        }
        Ok(())
    }

    /// Ends and begins the log of all slots that have one: the kernel watches all of their pages. Gives their guest addresses and bytes. With no
    /// vCPU in the guest.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(crate) fn restart_logs(&mut self, kvm: &mut impl SlotIoctls) -> io::Result<Vec<(u64, u64)>> {
        let logged: Vec<Slot> =
            self.by_gpa.values().filter(|slot| slot.log && self.started).copied().collect();
        for slot in &logged {
            self.set(kvm, &Slot { log: false, ..*slot })?;
            self.set(kvm, slot)?;
        }
        Ok(logged.into_iter().map(|slot| (slot.gpa, slot.size)).collect())
    }

    /// Number and guest address of each slot.
    pub(crate) fn numbered(&self) -> impl Iterator<Item = (u32, u64)> {
        self.by_gpa.values().map(|slot| (slot.number, slot.gpa))
    }

    /// The slots by guest address.
    #[cfg(test)]
    pub(crate) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.by_gpa.values()
    }
}

/// Runs of set bits among the first `pages`: first page and count.
fn runs(bitmap: &[u64], pages: u64) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (index, word) in (0u64..).zip(bitmap) {
        let mut word = *word;
        while word != 0 {
            let from = u64::from(word.trailing_zeros());
            let count = u64::from((word >> from).trailing_ones());
            let first = index * 64 + from;
            match runs.last_mut() {
                Some((start, length)) if *start + *length == first => *length += count,
                _ => runs.push((first, count)),
            }
            word &= u64::MAX.checked_shl((from + count) as u32).unwrap_or(0);
        }
    }
    runs.retain_mut(|(first, count)| {
        *count = (*count).min(pages.saturating_sub(*first));
        *count > 0
    });
    runs
}

#[cfg(test)]
mod tests;

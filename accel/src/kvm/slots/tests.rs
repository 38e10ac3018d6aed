//! Claims about memory slots: reuse, alignment, one call a change.

use proptest::prelude::*;

use super::*;

/// Checks what the kernel checks: overlaps, numbers in use, page alignment.
#[derive(Default)]
struct Kernel {
    slots: BTreeMap<u32, Slot>,
    calls: usize,
    refuse: bool,
    /// Takes no more than so many slots.
    full: Option<usize>,
    dirty: Vec<u64>,
    /// First page, pages and bits of what was cleared.
    cleared: Vec<(u64, u64, Vec<u64>)>,
}

impl SlotIoctls for Kernel {
    fn set(&mut self, slot: &Slot) -> io::Result<()> {
        self.calls += 1;
        if self.refuse || slot.size > 0 && self.full == Some(self.slots.len()) {
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        if slot.size == 0 {
            return self
                .slots
                .remove(&slot.number)
                .map(|_| ())
                .ok_or_else(|| io::Error::other("no such slot"));
        }
        assert_eq!((slot.gpa | slot.size | slot.hva) % PAGE_SIZE, 0);
        let overlap = self.slots.values().any(|other| {
            other.number != slot.number
                && other.gpa < slot.gpa + slot.size
                && slot.gpa < other.gpa + other.size
        });
        assert!(!overlap, "{slot:?}");
        self.slots.insert(slot.number, *slot);
        Ok(())
    }

    fn dirty_log(&mut self, slot: &Slot, bits: &mut [u64]) -> io::Result<()> {
        assert_eq!(bits.len() as u64, (slot.size / PAGE_SIZE).div_ceil(64));
        // What is not said is clean; nothing of an earlier look stays.
        bits.fill(0);
        let len = bits.len().min(self.dirty.len());
        bits[..len].copy_from_slice(&self.dirty[..len]);
        Ok(())
    }

    fn clear_dirty_log(&mut self, slot: &Slot, first: u64, pages: u64, bits: &[u64]) -> io::Result<()> {
        let left = slot.size / PAGE_SIZE - first;
        assert!(first.is_multiple_of(64) && pages <= left && (pages.is_multiple_of(64) || pages == left));
        assert_eq!(bits.len() as u64, pages.div_ceil(64));
        if self.refuse {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let at = (first / 64) as usize;
        for (word, bits) in self.dirty[at..].iter_mut().zip(bits) {
            assert_eq!(*word & bits, *bits, "only what was reported, and once");
            *word &= !bits;
        }
        self.cleared.push((first, pages, bits.to_vec()));
        Ok(())
    }
}

fn started(max: u32) -> SlotTable {
    let mut table = SlotTable::new(max);
    table.start(&mut Kernel::default()).unwrap();
    table
}

fn mapping(gpa: u64, size: u64) -> Mapping {
    Mapping { gpa, size, hva: 0x7f00_0000_0000u64.wrapping_add(gpa), readonly: false, log: false }
}

#[test]
fn the_lowest_free_number_is_used_again() {
    let (mut table, mut kernel) = (started(8), Kernel::default());
    for index in 0..4 {
        table.map(&mut kernel, &mapping(index << 20, 1 << 20)).unwrap();
    }
    table.unmap(&mut kernel, &mapping(2 << 20, 1 << 20)).unwrap();
    table.unmap(&mut kernel, &mapping(1 << 20, 1 << 20)).unwrap();
    table.map(&mut kernel, &mapping(9 << 20, 1 << 20)).unwrap();
    assert_eq!(kernel.slots[&1].gpa, 9 << 20);
    assert_eq!(table.free(), 5);
    assert_eq!(kernel.calls as u64, table.changes());
}

#[test]
fn before_the_start_only_books_are_kept() {
    let (mut table, mut kernel) = (SlotTable::new(8), Kernel { dirty: vec![1], ..Kernel::default() });
    for index in 0..4 {
        table.map(&mut kernel, &mapping(index << 20, 1 << 20)).unwrap();
    }
    table.unmap(&mut kernel, &mapping(1 << 20, 1 << 20)).unwrap();
    table.set_log(&mut kernel, &mapping(0, 1 << 20), true).unwrap();
    table.sync_log(&mut kernel, &mapping(0, 1 << 20), None, |_, _| panic!("nothing ran")).unwrap();
    assert_eq!((kernel.calls, table.free()), (0, 5));
    table.start(&mut kernel).unwrap();
    table.start(&mut kernel).unwrap();
    assert_eq!((kernel.calls, table.changes()), (3, 3));
    assert!(kernel.slots[&0].log && !kernel.slots.contains_key(&1));
    let mut refused = SlotTable::new(8);
    refused.map(&mut kernel, &mapping(9 << 20, 1 << 20)).unwrap();
    kernel.refuse = true;
    assert!(refused.start(&mut kernel).is_err());
    assert_eq!(refused.free(), 8);
}

#[test]
fn only_whole_pages_are_mapped() {
    let (mut table, mut kernel) = (started(8), Kernel::default());
    table.map(&mut kernel, &mapping(0x1800, 0x3000)).unwrap();
    let slot = kernel.slots[&0];
    assert_eq!((slot.gpa, slot.size, slot.hva), (0x2000, 0x2000, 0x7f00_0000_2000));
    // Smaller than a page, and host and guest at different offsets in their pages.
    table.map(&mut kernel, &mapping(0x9800, 0x900)).unwrap();
    table.map(&mut kernel, &Mapping { hva: 0x7f00_0000_0800, ..mapping(0xa000, 0x4000) }).unwrap();
    assert_eq!(kernel.calls, 1);
    table.unmap(&mut kernel, &mapping(0x1800, 0x3000)).unwrap();
    table.unmap(&mut kernel, &mapping(0x9800, 0x900)).unwrap();
    assert_eq!((kernel.calls, table.free()), (2, 8));
}

#[test]
fn the_end_of_the_address_space_is_no_problem() {
    let (mut table, mut kernel) = (started(8), Kernel::default());
    let top = Mapping { hva: 0x7f00_0000_0000, ..mapping(u64::MAX - 0xfff, 0x1000) };
    table.map(&mut kernel, &top).unwrap();
    table.map(&mut kernel, &Mapping { hva: 0x7f00_0000_0fff, ..mapping(u64::MAX, 1) }).unwrap();
    assert!(kernel.slots.is_empty());
}

#[test]
fn huge_sections_take_several_slots() {
    let (mut table, mut kernel) = (started(8), Kernel::default());
    let huge = mapping(1 << 40, 2 * MAX_SLOT_BYTES + PAGE_SIZE);
    table.map(&mut kernel, &huge).unwrap();
    assert_eq!(
        kernel.slots.values().map(|slot| slot.size).collect::<Vec<_>>(),
        [MAX_SLOT_BYTES, MAX_SLOT_BYTES, PAGE_SIZE]
    );
    table.unmap(&mut kernel, &huge).unwrap();
    assert!(kernel.slots.is_empty());
}

#[test]
fn running_out_of_slots_and_refusal_leak_no_number() {
    let (mut table, mut kernel) = (started(1), Kernel::default());
    kernel.refuse = true;
    assert!(table.map(&mut kernel, &mapping(0, 0x1000)).is_err());
    assert_eq!(table.free(), 1);
    kernel.refuse = false;
    table.map(&mut kernel, &mapping(0, 0x1000)).unwrap();
    let error = table.map(&mut kernel, &mapping(0x1000, 0x1000)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    table.unmap(&mut kernel, &mapping(0, 0x1000)).unwrap();
    table.map(&mut kernel, &mapping(0x1000, 0x1000)).unwrap();
}

#[test]
fn a_section_of_several_slots_gets_those_that_there_are_or_none() {
    let huge = mapping(1 << 40, 2 * MAX_SLOT_BYTES + PAGE_SIZE);
    let (mut table, mut kernel) = (started(2), Kernel::default());
    assert_eq!(table.map(&mut kernel, &huge).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    assert_eq!((table.free(), table.slots().count(), kernel.calls), (2, 0, 0));
    // Refused by the kernel, what came before stays, and goes with the rest.
    let (mut table, mut kernel) = (started(3), Kernel { full: Some(1), ..Kernel::default() });
    assert!(table.map(&mut kernel, &huge).is_err());
    assert!(table.slots().eq(kernel.slots.values()) && table.free() == 2);
    table.unmap(&mut kernel, &huge).unwrap();
    assert!(kernel.slots.is_empty() && table.free() == 3);
    // All numbers are there.
    kernel.full = None;
    table.map(&mut kernel, &huge).unwrap();
    assert!(table.slots().eq(kernel.slots.values()) && table.free() == 0);
    // A slot that the kernel does not give up is forgotten like those that it does.
    kernel.slots.remove(&0);
    assert!(table.unmap(&mut kernel, &huge).is_err());
    assert!(kernel.slots.is_empty() && table.free() == 3);
}

#[test]
fn the_kernel_is_told_what_a_section_is_and_a_refused_log_is_tried_again() {
    let (mut table, mut kernel) = (started(8), Kernel::default());
    let area = Mapping { readonly: true, log: true, ..mapping(0x10_0000, 0x1000) };
    table.map(&mut kernel, &area).unwrap();
    assert!(kernel.slots[&0].readonly && kernel.slots[&0].log);
    kernel.refuse = true;
    assert!(table.set_log(&mut kernel, &area, false).is_err());
    kernel.refuse = false;
    table.set_log(&mut kernel, &area, false).unwrap();
    assert!(kernel.slots[&0].readonly && !kernel.slots[&0].log);
}

#[test]
fn the_dirty_log_is_switched_on_demand_and_reported_in_runs() {
    let (mut table, mut kernel) = (started(8), Kernel::default());
    let area = mapping(0x10_0000, 130 * PAGE_SIZE);
    table.map(&mut kernel, &area).unwrap();
    kernel.dirty = vec![0b110, 1 << 63, 0b1111];
    table.sync_log(&mut kernel, &area, None, |_, _| panic!("not logged")).unwrap();
    table.set_log(&mut kernel, &area, true).unwrap();
    table.set_log(&mut kernel, &area, true).unwrap();
    assert!(kernel.slots[&0].log && kernel.calls == 2);
    let mut found = Vec::new();
    table.sync_log(&mut kernel, &area, None, |gpa, pages| found.push((gpa, pages))).unwrap();
    assert_eq!(found, [(0x10_1000, 2), (0x10_0000 + 127 * PAGE_SIZE, 3)]);
    table.set_log(&mut kernel, &area, false).unwrap();
    assert!(!kernel.slots[&0].log);
}

#[test]
fn only_what_was_reported_is_cleared_once_and_in_whole_words() {
    let mut table = started(8).manual_protection(true);
    let mut kernel = Kernel { dirty: vec![u64::MAX, u64::MAX, 0b11], ..Kernel::default() };
    let area = Mapping { log: true, ..mapping(0x10_0000, 130 * PAGE_SIZE) };
    table.map(&mut kernel, &area).unwrap();
    let at = |page: u64| 0x10_0000 + page * PAGE_SIZE;
    table.clear_log(&mut kernel, &(0..u64::MAX)).unwrap();
    assert_eq!(kernel.cleared, [], "nobody was told of anything");
    let mut found = Vec::new();
    let visible = [at(3)..at(5), at(70)..at(130)];
    table.sync_log(&mut kernel, &area, Some(&visible), |gpa, pages| found.push((gpa, pages))).unwrap();
    assert_eq!(found, [(at(3), 2), (at(70), 60)]);
    kernel.dirty = vec![u64::MAX; 3];
    kernel.refuse = true;
    table.clear_log(&mut kernel, &(at(100)..at(101))).unwrap_err();
    kernel.refuse = false;
    for range in [at(0)..at(1), at(100)..at(101), at(0)..at(130), 0..u64::MAX] {
        table.clear_log(&mut kernel, &range).unwrap();
    }
    assert_eq!(kernel.cleared, [(0, 64, vec![0b11000]), (64, 64, vec![u64::MAX << 6]), (128, 2, vec![0b11])]);
    // A log that begins anew has reported nothing, and neither has a slot that was made anew.
    table.sync_log(&mut kernel, &area, None, |_, _| ()).unwrap();
    table.set_log(&mut kernel, &area, false).unwrap();
    table.set_log(&mut kernel, &area, true).unwrap();
    table.clear_log(&mut kernel, &(0..u64::MAX)).unwrap();
    table.sync_log(&mut kernel, &area, None, |_, _| ()).unwrap();
    table.unmap(&mut kernel, &area).unwrap();
    table.map(&mut kernel, &area).unwrap();
    table.clear_log(&mut kernel, &(0..u64::MAX)).unwrap();
    assert_eq!(kernel.cleared.len(), 3);
    // Nothing of the slot is visible: nobody looks.
    table.sync_log(&mut kernel, &area, Some(&[]), |_, _| panic!("nothing is there")).unwrap();
    table.clear_log(&mut kernel, &(0..u64::MAX)).unwrap();
    assert_eq!(kernel.cleared.len(), 3);
}

#[test]
fn a_run_may_fill_words_and_go_on_in_the_next() {
    assert_eq!(runs(&[u64::MAX, u64::MAX, 1], 129), [(0, 129)]);
    assert_eq!(runs(&[u64::MAX, 0, u64::MAX], 192), [(0, 64), (128, 64)]);
    assert_eq!(runs(&[u64::MAX << 63, u64::MAX], 100), [(63, 37)]);
}

proptest! {
    #[test]
    fn any_order_of_maps_and_unmaps_keeps_table_and_kernel_equal(
        steps in proptest::collection::vec((0u64..12, any::<bool>()), 1..200)
    ) {
        let (mut table, mut kernel) = (started(12), Kernel::default());
        let mut mapped = BTreeSet::new();
        for (index, map) in steps {
            let area = mapping(index * 0x10_0000, 0x10_0000);
            if map && mapped.insert(index) {
                table.map(&mut kernel, &area).unwrap();
            } else if !map {
                mapped.remove(&index);
                table.unmap(&mut kernel, &area).unwrap();
            }
            let ours: Vec<_> = table.slots().copied().collect();
            let mut theirs: Vec<_> = kernel.slots.values().copied().collect();
            theirs.sort_by_key(|slot| slot.gpa);
            prop_assert_eq!(&ours, &theirs);
            // Lowest free first: no number is ever above what was in use at once.
            prop_assert!(ours.iter().all(|slot| slot.number < 12));
            prop_assert_eq!(table.free() as usize, 12 - mapped.len());
        }
    }

    /// The kernel's bits, by turns written, reported and cleared: what was not reported stays, what is cleared was reported.
    #[test]
    fn reports_and_clears_in_any_order_lose_no_bit(
        steps in proptest::collection::vec((0u8..3, 0u64..200, 1u64..130), 1..60)
    ) {
        const PAGES: u64 = 200;
        let mut table = started(8).manual_protection(true);
        let mut kernel = Kernel { dirty: vec![0; 4], ..Kernel::default() };
        let area = Mapping { log: true, ..mapping(0x10_0000, PAGES * PAGE_SIZE) };
        table.map(&mut kernel, &area).unwrap();
        let mut reported = BTreeSet::new();
        for (step, first, count) in steps {
            let range = first..(first + count).min(PAGES);
            let bytes = area.gpa + range.start * PAGE_SIZE..area.gpa + range.end * PAGE_SIZE;
            match step {
                0 => range.for_each(|page| kernel.dirty[page as usize / 64] |= 1 << (page % 64)),
                1 => {
                    reported.clear();
                    let visible = std::slice::from_ref(&bytes);
                    table.sync_log(&mut kernel, &area, Some(visible), |gpa, pages| {
                        let first = (gpa - area.gpa) / PAGE_SIZE;
                        reported.extend(first..first + pages);
                    }).unwrap();
                    let dirty = |page: &u64| kernel.dirty[*page as usize / 64] >> (page % 64) & 1 == 1;
                    prop_assert!(reported.iter().copied().eq(range.filter(dirty)));
                }
                _ => {
                    let before = kernel.dirty.clone();
                    table.clear_log(&mut kernel, &bytes).unwrap();
                    for page in 0..PAGES {
                        let bit = |words: &[u64]| words[page as usize / 64] >> (page % 64) & 1 == 1;
                        if range.contains(&page) && reported.contains(&page) {
                            prop_assert!(!bit(&kernel.dirty));
                        } else if bit(&before) && !bit(&kernel.dirty) {
                            prop_assert!(reported.contains(&page), "page {} was not reported", page);
                        }
                        if !bit(&kernel.dirty) {
                            reported.remove(&page);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn runs_are_the_set_bits(bitmap in proptest::collection::vec(any::<u64>(), 0..5), pages in 0u64..320) {
        let mut bits = Vec::new();
        for (first, count) in runs(&bitmap, pages) {
            let before = bits.last().copied();
            prop_assert!(count > 0 && before.is_none_or(|before| before + 1 < first), "as few as there can be");
            bits.extend(first..first + count);
        }
        let expected: Vec<u64> = (0..pages.min(bitmap.len() as u64 * 64))
            .filter(|page| bitmap[(page / 64) as usize] >> (page % 64) & 1 == 1)
            .collect();
        prop_assert_eq!(bits, expected);
    }
}

//! Packed rings that no driver should write.

use std::sync::atomic::Ordering;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::super::*;

const RING: u64 = 0x1000;
const DRIVER: u64 = 0x2000;
const DEVICE: u64 = 0x3000;
const TABLE: u64 = 0x4000;
const BUFFER: u64 = 0x8000;
const SIZE: u16 = 4;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// Alone: available in the first round.
const AVAIL: u16 = 1 << 7;
/// Alone: available in the second round; both: used in the first.
const USED: u16 = 1 << 15;

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x2_0000)]).unwrap()
}

fn queue_at(desc: u64, event_idx: bool) -> VirtQueue {
    let mut queue = VirtQueue::new(SIZE);
    (queue.desc, queue.avail, queue.used) = (desc, DRIVER, DEVICE);
    queue.enable(RING_PACKED | if event_idx { RING_EVENT_IDX } else { 0 });
    queue
}

fn descriptor(memory: &GuestMemoryMmap, at: u64, addr: u64, len: u32, id: u16, flags: u16) {
    memory.write_obj(addr, GuestAddress(at)).unwrap();
    memory.write_obj(len, GuestAddress(at + 8)).unwrap();
    memory.write_obj(id, GuestAddress(at + 12)).unwrap();
    memory.store(flags, GuestAddress(at + 14), Ordering::Release).unwrap();
}

/// What a ring of these descriptors is answered with; the table holds `table`.
fn complaint(ring: &[(u64, u32, u16)], table: &[(u64, u32, u16)], indirect: bool) -> String {
    let memory = memory();
    for (start, list) in [(RING, ring), (TABLE, table)] {
        for (i, (addr, len, flags)) in (0..).zip(list) {
            descriptor(&memory, start + 16 * i, *addr, *len, 0, *flags);
        }
    }
    let mut queue = queue_at(RING, false);
    queue.pop(&memory, indirect).err().expect("a violation").0
}

#[test]
fn what_is_malformed_breaks_the_device_with_a_text() {
    let looped = [(BUFFER, 4, AVAIL | NEXT); SIZE as usize];
    assert_eq!(complaint(&looped, &[], true), "Looped descriptor");
    assert_eq!(complaint(&[(BUFFER, 0, AVAIL)], &[], true), "virtio: zero sized buffers are not allowed");
    let order = [(BUFFER, 4, AVAIL | WRITE | NEXT), (BUFFER, 4, 0)];
    assert_eq!(complaint(&order, &[], true), "Incorrect order for descriptors");
    let table = |len| [(TABLE, len, AVAIL | INDIRECT)];
    assert_eq!(complaint(&table(16), &[(BUFFER, 4, 0)], false), "Indirect descriptors are not negotiated");
    for len in [0, 8, 17, u32::MAX] {
        assert_eq!(complaint(&table(len), &[], true), "Invalid size for indirect buffer table");
    }
    let nested = "virtio: indirect descriptor inside of a chain";
    assert_eq!(complaint(&table(32), &[(BUFFER, 4, 0), (TABLE, 16, INDIRECT)], true), nested);
    assert_eq!(complaint(&[(BUFFER, 4, AVAIL | NEXT), (TABLE, 16, INDIRECT)], &[], true), nested);
    assert_eq!(complaint(&[(0xfff_0000, 64, AVAIL | INDIRECT)], &[], true), UNREADABLE);
    assert_eq!(complaint(&[(u64::MAX - 7, 64, AVAIL | INDIRECT)], &[], true), UNREADABLE);
}

#[test]
fn an_endless_table_is_looked_at_as_far_as_a_chain_may_be_long() {
    let memory = memory();
    for i in 0..0x1000 {
        descriptor(&memory, TABLE + 16 * i, BUFFER, 4, 0, WRITE);
    }
    descriptor(&memory, RING, TABLE, !15, 0, AVAIL | INDIRECT);
    let error = queue_at(RING, false).pop(&memory, true).err().unwrap();
    assert_eq!(error.0, "Virtqueue size exceeded");
}

#[test]
fn descriptors_of_another_round_are_not_available() {
    let memory = memory();
    let mut queue = queue_at(RING, false);
    for flags in [0, AVAIL | USED, USED] {
        descriptor(&memory, RING, BUFFER, 4, 0, flags);
        assert!(queue.pop(&memory, true).unwrap().is_none(), "{flags:#x}");
    }
    descriptor(&memory, RING, BUFFER, 4, 77, AVAIL);
    let head = queue.pop(&memory, true).unwrap().expect("this one is").head();
    assert_eq!(head, Head { id: 77, descriptors: 1 });
}

#[test]
fn rings_outside_of_memory_and_areas_out_of_line_are_refused() {
    let memory = memory();
    let mut queue = queue_at(0xfff_0000, false);
    assert_eq!(queue.pop(&memory, true).err().unwrap().0, UNREADABLE);
    assert!(!queue_at(!15, false).is_enabled(), "it would reach beyond the last address");
    assert!(!queue_at(RING + 8, false).is_enabled());
    assert!(!queue_at(0, false).is_enabled());
    for (avail, used) in [(DRIVER + 2, DEVICE), (DRIVER, DEVICE + 2)] {
        let mut queue = VirtQueue::new(SIZE);
        (queue.desc, queue.avail, queue.used) = (RING, avail, used);
        assert!(!queue.enable(RING_PACKED));
    }
    // The wishes lie nowhere: no interrupt, no notification, no panic.
    let mut queue = VirtQueue::new(SIZE);
    (queue.desc, queue.avail, queue.used) = (RING, !3, !3);
    assert!(queue.enable(RING_PACKED));
    assert!(!queue.rearm(&memory) && !queue.should_interrupt(&memory));
}

#[test]
fn any_wish_for_interrupts_is_answered() {
    let memory = memory();
    let mut queue = queue_at(RING, true);
    queue.should_interrupt(&memory);
    let wish = |word: u16, flags: u16| {
        memory.write_obj(word, GuestAddress(DRIVER)).unwrap();
        memory.write_obj(flags, GuestAddress(DRIVER + 2)).unwrap();
    };
    let head = Head { id: 0, descriptors: 1 };
    let mut used = |wanted: bool| {
        queue.push(&memory, head, 0).unwrap();
        assert_eq!(queue.should_interrupt(&memory), wanted);
    };
    wish(0, 0);
    used(true);
    wish(0, 1);
    used(false);
    // Descriptor 2 of the first round is the one that is used next.
    wish(2 | 1 << 15, 2);
    used(true);
    used(false);
    // The same index, a round later.
    wish(2, 2);
    used(false);
    used(false);
    used(true);
    // Far outside of the ring it means what it comes to, and a wish that is none is taken for the first kind.
    wish(0x7fff, 2);
    used(false);
    wish(0, 3);
    used(true);
}

#[test]
fn buffers_that_are_used_together_come_from_the_last_to_the_first() {
    let memory = memory();
    let mut queue = queue_at(RING, true);
    queue.should_interrupt(&memory);
    for i in 0..3 {
        descriptor(&memory, RING + 16 * i, BUFFER, 4, 10 + i as u16, WRITE | AVAIL);
    }
    let mut chain = queue.pop(&memory, true).unwrap().unwrap();
    let before = queue.position();
    for _ in 0..2 {
        let next = queue.pop(&memory, true).unwrap().unwrap();
        chain.join(next).unwrap();
    }
    assert_eq!((chain.buffers(), chain.entries(), chain.writable_len()), (3, 3, 12));
    let used = chain.used(9);
    assert_eq!(
        used.iter().map(|(head, part)| (head.id, *part)).collect::<Vec<_>>(),
        [(10, 4), (11, 4), (12, 1)]
    );
    queue.push_all(&memory, &used).unwrap();
    for (i, (id, part)) in [(10u16, 4u32), (11, 4), (12, 1)].into_iter().enumerate() {
        let at = RING + 16 * i as u64;
        let read = |offset: u64| memory.read_obj::<u16>(GuestAddress(at + offset)).unwrap();
        assert_eq!((read(8), read(12), read(14)), (part as u16, id, AVAIL | USED | WRITE));
    }
    assert_eq!(queue.next_used(), 3);
    assert!(queue.should_interrupt(&memory), "the driver wants to hear of everything");
    queue.put_back(before);
    assert_eq!(queue.next_avail(), 1);
}

#[test]
fn a_reset_queue_starts_in_its_first_round() {
    let memory = memory();
    let mut queue = queue_at(RING, false);
    for i in 0..u64::from(SIZE) {
        descriptor(&memory, RING + 16 * i, BUFFER, 4, 0, AVAIL);
        let head = queue.pop(&memory, true).unwrap().unwrap().head();
        queue.push(&memory, head, 0).unwrap();
    }
    assert!(queue.pop(&memory, true).unwrap().is_none(), "a full round is used");
    queue.reset();
    assert!(!queue.is_enabled() && queue.pop(&memory, true).unwrap().is_none());
    (queue.desc, queue.avail, queue.used) = (RING, DRIVER, DEVICE);
    assert!(queue.enable(RING_PACKED));
    descriptor(&memory, RING, BUFFER, 4, 9, AVAIL);
    assert_eq!(queue.pop(&memory, true).unwrap().unwrap().head().id, 9);
}

proptest! {
    /// Whatever lies in the ring: no panic, and an end.
    #[test]
    fn random_packed_rings_end_in_bounded_time(
        bytes in proptest::collection::vec(any::<u8>(), 0x80),
        flags in proptest::collection::vec(0u16..8, 16),
        table in proptest::collection::vec(any::<u16>(), 64),
        event_idx: bool,
    ) {
        let memory = memory();
        memory.write_slice(&bytes, GuestAddress(RING)).unwrap();
        memory.write_slice(&bytes, GuestAddress(DRIVER)).unwrap();
        for (i, word) in (0..).zip(&table) {
            memory.write_obj(*word, GuestAddress(TABLE + 2 * i)).unwrap();
        }
        let mut queue = queue_at(RING, event_idx);
        for flags in flags {
            // The next one is available in this round or the other, and has a table that exists if it is to have one.
            let at = RING + 16 * u64::from(queue.next_avail());
            for round in [AVAIL, USED] {
                descriptor(&memory, at, TABLE, 64, flags, flags | round);
                let Ok(Some(mut chain)) = queue.pop(&memory, true) else { continue };
                let mut data = [0; 24];
                chain.read(&mut data);
                chain.write(&data[..10]);
                let head = chain.head();
                queue.push(&memory, head, 10).unwrap();
                queue.should_interrupt(&memory);
                queue.rearm(&memory);
            }
        }
    }
}

#[test]
fn a_driver_that_adds_buffers_while_the_device_looks_is_served() {
    const ROUNDS: u32 = 5_000;
    let memory = memory();
    let mut queue = queue_at(RING, true);
    let theirs = memory.clone();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for number in 0..ROUNDS {
                let first = (number / u32::from(SIZE)).is_multiple_of(2);
                let (available, used) = if first { (AVAIL, AVAIL | USED) } else { (USED, 0) };
                let at = RING + 16 * u64::from(number % u32::from(SIZE));
                descriptor(&theirs, at, BUFFER, 4, number as u16, available);
                let flags = || theirs.load::<u16>(GuestAddress(at + 14), Ordering::Acquire).unwrap();
                while flags() & (AVAIL | USED) != used {
                    std::thread::yield_now();
                }
                assert_eq!(theirs.read_obj::<u16>(GuestAddress(at + 12)).unwrap(), number as u16);
            }
        });
        let mut served = 0;
        while served < ROUNDS {
            let Some(chain) = queue.pop(&memory, true).expect("no violation") else { continue };
            let head = chain.head();
            queue.push(&memory, head, 0).unwrap();
            served += 1;
        }
    });
}

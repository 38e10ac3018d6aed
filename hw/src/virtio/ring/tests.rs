//! Rings written by hand, well-formed and hostile.

use std::sync::atomic::Ordering;

use proptest::prelude::*;
use vm_memory::GuestMemoryMmap;

use super::*;

mod model;
mod packed;

const HEAD: Head = Head { id: 0, descriptors: 1 };

const DESC: u64 = 0x1000;
const AVAIL: u64 = 0x2000;
const USED: u64 = 0x3000;
const BUFFERS: u64 = 0x8000;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

struct Driver {
    memory: GuestMemoryMmap,
    queue: VirtQueue,
    available: u16,
}

impl Driver {
    fn new(event_idx: bool) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x20000)]).unwrap();
        let mut queue = VirtQueue::new(8);
        (queue.desc, queue.avail, queue.used) = (DESC, AVAIL, USED);
        assert!(queue.enable(if event_idx { RING_EVENT_IDX } else { 0 }));
        Self { memory, queue, available: 0 }
    }
    fn put(&self, at: u64, value: u16) {
        self.memory.write_obj(value.to_le(), GuestAddress(at)).unwrap();
    }
    fn descriptor_at(&self, table: u64, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let at = table + 16 * u64::from(index);
        self.memory.write_obj(addr.to_le(), GuestAddress(at)).unwrap();
        self.memory.write_obj(len.to_le(), GuestAddress(at + 8)).unwrap();
        self.put(at + 12, flags);
        self.put(at + 14, next);
    }
    fn descriptor(&self, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        self.descriptor_at(DESC, index, addr, len, flags, next);
    }
    fn offer(&mut self, head: u16) {
        self.put(AVAIL + 4 + 2 * u64::from(self.available % 8), head);
        self.available += 1;
        self.put(AVAIL + 2, self.available);
    }
    fn pop(&mut self) -> Result<Option<Chain<'_>>, Violation> {
        self.queue.pop(&self.memory, true)
    }
    fn complaint(&mut self) -> String {
        self.pop().err().expect("a violation").0
    }
}

#[test]
fn a_chain_gives_its_bytes_in_order_and_takes_the_answer() {
    let mut d = Driver::new(false);
    d.memory.write_slice(b"hello world", GuestAddress(BUFFERS)).unwrap();
    d.descriptor(0, BUFFERS, 6, NEXT, 1);
    d.descriptor(1, BUFFERS + 6, 5, NEXT, 2);
    d.descriptor(2, BUFFERS + 0x100, 4, WRITE | NEXT, 3);
    d.descriptor(3, BUFFERS + 0x200, 100, WRITE, 0);
    assert!(d.pop().unwrap().is_none());
    d.offer(0);
    let mut chain = d.queue.pop(&d.memory, true).unwrap().unwrap();
    assert_eq!((chain.head(), chain.readable_len(), chain.writable_len()), (HEAD, 11, 104));
    let mut text = [0; 20];
    assert_eq!(chain.read(&mut text), 11);
    assert_eq!(&text[..11], b"hello world");
    assert_eq!(chain.write(b"answer"), 6);
    let mut answer = [0; 6];
    d.memory.read_slice(&mut answer[..4], GuestAddress(BUFFERS + 0x100)).unwrap();
    d.memory.read_slice(&mut answer[4..], GuestAddress(BUFFERS + 0x200)).unwrap();
    assert_eq!(&answer, b"answer");
    d.queue.push(&d.memory, HEAD, 6).unwrap();
    assert_eq!(d.memory.read_obj::<u16>(GuestAddress(USED + 2)).unwrap(), 1);
    assert_eq!(d.memory.read_obj::<u32>(GuestAddress(USED + 8)).unwrap(), 6);
}

#[test]
fn buffers_that_are_used_together_are_there_with_one_step_of_the_index() {
    let mut d = Driver::new(true);
    for i in 0..3 {
        d.descriptor(i, BUFFERS + 0x100 * u64::from(i), 4, WRITE, 0);
        d.offer(i);
    }
    let start = d.queue.position();
    let mut chain = d.queue.pop(&d.memory, true).unwrap().unwrap();
    for _ in 0..2 {
        let next = d.queue.pop(&d.memory, true).unwrap().unwrap();
        chain.join(next).unwrap();
    }
    assert_eq!(chain.write(b"ninebytes"), 9);
    let used = chain.used(9);
    d.queue.push_all(&d.memory, &used).unwrap();
    assert_eq!(d.memory.read_obj::<u16>(GuestAddress(USED + 2)).unwrap(), 3);
    let entry = |i: u64| d.memory.read_obj::<u64>(GuestAddress(USED + 4 + 8 * i)).unwrap();
    assert_eq!([0, 1, 2].map(entry), [4 << 32, 4 << 32 | 1, 1 << 32 | 2]);
    let mut last = [0; 1];
    d.memory.read_slice(&mut last, GuestAddress(BUFFERS + 0x200)).unwrap();
    assert_eq!((&last, d.queue.next_used()), (b"s", 3));
    d.queue.put_back(start);
    assert_eq!(d.queue.next_avail(), 0);
}

#[test]
fn an_indirect_table_is_followed_only_when_negotiated() {
    let mut d = Driver::new(false);
    let table = BUFFERS + 0x1000;
    d.descriptor(0, table, 32, INDIRECT, 0);
    d.descriptor_at(table, 0, BUFFERS, 3, NEXT, 1);
    d.descriptor_at(table, 1, BUFFERS, 7, WRITE, 0);
    d.offer(0);
    let chain = d.pop().unwrap().unwrap();
    assert_eq!((chain.readable_len(), chain.writable_len()), (3, 7));
    d.offer(0);
    assert_eq!(d.queue.pop(&d.memory, false).err().unwrap().0, "Indirect descriptors are not negotiated");
}

#[test]
fn malformed_chains_are_violations() {
    let mut d = Driver::new(false);
    d.descriptor(0, BUFFERS, 4, NEXT, 0);
    d.offer(0);
    assert_eq!(d.complaint(), "Looped descriptor");
    d.descriptor(0, BUFFERS, 0, 0, 0);
    d.offer(0);
    assert_eq!(d.complaint(), "virtio: zero sized buffers are not allowed");
    d.descriptor(0, BUFFERS, 4, WRITE | NEXT, 1);
    d.descriptor(1, BUFFERS, 4, 0, 0);
    d.offer(0);
    assert_eq!(d.complaint(), "Incorrect order for descriptors");
    d.offer(8);
    assert_eq!(d.complaint(), "Guest says index 8 is available");
    d.descriptor(0, BUFFERS, 4, NEXT, 99);
    d.offer(0);
    assert_eq!(d.complaint(), "Looped descriptor");
    d.put(AVAIL + 2, d.available + 9);
    assert!(d.complaint().starts_with("Guest moved avail index"));
}

#[test]
fn rings_outside_of_memory_are_violations() {
    let mut d = Driver::new(false);
    for (desc, avail) in [(DESC, 0xfff_0000), (0xfff_0000, AVAIL)] {
        d.queue.reset();
        (d.queue.desc, d.queue.avail, d.queue.used) = (desc, avail, USED);
        assert!(d.queue.enable(0));
        d.available = 0;
        d.offer(0);
        assert!(d.pop().is_err());
    }
    d.queue.reset();
    (d.queue.desc, d.queue.avail, d.queue.used) = (DESC + 8, AVAIL, USED);
    assert!(!d.queue.enable(0), "unaligned table");
}

#[test]
fn the_flag_or_the_index_decides_about_interrupts() {
    let mut d = Driver::new(false);
    assert!(d.queue.should_interrupt(&d.memory));
    d.put(AVAIL, 1);
    assert!(!d.queue.should_interrupt(&d.memory));

    let mut d = Driver::new(true);
    d.put(AVAIL + 4 + 16, 2);
    d.queue.push(&d.memory, HEAD, 0).unwrap();
    assert!(d.queue.should_interrupt(&d.memory), "the first one is always signalled");
    d.queue.push(&d.memory, HEAD, 0).unwrap();
    assert!(!d.queue.should_interrupt(&d.memory));
    d.queue.push(&d.memory, HEAD, 0).unwrap();
    assert!(d.queue.should_interrupt(&d.memory), "index 2 was passed");
    assert_eq!(d.queue.signalled(), Some(3));
}

proptest! {
    /// Whatever lies in the rings: no panic, and no more than the ring's entries before it ends.
    #[test]
    fn random_rings_end_in_bounded_time(
        bytes in proptest::collection::vec(any::<u8>(), 0x3000),
        small in proptest::collection::vec(0u8..12, 64),
        event_idx: bool,
    ) {
        let mut d = Driver::new(event_idx);
        d.memory.write_slice(&bytes, GuestAddress(DESC)).unwrap();
        // Small numbers make chains that hang together.
        d.memory.write_slice(&small, GuestAddress(AVAIL + 2)).unwrap();
        for _ in 0..9 {
            let Ok(Some(mut chain)) = d.queue.pop(&d.memory, true) else { break };
            let mut data = [0; 24];
            chain.read(&mut data);
            chain.write(&data[..10]);
            let head = chain.head();
            if d.queue.push(&d.memory, head, 10).is_err() {
                break;
            }
            d.queue.should_interrupt(&d.memory);
            d.queue.rearm(&d.memory);
        }
    }
}

#[test]
fn a_driver_that_adds_buffers_while_the_device_looks_breaks_no_rule() {
    const ROUNDS: u16 = 5_000;
    let mut d = Driver::new(false);
    d.descriptor(0, BUFFERS, 4, 0, 0);
    let memory = d.memory.clone();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for available in 1..=ROUNDS {
                memory.store(available.to_le(), GuestAddress(AVAIL + 2), Ordering::Release).unwrap();
                // One at a time: the ring is small.
                while memory.load::<u16>(GuestAddress(USED + 2), Ordering::Acquire).unwrap() != available {
                    std::thread::yield_now();
                }
            }
        });
        while d.queue.next_used() != ROUNDS {
            let Some(head) = d.pop().expect("no violation").map(|chain| chain.head()) else { continue };
            d.queue.push(&d.memory, head, 0).unwrap();
        }
    });
}

#[test]
fn an_index_that_is_too_far_from_where_the_device_was_is_told_as_by_qemu() {
    let mut d = Driver::new(false);
    d.descriptor(0, BUFFERS, 6, 0, 0);
    for _ in 0..5 {
        d.offer(0);
        d.pop().unwrap().unwrap();
        d.queue.push(&d.memory, HEAD, 0).unwrap();
    }
    let saved = d.queue.saved_state();
    let mut queue = VirtQueue::new(8);
    queue.load_state(1, &saved, 0, false).unwrap();
    assert_eq!(queue.strange_index(1, &d.memory), None);
    for (guest, delta) in [(13, None), (14, Some("9")), (4, Some("ffff"))] {
        d.put(AVAIL + 2, guest);
        let text = |delta| {
            format!("VQ 1 size 0x8 Guest index {guest:#x} inconsistent with Host index 0x5: delta 0x{delta}")
        };
        assert_eq!(queue.strange_index(1, &d.memory), delta.map(|delta| Violation(text(delta))));
    }
}

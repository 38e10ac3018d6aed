//! A driver that keeps books, against the device's half of a ring: what is made available arrives whole and in order, what is used is
//! seen with its length, nobody waits for a notification or an interrupt that the other side's wish called for, and none comes that it did not.

use std::collections::VecDeque;

use proptest::prelude::*;
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryMmap};
use vmstate::{Decoder, Encoder, Field as _, VmState as _};

use super::super::*;

const RING: u64 = 0x1000;
const DRIVER: u64 = 0x2000;
const DEVICE: u64 = 0x3000;
const TABLES: u64 = 0x4000;
const TABLE: u64 = 0x100;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
const LIMIT: u16 = 64;

/// A buffer: how many pieces are read and written, whether they are in a table, and a number that makes its addresses its own.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Buffer {
    reads: u16,
    writes: u16,
    table: bool,
    tag: u64,
}

impl Buffer {
    /// Address, length and whether it is written, of each piece.
    fn pieces(&self) -> Vec<(u64, u32, bool)> {
        let piece = |i: u16| {
            let place = self.tag * 64 + u64::from(i);
            (0x10_0000 + place * 16, 1 + (place % 1000) as u32, i >= self.reads)
        };
        (0..self.reads + self.writes).map(piece).collect()
    }
    /// Entries of the ring it takes.
    fn entries(&self) -> u16 {
        if self.table { 1 } else { self.reads + self.writes }
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// The driver makes a buffer available, and notifies if it is to.
    Add { reads: u16, writes: u16, table: bool },
    /// The device serves so many and interrupts if it is to; the last one it puts back if `unready`.
    Serve { count: usize, unready: bool },
    /// The driver looks at what was used.
    Reap,
    /// The driver wants an interrupt for the descriptor so many after the next.
    Event(u16),
    /// The device goes on in another machine.
    Move,
}

/// The driver's half, and what it knows of the device's.
struct Driver {
    memory: GuestMemoryMmap,
    queue: VirtQueue,
    packed: bool,
    event_idx: bool,
    size: u64,
    /// Entries made available, used and reaped so far: in a packed ring descriptors, in a split ring buffers.
    added: u64,
    used: u64,
    reaped: u64,
    /// Used when the driver was last told.
    told: Option<u64>,
    /// The descriptor an interrupt is wanted for.
    event: u64,
    /// Not reaped yet, by id, and what the device said it wrote.
    waiting: VecDeque<(u16, Buffer)>,
    written: VecDeque<u32>,
    free_ids: VecDeque<u16>,
    free_entries: u64,
    /// Not popped yet.
    unserved: VecDeque<Buffer>,
    /// The device found the ring empty and waits to be notified.
    asleep: bool,
}

impl Driver {
    fn new(packed: bool, size: u16, event_idx: bool) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
        let mut queue = VirtQueue::new(LIMIT);
        queue.set_size(size, packed);
        assert_eq!(queue.size(), size);
        (queue.desc, queue.avail, queue.used) = (RING, DRIVER, DEVICE);
        let features = if packed { RING_PACKED } else { 0 } | if event_idx { RING_EVENT_IDX } else { 0 };
        assert!(queue.enable(features));
        let mut driver = Self {
            memory,
            queue,
            packed,
            event_idx,
            size: size.into(),
            added: 0,
            used: 0,
            reaped: 0,
            told: None,
            event: 0,
            waiting: VecDeque::new(),
            written: VecDeque::new(),
            free_ids: (0..size).collect(),
            free_entries: size.into(),
            unserved: VecDeque::new(),
            asleep: false,
        };
        driver.want(0);
        driver
    }

    fn put<T: ByteValued>(&self, at: u64, value: T) {
        self.memory.write_obj(value, GuestAddress(at)).unwrap();
    }
    fn get<T: ByteValued>(&self, at: u64) -> T {
        self.memory.read_obj(GuestAddress(at)).unwrap()
    }

    /// Writes a descriptor with its last two fields.
    fn descriptor(&self, at: u64, addr: u64, len: u32, fields: (u16, u16)) {
        self.put(at, addr);
        self.put(at + 8, len);
        self.put(at + 12, fields.0);
        self.put(at + 14, fields.1);
    }

    /// Whether entry number `number` of all is in a round with the wrap counter set.
    fn wraps(&self, number: u64) -> bool {
        (number / self.size).is_multiple_of(2)
    }

    fn add(&mut self, buffer: Buffer) -> bool {
        let entries = buffer.entries();
        if self.free_entries < entries.into() || self.free_ids.len() < entries.into() {
            return false;
        }
        let before = self.added;
        if self.packed {
            self.add_packed(buffer)
        } else {
            self.add_split(buffer)
        }
        self.unserved.push_back(buffer);
        let kick = self.should_notify(before);
        assert!(kick || !self.asleep, "the device sleeps and nobody wakes it");
        self.asleep &= !kick;
        true
    }

    /// Writes the table of a buffer; its address and its bytes.
    fn table(&self, id: u16, buffer: Buffer) -> (u64, u32) {
        let table = TABLES + TABLE * u64::from(id);
        let pieces = buffer.pieces();
        for (i, (addr, len, write)) in (0u16..).zip(&pieces) {
            let last = usize::from(i) + 1 == pieces.len();
            let write = if *write { WRITE } else { 0 };
            let fields = match self.packed {
                // Ids in a table mean nothing.
                true => (0x5555, write),
                false => (write | if last { 0 } else { NEXT }, i + 1),
            };
            self.descriptor(table + 16 * u64::from(i), *addr, *len, fields);
        }
        (table, 16 * pieces.len() as u32)
    }

    fn add_packed(&mut self, buffer: Buffer) {
        let id = self.free_ids.pop_front().unwrap();
        let mut list: Vec<(u64, u32, u16)> = if buffer.table {
            let (at, len) = self.table(id, buffer);
            vec![(at, len, INDIRECT)]
        } else {
            let piece = |(addr, len, write)| (addr, len, if write { WRITE | NEXT } else { NEXT });
            buffer.pieces().into_iter().map(piece).collect()
        };
        list.last_mut().unwrap().2 &= !NEXT;
        let count = list.len() as u64;
        for (number, (addr, len, flags)) in (self.added..).zip(list) {
            let round = if self.wraps(number) { AVAIL } else { USED };
            let last = number + 1 == self.added + count;
            let fields = (if last { id } else { 0xaaaa }, flags | round);
            self.descriptor(RING + 16 * (number % self.size), addr, len, fields);
        }
        self.added += count;
        self.free_entries -= count;
        self.waiting.push_back((id, buffer));
    }

    fn add_split(&mut self, buffer: Buffer) {
        let ids: Vec<u16> = self.free_ids.drain(..usize::from(buffer.entries())).collect();
        let at = |id: u16| RING + 16 * u64::from(id);
        if buffer.table {
            let (table, len) = self.table(ids[0], buffer);
            self.descriptor(at(ids[0]), table, len, (INDIRECT, 0));
        } else {
            for (i, (addr, len, write)) in buffer.pieces().into_iter().enumerate() {
                let next = ids.get(i + 1);
                let flags = if write { WRITE } else { 0 } | if next.is_some() { NEXT } else { 0 };
                self.descriptor(at(ids[i]), addr, len, (flags, next.copied().unwrap_or(0)));
            }
        }
        self.put(DRIVER + 4 + 2 * (self.added % self.size), ids[0]);
        self.added += 1;
        self.put(DRIVER + 2, self.added as u16);
        self.free_entries -= u64::from(buffer.entries());
        self.waiting.push_back((ids[0], buffer));
    }

    /// Whether one of the entries `from..to` is the one called `event`, as far as the ring can tell them apart.
    fn passes(&self, event: u64, from: u64, to: u64) -> bool {
        let names = if self.packed { 2 * self.size } else { 1 << 16 };
        (from..to).any(|number| number % names == event % names)
    }

    fn should_notify(&self, before: u64) -> bool {
        if self.packed {
            let (word, flags): (u16, u16) = (self.get(DEVICE), self.get(DEVICE + 2));
            let second = if word >> 15 == 1 { 0 } else { self.size };
            return match flags {
                0 => true,
                2 => self.passes(u64::from(word & 0x7fff) + second, before, self.added),
                other => panic!("{other}"),
            };
        }
        if self.event_idx {
            self.passes(self.get::<u16>(DEVICE + 4 + 8 * self.size).into(), before, self.added)
        } else {
            self.get::<u16>(DEVICE) & 1 == 0
        }
    }

    /// Wants an interrupt for the entry `ahead` after the next one to reap.
    fn want(&mut self, ahead: u16) {
        self.event = self.reaped + u64::from(ahead) % self.size;
        if !self.event_idx {
            return;
        }
        if self.packed {
            let wrap = u64::from(self.wraps(self.event)) << 15;
            self.put(DRIVER, ((self.event % self.size) | wrap) as u16);
            self.put(DRIVER + 2, 2u16);
        } else {
            self.put(DRIVER + 4 + 2 * self.size, self.event as u16);
        }
    }

    fn serve(&mut self, count: usize, unready: bool) {
        let mut any = false;
        for i in 0..count {
            let before = self.queue.position();
            let glance = self.queue.has_buffers(&self.memory);
            assert_eq!(glance, !self.unserved.is_empty(), "a glance tells what there is");
            let Some(chain) = self.queue.pop(&self.memory, true).expect("no violation") else {
                assert!(self.unserved.is_empty());
                self.asleep = !self.queue.rearm(&self.memory);
                assert!(self.asleep, "nobody added anything");
                break;
            };
            let buffer = *self.unserved.front().expect("nothing that was not made available");
            let pieces = |list: &[(u64, u32)], write| -> Vec<_> {
                list.iter().map(|(addr, len)| (*addr, *len, write)).collect()
            };
            let seen = [pieces(&chain.readable, false), pieces(&chain.writable, true)].concat();
            assert_eq!(seen, buffer.pieces());
            let head = chain.head();
            if unready && i + 1 == count {
                self.queue.put_back(before);
                break;
            }
            self.unserved.pop_front();
            let written = (buffer.tag % 5) as u32;
            self.queue.push(&self.memory, head, written).unwrap();
            self.written.push_back(written);
            self.used += if self.packed { u64::from(buffer.entries()) } else { 1 };
            any = true;
        }
        if any {
            let told = self.told.replace(self.used);
            let wanted = match told {
                Some(told) if self.event_idx => self.passes(self.event, told, self.used),
                _ => true,
            };
            assert_eq!(self.queue.should_interrupt(&self.memory), wanted);
        }
    }

    /// Has a queue of another device go on with what a migration takes along.
    fn carry(&mut self) {
        let mut out = Encoder::new();
        self.queue.saved_state().put_fields(&mut out);
        let bytes = out.into_bytes();
        let saved = QueueState::get(&mut Decoder::new(&bytes[..])).unwrap();
        self.queue = VirtQueue::new(LIMIT);
        self.queue.load_state(0, &saved, self.features(), self.packed).unwrap();
        assert_eq!(self.queue.saved_state(), saved);
        assert!(self.queue.strange_index(0, &self.memory).is_none());
    }

    fn features(&self) -> u64 {
        let bit = |on: bool, bit: u64| if on { bit } else { 0 };
        bit(self.packed, RING_PACKED) | bit(self.event_idx, RING_EVENT_IDX)
    }

    fn reap(&mut self) {
        while let Some((id, written)) = self.next_used() {
            let (expected, buffer) = self.waiting.pop_front().expect("nothing that was not waited for");
            assert_eq!(Some(written), self.written.pop_front());
            assert_eq!(id, expected, "used in order");
            let entries = u64::from(buffer.entries());
            self.reaped += if self.packed { entries } else { 1 };
            self.free_entries += entries;
            self.give_back(id, buffer);
        }
        assert!(self.written.is_empty(), "everything that was used is seen");
    }

    fn give_back(&mut self, mut id: u16, buffer: Buffer) {
        self.free_ids.push_back(id);
        if !self.packed && !buffer.table {
            for _ in 1..buffer.entries() {
                id = self.get(RING + 16 * u64::from(id) + 14);
                self.free_ids.push_back(id);
            }
        }
    }

    fn next_used(&self) -> Option<(u16, u32)> {
        if self.packed {
            let at = RING + 16 * (self.reaped % self.size);
            let flags: u16 = self.get(at + 14);
            let round = if self.wraps(self.reaped) { AVAIL | USED } else { 0 };
            // What was never written looks used in a second round; nothing is waited for then.
            if self.waiting.is_empty() || flags & (AVAIL | USED) != round {
                return None;
            }
            let written: u32 = self.get(at + 8);
            assert_eq!(flags & WRITE != 0, written > 0, "whether the length counts");
            return Some((self.get(at + 12), written));
        }
        let index: u16 = self.get(DEVICE + 2);
        let at = DEVICE + 4 + 8 * (self.reaped % self.size);
        (index != self.reaped as u16).then(|| (self.get::<u32>(at) as u16, self.get(at + 4)))
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u16..5, 0u16..5, any::<bool>())
            .prop_filter("an empty buffer", |(reads, writes, _)| reads + writes > 0)
            .prop_map(|(reads, writes, table)| Step::Add { reads, writes, table }),
        3 => (1usize..12, any::<bool>()).prop_map(|(count, unready)| Step::Serve { count, unready }),
        2 => Just(Step::Reap),
        2 => (0u16..64).prop_map(Step::Event),
        1 => Just(Step::Move),
    ]
}

fn run(packed: bool, size: u16, event_idx: bool, steps: Vec<Step>) {
    let all = usize::from(LIMIT) + 1;
    let mut driver = Driver::new(packed, size, event_idx);
    for (tag, step) in (1..).zip(steps) {
        match step {
            Step::Add { reads, writes, table } => {
                if !driver.add(Buffer { reads, writes, table, tag }) {
                    driver.serve(all, false);
                    driver.reap();
                }
            }
            Step::Serve { count, unready } => driver.serve(count, unready),
            Step::Reap => driver.reap(),
            Step::Event(ahead) => driver.want(ahead),
            Step::Move => driver.carry(),
        }
    }
    driver.serve(all, false);
    driver.reap();
    assert!(driver.waiting.is_empty() && driver.unserved.is_empty(), "all comes to an end");
}

proptest! {
    #[test]
    fn a_packed_ring_loses_nothing(
        size in 1u16..=LIMIT, event_idx: bool, steps in proptest::collection::vec(step(), 1..400),
    ) {
        run(true, size, event_idx, steps);
    }

    #[test]
    fn a_small_packed_ring_goes_round_and_round(
        size in 1u16..6, event_idx: bool, steps in proptest::collection::vec(step(), 1..400),
    ) {
        run(true, size, event_idx, steps);
    }

    #[test]
    fn a_split_ring_loses_nothing(
        size in 0u32..=6, event_idx: bool, steps in proptest::collection::vec(step(), 1..400),
    ) {
        run(false, 1 << size, event_idx, steps);
    }
}

#[test]
fn split_indices_go_round() {
    let mut driver = Driver::new(false, 4, true);
    let buffer = Buffer { reads: 1, writes: 1, table: false, tag: 3 };
    for turn in 0..70_000u32 {
        assert!(driver.add(buffer));
        driver.serve(2, false);
        driver.reap();
        driver.want((turn % 3) as u16);
    }
}

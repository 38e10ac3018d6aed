//! A packed ring (virtio 1.3 §2.8), the device's half.
//!
//! One table holds what is available and what was used; two bits in each descriptor say which, and their meaning turns over with
//! each round. The driver's and the device's wish to be told are a structure each, in an area of its own.

use std::sync::atomic::{Ordering, fence};

use vm_memory::{Bytes, GuestAddress, GuestMemory};
use vmstate::LoadError;

use super::{Areas, Chain, Head, RingState, UNREADABLE};
use crate::virtio::device::Violation;

/// `VIRTQ_DESC_F_NEXT` (§2.8.13).
const NEXT: u16 = 1;
/// `VIRTQ_DESC_F_WRITE`; in a used descriptor: its length counts (§2.8.4).
const WRITE: u16 = 2;
/// `VIRTQ_DESC_F_INDIRECT`.
const INDIRECT: u16 = 4;
/// `VIRTQ_DESC_F_AVAIL`.
const AVAIL: u16 = 1 << 7;
/// `VIRTQ_DESC_F_USED`.
const USED: u16 = 1 << 15;
/// Bytes of a descriptor.
const DESCRIPTOR: u64 = 16;
/// Offset of a descriptor's flags.
const FLAGS: u64 = 14;

/// `RING_EVENT_FLAGS_ENABLE` (§2.8.10): tell me of everything.
const EVENT_ALL: u32 = 0;
/// `RING_EVENT_FLAGS_DISABLE`.
const EVENT_NONE: u32 = 1;
/// `RING_EVENT_FLAGS_DESC`: tell me of one descriptor.
const EVENT_ONE: u32 = 2;

/// A place in the ring, and in which kind of round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    index: u16,
    /// `Ring Wrap Counter`; 1 at first.
    wrap: bool,
}

impl Position {
    const START: Self = Self { index: 0, wrap: true };

    /// `by` entries on, at most a round.
    fn advance(self, by: u16, size: u16) -> Self {
        let index = u32::from(self.index) + u32::from(by);
        match index.checked_sub(size.into()) {
            // Both are below the size.
            Some(rest) => Self { index: rest as u16, wrap: !self.wrap },
            None => Self { index: index as u16, wrap: self.wrap },
        }
    }

    /// As event suppression structures have it.
    fn word(self) -> u32 {
        u32::from(self.index) | u32::from(self.wrap) << 15
    }

    /// Its number in two rounds, after which all repeats.
    fn number(self, size: u16) -> u32 {
        u32::from(self.index) + if self.wrap { 0 } else { u32::from(size) }
    }
}

struct Descriptor {
    addr: u64,
    len: u32,
    id: u16,
    flags: u16,
}

impl Descriptor {
    fn read<M: GuestMemory>(memory: &M, table: u64, index: u32) -> Result<Self, Violation> {
        let mut bytes = [0; DESCRIPTOR as usize];
        let at = table.checked_add(DESCRIPTOR * u64::from(index));
        let read = at.is_some_and(|at| memory.read_slice(&mut bytes, GuestAddress(at)).is_ok());
        if !read {
            return Err(Violation(UNREADABLE.into()));
        }
        let whole = u128::from_le_bytes(bytes);
        // Address, length, id and flags, from the lowest bit on.
        Ok(Self {
            addr: whole as u64,
            len: (whole >> 64) as u32,
            id: (whole >> 96) as u16,
            flags: (whole >> 112) as u16,
        })
    }

    /// Takes it into `chain`. A table of descriptors only stands alone, and in no other table (§2.8.19).
    fn add_to(&self, chain: &mut Chain<'_>) -> Result<(), Violation> {
        if self.flags & INDIRECT != 0 {
            return Err(Violation("virtio: indirect descriptor inside of a chain".into()));
        }
        chain.add(self.addr, self.len, self.flags & WRITE != 0)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Packed {
    areas: Areas,
    size: u16,
    event_idx: bool,
    /// Where the next available descriptor will be.
    avail: Position,
    /// Where the next used one goes.
    used: Position,
    /// Index of that when the driver was last told.
    signalled: Option<u16>,
    /// Descriptors used since then.
    untold: u32,
    /// What is in the device area, once something is.
    asked: Option<u32>,
}

impl Packed {
    /// A ring of `size` entries in `areas`; `None` if one of them is unaligned or reaches beyond the last address.
    pub(super) fn new(size: u16, areas: Areas, event_idx: bool) -> Option<Self> {
        let aligned = areas.desc.is_multiple_of(DESCRIPTOR)
            && areas.avail.is_multiple_of(4)
            && areas.used.is_multiple_of(4);
        areas.desc.checked_add(DESCRIPTOR * u64::from(size)).filter(|_| aligned && size > 0)?;
        Some(Self {
            areas,
            size,
            event_idx,
            avail: Position::START,
            used: Position::START,
            signalled: None,
            untold: 0,
            asked: None,
        })
    }

    pub(super) fn next_avail(&self) -> u16 {
        self.avail.index
    }

    pub(super) fn next_used(&self) -> u16 {
        self.used.index
    }

    pub(super) fn signalled(&self) -> Option<u16> {
        self.signalled
    }

    pub(super) fn position(&self) -> Position {
        self.avail
    }

    /// What a migration takes along; the rest is the queue's.
    pub(super) fn saved_state(&self) -> RingState {
        let Self { areas: _, size: _, event_idx: _, avail, used, signalled, untold, asked } = self;
        RingState {
            last_avail_idx: avail.index,
            last_avail_wrap_counter: avail.wrap,
            used_idx: used.index,
            used_wrap_counter: used.wrap,
            signalled_used: *signalled,
            untold: *untold,
            asked: *asked,
        }
    }

    /// Goes on where another one was, as ring `number` of its device.
    pub(super) fn load_state(&mut self, number: usize, saved: &RingState) -> vmstate::Result<()> {
        let (size, avail, used) = (self.size, saved.last_avail_idx, saved.used_idx);
        if avail >= size || used >= size {
            return Err(LoadError::invalid(format!(
                "VQ {number} size {size:#x} <= last_avail_idx {avail:#x} or used_idx {used:#x}"
            )));
        }
        self.avail = Position { index: avail, wrap: saved.last_avail_wrap_counter };
        self.used = Position { index: used, wrap: saved.used_wrap_counter };
        (self.signalled, self.untold, self.asked) = (saved.signalled_used, saved.untold, saved.asked);
        Ok(())
    }

    pub(super) fn put_back(&mut self, at: Position) {
        self.avail = at;
    }

    fn descriptor(&self, index: u16) -> u64 {
        // Below the size, and `new` looked where the table ends.
        self.areas.desc + DESCRIPTOR * u64::from(index)
    }

    /// Whether the next descriptor is available: its bits differ, and are of this round (§2.8.1).
    fn is_available<M: GuestMemory>(&self, memory: &M) -> Result<bool, Violation> {
        let at = GuestAddress(self.descriptor(self.avail.index) + FLAGS);
        // The driver writes the flags last: what is read after them belongs to them.
        let flags: u16 = memory.load(at, Ordering::Acquire).map_err(|_| Violation(UNREADABLE.into()))?;
        let flags = u16::from_le(flags);
        let (avail, used) = (flags & AVAIL != 0, flags & USED != 0);
        Ok(avail != used && avail == self.avail.wrap)
    }

    pub(super) fn pop<'a, M: GuestMemory>(
        &mut self,
        memory: &'a M,
        indirect: bool,
    ) -> Result<Option<Chain<'a>>, Violation> {
        if !self.is_available(memory)? {
            return Ok(None);
        }
        let ring = self.areas.desc;
        let mut descriptor = Descriptor::read(memory, ring, self.avail.index.into())?;
        let mut chain = Chain::new(memory, Head { id: descriptor.id, descriptors: 1 });
        if descriptor.flags & INDIRECT != 0 {
            if !indirect {
                return Err(Violation("Indirect descriptors are not negotiated".into()));
            }
            add_table(memory, &descriptor, &mut chain)?;
        } else {
            let mut at = self.avail;
            descriptor.add_to(&mut chain)?;
            while descriptor.flags & NEXT != 0 {
                if chain.head.descriptors == self.size {
                    return Err(Violation("Looped descriptor".into()));
                }
                at = at.advance(1, self.size);
                descriptor = Descriptor::read(memory, ring, at.index.into())?;
                descriptor.add_to(&mut chain)?;
                chain.head.descriptors += 1;
            }
            // The id of a list is that in its last descriptor.
            chain.head.id = descriptor.id;
        }
        self.avail = self.avail.advance(chain.head.descriptors, self.size);
        Ok(Some(chain))
    }

    pub(super) fn push<M: GuestMemory>(&mut self, memory: &M, used: &[(Head, u32)]) -> Result<(), Violation> {
        let mut at = self.used;
        let places: Vec<_> = used
            .iter()
            .map(|(head, written)| {
                let place = at;
                at = at.advance(head.descriptors, self.size);
                (place, head.id, *written)
            })
            .collect();
        // The driver looks at the first one, and finds the others behind it.
        for (place, id, written) in places.into_iter().rev() {
            self.write_used(memory, place, id, written)?;
        }
        self.used = at;
        let descriptors: u32 = used.iter().map(|(head, _)| u32::from(head.descriptors)).sum();
        self.untold = self.untold.saturating_add(descriptors);
        Ok(())
    }

    fn write_used<M: GuestMemory>(
        &self,
        memory: &M,
        place: Position,
        id: u16,
        written: u32,
    ) -> Result<(), Violation> {
        let at = self.descriptor(place.index);
        let mut body = [0; 6];
        body[..4].copy_from_slice(&written.to_le_bytes());
        body[4..].copy_from_slice(&id.to_le_bytes());
        let round = if place.wrap { AVAIL | USED } else { 0 };
        let flags = round | if written > 0 { WRITE } else { 0 };
        // Flags last: they are what the driver waits for.
        memory
            .write_slice(&body, GuestAddress(at + 8))
            .and_then(|()| memory.store(flags.to_le(), GuestAddress(at + FLAGS), Ordering::Release))
            .map_err(|error| Violation(format!("virtio: used ring cannot be written: {error}")))
    }

    pub(super) fn has_buffers<M: GuestMemory>(&self, memory: &M) -> bool {
        self.is_available(memory).unwrap_or(false)
    }

    pub(super) fn rearm<M: GuestMemory>(&mut self, memory: &M) -> bool {
        let wish = if self.event_idx { self.avail.word() | EVENT_ONE << 16 } else { EVENT_ALL << 16 };
        if self.asked.replace(wish) == Some(wish) {
            // It was asked before the ring was found empty.
            return false;
        }
        // Both halves at once: a driver that reads them together must not see half of a wish.
        if memory.store(wish.to_le(), GuestAddress(self.areas.used), Ordering::Relaxed).is_err() {
            return false;
        }
        // The driver makes a descriptor available and then reads the wish; we write the wish and then look.
        fence(Ordering::SeqCst);
        self.is_available(memory).unwrap_or(false)
    }

    /// §2.8.10.
    pub(super) fn should_interrupt<M: GuestMemory>(&mut self, memory: &M) -> bool {
        let told = self.signalled.replace(self.used.index).is_some();
        let untold = std::mem::take(&mut self.untold);
        // What was used must be visible before the driver's wish is read.
        fence(Ordering::SeqCst);
        let Ok(wish) = memory.load::<u32>(GuestAddress(self.areas.avail), Ordering::Relaxed) else {
            return false;
        };
        let wish = u32::from_le(wish);
        match wish >> 16 & 3 {
            EVENT_NONE => false,
            EVENT_ONE if self.event_idx && told => {
                let event = Position { index: wish as u16 & 0x7fff, wrap: wish & 1 << 15 != 0 };
                let rounds = 2 * u32::from(self.size);
                let (now, event) = (self.used.number(self.size), event.number(self.size) % rounds);
                // How many descriptors after that one were used.
                let since = (now + rounds - 1 - event) % rounds;
                since < untold
            }
            _ => true,
        }
    }
}

/// Takes the descriptors of a table in; all of it is the buffer (§2.8.7).
fn add_table<M: GuestMemory>(memory: &M, table: &Descriptor, chain: &mut Chain<'_>) -> Result<(), Violation> {
    if table.len == 0 || !u64::from(table.len).is_multiple_of(DESCRIPTOR) {
        return Err(Violation("Invalid size for indirect buffer table".into()));
    }
    for index in 0..table.len / DESCRIPTOR as u32 {
        Descriptor::read(memory, table.addr, index)?.add_to(chain)?;
    }
    Ok(())
}

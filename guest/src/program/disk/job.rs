//! What a disk is doing: passes over a range of sectors, in which a pattern is written or verified, with up to [`SLOTS`] requests
//! in flight.
//!
//! A sector's contents follow from its number and the seed, so that data that is stale, lost or in the wrong place is told from
//! data that is right. A buffer is overwritten before it is read into: a device that answers and does nothing is found out.

use crate::blk::{Done, Driver, ID_SIZE, Request, SECTOR, Status, Tag};
use crate::bus::{Bus, pattern};
use crate::program::{MAX_DEVICES, Slot};
use crate::virtio::VirtioError;

/// Requests in flight at most.
pub(super) const SLOTS: usize = 8;
/// Bytes of a request at most.
pub(super) const CHUNK: u64 = 64 << 10;

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Write,
    Verify,
    /// Write, then verify.
    Load,
    /// Write and verify until it is stopped, each time with another seed.
    Run,
    Flush,
    Id,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Verify => "verify",
            Self::Load => "load",
            Self::Run => "run",
            Self::Flush => "flush",
            Self::Id => "id",
        }
    }

    const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Load | Self::Run)
    }
}

/// Where buffers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the program's own memory.
    Own,
    /// From this address on, whatever is there.
    At(u64),
    /// In blocks of virtio-mem devices that stay plugged as long; in the program's own memory while there are none.
    Plugged,
}

/// What went wrong first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    Status(Status),
    Differs,
}

impl core::fmt::Display for Trouble {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Status(Status::Unsupported) => f.write_str("unsupported"),
            Self::Status(Status::Nonsense(byte)) => write!(f, "status {byte:#x}"),
            Self::Status(_) => f.write_str("I/O error"),
            Self::Differs => f.write_str("contents differ"),
        }
    }
}

/// Counts since the job began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    /// Bytes.
    pub(super) written: u64,
    /// Bytes that were read, right or wrong.
    pub(super) verified: u64,
    /// Requests that failed.
    pub(super) errors: u64,
    /// Words of 8 bytes that differ.
    pub(super) wrong: u64,
    /// Requests that a reset of the device ended.
    pub(super) lost: u64,
}

impl Totals {
    pub(super) const fn are_good(&self) -> bool {
        self.errors == 0 && self.wrong == 0 && self.lost == 0
    }
}

impl core::fmt::Display for Totals {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { written, verified, errors, wrong, lost } = self;
        write!(
            f,
            "{written} bytes written, {verified} verified, {errors} errors, {wrong} words differ, {lost} lost"
        )
    }
}

/// What a [`Job::step`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::program) enum Work {
    /// The device has requests.
    Waiting,
    /// Something was done, or a request came back: call again.
    Progress,
    /// All is done.
    Finished,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    tag: Tag,
    sector: u64,
    addr: u64,
    len: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    // What was asked for.
    pub(super) kind: Kind,
    pub(super) place: Place,
    first: u64,
    sectors: u64,
    own: u64,
    pub(super) started: u64,
    // Where it is.
    seed: u64,
    writing: bool,
    /// Sectors of this pass that were handed out.
    at: u64,
    flushed: bool,
    slots: [Option<InFlight>; SLOTS],
    pub(super) stopping: bool,
    /// The device and block whose memory is used next.
    device: usize,
    block: u64,
    // What came of it.
    pub(super) totals: Totals,
    pub(super) trouble: Option<(u64, Trouble)>,
    /// Requests came back since the last restart.
    pub(super) answered: bool,
}

impl Job {
    /// A job over `sectors` sectors from `first` on (none for [`Kind::Flush`] and [`Kind::Id`]); `own` is the program's memory for
    /// buffers, [`SLOTS`] times [`CHUNK`] bytes.
    pub(super) fn new(
        kind: Kind,
        place: Place,
        (first, sectors): (u64, u64),
        seed: u64,
        own: u64,
        now: u64,
    ) -> Self {
        Self {
            kind,
            place,
            first,
            sectors,
            own,
            started: now,
            seed,
            writing: kind.writes(),
            at: 0,
            flushed: false,
            slots: [None; SLOTS],
            stopping: false,
            device: 0,
            block: 0,
            totals: Totals::default(),
            trouble: None,
            answered: false,
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    /// Whether a device has a buffer in this range, in memory that is to stay plugged as long.
    pub(super) fn holds(&self, start: u64, size: u64) -> bool {
        let within = |slot: &InFlight| slot.addr.wrapping_sub(start) < size;
        self.place == Place::Plugged && self.slots.iter().flatten().any(within)
    }

    /// The device was reset. What was written is written again: nobody knows what became of it.
    pub(super) fn restarted(&mut self) {
        self.totals.lost += self.in_flight() as u64;
        self.slots = [None; SLOTS];
        (self.at, self.writing, self.flushed, self.answered) = (0, self.kind.writes(), false, false);
        self.stopping |= matches!(self.kind, Kind::Flush | Kind::Id);
    }

    /// Does what can be done without waiting.
    pub(super) fn step(
        &mut self,
        bus: &mut impl Bus,
        driver: &mut Driver,
        memory: &[Option<Slot>; MAX_DEVICES],
    ) -> Result<Work, VirtioError> {
        let mut work = Work::Waiting;
        for _ in 0..SLOTS {
            let Some(done) = driver.poll(bus)? else { break };
            self.completed(bus, done);
            work = Work::Progress;
        }
        while !self.stopping && self.at < self.sectors && self.submit_next(bus, driver, memory) {
            work = Work::Progress;
        }
        if self.in_flight() > 0 || !self.stopping && self.at < self.sectors {
            return Ok(work);
        }
        let more = !self.stopping && (self.submit_last(bus, driver) || self.next_pass());
        Ok(if more { Work::Progress } else { Work::Finished })
    }

    /// Hands out the next part of the pass. False: nothing can be handed out now.
    fn submit_next(
        &mut self,
        bus: &mut impl Bus,
        driver: &mut Driver,
        memory: &[Option<Slot>; MAX_DEVICES],
    ) -> bool {
        let chunk = u64::from(driver.max_len(CHUNK as u32)) / SECTOR;
        let index = (self.at / chunk) as usize % SLOTS;
        if self.slots[index].is_some() {
            return false;
        }
        let (sector, sectors) = (self.first + self.at, chunk.min(self.sectors - self.at));
        let len = sectors * SECTOR;
        let at = index as u64 * chunk * SECTOR;
        let addr = match self.place {
            Place::Own => self.own + at,
            Place::At(addr) => addr.wrapping_add(at),
            // Each of those in flight has a place of its own, also if all are in one block.
            Place::Plugged => self.find_plugged(bus, memory, at + len).unwrap_or(self.own) + at,
        };
        let word = self.word(sector);
        let request = if self.writing {
            bus.sequence_write(addr, len, word);
            Request::Write { sector, addr, len: len as u32 }
        } else {
            // As different from what belongs there as can be.
            bus.sequence_write(addr, len, !word);
            Request::Read { sector, addr, len: len as u32 }
        };
        let Some(tag) = driver.submit(bus, index % driver.queues().max(1), request) else { return false };
        self.slots[index] = Some(InFlight { tag, sector, addr, len });
        self.at += sectors;
        true
    }

    /// The request that ends a pass, if there is one and it was not made yet.
    fn submit_last(&mut self, bus: &mut impl Bus, driver: &mut Driver) -> bool {
        let request = match self.kind {
            Kind::Id => Request::GetId { addr: self.own },
            Kind::Flush => Request::Flush,
            _ if self.writing && driver.can_flush() => Request::Flush,
            _ => return false,
        };
        if self.flushed {
            return false;
        }
        if request == (Request::GetId { addr: self.own }) {
            bus.ram_write(self.own, &[0; ID_SIZE as usize]);
        }
        let Some(tag) = driver.submit(bus, 0, request) else { return false };
        self.flushed = true;
        self.slots[0] = Some(InFlight { tag, sector: self.first, addr: self.own, len: 0 });
        true
    }

    fn next_pass(&mut self) -> bool {
        match (self.kind, self.writing) {
            (Kind::Load | Kind::Run, true) => self.writing = false,
            (Kind::Run, false) => (self.writing, self.seed) = (true, self.seed.wrapping_add(1)),
            _ => return false,
        }
        (self.at, self.flushed) = (0, false);
        true
    }

    fn completed(&mut self, bus: &mut impl Bus, done: Done) {
        let Some(index) = self.slots.iter().position(|slot| slot.is_some_and(|slot| slot.tag == done.tag))
        else {
            return;
        };
        let Some(slot) = self.slots[index].take() else { return };
        self.answered = true;
        let mut trouble = None;
        if done.status != Status::Ok {
            self.totals.errors += 1;
            trouble = Some(Trouble::Status(done.status));
        } else if matches!(done.request, Request::Write { .. }) {
            self.totals.written += slot.len;
        } else if matches!(done.request, Request::Read { .. }) {
            let wrong = bus.sequence_verify(slot.addr, slot.len, self.word(slot.sector));
            self.totals.verified += slot.len;
            self.totals.wrong += wrong;
            trouble = (wrong > 0).then_some(Trouble::Differs);
        }
        if let (None, Some(trouble)) = (self.trouble, trouble) {
            self.trouble = Some((slot.sector, trouble));
        }
    }

    /// The first word of a sector.
    fn word(&self, sector: u64) -> u64 {
        pattern(sector.wrapping_mul(SECTOR), self.seed)
    }

    /// `len` bytes in the next plugged block of those devices that want no memory back.
    fn find_plugged(
        &mut self,
        bus: &mut impl Bus,
        memory: &[Option<Slot>; MAX_DEVICES],
        len: u64,
    ) -> Option<u64> {
        // Once around, and the device that was begun with again from its start.
        for _ in 0..=MAX_DEVICES {
            let slot = memory[self.device].as_ref().filter(|slot| !slot.failed && !slot.driver.wants_less());
            if let Some((next, addr, _)) =
                slot.and_then(|slot| slot.driver.room(bus, self.block)).filter(|room| room.2 >= len)
            {
                self.block = next;
                return Some(addr);
            }
            (self.device, self.block) = ((self.device + 1) % MAX_DEVICES, 0);
        }
        None
    }
}

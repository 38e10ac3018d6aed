//! `dirty SIZE RATE`: keeps writing memory, to give migration something to chase.
//!
//! The area is free base RAM first, and plugged blocks when that is not enough. Base RAM gets the [`pattern`](crate::bus::pattern) of
//! the round it is written in, a plugged block its device's next one, so that `check` can tell whether every write survived (of plugged
//! blocks, as far as `touch=` has them verified).

use super::{MAX_DEVICES, Slot};
use crate::bus::Bus;
use crate::start_info::StartInfo;

const PAGE: u64 = 4096;
/// Written at a time.
const CHUNK: u64 = 256 << 10;
/// Work that may pile up while the program sleeps or does something else: a quarter of a second's, or this. More is
/// forgotten.
const MIN_BACKLOG: u64 = 1 << 20;
const MAX_AREAS: usize = 32;
/// Rounds in base RAM are told from blocks' generations by this.
const ROUND_BASE: u64 = 1 << 32;

/// The dirtying job.
#[derive(Debug)]
pub(super) struct Dirty {
    areas: [(u64, u64); MAX_AREAS],
    count: usize,
    size: u64,
    rate: u64,
    /// Where in the job's `size` bytes of base RAM the next write goes, and which round this is.
    at: u64,
    round: u64,
    /// Next device and block when base RAM is not enough.
    device: usize,
    block: u64,
    started: u64,
    /// Bytes written, and bytes of the job that are written or forgotten.
    written: u64,
    done: u64,
}

impl Dirty {
    pub(super) fn new(info: &StartInfo) -> Self {
        let mut areas = [(0, 0); MAX_AREAS];
        let mut count = 0;
        for (area, free) in areas.iter_mut().zip(info.spare_ram()) {
            *area = free;
            count += 1;
        }
        Self {
            areas,
            count,
            size: 0,
            rate: 0,
            at: 0,
            round: 0,
            device: 0,
            block: 0,
            started: 0,
            written: 0,
            done: 0,
        }
    }

    /// Starts, or stops with size or rate 0. Returns the bytes of base RAM in the job.
    pub(super) fn start(&mut self, bus: &mut impl Bus, size: u64, rate: u64) -> u64 {
        (self.at, self.round, self.device, self.block) = (0, 0, 0, 0);
        (self.written, self.done) = (0, 0);
        self.started = bus.now_ns();
        (self.size, self.rate) =
            if size == 0 || rate == 0 { (0, 0) } else { (size.next_multiple_of(PAGE), rate) };
        self.base()
    }

    pub(super) fn is_on(&self) -> bool {
        self.rate != 0
    }

    /// Bytes written since the start.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Bytes of base RAM the job may use.
    fn free(&self) -> u64 {
        self.areas[..self.count].iter().map(|(start, end)| end - start).sum()
    }

    fn base(&self) -> u64 {
        self.size.min(self.free())
    }

    /// The stretch of RAM `offset` bytes into the areas: address and length up to the end of its area.
    fn locate(&self, mut offset: u64) -> Option<(u64, u64)> {
        for (start, end) in &self.areas[..self.count] {
            if offset < end - start {
                return Some((start + offset, end - start - offset));
            }
            offset -= end - start;
        }
        None
    }

    /// Writes what is due. True if anything was written.
    pub(super) fn work(&mut self, bus: &mut impl Bus, devices: &mut [Option<Slot>; MAX_DEVICES]) -> bool {
        if !self.is_on() {
            return false;
        }
        let elapsed = bus.now_ns().saturating_sub(self.started);
        let due =
            (u128::from(self.rate) * u128::from(elapsed) / 1_000_000_000).min(u128::from(u64::MAX)) as u64;
        let mut backlog = due.saturating_sub(self.done);
        if backlog < PAGE {
            return false;
        }
        let most = MIN_BACKLOG.max(self.rate / 4);
        if backlog > most {
            self.done = due - most;
            backlog = most;
        }
        self.write_some(bus, devices, backlog & !(PAGE - 1));
        true
    }

    fn write_some(&mut self, bus: &mut impl Bus, devices: &mut [Option<Slot>; MAX_DEVICES], most: u64) {
        let base = self.base();
        if self.at < base
            && let Some((addr, room)) = self.locate(self.at)
        {
            let len = most.min(CHUNK).min(room).min(base - self.at);
            bus.pattern_write(addr, len, ROUND_BASE + self.round);
            self.at += len;
            self.wrote(len);
            return;
        }
        while self.at < self.size && self.device < MAX_DEVICES {
            let slot = devices[self.device].as_mut().filter(|slot| !slot.failed);
            let next = slot.and_then(|slot| {
                Some((slot.driver.rewrite(bus, self.block)?, slot.driver.config().block_size))
            });
            if let Some((next, len)) = next {
                self.block = next;
                self.at = self.at.saturating_add(len);
                self.wrote(len);
                return;
            }
            (self.device, self.block) = (self.device + 1, 0);
        }
        (self.at, self.device, self.block) = (0, 0, 0);
        self.round += 1;
    }

    fn wrote(&mut self, len: u64) {
        self.written = self.written.saturating_add(len);
        self.done = self.done.saturating_add(len);
    }

    /// Verifies the base RAM of the job: bytes verified and words that differ.
    pub(super) fn check(&self, bus: &mut impl Bus) -> (u64, u64) {
        let (base, mut at, mut wrong) = (self.base(), 0, 0);
        // In the first round what is beyond the writing position was never written.
        let end = if self.round == 0 { self.at.min(base) } else { base };
        while at < end && !bus.stopped() {
            let Some((addr, room)) = self.locate(at) else { break };
            let (limit, round) =
                if at < self.at { (self.at.min(base), self.round) } else { (base, self.round - 1) };
            let len = room.min(limit - at).min(CHUNK);
            wrong += bus.pattern_verify(addr, len, ROUND_BASE + round);
            at += len;
        }
        (at, wrong)
    }
}

//! The block devices: finding them, keeping their jobs going beside the memory devices, reporting.
//!
//! Nothing here waits for a device. A request that does not come back keeps its job, and nothing else, from going on: as a
//! real guest this one waits for as long as it takes, until `disk reset`.

mod command;
mod job;

use super::Program;
use super::console::say;
use crate::blk::{self, Driver};
use crate::bus::Bus;
use crate::pci::Function;
use crate::virtio::{self, VirtioError};
use job::{CHUNK, Job, SLOTS};

pub(super) use job::Work;

/// Disks that are used; more are reported and left alone.
pub(super) const MAX_DISKS: usize = 4;
/// Resets in a row, without a request that came back in between, after which a disk is given up.
const MAX_RESTARTS: u32 = 8;

/// The guest RAM of a place for a disk, kept for the next disk in it.
#[derive(Clone, Copy, Debug)]
struct Memory {
    queues: blk::Memory,
    buffers: u64,
}

/// One place for a disk.
#[derive(Debug)]
struct Disk {
    driver: Driver,
    buffers: u64,
    job: Option<Job>,
    failed: bool,
    restarts: u32,
}

/// All disks.
#[derive(Debug, Default)]
pub(super) struct Disks {
    places: [Option<Disk>; MAX_DISKS],
    memory: [Option<Memory>; MAX_DISKS],
    /// Each `load` writes something else.
    loads: u64,
}

/// Whether a function is a block device.
pub(super) fn is_disk(vendor: u16, device: u16) -> bool {
    vendor == virtio::VENDOR && matches!(device, blk::PCI_DEVICE | blk::PCI_DEVICE_TRANSITIONAL)
}

impl Disks {
    pub(super) fn knows(&self, function: Function) -> bool {
        self.places.iter().flatten().any(|disk| disk.driver.function() == function)
    }

    /// Whether a device has a buffer in this range of plugged memory.
    pub(super) fn hold(&self, start: u64, size: u64) -> bool {
        let mut jobs = self.places.iter().flatten().filter_map(|disk| disk.job.as_ref());
        jobs.any(|job| job.holds(start, size))
    }

    /// Whether a job has buffers in plugged memory.
    pub(super) fn use_plugged(&self) -> bool {
        let mut jobs = self.places.iter().flatten().filter_map(|disk| disk.job.as_ref());
        jobs.any(|job| job.place == job::Place::Plugged)
    }

    /// Whether the bus wakes for every disk that has something to do.
    pub(super) fn have_interrupts(&self) -> bool {
        let mut busy = self.places.iter().flatten().filter(|disk| disk.job.is_some());
        busy.all(|disk| disk.driver.has_interrupts())
    }
}

impl Program {
    /// Lets each disk go on with its job. `None`: no disk has one.
    pub(super) fn step_disks(&mut self, bus: &mut impl Bus) -> Option<Work> {
        let mut all = None;
        for index in 0..MAX_DISKS {
            match self.step_disk(bus, index) {
                Some(Work::Waiting) => all = all.or(Some(Work::Waiting)),
                Some(work) => all = Some(work),
                None => {}
            }
        }
        all
    }

    fn step_disk(&mut self, bus: &mut impl Bus, index: usize) -> Option<Work> {
        let disk = self.disks.places[index].as_mut()?;
        let job = disk.job.as_mut()?;
        let work = job.step(bus, &mut disk.driver, &self.devices);
        if core::mem::take(&mut job.answered) {
            disk.restarts = 0;
        }
        match work {
            Ok(Work::Finished) => self.finish(bus, index),
            Ok(_) => {}
            Err(error) => self.restart_disk(bus, index, error),
        }
        Some(work.unwrap_or(Work::Progress))
    }

    /// Initialises a disk that broke down once more; its job begins its pass again.
    fn restart_disk(&mut self, bus: &mut impl Bus, index: usize, error: VirtioError) {
        let Some(disk) = self.disks.places[index].as_mut() else { return };
        disk.restarts += 1;
        let result = if disk.restarts > MAX_RESTARTS { Err(error) } else { disk.driver.restart(bus) };
        if let Some(job) = &mut disk.job {
            job.restarted();
        }
        match result {
            Ok(()) => say!(self.console, bus, "disk {index}: {error}; starting over"),
            Err(error) => {
                disk.failed = true;
                say!(self.console, bus, "disk {index}: {error}; giving up");
                self.finish(bus, index);
            }
        }
    }

    /// Reports a job, which is over.
    fn finish(&mut self, bus: &mut impl Bus, index: usize) {
        let Some(disk) = self.disks.places[index].as_mut() else { return };
        let Some(job) = disk.job.take() else { return };
        let (name, totals) = (job.kind.name(), job.totals);
        let verdict = if totals.are_good() && !disk.failed { "ok" } else { "FAILED" };
        let out = &mut self.console;
        if let Some((sector, trouble)) = job.trouble {
            say!(
                out,
                bus,
                "disk {index}: {name}: first failure in the request at sector {sector}: {trouble}"
            );
        }
        match job.kind {
            job::Kind::Id if totals.are_good() && !disk.failed => {
                let mut bytes = [0; blk::ID_SIZE as usize];
                bus.ram_read(disk.buffers, &mut bytes);
                let len = bytes.iter().position(|byte| !matches!(byte, b' '..=b'~')).unwrap_or(bytes.len());
                let id = core::str::from_utf8(&bytes[..len]).unwrap_or("");
                say!(out, bus, "disk {index}: id: ok: \"{id}\"");
            }
            job::Kind::Id | job::Kind::Flush => {
                say!(
                    out,
                    bus,
                    "disk {index}: {name}: {verdict}: {} errors, {} lost",
                    totals.errors,
                    totals.lost
                );
            }
            _ => {
                let ns = u128::from(bus.now_ns().saturating_sub(job.started).max(1));
                let rate = u128::from(totals.written.saturating_add(totals.verified)) * 1_000_000_000 / ns;
                say!(out, bus, "disk {index}: {name}: {verdict}: {totals}, {rate} bytes a second");
            }
        }
    }

    /// Forgets the disks whose function is gone or has another device behind it.
    pub(super) fn forget_disks(&mut self, bus: &mut impl Bus) {
        for index in 0..MAX_DISKS {
            let Some(disk) = &self.disks.places[index] else { continue };
            let id = disk.driver.function().id(bus);
            let there = id.is_some_and(|(vendor, device)| is_disk(vendor, device));
            // One that lost its driver state is another device in the same slot.
            if !there || !disk.failed && !disk.driver.is_live(bus) {
                self.forget_disk(bus, index);
            }
        }
    }

    fn forget_disk(&mut self, bus: &mut impl Bus, index: usize) {
        if let Some(disk) = &mut self.disks.places[index]
            && let Some(job) = &mut disk.job
        {
            job.restarted();
            self.finish(bus, index);
        }
        self.disks.places[index] = None;
        say!(self.console, bus, "disk {index}: gone");
    }

    /// Forgets the disk in this slot, of the root bus or of any other, if there is one. False: it has requests, and is to be asked for again.
    pub(super) fn give_up_disk(&mut self, bus: &mut impl Bus, slot: u32, on_root: bool) -> bool {
        for index in 0..MAX_DISKS {
            let Some(disk) = &mut self.disks.places[index] else { continue };
            let function = disk.driver.function();
            if (function.bus == 0, u32::from(function.device)) != (on_root, slot) {
                continue;
            }
            if let Some(job) = &mut disk.job {
                job.stopping = true;
                return false;
            }
            self.forget_disk(bus, index);
        }
        true
    }

    pub(super) fn add_disk(&mut self, bus: &mut impl Bus, function: Function) {
        let Some(index) = self.disks.places.iter().position(Option::is_none) else {
            return self.refuse(bus, "blk", function, format_args!("only {MAX_DISKS} disks are used"));
        };
        match self.open_disk(bus, index, function) {
            Ok(disk) => {
                self.disks.places[index] = Some(disk);
                self.describe_disk(bus, index);
            }
            Err(error) => self.refuse(bus, "blk", function, format_args!("{error}")),
        }
    }

    fn open_disk(
        &mut self,
        bus: &mut impl Bus,
        index: usize,
        function: Function,
    ) -> Result<Disk, VirtioError> {
        let memory = match self.disks.memory[index] {
            Some(memory) => memory,
            None => {
                let queues = blk::Memory::take(&mut self.arena)?;
                let buffers = self.arena.take(SLOTS as u64 * CHUNK, 4096).ok_or(VirtioError::NoMemory)?;
                Memory { queues, buffers }
            }
        };
        self.disks.memory[index] = Some(memory);
        let driver = Driver::open(bus, function, memory.queues)?;
        Ok(Disk { driver, buffers: memory.buffers, job: None, failed: false, restarts: 0 })
    }

    fn describe_disk(&mut self, bus: &mut impl Bus, index: usize) {
        let Some(disk) = &self.disks.places[index] else { return };
        let driver = &disk.driver;
        let read_only = if driver.is_read_only() { ", read-only" } else { "" };
        let failed = if disk.failed { ", failed" } else { "" };
        say!(
            self.console,
            bus,
            "disk {index}: pci {}, {} sectors, {} queues of {}{read_only}{failed}",
            driver.function(),
            driver.config().capacity,
            driver.queues(),
            driver.queue_size()
        );
    }
}

#[cfg(test)]
mod tests;

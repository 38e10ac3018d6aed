//! The guest program: finds the virtio memory devices, follows their requested sizes, reads and writes block devices as it is told,
//! reports and takes commands on the first serial port, powers off on the power button.
//!
//! [`run`] is the whole program, on bare metal as on a host thread. [`Program::step`] is for those who drive it themselves.
//!
//! ```no_run
//! # fn host(mut bus: impl guest::Bus) {
//! use guest::start_info::{MEMMAP_RAM, MemoryRange, StartInfo};
//!
//! let ram = MemoryRange { addr: 0, size: 1 << 30, kind: MEMMAP_RAM };
//! let info = StartInfo::new(&[ram], "touch=page", 0);
//! let exit = guest::program::run(&mut bus, &info);
//! # let _ = exit;
//! # }
//! ```
//!
//! Command line: `touch=none|page|all` ([`Touch`]), `console=off` (no serial port).

mod commands;
mod console;
mod dirty;
mod disk;
mod entropy;
mod hotplug;
mod power;

use crate::arena::Arena;
use crate::bus::Bus;
use crate::mem::{self, Driver, Event, Step, Touch};
use crate::start_info::StartInfo;
use crate::virtio::queue::QueueMemory;
use crate::virtio::{self, VirtioError};
use crate::{pci, text};
use console::{Console, say};
use dirty::Dirty;
use disk::{Disks, MAX_DISKS, Work};

pub use power::Exit;

/// Devices that are followed; more are reported and left alone.
pub const MAX_DEVICES: usize = 8;
/// Functions that were found but cannot be used, remembered so that each is reported once.
const MAX_REFUSED: usize = 16;
/// Loops that wait for a device before the program sleeps.
const SPINS: u32 = 300;
/// The same for a device without interrupts, where sleeping costs up to a timer tick.
const SPINS_WITHOUT_INTERRUPT: u32 = 50_000;
/// Time between two looks for new devices.
const SCAN_NS: u64 = 2_000_000_000;

/// Runs the guest until it powers off, resets, or the bus is [stopped](Bus::stopped).
///
/// Hosted use: on a real machine the write to the power or reset port ends everything; where it does not (a host thread),
/// the reason is returned.
pub fn run(bus: &mut impl Bus, info: &StartInfo) -> Exit {
    let mut program = Program::new(bus, info);
    loop {
        match program.step(bus) {
            Turn::Again => {}
            Turn::Wait => bus.idle(),
            Turn::Exit(exit) => return exit,
        }
    }
}

/// What to do after a [`Program::step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// There is more to do at once.
    Again,
    /// Nothing to do: [`Bus::idle`].
    Wait,
    /// The program is over.
    Exit(Exit),
}

/// One place for a device.
#[derive(Clone, Copy, Debug)]
struct Slot {
    driver: Driver,
    failed: bool,
}

/// The program's state. About 16 KiB; no memory of its own beyond that and its [`Arena`].
#[derive(Debug)]
pub struct Program {
    console: Console,
    arena: Arena,
    touch: Touch,
    devices: [Option<Slot>; MAX_DEVICES],
    refused: [Option<pci::Function>; MAX_REFUSED],
    next_scan: u64,
    /// The highest number of a bus, empty ones among them.
    last_bus: u8,
    power: power::Power,
    dirty: Dirty,
    disks: Disks,
    /// The queue of an entropy device that is being measured.
    entropy: Option<QueueMemory>,
    spins: u32,
}

impl Program {
    /// Starts: serial port, devices, greeting.
    pub fn new(bus: &mut impl Bus, info: &StartInfo) -> Self {
        let wanted = text::option(info.cmdline(), "touch");
        let on = text::option(info.cmdline(), "console") != Some("off");
        let mut program = Self {
            console: Console::new(bus, on),
            arena: info.arena(),
            touch: wanted.and_then(Touch::parse).unwrap_or_default(),
            devices: [None; MAX_DEVICES],
            refused: [None; MAX_REFUSED],
            next_scan: 0,
            last_bus: 0,
            power: power::Power::new(bus),
            dirty: Dirty::new(info),
            disks: Disks::default(),
            entropy: None,
            spins: 0,
        };
        if let Some(word) = wanted
            && Touch::parse(word).is_none()
        {
            say!(program.console, bus, "touch={word} is not none, page or all; using page");
        }
        program.scan(bus);
        let count = program.devices.iter().flatten().count();
        let (ram, touch) = (info.ram_size(), program.touch.name());
        say!(program.console, bus, "ready: {count} virtio-mem devices, ram {ram}, touch={touch}");
        program
    }

    /// Does what can be done now without waiting.
    pub fn step(&mut self, bus: &mut impl Bus) -> Turn {
        if bus.stopped() {
            return Turn::Exit(Exit::Stopped);
        }
        self.console.pump(bus);
        if self.power.button_pressed(bus) {
            say!(self.console, bus, "power button pressed");
            return Turn::Exit(self.power_off(bus));
        }
        if let Some(exit) = self.take_command(bus) {
            return Turn::Exit(exit);
        }
        if bus.now_ns() >= self.next_scan {
            self.scan(bus);
        }
        let (mut again, mut waiting, mut interrupts) = (self.console.more, false, true);
        for index in 0..MAX_DEVICES {
            match self.step_device(bus, index) {
                Some(Step::Progress | Step::Event(_)) => again = true,
                Some(Step::Waiting) => {
                    waiting = true;
                    interrupts &= self.devices[index].is_some_and(|slot| slot.driver.has_interrupts());
                }
                Some(Step::Idle) | None => {}
            }
        }
        match self.step_disks(bus) {
            Some(Work::Waiting) => {
                waiting = true;
                interrupts &= self.disks.have_interrupts();
            }
            Some(_) => again = true,
            None => {}
        }
        again |= self.dirty.work(bus, &mut self.devices);
        if again {
            self.spins = 0;
            return Turn::Again;
        }
        if waiting && self.spins < if interrupts { SPINS } else { SPINS_WITHOUT_INTERRUPT } {
            return self.spin(bus);
        }
        self.spins = 0;
        Turn::Wait
    }

    /// Looks only at the devices for a while: serial line and power button cost an exit to the host each.
    fn spin(&mut self, bus: &mut impl Bus) -> Turn {
        for _ in 0..100 {
            bus.relax();
            self.spins += 1;
            let mut again = matches!(self.step_disks(bus), Some(Work::Progress | Work::Finished));
            for index in 0..MAX_DEVICES {
                again |= matches!(self.step_device(bus, index), Some(Step::Progress | Step::Event(_)));
            }
            if again {
                self.spins = 0;
                return Turn::Again;
            }
        }
        Turn::Again
    }

    /// Lets one device do a step and reports what is worth it. `None`: no device there, or one that was given up.
    fn step_device(&mut self, bus: &mut impl Bus, index: usize) -> Option<Step> {
        let slot = self.devices[index].as_mut().filter(|slot| !slot.failed)?;
        let addr = slot.driver.config().addr;
        slot.driver.hold(self.disks.hold(addr, slot.driver.config().region_size));
        match slot.driver.step(bus) {
            Ok(step) => {
                if let Step::Event(event) = step {
                    let (plugged, wanted) = (slot.driver.plugged(), slot.driver.config().requested_size);
                    self.report(bus, addr, event, plugged, wanted);
                }
                Some(step)
            }
            Err(error) => {
                say!(self.console, bus, "vm at {addr:#x}: {error}; starting over");
                if let Err(error) = slot.driver.restart(bus) {
                    slot.failed = true;
                    say!(self.console, bus, "vm at {addr:#x}: {error}; giving up");
                }
                Some(Step::Progress)
            }
        }
    }

    fn report(&mut self, bus: &mut impl Bus, addr: u64, event: Event, plugged: u64, wanted: u64) {
        let out = &mut self.console;
        match event {
            Event::Reached => say!(out, bus, "vm at {addr:#x}: plugged {plugged} of {wanted} requested"),
            Event::Full => {
                say!(
                    out,
                    bus,
                    "vm at {addr:#x}: plugged {plugged} of {wanted} requested, usable region is full"
                );
            }
            Event::Busy => {
                say!(
                    out,
                    bus,
                    "vm at {addr:#x}: plugged {plugged} of {wanted} requested, device is busy, will retry"
                );
            }
            Event::Refused => {
                say!(
                    out,
                    bus,
                    "vm at {addr:#x}: plugged {plugged} of {wanted} requested, device refuses, will retry"
                );
            }
            Event::UnpluggedAll => say!(out, bus, "vm at {addr:#x}: unplugged all that was plugged before"),
            Event::Mismatch(block, words) => {
                say!(out, bus, "vm at {addr:#x}: MISMATCH: {words} words differ from block {block:#x} on");
            }
        }
    }

    /// Finds devices that are not known yet, and forgets those whose function is gone.
    fn scan(&mut self, bus: &mut impl Bus) {
        self.next_scan = bus.now_ns().saturating_add(SCAN_NS);
        self.eject(bus);
        for index in 0..MAX_DEVICES {
            let Some(slot) = self.devices[index] else { continue };
            let there = slot.driver.function().id(bus) == Some((virtio::VENDOR, mem::PCI_DEVICE));
            // One that lost its driver state is another device in the same slot.
            if !there || !slot.failed && !slot.driver.is_live(bus) {
                self.devices[index] = None;
                say!(self.console, bus, "vm at {:#x}: gone", slot.driver.config().addr);
            }
        }
        self.forget_disks(bus);
        let (mut found, mut count) = ([None; MAX_DEVICES + MAX_DISKS + MAX_REFUSED], 0);
        let mut last_bus = 0;
        pci::scan(bus, |bus, function, vendor, device| {
            last_bus = last_bus.max(function.secondary(bus).unwrap_or(0));
            let is_memory = (vendor, device) == (virtio::VENDOR, mem::PCI_DEVICE);
            if (is_memory || disk::is_disk(vendor, device)) && count < found.len() {
                found[count] = Some((function, is_memory));
                count += 1;
            }
        });
        self.last_bus = last_bus;
        for (function, is_memory) in found.into_iter().flatten() {
            let mut memory = self.devices.iter().flatten();
            let known = memory.any(|slot| slot.driver.function() == function) || self.disks.knows(function);
            match (known || self.refused.contains(&Some(function)), is_memory) {
                (true, _) => {}
                (false, true) => self.add(bus, function),
                (false, false) => self.add_disk(bus, function),
            }
        }
        // A function that went away may come back with another device behind it.
        for refused in &mut self.refused {
            let is = |function| found.iter().flatten().any(|(found, _)| *found == function);
            if refused.is_some_and(|function| !is(function)) {
                *refused = None;
            }
        }
    }

    fn add(&mut self, bus: &mut impl Bus, function: pci::Function) {
        let free = self.devices.iter().position(Option::is_none);
        let opened = match free {
            Some(_) => Driver::open(bus, function, &mut self.arena, self.touch),
            None => Err(VirtioError::NoMemory),
        };
        match (opened, free) {
            (Ok(driver), Some(index)) => {
                let config = *driver.config();
                let out = &mut self.console;
                say!(
                    out,
                    bus,
                    "vm at {:#x}: pci {function}, region {}, block size {}",
                    config.addr,
                    config.region_size,
                    config.block_size
                );
                self.devices[index] = Some(Slot { driver, failed: false });
            }
            (Err(error), Some(_)) => self.refuse(bus, "mem", function, format_args!("{error}")),
            (_, None) => {
                self.refuse(bus, "mem", function, format_args!("only {MAX_DEVICES} devices are followed"));
            }
        }
    }

    /// Refused functions get another chance at the next [`Program::scan`].
    fn forget_refused(&mut self) {
        self.refused = [None; MAX_REFUSED];
    }

    fn refuse(
        &mut self,
        bus: &mut impl Bus,
        kind: &str,
        function: pci::Function,
        why: core::fmt::Arguments<'_>,
    ) {
        say!(self.console, bus, "virtio-{kind} at pci {function}: {why}");
        if let Some(place) = self.refused.iter_mut().find(|place| place.is_none()) {
            *place = Some(function);
        }
    }
}

#[cfg(test)]
mod tests;

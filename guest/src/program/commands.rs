//! Commands on the serial line. One line in, one or more lines out.

use super::console::{Line, say};
use super::{Exit, Program};
use crate::bus::Bus;
use crate::text::parse_number;

const HELP: [&str; 16] = [
    "mem: state of each virtio-mem device",
    "check: verify all that was written",
    "dirty SIZE RATE: keep writing SIZE bytes of memory, RATE bytes a second; dirty 0 0 stops",
    "peek ADDR: read 8 bytes of memory",
    "poke ADDR VALUE: write 8 bytes of memory",
    "disk: state of each block device and of its job; the others are for disk 0, or disk N ... for another one",
    "disk write|verify|run SECTOR COUNT SEED [at ADDR|at plugged]: write a pattern, verify it, do both until disk stop",
    "disk load MIB [at ADDR|at plugged]: write, verify, and say how fast",
    "disk id|flush|stop|reset: tell its name, flush, end the job, initialise anew",
    "garbage N: send N malformed requests to each device and initialise it anew",
    "trespass: write and read every block that is not plugged",
    "rng COUNT SIZE [poll|sleep]: round trips through the queue of an entropy device, one after the other",
    "scan: look for new devices",
    "reboot: reset the machine",
    "off: power off",
    "help: this list",
];

impl Program {
    /// Carries out a command that has come in. One: whoever answers fast enough has always typed the next, and the devices
    /// are not to wait for him to stop.
    pub(super) fn take_command(&mut self, bus: &mut impl Bus) -> Option<Exit> {
        let line = self.console.read_line(bus)?;
        self.command(bus, &line)
    }

    fn command(&mut self, bus: &mut impl Bus, line: &Line) -> Option<Exit> {
        if line.too_long {
            say!(self.console, bus, "error: line too long");
            return None;
        }
        let mut words = line.text().split_ascii_whitespace();
        let name = words.next()?;
        if name == "disk" {
            self.disk_command(bus, words);
            return None;
        }
        let arguments = [words.next(), words.next(), words.next()];
        let numbers = arguments.map(|word| word.and_then(parse_number));
        match (name, arguments, numbers) {
            ("help", [None, ..], _) => {
                for text in HELP {
                    say!(self.console, bus, "{text}");
                }
            }
            ("mem", [None, ..], _) => self.show_memory(bus),
            ("check", [None, ..], _) => self.check(bus),
            ("scan", [None, ..], _) => {
                self.forget_refused();
                self.scan(bus);
                let count = self.devices.iter().flatten().count();
                say!(self.console, bus, "scan: {count} devices");
            }
            ("off", [None, ..], _) => return Some(self.power_off(bus)),
            ("reboot", [None, ..], _) => return Some(self.reset(bus)),
            ("peek", [_, None, None], [Some(addr), ..]) => {
                let value = bus.ram_read64(addr);
                say!(self.console, bus, "peek {addr:#x}: {value:#018x}");
            }
            ("poke", [_, _, None], [Some(addr), Some(value), _]) => {
                bus.ram_write64(addr, value);
                say!(self.console, bus, "poke {addr:#x}: {value:#018x}");
            }
            ("dirty", [_, _, None], [Some(1..), Some(1..), _]) if self.disks.use_plugged() => {
                say!(self.console, bus, "error: a disk has its buffers in plugged memory");
            }
            ("dirty", [_, _, None], [Some(size), Some(rate), _]) => self.start_dirty(bus, size, rate),
            ("garbage", [_, None, None], [Some(count), ..]) => self.garbage(bus, count),
            ("trespass", [None, ..], _) => self.trespass(bus),
            ("rng", [.., wait], [Some(count), Some(size), _]) => self.entropy(bus, count, size, wait),
            (
                "help" | "mem" | "check" | "scan" | "off" | "reboot" | "peek" | "poke" | "dirty" | "garbage"
                | "rng" | "trespass",
                ..,
            ) => {
                say!(self.console, bus, "error: bad arguments for {name}");
            }
            _ => say!(self.console, bus, "error: unknown command {name}"),
        }
        None
    }

    fn show_memory(&mut self, bus: &mut impl Bus) {
        for (index, slot) in self.devices.iter_mut().enumerate() {
            let Some(slot) = slot else { continue };
            slot.driver.refresh(bus);
            let (config, plugged) = (*slot.driver.config(), slot.driver.plugged());
            let state = if slot.failed { ", failed" } else { "" };
            let out = &mut self.console;
            match slot.driver.node() {
                Some(node) => say!(out, bus, "mem {index}: addr {:#x}, node {node}{state}", config.addr),
                None => say!(out, bus, "mem {index}: addr {:#x}, no node{state}", config.addr),
            }
            say!(
                out,
                bus,
                "mem {index}: block {}, region {}, usable {}, requested {}, plugged {plugged}",
                config.block_size,
                config.region_size,
                config.usable_region_size,
                config.requested_size
            );
        }
        let count = self.devices.iter().flatten().count();
        say!(self.console, bus, "mem: {count} devices");
    }

    fn check(&mut self, bus: &mut impl Bus) {
        let (mut blocks, mut unknown, mut mismatches) = (0, 0, 0);
        for slot in self.devices.iter().flatten() {
            let result = slot.driver.check(bus);
            blocks += result.blocks;
            unknown += result.unknown;
            mismatches += result.mismatches;
            if let Some(first) = result.first {
                say!(self.console, bus, "check: first mismatch in the block at {first:#x}");
            }
        }
        let (bytes, wrong) = self.dirty.check(bus);
        if bytes > 0 {
            say!(self.console, bus, "check: {bytes} bytes of dirtied ram, {wrong} words differ");
        }
        let verdict = if mismatches + wrong == 0 { "ok" } else { "FAILED" };
        say!(
            self.console,
            bus,
            "check: {verdict}: {blocks} blocks verified, {unknown} never written, {mismatches} words differ"
        );
    }

    fn start_dirty(&mut self, bus: &mut impl Bus, size: u64, rate: u64) {
        if self.dirty.is_on() {
            let written = self.dirty.written();
            say!(self.console, bus, "dirty: stopped after {written} bytes");
        }
        let base = self.dirty.start(bus, size, rate);
        if self.dirty.is_on() {
            say!(
                self.console,
                bus,
                "dirty: writing {size} bytes ({base} of base ram) at {rate} bytes a second"
            );
        } else {
            say!(self.console, bus, "dirty: off");
        }
    }

    fn trespass(&mut self, bus: &mut impl Bus) {
        let (mut touched, mut gave) = (0, 0);
        for slot in self.devices.iter().flatten() {
            let result = slot.driver.trespass(bus);
            touched += result.touched;
            gave += result.gave;
        }
        say!(self.console, bus, "trespass: {touched} blocks touched, {gave} gave something");
    }

    fn garbage(&mut self, bus: &mut impl Bus, count: u64) {
        if self.disks.use_plugged() {
            // Garbage may well say to unplug what a disk is writing to.
            return say!(self.console, bus, "error: a disk has its buffers in plugged memory");
        }
        for index in 0..self.devices.len() {
            let Some(slot) = self.devices[index].as_mut().filter(|slot| !slot.failed) else { continue };
            let addr = slot.driver.config().addr;
            // The same requests for the same device in every run, so that a failure can be repeated.
            match slot.driver.garbage(bus, count, addr ^ count) {
                Ok(result) => say!(
                    self.console,
                    bus,
                    "garbage at {addr:#x}: {} sent, {} answered, {} resets, {} ignored",
                    result.sent,
                    result.answered,
                    result.resets,
                    result.ignored
                ),
                Err(error) => {
                    slot.failed = true;
                    say!(self.console, bus, "garbage at {addr:#x}: {error}; giving up");
                }
            }
        }
    }
}

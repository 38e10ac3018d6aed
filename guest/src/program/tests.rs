//! The program as a whole on a model machine: what it says, does and survives.

use super::*;
use crate::testing::{ADDR, BLOCK, Device, Fault, Machine};
use std::string::String;
use std::vec;
use std::vec::Vec;

fn booted(devices: Vec<Device>, cmdline: &str) -> (Machine, Program) {
    boot(Machine::new(devices), cmdline)
}

pub(super) fn boot(mut machine: Machine, cmdline: &str) -> (Machine, Program) {
    let mut program = Program::new(&mut machine, &Machine::info(cmdline));
    assert_eq!(settle(&mut machine, &mut program), None);
    (machine, program)
}

/// Steps until there is nothing to do.
pub(super) fn settle(machine: &mut Machine, program: &mut Program) -> Option<Exit> {
    for _ in 0..10_000 {
        match program.step(machine) {
            Turn::Again => {}
            Turn::Wait => return None,
            Turn::Exit(exit) => return Some(exit),
        }
    }
    panic!("does not settle: {}", machine.output)
}

pub(super) fn answer(machine: &mut Machine, program: &mut Program, line: &str) -> Vec<String> {
    machine.lines();
    machine.type_line(line);
    assert_eq!(settle(machine, program), None);
    machine.lines()
}

#[test]
fn the_program_reports_devices_and_follows_all_of_them() {
    let (mut machine, mut program) = booted(vec![Device::new(1, 64, 0), Device::new(2, 64, 5)], "");
    assert_eq!(
        machine.lines(),
        [
            "vm at 0x180000000: pci 00:01.0, region 134217728, block size 2097152",
            "vm at 0x10180000000: pci 00:02.0, region 134217728, block size 2097152",
            "ready: 2 virtio-mem devices, ram 67108864, touch=page",
            "vm at 0x180000000: plugged 0 of 0 requested",
            "vm at 0x10180000000: plugged 10485760 of 10485760 requested",
        ]
    );
    machine.devices[0].request(7);
    machine.devices[1].request(1);
    assert_eq!(settle(&mut machine, &mut program), None);
    assert_eq!(
        machine.lines(),
        [
            "vm at 0x180000000: plugged 14680064 of 14680064 requested",
            "vm at 0x10180000000: plugged 2097152 of 2097152 requested"
        ]
    );
    assert_eq!(
        answer(&mut machine, &mut program, "mem"),
        [
            "mem 0: addr 0x180000000, node 3",
            "mem 0: block 2097152, region 134217728, usable 134217728, requested 14680064, plugged 14680064",
            "mem 1: addr 0x10180000000, node 3",
            "mem 1: block 2097152, region 134217728, usable 134217728, requested 2097152, plugged 2097152",
            "mem: 2 devices",
        ]
    );
}

#[test]
fn devices_go_on_however_many_commands_are_typed() {
    let (mut machine, mut program) = booted(vec![Device::new(1, 64, 0)], "");
    machine.lines();
    machine.devices[0].request(5);
    (0..100).for_each(|_| machine.type_line("peek 0"));
    assert_eq!(settle(&mut machine, &mut program), None);
    let lines = machine.lines();
    let answers = lines.iter().filter(|line| line.starts_with("peek 0x0: ")).count();
    let plugged = lines.iter().position(|line| line.contains("plugged 10485760 of 10485760"));
    assert_eq!(answers, 100);
    assert!(plugged.is_some_and(|at| at < 50), "{plugged:?} of {}", lines.len());
}

#[test]
fn hosted_runs_end_with_their_reason() {
    let mut machine = Machine::new(vec![]);
    machine.type_line("off");
    assert_eq!(run(&mut machine, &Machine::info("")), Exit::PowerOff);
    // ACPI first, the debug exit port only because nothing stopped.
    let tail: Vec<_> = machine.port_writes.iter().filter(|w| w.0 == 0x604 || w.0 == 0xf4).copied().collect();
    assert_eq!(tail, [(0x604, 0x2000), (0xf4, 0)]);

    let mut machine = Machine::new(vec![]);
    machine.type_line("reboot");
    assert_eq!(run(&mut machine, &Machine::info("")), Exit::Reset);
    assert_eq!(machine.port_writes[machine.port_writes.len() - 2..], [(0xcf9, 2), (0xcf9, 6)]);

    let mut machine = Machine::new(vec![]);
    machine.stopped = true;
    assert_eq!(run(&mut machine, &Machine::info("")), Exit::Stopped);
}

#[test]
fn the_power_button_powers_off() {
    let (mut machine, mut program) = booted(vec![], "");
    machine.lines();
    machine.pm_status = 1 << 8;
    assert_eq!(settle(&mut machine, &mut program), Some(Exit::PowerOff));
    assert_eq!(machine.lines(), ["power button pressed", "powering off"]);
    assert_eq!(machine.pm_status, 0, "the status bit was acknowledged");
}

#[test]
fn bad_commands_get_one_error_line() {
    let (mut machine, mut program) = booted(vec![], "");
    for (line, error) in [
        ("frobnicate", "error: unknown command frobnicate"),
        ("peek", "error: bad arguments for peek"),
        ("peek zebra", "error: bad arguments for peek"),
        ("poke 1", "error: bad arguments for poke"),
        ("mem now", "error: bad arguments for mem"),
        ("dirty 1", "error: bad arguments for dirty"),
        ("garbage 99999999999999999999", "error: bad arguments for garbage"),
    ] {
        assert_eq!(answer(&mut machine, &mut program, line), [error]);
    }
    let long = "x".repeat(1000);
    assert_eq!(answer(&mut machine, &mut program, &long), ["error: line too long"]);
    assert_eq!(answer(&mut machine, &mut program, "").len(), 0);
    machine.input.extend([0xff, 0, 0x80, 0x1b]);
    assert_eq!(
        answer(&mut machine, &mut program, "helx\x08p").len(),
        16,
        "bytes that are no text are skipped"
    );
}

#[test]
fn peek_and_poke_reach_memory() {
    let (mut machine, mut program) = booted(vec![], "");
    let said = answer(&mut machine, &mut program, "poke 0x2000 0x11223344");
    assert_eq!(said, ["poke 0x2000: 0x0000000011223344"]);
    assert_eq!(machine.memory.word(0x2000, 8), 0x1122_3344);
    assert_eq!(answer(&mut machine, &mut program, "peek 8K"), ["peek 0x2000: 0x0000000011223344"]);
}

#[test]
fn check_tells_good_memory_from_bad() {
    let (mut machine, mut program) = booted(vec![Device::new(1, 8, 4)], "touch=all");
    let good = answer(&mut machine, &mut program, "check");
    assert_eq!(good, ["check: ok: 4 blocks verified, 0 never written, 0 words differ"]);
    machine.memory.write(ADDR + 2 * BLOCK - 8, &[1; 8]);
    let bad = answer(&mut machine, &mut program, "check");
    assert_eq!(bad[1], "check: FAILED: 4 blocks verified, 0 never written, 1 words differ");
    assert_eq!(bad[0], "check: first mismatch in the block at 0x180200000");
}

#[test]
fn dirtying_writes_at_its_rate_and_stays_verifiable() {
    let (mut machine, mut program) = booted(vec![Device::new(1, 8, 2)], "");
    let word = |machine: &mut Machine| {
        let mut bytes = [0; 8];
        machine.memory.read(ADDR, &mut bytes);
        bytes
    };
    let plugged = word(&mut machine);
    let said = answer(&mut machine, &mut program, "dirty 34M 64M");
    assert_eq!(said, ["dirty: writing 35651584 bytes (32505856 of base ram) at 67108864 bytes a second"]);
    // The model's RAM is 64 MiB: 1 MiB low, 32 MiB of the driver's, 31 MiB to spare.
    for _ in 0..24 {
        machine.idle();
        settle(&mut machine, &mut program);
    }
    assert_ne!(word(&mut machine), plugged, "an old page that comes back would not be noticed");
    let said = answer(&mut machine, &mut program, "check");
    assert_eq!(
        said.last().map(String::as_str),
        Some("check: ok: 2 blocks verified, 0 never written, 0 words differ")
    );
    let said = answer(&mut machine, &mut program, "dirty 0 0");
    let written: u64 = said[0].split(' ').nth(3).and_then(|n| n.parse().ok()).expect("a number");
    assert!((70 << 20..100 << 20).contains(&written), "{said:?}");
    assert_eq!(said[1], "dirty: off");
}

#[test]
fn a_function_without_addresses_is_reported_once_until_scan() {
    let mut device = Device::new(1, 8, 4);
    device.pci.config[0x20..0x28].fill(0);
    device.pci.config[0x20] = 0x0c;
    let (mut machine, mut program) = booted(vec![device], "");
    assert_eq!(machine.lines()[0], "virtio-mem at pci 00:01.0: BAR 4 is not assigned");
    machine.now += 10_000_000_000;
    settle(&mut machine, &mut program);
    assert_eq!(machine.lines().len(), 0);
    let bar = machine.devices[0].pci.bar | 0xc;
    machine.devices[0].pci.config[0x20..0x28].copy_from_slice(&bar.to_le_bytes());
    assert!(answer(&mut machine, &mut program, "scan").contains(&"scan: 1 devices".into()));
    assert_eq!(machine.devices[0].plugged.len(), 4);
}

#[test]
fn plugged_and_unplugged_functions_are_noticed() {
    let mut late = Device::new(2, 8, 3);
    late.pci.present = false;
    let (mut machine, mut program) = booted(vec![Device::new(1, 8, 0), late], "");
    machine.lines();
    machine.devices[1].pci.present = true;
    machine.devices[0].pci.present = false;
    machine.now += 10_000_000_000;
    settle(&mut machine, &mut program);
    assert_eq!(
        machine.lines(),
        [
            "vm at 0x180000000: gone",
            "vm at 0x10180000000: pci 00:02.0, region 16777216, block size 2097152",
            "vm at 0x10180000000: plugged 6291456 of 6291456 requested"
        ]
    );
}

#[test]
fn a_broken_device_is_started_over() {
    let mut device = Device::new(1, 8, 4);
    device.faults.push_back(Fault::Breaks);
    let (mut machine, _) = booted(vec![device], "");
    assert_eq!(
        machine.lines()[2..],
        [
            "vm at 0x180000000: device needs reset; starting over",
            "vm at 0x180000000: plugged 8388608 of 8388608 requested"
        ]
    );
}

#[test]
fn trespassing_leaves_what_is_plugged_alone() {
    // The model ends a guest that touches what is not plugged, so all of it is.
    let (mut machine, mut program) = booted(vec![Device::new(1, 8, 8)], "");
    let said = answer(&mut machine, &mut program, "trespass");
    assert_eq!(said, ["trespass: 0 blocks touched, 0 gave something"]);
    let good = answer(&mut machine, &mut program, "check");
    assert_eq!(good, ["check: ok: 8 blocks verified, 0 never written, 0 words differ"]);
    assert_eq!(answer(&mut machine, &mut program, "trespass 1"), ["error: bad arguments for trespass"]);
}

#[test]
fn garbage_leaves_the_device_followed() {
    let (mut machine, mut program) = booted(vec![Device::new(1, 8, 4)], "");
    let said = answer(&mut machine, &mut program, "garbage 50");
    assert!(said[0].starts_with("garbage at 0x180000000: 50 sent, "), "{said:?}");
    assert_eq!(machine.devices[0].plugged.len(), 4);
    let good = answer(&mut machine, &mut program, "check");
    assert_eq!(good, ["check: ok: 4 blocks verified, 0 never written, 0 words differ"]);
}

#[test]
fn the_command_line_chooses_what_is_touched_and_says_when_it_cannot() {
    let (mut machine, _) = booted(vec![], "touch=none");
    assert_eq!(machine.lines(), ["ready: 0 virtio-mem devices, ram 67108864, touch=none"]);
    let (mut machine, _) = booted(vec![], "quiet touch=some");
    assert_eq!(machine.lines()[0], "touch=some is not none, page or all; using page");
    let (mut machine, _) = booted(vec![], "console=off");
    assert_eq!(machine.lines().len(), 0);
}

#[test]
fn slots_the_board_wants_back_are_ejected_once_they_are_empty() {
    let (mut machine, mut program) = booted(vec![Device::new(1, 8, 2), Device::new(3, 8, 0)], "");
    machine.lines();
    machine.hotplug_down = Some(1 << 1 | 1 << 3 | 1 << 5);
    machine.now += 10_000_000_000;
    settle(&mut machine, &mut program);
    assert_eq!(machine.ejected, 1 << 3 | 1 << 5);
    assert_eq!(machine.lines(), ["pci slot 3: ejected", "pci slot 5: ejected"]);
    machine.devices[0].request(0);
    settle(&mut machine, &mut program);
    machine.now += 10_000_000_000;
    settle(&mut machine, &mut program);
    assert_eq!(machine.ejected, 1 << 1 | 1 << 3 | 1 << 5);
}

#[test]
fn buses_behind_which_there_is_nothing_have_numbers_too() {
    let (mut machine, mut program) = booted(vec![Device::new(1, 8, 0)], "");
    let mut bridge = [0; 256];
    (bridge[0], bridge[0x0e], bridge[0x19]) = (0x86, 1, 2);
    machine.bridges.insert((0, 4, 0), bridge);
    // The board counts from the newest bridge on, so that what is wanted may be any of them.
    (machine.hotplug_bus, machine.hotplug_down) = (2, Some(1));
    machine.now += 10_000_000_000;
    settle(&mut machine, &mut program);
    machine.now += 10_000_000_000;
    settle(&mut machine, &mut program);
    assert_eq!(machine.ejected, 1);
}

#[test]
fn a_device_replaced_in_its_slot_is_taken_up_anew() {
    let (mut machine, mut program) = booted(vec![Device::new(1, 8, 2)], "");
    machine.lines();
    machine.devices[0] = Device::new(1, 16, 3);
    machine.now += 10_000_000_000;
    settle(&mut machine, &mut program);
    assert_eq!(
        machine.lines(),
        [
            "vm at 0x180000000: gone",
            "vm at 0x180000000: pci 00:01.0, region 33554432, block size 2097152",
            "vm at 0x180000000: plugged 6291456 of 6291456 requested"
        ]
    );
}

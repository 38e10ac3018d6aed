//! Disks in the program: what their jobs do and say, beside memory devices that come and go.

use crate::bus::Bus;
use crate::program::tests::{answer, boot, settle};
use crate::program::{Program, Turn};
use crate::testing::{ADDR, BLOCK, Device, Disk, DiskFault, Machine};
use std::string::String;
use std::vec;
use std::vec::Vec;

const SECTORS: u64 = 4096;

fn machine(devices: Vec<Device>, disks: Vec<Disk>) -> Machine {
    let mut machine = Machine::new(devices);
    machine.disks = disks;
    machine
}

fn with_disk(disk: Disk) -> (Machine, Program) {
    let (mut machine, program) = boot(machine(vec![], vec![disk]), "");
    machine.lines();
    (machine, program)
}

/// The line without its rate, which depends on the model's clock.
fn without_rate(line: &str) -> &str {
    line.rsplit_once(", ")
        .filter(|(_, rate)| rate.ends_with(" bytes a second"))
        .map_or(line, |(rest, _)| rest)
}

fn told(machine: &mut Machine, program: &mut Program, line: &str) -> Vec<String> {
    answer(machine, program, line).iter().map(|line| without_rate(line).into()).collect()
}

/// Goes on while `goes_on` says so.
fn steps(machine: &mut Machine, program: &mut Program, mut goes_on: impl FnMut(&mut Machine) -> bool) {
    for _ in 0..100_000 {
        if !goes_on(machine) {
            return;
        }
        if let Turn::Exit(exit) = program.step(machine) {
            panic!("{exit:?}: {}", machine.output);
        }
    }
    panic!("goes on for ever: {}", machine.output);
}

#[test]
fn disks_are_announced_and_listed() {
    let mut read_only = Disk::new(5, 7).with_queues(2);
    read_only.pci.features |= 1 << 5;
    let (mut machine, mut program) = boot(machine(vec![], vec![Disk::new(3, SECTORS), read_only]), "");
    let disks = [
        "disk 0: pci 00:03.0, 4096 sectors, 1 queues of 128",
        "disk 1: pci 00:05.0, 7 sectors, 2 queues of 128, read-only",
    ];
    let said = machine.lines();
    assert_eq!(said[..2], disks);
    assert_eq!(said[2], "ready: 0 virtio-mem devices, ram 67108864, touch=page");
    let said = answer(&mut machine, &mut program, "disk");
    assert_eq!(said, [disks[0], disks[1], "disk: 2 disks"]);
    assert_eq!(answer(&mut machine, &mut program, "disk id"), ["disk 0: id: ok: \"model\""]);
    assert_eq!(answer(&mut machine, &mut program, "disk 1 load 1"), ["error: disk 1 is read-only"]);
    assert_eq!(answer(&mut machine, &mut program, "disk 2 id"), ["error: no disk 2"]);
    assert_eq!(answer(&mut machine, &mut program, "disk stop"), ["error: disk 0 is idle"]);
    assert_eq!(answer(&mut machine, &mut program, "disk play"), ["error: bad arguments for disk"]);
    machine.disks[0].capacity = 8192;
    machine.disks[0].pci.generation += 1;
    assert_eq!(answer(&mut machine, &mut program, "disk")[0], disks[0].replace("4096", "8192"));
}

#[test]
fn a_transitional_disk_is_used_through_its_modern_registers() {
    let mut disk = Disk::new(3, SECTORS);
    disk.pci.config[2..4].copy_from_slice(&0x1001u16.to_le_bytes());
    let (mut machine, mut program) = with_disk(disk);
    assert_eq!(answer(&mut machine, &mut program, "disk flush"), ["disk 0: flush: ok: 0 errors, 0 lost"]);
}

#[test]
fn what_is_written_verifies_with_its_seed_only() {
    let (mut machine, mut program) = with_disk(Disk::new(3, SECTORS).with_queues(3));
    assert_eq!(
        told(&mut machine, &mut program, "disk write 100 1000 7"),
        ["disk 0: write: ok: 512000 bytes written, 0 verified, 0 errors, 0 words differ, 0 lost"]
    );
    let disk = &machine.disks[0];
    assert_eq!(disk.sectors.keys().copied().collect::<Vec<_>>(), (100..1100).collect::<Vec<_>>());
    assert_eq!(disk.requests.last().map(|request| request.0), Some(4), "a flush comes last");
    assert!((0..3).all(|queue| disk.queues.contains(&queue)), "all queues are used");
    assert_eq!(
        told(&mut machine, &mut program, "disk verify 164 936 7"),
        ["disk 0: verify: ok: 0 bytes written, 479232 verified, 0 errors, 0 words differ, 0 lost"]
    );
    assert_eq!(
        told(&mut machine, &mut program, "disk verify 1000 4 8"),
        [
            "disk 0: verify: first failure in the request at sector 1000: contents differ",
            "disk 0: verify: FAILED: 0 bytes written, 2048 verified, 0 errors, 256 words differ, 0 lost"
        ]
    );
    // Two sectors change places.
    let moved = machine.disks[0].sectors[&500];
    machine.disks[0].sectors.insert(501, moved);
    assert_eq!(
        told(&mut machine, &mut program, "disk verify 501 1 7")[1],
        "disk 0: verify: FAILED: 0 bytes written, 512 verified, 0 errors, 64 words differ, 0 lost"
    );
}

#[test]
fn buffers_are_where_they_were_asked_to_be() {
    let (mut machine, mut program) = with_disk(Disk::new(3, SECTORS));
    told(&mut machine, &mut program, "disk write 0 256 7 at 0x3000008");
    let addresses: Vec<u64> =
        machine.disks[0].requests.iter().filter(|request| request.0 == 1).map(|request| request.3).collect();
    assert_eq!(addresses, [0x300_0008, 0x301_0008]);
    assert_eq!(machine.sequence_verify(0x300_0008, 131_072, crate::bus::pattern(0, 7)), 0);
}

#[test]
fn a_device_that_answers_and_does_nothing_is_found_out() {
    let (mut machine, mut program) = with_disk(Disk::new(3, SECTORS));
    told(&mut machine, &mut program, "disk write 0 8 7");
    machine.disks[0].faults.push_back(DiskFault::Lies);
    assert_eq!(
        told(&mut machine, &mut program, "disk verify 0 8 7")[1],
        "disk 0: verify: FAILED: 0 bytes written, 4096 verified, 0 errors, 512 words differ, 0 lost"
    );
}

#[test]
fn errors_are_told_with_what_the_device_said() {
    let (mut machine, mut program) = with_disk(Disk::new(3, 8));
    assert_eq!(
        told(&mut machine, &mut program, "disk write 4 8 7"),
        [
            "disk 0: write: first failure in the request at sector 4: I/O error",
            "disk 0: write: FAILED: 0 bytes written, 0 verified, 1 errors, 0 words differ, 0 lost"
        ]
    );
    machine.disks[0].faults.push_back(DiskFault::Says(2));
    let said = told(&mut machine, &mut program, "disk flush");
    assert_eq!(said[0], "disk 0: flush: first failure in the request at sector 0: unsupported");
    assert_eq!(said[1], "disk 0: flush: FAILED: 1 errors, 0 lost");
    machine.disks[0].faults.push_back(DiskFault::Says(0x55));
    let said = told(&mut machine, &mut program, "disk verify 0 8 1");
    assert_eq!(said[0], "disk 0: verify: first failure in the request at sector 0: status 0x55");
}

#[test]
fn a_load_writes_verifies_and_tells_its_rate() {
    let (mut machine, mut program) = with_disk(Disk::new(3, SECTORS));
    let said = answer(&mut machine, &mut program, "disk load 1");
    let (text, rate) = said[0].rsplit_once(", ").expect("a rate");
    assert_eq!(
        text,
        "disk 0: load: ok: 1048576 bytes written, 1048576 verified, 0 errors, 0 words differ, 0 lost"
    );
    let rate: u64 = rate.trim_end_matches(" bytes a second").parse().expect("a number");
    assert!(rate > 0);
    // No more than there is.
    let said = told(&mut machine, &mut program, "disk load 1T");
    assert!(said[0].contains("load: ok: 2097152 bytes written, 2097152 verified"), "{said:?}");
}

#[test]
fn a_run_goes_on_beside_resizes_until_it_is_stopped() {
    let (mut machine, mut program) =
        boot(machine(vec![Device::new(1, 16, 8)], vec![Disk::new(3, SECTORS)]), "");
    machine.lines();
    machine.type_line("disk run 8 256 1 at plugged");
    let blocks = |machine: &Machine, from: usize| {
        let requests = machine.disks[0].requests[from..].iter().filter(|request| request.0 < 2);
        requests.map(|request| (request.3 - ADDR) / BLOCK).collect::<std::collections::BTreeSet<_>>()
    };
    steps(&mut machine, &mut program, |machine| machine.disks[0].requests.len() < 100);
    assert_eq!(blocks(&machine, 0), (0..8).collect(), "every plugged block has its turn");
    // Grown and shrunk, while the model panics at each buffer outside of plugged memory.
    for requested in [16, 3, 12, 1] {
        machine.devices[0].request(requested);
        steps(&mut machine, &mut program, |machine| machine.devices[0].plugged.len() as u64 != requested);
        let from = machine.disks[0].requests.len();
        steps(&mut machine, &mut program, |machine| machine.disks[0].requests.len() < from + 100);
        assert_eq!(blocks(&machine, from), (0..requested).collect());
    }
    machine.lines();
    let said = told(&mut machine, &mut program, "disk stop");
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].starts_with("disk 0: run: ok: ") && said[0].ends_with(" 0 words differ, 0 lost"),
        "{said:?}"
    );
    // What the memory driver wrote is untouched.
    let good = answer(&mut machine, &mut program, "check");
    assert_eq!(good, ["check: ok: 1 blocks verified, 0 never written, 0 words differ"]);
}

#[test]
fn memory_with_a_request_in_flight_stays_plugged_until_it_comes_back_or_the_device_is_reset() {
    for reset in [false, true] {
        let mut disk = Disk::new(3, SECTORS);
        disk.faults.extend([DiskFault::Late; 2]);
        let (mut machine, mut program) = boot(machine(vec![Device::new(1, 16, 8)], vec![disk]), "");
        machine.lines();
        assert_eq!(told(&mut machine, &mut program, "disk write 0 256 1 at plugged"), [""; 0]);
        machine.devices[0].request(0);
        assert_eq!(settle(&mut machine, &mut program), None);
        assert_eq!((machine.disks[0].kept(), machine.devices[0].plugged.len()), (2, 8));
        let said = told(&mut machine, &mut program, "disk");
        assert_eq!(
            said[1],
            "disk 0: write: 0 bytes written, 0 verified, 0 errors, 0 words differ, 0 lost, 2 in flight"
        );
        if reset {
            assert_eq!(told(&mut machine, &mut program, "disk reset")[0], "disk 0: reset: ok: 2 lost");
        } else {
            let Machine { disks, memory, devices, .. } = &mut machine;
            disks[0].answer_all(memory, devices);
            settle(&mut machine, &mut program);
        }
        assert_eq!(machine.devices[0].plugged.len(), 0);
    }
}

#[test]
fn a_disk_that_does_not_answer_keeps_nothing_else_waiting() {
    let mut disk = Disk::new(3, SECTORS);
    disk.faults.push_back(DiskFault::Late);
    let (mut machine, mut program) = boot(machine(vec![Device::new(1, 16, 0)], vec![disk]), "");
    machine.lines();
    assert_eq!(told(&mut machine, &mut program, "disk load 1"), [""; 0]);
    machine.devices[0].request(5);
    settle(&mut machine, &mut program);
    assert_eq!(machine.devices[0].plugged.len(), 5);
    machine.lines();
    assert_eq!(told(&mut machine, &mut program, "disk id")[0], "error: disk 0 is busy");
    // Stopped, it ends once the last request has come back.
    assert_eq!(told(&mut machine, &mut program, "disk stop"), [""; 0]);
    let Machine { disks, memory, devices, .. } = &mut machine;
    disks[0].answer_all(memory, devices);
    settle(&mut machine, &mut program);
    assert!(machine.lines()[0].starts_with("disk 0: load: ok: "));
}

#[test]
fn a_broken_disk_is_started_over_and_given_up_when_that_does_not_help() {
    let mut disk = Disk::new(3, SECTORS);
    disk.faults.push_back(DiskFault::Breaks);
    let (mut machine, mut program) = with_disk(disk);
    let said = told(&mut machine, &mut program, "disk load 1");
    assert_eq!(said[0], "disk 0: device needs reset; starting over");
    assert!(
        said[1]
            .starts_with("disk 0: load: FAILED: 1048576 bytes written, 1048576 verified, 0 errors, 0 words")
    );
    machine.disks[0].faults.extend([DiskFault::Uses(1); 100]);
    let said = told(&mut machine, &mut program, "disk load 1");
    assert_eq!(said[7], "disk 0: used ring is broken; starting over");
    assert_eq!(said[8], "disk 0: used ring is broken; giving up");
    assert!(said[9].starts_with("disk 0: load: FAILED: "));
    assert_eq!(told(&mut machine, &mut program, "disk load 1"), ["error: disk 0 is failed"]);
    machine.disks[0].faults.clear();
    assert_eq!(told(&mut machine, &mut program, "disk reset"), ["disk 0: reset: ok: 0 lost"]);
    assert!(told(&mut machine, &mut program, "disk load 1")[0].contains(": load: ok: "));
}

#[test]
fn jobs_that_write_the_same_memory_exclude_each_other() {
    let mut disk = Disk::new(3, SECTORS);
    disk.faults.push_back(DiskFault::Late);
    let (mut machine, mut program) = boot(machine(vec![Device::new(1, 16, 8)], vec![disk]), "");
    machine.lines();
    told(&mut machine, &mut program, "disk verify 0 8 1 at plugged");
    for command in ["dirty 1M 1M", "garbage 5"] {
        let said = told(&mut machine, &mut program, command);
        assert_eq!(said, ["error: a disk has its buffers in plugged memory"]);
    }
    told(&mut machine, &mut program, "disk reset");
    told(&mut machine, &mut program, "dirty 1M 1M");
    let said = told(&mut machine, &mut program, "disk verify 0 8 1 at plugged");
    assert_eq!(said, ["error: dirty writes the same memory"]);
}

#[test]
fn a_disk_that_goes_away_ends_its_job_and_its_place_is_used_again() {
    let mut disk = Disk::new(3, SECTORS);
    disk.faults.push_back(DiskFault::Late);
    let (mut machine, mut program) = with_disk(disk);
    told(&mut machine, &mut program, "disk load 1");
    machine.disks[0] = Disk::new(3, 9);
    machine.now += 10_000_000_000;
    settle(&mut machine, &mut program);
    let said: Vec<_> = machine.lines().iter().map(|line| without_rate(line).into()).collect::<Vec<String>>();
    assert_eq!(
        said[0],
        "disk 0: load: FAILED: 458752 bytes written, 0 verified, 0 errors, 0 words differ, 1 lost"
    );
    assert_eq!(said[1..], ["disk 0: gone", "disk 0: pci 00:03.0, 9 sectors, 1 queues of 128"]);
}

#[test]
fn a_slot_the_board_wants_back_is_ejected_once_its_disk_is_idle() {
    let mut disk = Disk::new(3, SECTORS);
    disk.faults.push_back(DiskFault::Late);
    let (mut machine, mut program) = with_disk(disk);
    told(&mut machine, &mut program, "disk run 0 8 1");
    machine.hotplug_down = Some(1 << 3);
    machine.now += 10_000_000_000;
    settle(&mut machine, &mut program);
    assert_eq!(machine.ejected, 0);
    let Machine { disks, memory, devices, .. } = &mut machine;
    disks[0].answer_all(memory, devices);
    settle(&mut machine, &mut program);
    machine.now += 10_000_000_000;
    settle(&mut machine, &mut program);
    assert_eq!(machine.ejected, 1 << 3);
    assert_eq!(machine.lines().last().map(String::as_str), Some("pci slot 3: ejected"));
}

#[test]
fn a_disk_without_interrupts_is_polled() {
    let mut model = machine(vec![], vec![Disk::new(3, SECTORS)]);
    model.msi = false;
    let (mut machine, mut program) = boot(model, "");
    machine.lines();
    assert!(told(&mut machine, &mut program, "disk load 1")[0].contains(": load: ok: "));
}

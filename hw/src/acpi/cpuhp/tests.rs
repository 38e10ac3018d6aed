//! The registers as a guest sees them, against a model of what `docs/specs/acpi_cpu_hotplug` says; the guest is a test.

use proptest::prelude::*;

use super::*;
use crate::core::{MachineConfig, SmpConfig};
use crate::testing::{Rig, config};

const SELECT: u64 = 0;
const FLAGS: u64 = 4;
const COMMAND: u64 = 5;
const DATA: u64 = 8;

fn smp(cpus: u64, maxcpus: u64) -> MachineConfig {
    let smp = SmpConfig { cpus: Some(cpus), maxcpus: Some(maxcpus), ..SmpConfig::default() };
    MachineConfig { smp, ..config("q35") }
}

/// Two of four, which the guest can let go of.
fn modern() -> Rig {
    let rig = Rig::build(smp(2, 4)).unwrap();
    rig.machine.finish().unwrap();
    rig.outl(ICH9_BASE, 0);
    rig
}

fn plug(rig: &Rig, index: u32) -> Result<(), qapi::Error> {
    rig.add(&format!("qemu64-x86_64-cpu,id=c{index},socket-id=0,core-id={index},thread-id=0")).map(drop)
}

fn read(rig: &Rig, at: u64) -> u64 {
    rig.read(ICH9_BASE + at, if at == FLAGS || at == COMMAND { 1 } else { 4 })
}

fn write(rig: &Rig, at: u64, value: u32) {
    if at == FLAGS || at == COMMAND {
        rig.outb(ICH9_BASE + at, value as u8);
    } else {
        rig.outl(ICH9_BASE + at, value);
    }
}

/// What the guest reads of one CPU.
fn flags(rig: &Rig, index: u32) -> u64 {
    write(rig, SELECT, index);
    read(rig, FLAGS)
}

fn gpe(rig: &Rig) -> bool {
    // Firmware has not run: by way of the device.
    CpuHotplug::of(&rig.machine).wiring.get().unwrap().pm.saved_state().gpe_sts & 1 << GPE != 0
}

#[test]
fn at_first_there_is_a_map_of_cpus_and_none_can_go() {
    let mut rig = Rig::build(smp(2, 4)).unwrap();
    rig.machine.finish().unwrap();
    assert_eq!([0, 1, 4, 31].map(|at| rig.read(ICH9_BASE + at, 1)), [3, 0, 0, 0]);
    plug(&rig, 3).unwrap();
    assert_eq!((rig.read(ICH9_BASE, 1), gpe(&rig)), (0xb, true));
    let error = qdev::device_del(&rig.machine, "c3").unwrap_err();
    assert_eq!(error.desc(), "acpi: device unplug request for not supported device type: qemu64-x86_64-cpu");
    assert!(CpuHotplug::of(&rig.machine).status().is_empty());
    // Writes elsewhere, and of anything but zero, mean nothing.
    rig.outb(ICH9_BASE + 1, 0);
    rig.outl(ICH9_BASE, 5);
    rig.outb(ICH9_BASE, 0xff);
    assert_eq!(rig.read(ICH9_BASE, 1), 0xb);
    rig.outb(ICH9_BASE, 0);
    assert_eq!([flags(&rig, 3), flags(&rig, 2)], [1, 0], "who came before is not new");
    assert_eq!(rig.read(ICH9_BASE + REGISTERS, 1), 0xff, "nothing is behind it");
    assert_eq!(CpuHotplug::of(&rig.machine).status().len(), 4);
    rig.turn();
}

#[test]
fn a_cpu_comes_and_goes_as_the_guest_is_asked() {
    let mut rig = modern();
    plug(&rig, 2).unwrap();
    assert_eq!((flags(&rig, 2), gpe(&rig)), (3, true));
    write(&rig, SELECT, 0);
    write(&rig, COMMAND, 0);
    assert_eq!((read(&rig, DATA), read(&rig, FLAGS)), (2, 3));
    write(&rig, FLAGS, 2);
    assert_eq!(read(&rig, FLAGS), 1);
    write(&rig, COMMAND, 3);
    assert_eq!((read(&rig, DATA), read(&rig, SELECT)), (2, 0));
    for (command, value) in [(1, 0x103), (2, 0x80)] {
        write(&rig, COMMAND, command);
        write(&rig, DATA, value);
    }
    rig.turn();
    assert_eq!(
        rig.events(),
        [
            r#"ACPI_DEVICE_OST {"info": {"device": "c2", "source": 259, "status": 128, "slot": "2", "slot-type": "CPU"}}"#
        ]
    );
    // It may be asked again, as long as it has not let go.
    qdev::device_del(&rig.machine, "c2").unwrap();
    qdev::device_del(&rig.machine, "c2").unwrap();
    assert_eq!(flags(&rig, 2), 5);
    write(&rig, FLAGS, 4);
    write(&rig, FLAGS, 8);
    assert_eq!(read(&rig, FLAGS), 0, "at once");
    write(&rig, FLAGS, 8);
    for (command, value) in [(1, 3), (2, 0)] {
        write(&rig, COMMAND, command);
        write(&rig, DATA, value);
    }
    rig.turn();
    assert_eq!(
        rig.events(),
        [
            r#"DEVICE_DELETED {"device": "c2", "path": "/machine/peripheral/c2"}"#,
            r#"ACPI_DEVICE_OST {"info": {"source": 3, "status": 0, "slot": "2", "slot-type": "CPU"}}"#
        ]
    );
    assert_eq!(rig.machine.accel().vcpus().len(), 2);
    plug(&rig, 2).unwrap();
    assert_eq!(flags(&rig, 2), 3);
}

#[test]
fn the_first_cpu_stays_and_those_that_the_board_made_go() {
    let mut rig = modern();
    let error = qdev::device_del(&rig.machine, "/machine/unattached/device[0]").unwrap_err();
    assert_eq!(error.desc(), "Boot CPU is unpluggable");
    for index in [0, 2, 9] {
        flags(&rig, index);
        write(&rig, FLAGS, 8);
        write(&rig, FLAGS, 16);
    }
    assert_eq!([flags(&rig, 0), flags(&rig, 2)], [1, 0]);
    // Left to firmware, which is what ends it.
    flags(&rig, 1);
    write(&rig, FLAGS, 16);
    assert_eq!(read(&rig, FLAGS), 0x11);
    write(&rig, FLAGS, 8);
    rig.turn();
    assert_eq!(rig.events(), [r#"DEVICE_DELETED {"path": "/machine/unattached/device[1]"}"#]);
    assert_eq!(flags(&rig, 1), 0);
    plug(&rig, 1).unwrap();
    assert_eq!(flags(&rig, 1), 3);
}

#[test]
fn firmware_is_told_how_many_there_are() {
    use crate::isa::rtc::Rtc;
    let mut rig = modern();
    let told = |rig: &Rig| {
        rig.outb(0x70, 0x5f);
        let cmos = rig.read(0x71, 1);
        rig.machine.io_space().write_uint(0x510, 2, 5).is_ok().then_some(()).unwrap();
        (cmos, rig.read(0x511, 1))
    };
    assert!(Rtc::of(&rig.machine).is_some());
    assert_eq!(told(&rig), (1, 2));
    plug(&rig, 3).unwrap();
    assert_eq!(told(&rig), (2, 3));
    flags(&rig, 3);
    write(&rig, FLAGS, 8);
    rig.turn();
    assert_eq!(told(&rig), (1, 2));
}

#[test]
fn ids_that_the_map_has_no_room_for_need_the_registers() {
    let smp = SmpConfig { cpus: Some(1), maxcpus: Some(300), ..SmpConfig::default() };
    let cpu = Some(accel::CpuModel::parse("qemu64,x2apic=on").unwrap());
    let config = MachineConfig { smp, cpu, ..config("q35") };
    let rig = Rig::build(config).unwrap();
    rig.machine.finish().unwrap();
    assert_eq!(rig.read(ICH9_BASE, 4), 1);
    plug(&rig, 280).unwrap();
    assert_eq!(flags(&rig, 280), 3);
    write(&rig, COMMAND, 3);
    assert_eq!(read(&rig, DATA), 280);
}

/// One CPU of the model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Cpu {
    there: bool,
    inserting: bool,
    removing: bool,
    firmware: bool,
    answer: (u32, u32),
}

#[derive(Debug, Clone, Copy)]
enum Action {
    Plug(u32),
    Unplug(u32),
    Write(u64, u32),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let flag = prop_oneof![Just(1u32), Just(2), Just(4), Just(8), Just(16), 0u32..32];
    let one = prop_oneof![
        (1u32..4).prop_map(Action::Plug),
        (1u32..4).prop_map(Action::Unplug),
        (0u32..5).prop_map(|index| Action::Write(SELECT, index)),
        flag.prop_map(|bits| Action::Write(FLAGS, bits)),
        (0u32..6).prop_map(|command| Action::Write(COMMAND, command)),
        (0u32..4).prop_map(|value| Action::Write(DATA, value)),
    ];
    proptest::collection::vec(one, 1..60)
}

/// What the specification says of writes.
#[derive(Debug, Default)]
struct Model {
    cpus: [Cpu; 4],
    selected: usize,
    command: u32,
}

impl Model {
    fn write(&mut self, at: u64, value: u32) {
        if at == SELECT {
            self.selected = value as usize;
            return;
        }
        let (selected, command) = (self.selected, self.command);
        let Some(cpu) = self.cpus.get_mut(selected) else { return };
        let can_go = cpu.there && selected != 0;
        match at {
            FLAGS if value & 2 != 0 => cpu.inserting = false,
            FLAGS if value & 4 != 0 => cpu.removing = false,
            FLAGS if value & 8 != 0 && can_go => (cpu.there, cpu.firmware) = (false, false),
            FLAGS if value & 8 != 0 => {}
            FLAGS if value & 16 != 0 => cpu.firmware |= can_go,
            COMMAND if value < 4 => {
                self.command = value;
                let event = |cpu: &Cpu| cpu.inserting || cpu.removing || cpu.firmware;
                if let Some(next) = (selected..4).chain(0..selected).find(|at| event(&self.cpus[*at]))
                    && value == 0
                {
                    self.selected = next;
                }
            }
            DATA if command == 1 => cpu.answer.0 = value,
            DATA if command == 2 => cpu.answer.1 = value,
            _ => {}
        }
    }

    /// Flags and data.
    fn read(&self) -> (u64, u64) {
        let Some(cpu) = self.cpus.get(self.selected) else { return (0, 0) };
        let bits = [cpu.there, cpu.inserting, cpu.removing, false, cpu.firmware];
        let flags = (0..).zip(bits).map(|(bit, on)| u64::from(on) << bit).sum();
        (flags, if matches!(self.command, 0 | 3) { self.selected as u64 } else { 0 })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn registers_do_what_the_specification_says(actions in actions()) {
        let mut rig = modern();
        let mut model = Model::default();
        (model.cpus[0].there, model.cpus[1].there) = (true, true);
        for action in actions {
            match action {
                Action::Plug(index) => {
                    let cpu = &mut model.cpus[index as usize];
                    prop_assert_eq!(plug(&rig, index).is_ok(), !cpu.there);
                    if !cpu.there {
                        *cpu = Cpu { there: true, inserting: true, answer: cpu.answer, ..Cpu::default() };
                    }
                }
                Action::Unplug(index) => {
                    let path = if index == 1 && rig.machine.tree().container("/machine/peripheral").core().child("c1").is_none() {
                        "/machine/unattached/device[1]".to_owned()
                    } else {
                        format!("c{index}")
                    };
                    let cpu = &mut model.cpus[index as usize];
                    prop_assert_eq!(qdev::device_del(&rig.machine, &path).is_ok(), cpu.there);
                    cpu.removing |= cpu.there;
                }
                Action::Write(at, value) => {
                    write(&rig, at, value);
                    model.write(at, value);
                    rig.turn();
                }
            }
            prop_assert_eq!((read(&rig, FLAGS), read(&rig, DATA)), model.read(), "{:?}", action);
            let count = model.cpus.iter().filter(|cpu| cpu.there).count();
            prop_assert_eq!(rig.machine.accel().vcpus().len(), count);
        }
        let answers: Vec<_> = CpuHotplug::of(&rig.machine)
            .status()
            .iter()
            .map(|info| (info.source as u32, info.status as u32))
            .collect();
        prop_assert_eq!(answers, model.cpus.map(|cpu| cpu.answer));
    }
}

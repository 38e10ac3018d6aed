//! vCPUs that come and go while a guest runs.

use super::rig::{Report, Rig};
use crate::{Accel, VcpuInfo};

/// Where the boot processor finds the APIC ID of a processor that it is to start.
const WANTED: u64 = 0x3000;
/// Where that starts: the page that its vector names.
const START: u64 = 0x2000;

/// Starts processors as they are wanted.
///
/// ```text
/// next: mov eax,[3000h]
///       test eax,eax
///       jz next
///       mov dword [3000h],0
///       shl eax,24
///       mov [0fee00310h],eax
///       mov dword [0fee00300h],4500h   ; INIT
///       mov [0fee00310h],eax
///       mov dword [0fee00300h],4602h   ; start at 2000h
///       jmp next
/// ```
fn starter() -> Vec<u8> {
    let mut code = vec![0xa1, 0x00, 0x30, 0x00, 0x00, 0x85, 0xc0, 0x74, 0xf7];
    code.extend([0xc7, 0x05, 0x00, 0x30, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00]);
    code.extend([0xc1, 0xe0, 0x18]);
    for command in [0x4500u32, 0x4602] {
        code.extend([0xa3, 0x10, 0x03, 0xe0, 0xfe, 0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe]);
        code.extend(command.to_le_bytes());
    }
    let back = -(code.len() as i32 + 2);
    code.extend([0xeb, back as i8 as u8]);
    code
}

/// `again: out 30h,al; jmp again`.
const STARTED: [u8; 4] = [0xe6, 0x30, 0xeb, 0xfc];

/// One of three vCPUs, and it runs.
fn running() -> Option<Rig> {
    let rig = Rig::with_room(&starter(), 1, 3)?;
    rig.ram.write(START, &STARTED).unwrap();
    rig.accel.resume();
    Some(rig)
}

/// Has the guest start a processor.
fn start(rig: &Rig, apic_id: u8) {
    rig.ram.write(WANTED, &[apic_id]).unwrap();
}

fn is_started(report: &Report) -> bool {
    matches!(report, Report::Port(0x30, 1, _))
}

fn indices(rig: &Rig) -> Vec<u32> {
    rig.accel.vcpus().iter().map(|vcpu| vcpu.index).collect()
}

fn has_thread(vcpu: VcpuInfo) -> bool {
    std::fs::read_to_string(format!("/proc/self/task/{}/comm", vcpu.thread_id))
        .is_ok_and(|comm| comm == format!("CPU {}/KVM\n", vcpu.index))
}

#[test]
fn a_vcpu_that_comes_waits_to_be_started_and_one_that_goes_runs_no_more() {
    let Some(rig) = running() else { return };
    // Twice: the second time it is the one that the kernel has already.
    for paused in [false, true] {
        if paused {
            rig.accel.pause();
        }
        rig.accel.plug_vcpu(2).unwrap();
        assert_eq!(indices(&rig), [0, 2]);
        let vcpu = rig.accel.vcpus()[1];
        assert_eq!((vcpu.apic_id, has_thread(vcpu)), (2, true));
        let registers = rig.accel.registers(2).unwrap();
        assert_eq!((registers.rip, registers.cr0 & 1), (0xfff0, 0), "it is in reset state");
        assert_eq!((rig.accel.registers(1), rig.accel.local_apic(1)), (None, None));
        assert!(rig.accel.plug_vcpu(2).is_err(), "it is there");
        if paused {
            rig.accel.resume();
        }
        assert_eq!(rig.drain(), 0);
        start(&rig, 2);
        rig.await_report("started a processor", is_started);
        rig.accel.unplug_vcpu(2);
        rig.drain();
        assert_eq!(indices(&rig), [0]);
        assert_eq!((rig.accel.registers(2), has_thread(vcpu)), (None, false));
        // The other one runs on, and finds nobody to start.
        start(&rig, 2);
        assert!(rig.accel.registers(0).is_some_and(|registers| registers.cr0 & 1 == 1));
        assert_eq!(rig.drain(), 0);
    }
    rig.accel.unplug_vcpu(1);
    assert!(rig.accel.plug_vcpu(3).is_err(), "there may be three");
    assert_eq!(indices(&rig), [0]);
}

#[test]
fn vcpus_that_came_are_reset_and_interrupted_like_all() {
    let Some(rig) = running() else { return };
    rig.accel.plug_vcpu(1).unwrap();
    start(&rig, 1);
    rig.await_report("started a processor", is_started);
    rig.accel.inject_nmi().unwrap();
    rig.accel.pause();
    assert!(rig.accel.registers(1).is_some_and(|registers| registers.cs.selector == 0x200));
    rig.accel.reset();
    rig.drain();
    assert_eq!(rig.accel.registers(1).map(|registers| registers.rip), Some(0xfff0));
    rig.accel.resume();
    start(&rig, 1);
    rig.await_report("started a processor", is_started);
    rig.accel.shutdown();
    assert_eq!(indices(&rig), [0, 1], "who was there at the end is still told");
}

#[test]
fn a_vcpu_that_broke_down_can_go_and_comes_whole() {
    let Some(rig) = running() else { return };
    // mov eax,cr0; or al,1; mov cr0,eax; lidt [1000h] (limit 0); ud2
    let breaks = [0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0, 0x0f, 0x01, 0x1e, 0x00, 0x10, 0x0f, 0x0b];
    rig.ram.write(START, &breaks).unwrap();
    rig.accel.plug_vcpu(1).unwrap();
    start(&rig, 1);
    // Some kernels emulate this mode, and do not know that instruction.
    assert!(matches!(rig.report(), Report::TripleFault(1) | Report::Error(1, _)));
    rig.accel.unplug_vcpu(1);
    rig.ram.write(START, &STARTED).unwrap();
    rig.accel.plug_vcpu(1).unwrap();
    start(&rig, 1);
    rig.await_report("started a processor", is_started);
}

#[test]
fn statistics_and_rings_are_those_of_vcpus_that_are_there() {
    use crate::stats::StatTarget;
    let Some(rig) = running() else { return };
    let kept = |cpu| rig.accel.statistics(StatTarget::Vcpu(cpu)).unwrap().len();
    assert_eq!(kept(2), 0);
    for _ in 0..2 {
        rig.accel.plug_vcpu(2).unwrap();
        assert_eq!(kept(2), kept(0));
        rig.accel.unplug_vcpu(2);
        assert_eq!(kept(2), 0);
    }
}

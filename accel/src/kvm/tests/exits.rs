//! Exits, pause and resume, reset.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::rig::{MMIO, Report, Rig};
use crate::{Accel, CpuModel, VcpuConfig};

/// Writes to the device for ever.
const MMIO_LOOP: [u8; 5] = [0xa2, MMIO as u8, (MMIO >> 8) as u8, 0xeb, 0xfb];

#[test]
fn port_accesses_reach_the_io_space_in_both_directions() {
    // mov al,42h; out 10h,al; in al,11h; out 12h,al; mov ax,1234h; out 14h,ax; hlt
    let program = [0xb0, 0x42, 0xe6, 0x10, 0xe4, 0x11, 0xe6, 0x12, 0xb8, 0x34, 0x12, 0xe7, 0x14, 0xf4];
    let Some(rig) = Rig::new(&program, 1, false) else { return };
    rig.accel.resume();
    assert_eq!(rig.report(), Report::Port(0x10, 1, 0x42));
    assert_eq!(rig.report(), Report::Port(0x12, 1, 0x61));
    assert_eq!(rig.report(), Report::Port(0x14, 2, 0x1234));
}

#[test]
fn a_string_instruction_is_one_access_an_element() {
    // mov word [0],1122h; mov word [2],3344h; cld; xor si,si; mov cx,2; mov dx,50h; rep outsw; hlt
    let program = [
        0xc7, 0x06, 0x00, 0x00, 0x22, 0x11, 0xc7, 0x06, 0x02, 0x00, 0x44, 0x33, 0xfc, 0x31, 0xf6, 0xb9, 0x02,
        0x00, 0xba, 0x50, 0x00, 0xf3, 0x6f, 0xf4,
    ];
    let Some(rig) = Rig::new(&program, 1, false) else { return };
    rig.accel.resume();
    assert_eq!(rig.report(), Report::Port(0x50, 2, 0x1122));
    assert_eq!(rig.report(), Report::Port(0x50, 2, 0x3344));
}

#[test]
fn memory_accesses_reach_the_system_space_and_unassigned_memory_is_harmless() {
    // mov ax,[0a010h]; mov [0a020h],ax; mov [0b000h],al; mov al,[0b000h]; out 10h,al; hlt
    let program = [0xa1, 0x10, 0xa0, 0xa3, 0x20, 0xa0, 0xa2, 0x00, 0xb0, 0xa0, 0x00, 0xb0, 0xe6, 0x10, 0xf4];
    let Some(rig) = Rig::new(&program, 1, false) else { return };
    rig.accel.resume();
    assert_eq!(rig.report(), Report::Mmio(0x20, 2, 0x60));
    assert_eq!(rig.report(), Report::FailedAccess { cpu: 0, addr: 0xb000, write: true });
    assert_eq!(rig.report(), Report::FailedAccess { cpu: 0, addr: 0xb000, write: false });
    assert_eq!(rig.report(), Report::Port(0x10, 1, 0));
}

#[test]
fn writes_to_rom_change_nothing() {
    // mov ax,0f000h; mov ds,ax; mov byte [0],0; (a write to 0f0000h, where nothing is); then read back through cs
    // cs mov byte [0],99h; cs mov al,[0]; out 10h,al; hlt
    let program = [0x2e, 0xc6, 0x06, 0x00, 0x00, 0x99, 0x2e, 0xa0, 0x00, 0x00, 0xe6, 0x10, 0xf4];
    let Some(rig) = Rig::new(&program, 1, false) else { return };
    rig.accel.resume();
    // cs is not writable in protected mode, but is in real mode: the write is an exit that the ROM ignores.
    assert_eq!(rig.report(), Report::FailedAccess { cpu: 0, addr: 0xffff_0000, write: true });
    assert_eq!(rig.report(), Report::Port(0x10, 1, 0x2e));
}

#[test]
fn a_guest_that_writes_to_a_device_all_the_time_can_be_paused_and_resumed() {
    let Some(rig) = Rig::new(&MMIO_LOOP, 1, false) else { return };
    let writes = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&writes);
    *rig.mmio_probe.hook.lock().unwrap() = Some(Box::new(move || _ = counter.fetch_add(1, Ordering::SeqCst)));
    for _ in 0..200 {
        rig.accel.resume();
        rig.report();
        rig.accel.pause();
        let stopped_at = writes.load(Ordering::SeqCst);
        rig.drain();
        std::thread::yield_now();
        assert_eq!(writes.load(Ordering::SeqCst), stopped_at);
    }
}

#[test]
fn a_guest_that_computes_or_halts_can_be_paused() {
    // jmp $ and hlt; jmp $-1
    for program in [&[0xeb_u8, 0xfe][..], &[0xf4, 0xeb, 0xfd]] {
        let Some(rig) = Rig::new(program, 2, false) else { return };
        for _ in 0..20 {
            rig.accel.resume();
            rig.accel.pause();
        }
        assert_eq!(rig.drain(), 0);
    }
}

#[test]
fn a_device_may_pause_the_machine_from_its_own_callback() {
    let Some(rig) = Rig::new(&MMIO_LOOP, 1, false) else { return };
    let accel = Arc::downgrade(&rig.accel);
    *rig.mmio_probe.hook.lock().unwrap() = Some(Box::new(move || accel.upgrade().unwrap().pause()));
    for _ in 0..20 {
        rig.accel.resume();
        assert_eq!(rig.report(), Report::Mmio(0, 1, 0));
        rig.accel.pause();
        assert_eq!(rig.drain(), 0);
    }
}

#[test]
fn a_pause_in_the_middle_of_a_read_loses_nothing() {
    // next: mov al,[0a000h]; out 10h,al; jmp next -- al is 50h each time, also when the read was the last thing before a pause
    let program = [0xa0, 0x00, 0xa0, 0xe6, 0x10, 0xeb, 0xf9];
    let Some(rig) = Rig::new(&program, 1, false) else { return };
    for _ in 0..100 {
        rig.accel.resume();
        assert_eq!(rig.report(), Report::Port(0x10, 1, 0x50));
        rig.accel.pause();
        rig.drain();
    }
}

#[test]
fn a_reset_starts_over_whatever_the_guest_did() {
    // mov ax,cs (0f000h after a reset); out 10h,ax; mov ds,ax; mov sp,7000h; mov al,[0a000h]; out 12h; jmp $
    let program = [0x8c, 0xd8, 0xe7, 0x10, 0xb8, 0x00, 0x07, 0x8e, 0xd8, 0xe6, 0x12, 0xeb, 0xfe];
    let Some(rig) = Rig::new(&program, 1, false) else { return };
    for _ in 0..5 {
        rig.accel.resume();
        // ds is 0 again although the program changed it.
        assert_eq!(rig.report(), Report::Port(0x10, 2, 0));
        assert_eq!(rig.report(), Report::Port(0x12, 1, 0));
        rig.accel.pause();
        rig.accel.reset();
    }
}

#[test]
fn a_reset_in_the_middle_of_a_read_does_not_leak_into_the_new_life() {
    // out 10h,al (0 after a reset); next: mov al,[0a000h]; mov [0a001h],al; jmp next
    let program = [0xe6, 0x10, 0xa0, 0x00, 0xa0, 0xa2, 0x01, 0xa0, 0xeb, 0xf8];
    let Some(rig) = Rig::new(&program, 1, false) else { return };
    for _ in 0..50 {
        rig.accel.resume();
        assert_eq!(rig.report(), Report::Port(0x10, 1, 0));
        assert_eq!(rig.report(), Report::Mmio(1, 1, 0x50));
        rig.accel.pause();
        rig.drain();
        rig.accel.reset();
    }
}

#[test]
fn a_triple_fault_stops_the_cpu_until_a_reset() {
    // xor eax,eax; out 10h,al; lidt [0] (limit 0); ud2
    let program = [0x31, 0xc0, 0xe6, 0x10, 0x0f, 0x01, 0x1d, 0x00, 0x00, 0x00, 0x00, 0x0f, 0x0b];
    let Some(rig) = Rig::new(&program, 1, true) else { return };
    for _ in 0..2 {
        rig.accel.resume();
        assert_eq!(rig.report(), Report::Port(0x10, 1, 0));
        assert_eq!(rig.report(), Report::TripleFault(0));
        rig.accel.pause();
        rig.accel.resume();
        rig.accel.pause();
        assert_eq!(rig.drain(), 0);
        rig.accel.reset();
    }
}

#[test]
fn an_error_of_the_kernel_is_reported_and_stops_the_cpu() {
    // jmp far 0a00h:0 -- code fetched from the device at 0a000h cannot be emulated
    let program = [0xea, 0x00, 0x00, 0x00, 0x0a];
    let Some(rig) = Rig::new(&program, 1, false) else { return };
    rig.accel.resume();
    match rig.report() {
        Report::Error(0, text) => assert!(text.starts_with("KVM internal error. Suberror: "), "{text}"),
        other => panic!("{other:?}"),
    }
    rig.accel.pause();
}

#[test]
fn pvh_enters_flat_protected_mode_with_the_start_info_in_ebx() {
    // mov eax,ebx; out 10h,eax; mov eax,cr0; out 14h,eax; mov dword [0a000h],77h; jmp $
    let program = [
        0x89, 0xd8, 0xe7, 0x10, 0x0f, 0x20, 0xc0, 0xe7, 0x14, 0xc7, 0x05, 0x00, 0xa0, 0x00, 0x00, 0x77, 0x00,
        0x00, 0x00, 0xeb, 0xfe,
    ];
    let Some(rig) = Rig::new(&program, 1, true) else { return };
    for _ in 0..2 {
        rig.accel.resume();
        assert_eq!(rig.report(), Report::Port(0x10, 4, 0x1234));
        assert_eq!(rig.report(), Report::Port(0x14, 4, 0x11));
        assert_eq!(rig.report(), Report::Mmio(0, 4, 0x77));
        rig.accel.pause();
        rig.accel.reset();
    }
}

#[test]
fn vcpus_are_threads_with_qemus_names() {
    let Some(rig) = Rig::new(&[0xf4], 3, false) else { return };
    let vcpus = rig.accel.vcpus();
    let facts: Vec<_> = vcpus.iter().map(|vcpu| (vcpu.index, vcpu.apic_id)).collect();
    assert_eq!(facts, [(0, 0), (1, 1), (2, 2)]);
    for vcpu in vcpus {
        let comm = std::fs::read_to_string(format!("/proc/self/task/{}/comm", vcpu.thread_id)).unwrap();
        assert_eq!(comm, format!("CPU {}/KVM\n", vcpu.index));
    }
    rig.accel.resume();
    rig.accel.shutdown();
    rig.accel.shutdown();
}

#[test]
fn more_vcpus_than_recommended_are_warned_of_and_more_than_possible_refused() {
    let check = |cpus, maxcpus| {
        let mut said = Vec::new();
        let done = super::super::create::cpu_limits(cpus, maxcpus, (2, 4), &mut |w| said.push(w.to_owned()));
        said.extend(done.err().map(|e| e.desc().to_owned()));
        said
    };
    assert!(check(2, 2).is_empty());
    let warning = "exceeds the recommended cpus supported by KVM (2)";
    assert_eq!(
        check(3, 5),
        [
            format!("Number of SMP cpus requested (3) {warning}"),
            format!("Number of hotpluggable cpus requested (5) {warning}"),
            "Number of hotpluggable cpus requested (5) exceeds the maximum cpus supported by KVM (4)".into(),
        ]
    );
}

#[test]
fn vcpus_are_created_once_and_not_too_many() {
    let Some(rig) = Rig::new(&[0xf4], 1, false) else { return };
    let create = |count| {
        rig.accel.create_vcpus(VcpuConfig::new(count, &CpuModel::default(), &*rig.accel), rig.events())
    };
    let error = create(1_000_000).unwrap_err();
    let text = error.desc();
    let start = "Number of SMP cpus requested (1000000) exceeds the maximum cpus supported by KVM (";
    assert!(text.starts_with(start), "{text}");
    assert!(create(1).is_err());
}

//! Registers of real vCPUs: paused, running, halted, waiting for a start-up message.

use super::rig::{Report, Rig};
use crate::{Accel, Registers, Segment};

/// Real mode: loads what can be recognised, reports on port 10h, and then goes round for ever, writing to no device.
///
/// ```text
///       mov ax,1234h
///       mov ds,ax
///       mov eax,11223344h
///       mov ebx,55667788h
///       mov sp,0ffeh
///       out 10h,al
///       jmp $
/// ```
const SPIN: [u8; 24] = [
    0xb8, 0x34, 0x12, 0x8e, 0xd8, 0x66, 0xb8, 0x44, 0x33, 0x22, 0x11, 0x66, 0xbb, 0x88, 0x77, 0x66, 0x55,
    0xbc, 0xfe, 0x0f, 0xe6, 0x10, 0xeb, 0xfe,
];

fn check(registers: &Registers) {
    let Registers { rax, rbx, rsp, rip, ds, cs, .. } = *registers;
    assert_eq!((rax, rbx, rsp, rip), (0x1122_3344, 0x5566_7788, 0xffe, 22), "{registers:x?}");
    assert_eq!((ds.selector, ds.base, ds.limit), (0x1234, 0x12340, 0xffff));
    assert_eq!((cs.selector, cs.base), (0xf000, 0xffff_0000));
    assert!(!registers.is_long_mode());
}

#[test]
fn a_running_vcpu_shows_its_registers_and_runs_on() {
    let Some(rig) = Rig::new(&SPIN, 1, false) else { return };
    rig.accel.resume();
    assert_eq!(rig.report(), Report::Port(0x10, 1, 0x44));
    for _ in 0..200 {
        check(&rig.accel.registers(0).unwrap());
    }
    rig.accel.pause();
    check(&rig.accel.registers(0).unwrap());
    rig.accel.shutdown();
    assert_eq!(rig.accel.registers(0), None);
}

#[test]
fn a_vcpu_in_reset_state_is_what_the_architecture_says() {
    let Some(rig) = Rig::new(&[0xf4], 2, false) else { return };
    for cpu in 0..2 {
        let registers = rig.accel.registers(cpu).unwrap();
        assert_eq!(registers, Registers::at_reset());
    }
    assert_eq!(rig.accel.registers(2), None);
}

#[test]
fn a_guest_that_waits_shows_its_registers() {
    // out 10h,al; cli; hlt; and the second vCPU waits to be started.
    let Some(rig) = Rig::new(&[0xe6, 0x10, 0xfa, 0xf4], 2, false) else { return };
    rig.accel.resume();
    assert!(matches!(rig.report(), Report::Port(0x10, 1, _)));
    for cpu in [1, 0, 1] {
        assert_eq!(rig.accel.registers(cpu).unwrap().cs.base, 0xffff_0000, "{cpu}");
    }
}

#[test]
fn segments_have_their_attributes_where_a_descriptor_has_them() {
    // jmp $
    let Some(rig) = Rig::new(&[0xeb, 0xfe], 1, true) else { return };
    let registers = rig.accel.registers(0).unwrap();
    assert_eq!(registers.cs, Segment { selector: 8, base: 0, limit: u32::MAX, flags: 0x00c0_9b00 });
    assert_eq!(registers.ds, Segment { selector: 16, base: 0, limit: u32::MAX, flags: 0x00c0_9300 });
    assert_eq!((registers.rbx, registers.cr0), (0x1234, 0x11));
}

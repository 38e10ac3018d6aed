//! Lines and messages reach a guest.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::rig::{Report, Rig};
use crate::{Accel, MsiMessage};

/// Enables the local APIC, says so on port 10h, then reports on port 54h whenever the request bits of vectors 40h-5fh change. Interrupts are never taken.
///
/// ```text
///       mov dword [0fee000f0h],1ffh
///       xor ebx,ebx
///       out 10h,al
/// next: mov eax,[0fee00220h]     ; requests of 40h-5fh
///       cmp eax,ebx
///       je next
///       mov ebx,eax
///       out 54h,eax
///       jmp next
/// ```
const WATCH_REQUESTS: [u8; 29] = [
    0xc7, 0x05, 0xf0, 0x00, 0xe0, 0xfe, 0xff, 0x01, 0x00, 0x00, 0x31, 0xdb, 0xe6, 0x10, 0xa1, 0x20, 0x02,
    0xe0, 0xfe, 0x39, 0xd8, 0x74, 0xf7, 0x89, 0xc3, 0xe7, 0x54, 0xeb, 0xf1,
];

fn message(vector: u32) -> MsiMessage {
    MsiMessage { address: 0xfee0_0000, data: vector }
}

#[test]
fn messages_and_routes_deliver_their_vector() {
    let Some(rig) = Rig::new(&WATCH_REQUESTS, 1, true) else { return };
    rig.accel.resume();
    assert!(matches!(rig.report(), Report::Port(0x10, 1, _)));
    let irq = rig.accel.irq();
    irq.send_msi(message(0x40));
    assert_eq!(rig.report(), Report::Port(0x54, 4, 1));
    let before = rig.accel.stats().routing_changes;
    let route = Arc::clone(&irq).msi_route(message(0x41)).unwrap();
    route.trigger();
    assert_eq!(rig.report(), Report::Port(0x54, 4, 0b11));
    // Messages that we send take no routing table entry.
    route.update(message(0x42)).unwrap();
    assert_eq!(rig.accel.stats().routing_changes, before);
    let fd = Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
    fd.write(1).unwrap();
    route.connect(&fd).unwrap();
    assert_eq!(rig.report(), Report::Port(0x54, 4, 0b111));
    route.update(message(0x43)).unwrap();
    route.update(message(0x43)).unwrap();
    assert_eq!(rig.accel.stats().routing_changes, before + 2);
    fd.write(1).unwrap();
    assert_eq!(rig.report(), Report::Port(0x54, 4, 0b1111));
    // What is written while the event is not connected waits in it, and connecting it again costs no table.
    route.disconnect();
    fd.write(1).unwrap();
    route.update(message(0x44)).unwrap();
    route.connect(&fd).unwrap();
    assert_eq!(rig.report(), Report::Port(0x54, 4, 0b1_1111));
    assert_eq!(rig.accel.stats().routing_changes, before + 3);
    // A route that is gone delivers nothing, and its number can be used again.
    drop(route);
    fd.write(1).unwrap();
    assert_eq!(fd.read().unwrap(), 1);
    let route = irq.msi_route(message(0x45)).unwrap();
    route.connect(&fd).unwrap();
    fd.write(1).unwrap();
    assert_eq!(rig.report(), Report::Port(0x54, 4, 0b11_1111));
}

#[test]
fn a_reset_clears_pending_interrupts() {
    let Some(rig) = Rig::new(&WATCH_REQUESTS, 1, true) else { return };
    let irq = rig.accel.irq();
    for _ in 0..2 {
        rig.accel.resume();
        assert!(matches!(rig.report(), Report::Port(0x10, 1, _)));
        irq.send_msi(message(0x45));
        assert_eq!(rig.report(), Report::Port(0x54, 4, 1 << 5));
        rig.accel.pause();
        rig.accel.reset();
    }
}

#[test]
fn a_line_reaches_the_pic_and_lines_that_do_not_exist_are_ignored() {
    // next: mov al,0ah; out 20h,al is the PIC's own port in the kernel; in al,20h gives the requests; out 10h,al; jmp next
    let program = [0xb0, 0x0a, 0xe6, 0x20, 0xe4, 0x20, 0xe6, 0x10, 0xeb, 0xf6];
    let Some(rig) = Rig::new(&program, 1, false) else { return };
    let irq = rig.accel.irq();
    rig.accel.resume();
    assert_eq!(rig.report(), Report::Port(0x10, 1, 0));
    irq.set_gsi(99, true);
    irq.set_gsi(5, true);
    while rig.report() != Report::Port(0x10, 1, 1 << 5) {}
    irq.set_gsi(5, false);
}

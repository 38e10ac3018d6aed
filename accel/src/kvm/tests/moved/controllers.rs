//! What interrupt controllers and timers hold at the move.

use std::time::Instant;

use super::super::rig::{Report, Rig};
use super::hand_over;
use crate::Accel;
use crate::testing::until;

/// Protected mode, all interrupt controllers set up and interrupts off; then the `end`. Vectors 41h to 44h report on the port with
/// 30h less, and stay there: some kernels' emulators know no IRET.
///
/// - LINT0 takes what the PIC has; the PIC's vectors start at 40h; the PIT counts 55 ms rounds for its line 0, which is masked.
/// - Pin 20 of the IOAPIC gives vector 42h, level triggered, masked.
fn controllers(end: &[u8]) -> Vec<u8> {
    let mut code = vec![0x0f, 0x01, 0x15, 0xf0, 0x0f, 0x00, 0x00]; // lgdt [0ff0h]
    code.extend([0x0f, 0x01, 0x1d, 0xf8, 0x0f, 0x00, 0x00]); // lidt [0ff8h]
    code.extend([0xbc, 0x00, 0x70, 0x00, 0x00]); // mov esp,7000h
    let mut store = |addr: u32, value: u32| {
        code.extend([0xc7, 0x05]); // mov dword [addr],value
        code.extend(addr.to_le_bytes());
        code.extend(value.to_le_bytes());
    };
    store(0xfee0_00f0, 0x1ff);
    store(0xfee0_0350, 0x700);
    store(0xfec0_0000, 0x10 + 2 * 20 + 1);
    store(0xfec0_0010, 0);
    store(0xfec0_0000, 0x10 + 2 * 20);
    store(0xfec0_0010, 0x1_8042);
    // The PIC and the PIT.
    for (port, value) in [
        (0x20, 0x11),
        (0x21, 0x40),
        (0x21, 4),
        (0x21, 1),
        (0x21, 1),
        (0x43, 0x34),
        (0x40, 0xff),
        (0x40, 0xff),
    ] {
        code.extend([0xb0, value, 0xe6, port]); // mov al,value; out port,al
    }
    code.extend([0xe6, 0x10]); // out 10h,al
    code.extend(end);
    code.resize(usize::from(HANDLERS), 0xf4);
    for vector in 0x40..0x50 {
        code.extend([0xe6, vector - 0x30, 0xeb, 0xfe]); // out port,al; jmp $
    }
    code
}

const HANDLERS: u16 = 0x100;
/// Waits until memory says so, then lets the IOAPIC's pin and interrupts in, and waits.
pub(super) const HELD_OFF: [u8; 22] = [
    0x80, 0x3d, 0x00, 0x30, 0x00, 0x00, 0x00, // next: cmp byte [3000h],0
    0x74, 0xf7, // je next
    0xc7, 0x05, 0x10, 0x00, 0xc0, 0xfe, 0x42, 0x80, 0x00, 0x00, // mov dword [0fec00010h],8042h
    0xfb, 0xeb, 0xfe, // sti; jmp $
];

/// A machine with the controllers set up, its first report taken.
pub(super) fn with_controllers(end: &[u8]) -> Option<(Rig, Rig)> {
    let program = controllers(end);
    let rig = || Rig::with_model("qemu64,+tsc-deadline", &program, 1, true);
    let (from, to) = (rig()?, rig()?);
    let flat = |kind: u64| 0x00cf_0000_0000_ffff | kind << 40;
    let mut table = vec![
        (0xff0, 0x1000 << 16 | 0x17),
        (0xff8, 0x2000 << 16 | 0x7ff),
        (0x1008, flat(0x9b)),
        (0x1010, flat(0x93)),
    ];
    for vector in 0x40..0x50 {
        let handler = u64::from(HANDLERS) + (vector - 0x40) * 4;
        table.push((0x2000 + vector * 8, 0xffff_8e00_0008_0000 | handler));
    }
    for (at, value) in table {
        from.ram.write(at, &value.to_le_bytes()).unwrap();
    }
    from.accel.resume();
    assert!(matches!(from.report(), Report::Port(0x10, 1, _)));
    Some((from, to))
}

#[test]
fn what_interrupt_controllers_hold_at_the_move_is_delivered_after_it() {
    type Raise = fn(&Rig);
    let sources: [(u16, Raise); 3] = [
        (0x11, |rig| rig.accel.irq().send_msi(crate::MsiMessage { address: 0xfee0_0000, data: 0x41 })),
        (0x12, |rig| rig.accel.irq().set_gsi(20, true)),
        (0x15, |rig| rig.accel.irq().set_gsi(5, true)),
    ];
    // Without the request of the PIT, which goes on counting.
    let held = |rig: &Rig| {
        let mut chips = rig.accel.chips().unwrap();
        chips.pics[0].irr &= !1;
        chips
    };
    for (port, raise) in sources {
        let Some((from, to)) = with_controllers(&HELD_OFF) else { return };
        raise(&from);
        hand_over(&from, &to);
        assert_eq!(held(&from), held(&to));
        assert_eq!(from.accel.local_apic(0), to.accel.local_apic(0));
        to.ram.write(0x3000, &[1]).unwrap();
        to.accel.resume();
        assert!(matches!(to.report(), Report::Port(at, 1, _) if at == port), "{port:#x}");
    }
}

#[test]
fn a_halted_guest_is_halted_and_woken() {
    // sti; hlt; out 66h,al
    let Some((from, to)) = with_controllers(&[0xfb, 0xf4, 0xe6, 0x66]) else { return };
    until("halted", || from.accel.registers(0).unwrap().halted);
    hand_over(&from, &to);
    assert!(to.accel.registers(0).unwrap().halted);
    to.accel.resume();
    assert!(to.accel.registers(0).unwrap().halted);
    assert_eq!(to.drain(), 0);
    to.accel.irq().send_msi(crate::MsiMessage { address: 0xfee0_0000, data: 0x43 });
    assert!(matches!(to.report(), Report::Port(0x13, 1, _)));
}

#[test]
fn timers_fire_after_the_move() {
    // On a busy host the 55 ms may be over by then.
    for _ in 0..20 {
        // jmp $
        let Some((from, to)) = with_controllers(&[0xeb, 0xfe]) else { return };
        hand_over(&from, &to);
        if to.accel.chips().unwrap().pics[0].irr & 1 == 0 {
            to.accel.resume();
            until("fired", || to.accel.chips().unwrap().pics[0].irr & 1 != 0);
            return;
        }
    }
    panic!("it always fired before");
}

#[test]
fn a_local_timer_fires_after_the_move_and_not_before_its_time() {
    let one_shot = [
        0xc7, 0x05, 0xe0, 0x03, 0xe0, 0xfe, 0x0b, 0, 0, 0, // divide by 1
        0xc7, 0x05, 0x20, 0x03, 0xe0, 0xfe, 0x44, 0, 0, 0, // vector 44h, once
        0xc7, 0x05, 0x80, 0x03, 0xe0, 0xfe, 0x00, 0xca, 0x9a, 0x3b, // a second
        0xe6, 0x11, 0xfb, 0xf4, // out 11h,al; sti; hlt
    ];
    let deadline = [
        0xc7, 0x05, 0x20, 0x03, 0xe0, 0xfe, 0x44, 0, 4, 0, // vector 44h, at a deadline
        0x0f, 0x31, // rdtsc
        0x05, 0, 0, 0, 0x90, 0x83, 0xd2, 0x00, // add eax,90000000h; adc edx,0
        0xb9, 0xe0, 0x06, 0, 0, 0x0f, 0x30, // mov ecx,6e0h; wrmsr
        0xe6, 0x11, 0xfb, 0xf4, // out 11h,al; sti; hlt
    ];
    for (end, name) in [(&one_shot[..], "once"), (&deadline[..], "deadline")] {
        let Some((from, to)) = with_controllers(end) else { return };
        assert!(matches!(from.report(), Report::Port(0x11, 1, _)), "{name}");
        hand_over(&from, &to);
        let start = Instant::now();
        assert_eq!(from.try_report(), None, "before its time");
        to.accel.resume();
        assert!(matches!(to.report(), Report::Port(0x14, 1, _)), "{name}");
        assert!(start.elapsed().as_millis() > 50, "{name}: {:?}", start.elapsed());
    }
}

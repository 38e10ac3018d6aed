//! Non-maskable interrupts, and what the interrupt controllers show.

use super::rig::{Report, Rig};
use crate::{Accel, LocalApic};

/// Enables the local APIC, sets its input LINT1, says so on port 10h and goes round; on a non-maskable interrupt it writes to
/// port 12h, and takes no other: some kernels' emulators know no IRET for this mode.
///
/// ```text
///       lgdt [0ff0h]
///       lidt [0ff8h]
///       mov esp,7000h
///       mov dword [0fee000f0h],1ffh
///       mov dword [0fee00360h],LINT1
///       out 10h,al
///       jmp $
/// nmi:  out 12h,al
///       jmp $
/// ```
fn program(lint1: u32) -> Vec<u8> {
    let mut code = vec![0x0f, 0x01, 0x15, 0xf0, 0x0f, 0x00, 0x00, 0x0f, 0x01, 0x1d, 0xf8, 0x0f, 0x00, 0x00];
    code.extend([0xbc, 0x00, 0x70, 0x00, 0x00]);
    code.extend([0xc7, 0x05, 0xf0, 0x00, 0xe0, 0xfe, 0xff, 0x01, 0x00, 0x00]);
    code.extend([0xc7, 0x05, 0x60, 0x03, 0xe0, 0xfe]);
    code.extend(lint1.to_le_bytes());
    code.extend([0xe6, 0x10, 0xeb, 0xfe]);
    assert_eq!(code.len(), usize::from(HANDLER));
    code.extend([0xe6, 0x12, 0xeb, 0xfe]);
    code
}

/// Where its handler is from the start of the ROM, at ffff0000h.
const HANDLER: u16 = 43;
/// LINT1 as an input for non-maskable interrupts, and masked.
const NMI: u32 = 0x400;
const MASKED: u32 = 0x1_0000;

/// The program with its tables, running, and its first report taken.
fn running(lint1: u32, cpus: u32) -> Option<Rig> {
    let rig = Rig::new(&program(lint1), cpus, true)?;
    let flat = |kind: u64| 0x00cf_0000_0000_ffff | kind << 40;
    let gate = 0xffff_8e00_0008_0000 | u64::from(HANDLER);
    let gate = (gate & 0xffff_ffff, gate >> 32);
    for (at, value) in [
        (0xff0, 0x1000 << 16 | 0x17),
        (0xff8, 0x2000 << 16 | 0x17),
        (0x1008, flat(0x9b)),
        (0x1010, flat(0x93)),
        (0x2010, gate.0 | gate.1 << 32),
    ] {
        rig.ram.write(at, &u64::to_le_bytes(value)).unwrap();
    }
    rig.accel.resume();
    assert!(matches!(rig.report(), Report::Port(0x10, 1, _)));
    Some(rig)
}

#[test]
fn a_guest_takes_a_non_maskable_interrupt_running_or_after_a_pause() {
    // The second vCPU was not started: its LINT1 is masked.
    let Some(rig) = running(NMI, 2) else { return };
    for paused in [false, true, false, true] {
        if paused {
            rig.accel.pause();
        }
        rig.accel.inject_nmi().unwrap();
        if paused {
            assert!(rig.accel.registers(0).is_some() && rig.drain() == 0);
            rig.accel.resume();
        }
        assert!(matches!(rig.report(), Report::Port(0x12, 1, _)));
        rig.accel.pause();
        rig.accel.reset();
        rig.accel.resume();
        assert!(matches!(rig.report(), Report::Port(0x10, 1, _)));
    }
}

#[test]
fn a_masked_input_takes_none() {
    for lint1 in [NMI | MASKED, 0x41] {
        let Some(rig) = running(lint1, 1) else { return };
        rig.accel.inject_nmi().unwrap();
        // Asked later, so answered later.
        assert!(rig.accel.registers(0).is_some());
        rig.accel.pause();
        assert_eq!(rig.drain(), 0, "{lint1:#x}");
    }
}

#[test]
fn local_apics_show_what_their_guest_wrote() {
    let Some(rig) = running(NMI, 2) else { return };
    let apic = |cpu| -> LocalApic { rig.accel.local_apic(cpu).unwrap() };
    assert_eq!((apic(0).register(0x360), apic(0).register(0xf0)), (NMI, 0x1ff));
    assert_eq!((apic(1).register(0x360), apic(1).register(0xf0)), (MASKED, 0xff));
    assert_eq!(apic(1).register(0x20) >> 24, 1, "its identity");
    assert!(!apic(0).vector(0x200, 0x41));
    rig.accel.irq().send_msi(crate::MsiMessage { address: 0xfee0_0000, data: 0x41 });
    assert!((0..).any(|_| apic(0).vector(0x200, 0x41)), "requested, and held off");
    assert_eq!(rig.accel.local_apic(2), None);
}

#[test]
fn controllers_show_lines_and_count_them() {
    let Some(rig) = Rig::new(&[0xf4], 1, false) else { return };
    let irq = rig.accel.irq();
    for level in [true, true, false, true] {
        irq.set_gsi(5, level);
        irq.set_gsi(20, level);
    }
    irq.set_gsi(12, true);
    let chips = rig.accel.chips().unwrap();
    assert_eq!((chips.pics[0].irr & 1 << 5, chips.pics[1].irr & 1 << 4), (1 << 5, 1 << 4));
    assert!(chips.ioapic.pins.iter().all(|pin| *pin == 0x1_0000), "{chips:x?}");
    let counted: Vec<_> = irq.statistics().into_iter().map(|s| (s.controller, s.raised)).collect();
    let raised = |lines: &[(usize, u64)], len| {
        let mut all = vec![0; len];
        lines.iter().for_each(|(line, count)| all[*line] = *count);
        all
    };
    let lines = [(5, 2), (12, 1), (20, 2)];
    let expected = [("kvm-i8259", raised(&lines[..2], 16)), ("kvm-ioapic", raised(&lines, 24))];
    assert_eq!(counted, expected);
}

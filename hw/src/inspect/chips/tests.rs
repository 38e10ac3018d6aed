//! Claims about the texts, in QEMU's columns.

use super::*;

fn apic(registers: &[(u32, u32)]) -> LocalApic {
    let mut apic = LocalApic { registers: [0; 64], x2apic: false };
    registers.iter().for_each(|(offset, value)| apic.registers[*offset as usize / 16] = *value);
    apic
}

#[test]
fn a_local_apic_shows_its_vectors_and_what_it_sent() {
    let apic = apic(&[
        (0x20, 3 << 24),
        (TPR, 0x20),
        (PPR, 0x50),
        (LDR, 0x2100_0000),
        (SPIV, 0x3ff),
        (ISR + 0x20, 1 << 5),
        (TMR + 0x20, 1 << 5),
        (IRR + 0x70, 1 << 31 | 1),
        (ESR, 0x40),
        (ICR, 0x800 | 0xc1),
        (ICR2, 0x5300_0000),
        (0x350, 0x1_b711),
        (0x360, 0x400),
        (LVTT, 0x2_00ef),
        (INITIAL_COUNT, 1000),
        (CURRENT_COUNT, 12),
        (DIVIDE, 0xb),
    ]);
    assert_eq!(
        local_apic(3, &apic),
        "dumping local APIC state for CPU 3 \n\n\
         LVT0\t 0x0001b711 active-lo level masked pending              ExtINT (vec 17)\n\
         LVT1\t 0x00000400 active-hi edge                              NMI   \n\
         LVTPC\t 0x00000000 active-hi edge                              Fixed  (vec 0)\n\
         LVTERR\t 0x00000000 active-hi edge                              Fixed  (vec 0)\n\
         LVTTHMR\t 0x00000000 active-hi edge                              Fixed  (vec 0)\n\
         LVTT\t 0x000200ef active-hi edge                 periodic     Fixed  (vec 239)\n\
         Timer\t DCR=0xb (divide by 1) initial_count = 1000 current_count = 12\n\
         SPIV\t 0x000003ff APIC enabled, focus=on, spurious vec 255\n\
         ICR\t 0x000008c1 logical edge de-assert no-shorthand\n\
         ICR2\t 0x53000000 cluster 5 mask 0011 (APIC ID)\n\
         ESR\t 0x00000040\n\
         ISR\t 69(level) \n\
         IRR\t 224 255 \n\
         \n\
         APR 0x00 TPR 0x20 DFR 0x00 LDR 0x21(cluster 2: id 1) PPR 0x50\n"
    );
}

#[test]
fn destinations_are_told_by_mode() {
    let sent = |icr, icr2, dfr, x2apic| {
        let apic = LocalApic { x2apic, ..apic(&[(ICR, icr), (ICR2, icr2), (DFR, dfr)]) };
        command(&apic).lines().last().unwrap().to_owned()
    };
    assert_eq!(sent(0, 0x0300_0000, u32::MAX, false), "ICR2\t 0x03000000 cpu 3 (APIC ID)");
    assert_eq!(sent(0, 300, u32::MAX, true), "ICR2\t 0x0000012c cpu 300 (X2APIC ID)");
    assert_eq!(sent(0x800, 0x0500_0000, u32::MAX, false), "ICR2\t 0x05000000 mask 00000101 (APIC ID)");
    let cluster = "ICR2\t 0x00020003 cluster 2 mask 0000000000000011 (X2APIC ID)";
    assert_eq!(sent(0x800, 0x2_0003, 0, true), cluster);
    assert_eq!(sent(0xc_4610, 7, u32::MAX, true), "ICR2\t 0x00000007");
    let text = command(&apic(&[(ICR, 0x4_c000)]));
    assert!(text.starts_with("ICR\t 0x0004c000 physical level assert self\n"), "{text}");
}

#[test]
fn controllers_show_their_inputs() {
    let mut chips = Chips::default();
    chips.pics[0] = Pic { imr: 0xfb, base: 0x20, priority: 7, read_isr: true, ..Pic::default() };
    chips.pics[1] = Pic { irr: 0x10, elcr: 0x0c, fully_nested: true, ..Pic::default() };
    chips.ioapic = IoApic { id: 2, version: 0x11, select: 0x13, irr: 1 << 23 | 1, pins: [0x1_0000; 24] };
    chips.ioapic.pins[1] = 0xff00_0000_0000_a931;
    chips.ioapic.pins[23] = 0xff00_0000_0000_4731;
    let text = controllers(&chips);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[..5],
        [
            "pic0: irr=00 imr=fb isr=00 hprio=7 irq_base=20 rr_sel=1 elcr=00 fnm=0",
            "pic1: irr=10 imr=00 isr=00 hprio=0 irq_base=00 rr_sel=0 elcr=0c fnm=1",
            "ioapic0: ver=0x11 id=0x02 sel=0x13 (redir[1])",
            "  pin 0  0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical",
            "  pin 1  0xff0000000000a931 dest=ff vec=49  active-lo level        lowest logical",
        ]
    );
    assert_eq!(
        lines[26..],
        [
            "  pin 23 0xff00000000004731 dest=f vec=49  active-hi edge         extINT physical",
            "  IRR      0  23 ",
            "  Remote IRR 23 ",
        ]
    );
}

#[test]
fn only_lines_that_were_raised_are_counted() {
    let statistics = [
        LineStatistics { controller: "a", raised: vec![0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 12] },
        LineStatistics { controller: "b", raised: vec![0; 3] },
    ];
    assert_eq!(lines(&statistics), "IRQ statistics for a:\n 1: 3\n10: 12\nIRQ statistics for b:\n");
}

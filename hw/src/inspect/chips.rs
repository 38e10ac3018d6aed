//! Interrupt controllers as people read them: `info lapic`, `info pic`, `info irq`.

use std::fmt::Write as _;

use accel::{Chips, IoApic, LineStatistics, LocalApic, Pic};

/// How often lines were raised, those that were.
pub(super) fn lines(statistics: &[LineStatistics]) -> String {
    let mut out = String::new();
    for LineStatistics { controller, raised } in statistics {
        let _ = writeln!(out, "IRQ statistics for {controller}:");
        for (line, count) in raised.iter().enumerate().filter(|(_, count)| **count > 0) {
            let _ = writeln!(out, "{line:2}: {count}");
        }
    }
    out
}

/// PIC pair and IOAPIC.
pub(super) fn controllers(chips: &Chips) -> String {
    let Chips { pics: [master, slave], ioapic: last } = chips;
    pic(0, master) + &pic(1, slave) + &ioapic(last)
}

fn pic(number: u32, pic: &Pic) -> String {
    let Pic { irr, imr, isr, priority, base, read_isr, elcr, fully_nested } = *pic;
    let (read, nested) = (u8::from(read_isr), u8::from(fully_nested));
    format!(
        "pic{number}: irr={irr:02x} imr={imr:02x} isr={isr:02x} hprio={priority} irq_base={base:02x} \
         rr_sel={read} elcr={elcr:02x} fnm={nested}\n"
    )
}

/// Names of delivery modes, as the IOAPIC's entries are shown with.
const PIN_MODES: [&str; 8] = ["fixed", "lowest", "SMI", "...", "NMI", "INIT", "...", "extINT"];
/// Its entries begin with this register.
const FIRST_ENTRY: u8 = 0x10;

fn ioapic(ioapic: &IoApic) -> String {
    let IoApic { id, version, select, irr, pins } = ioapic;
    let mut out = format!("ioapic0: ver={version:#x} id={id:#04x} sel={select:#04x}");
    if *select >= FIRST_ENTRY {
        let _ = write!(out, " (redir[{}])", (select - FIRST_ENTRY) >> 1);
    }
    out.push('\n');
    let bit = |entry: u64, bit: u32| entry >> bit & 1 != 0;
    let of = |yes: bool, then: &'static str, other: &'static str| if yes { then } else { other };
    for (pin, entry) in pins.iter().copied().enumerate() {
        let logical = bit(entry, 11);
        let _ = writeln!(
            out,
            "  pin {pin:<2} {entry:#018x} dest={:x} vec={:<3} {} {:5} {:6} {:6} {}",
            entry >> 56 & if logical { 0xff } else { 0xf },
            entry & 0xff,
            of(bit(entry, 13), "active-lo", "active-hi"),
            of(bit(entry, 15), "level", "edge"),
            of(bit(entry, 16), "masked", ""),
            PIN_MODES[(entry >> 8 & 7) as usize],
            of(logical, "logical", "physical"),
        );
    }
    let remote =
        pins.iter().enumerate().filter(|(_, entry)| bit(**entry, 14)).fold(0, |all, (pin, _)| all | 1 << pin);
    out + &set("  IRR", *irr) + &set("  Remote IRR", remote)
}

/// The numbers of the bits that are set.
fn set(name: &str, bits: u32) -> String {
    let numbers: String =
        (0..32).filter(|bit| bits >> bit & 1 != 0).map(|bit| format!("{bit:<2} ")).collect();
    format!("{name:<10} {}\n", if numbers.is_empty() { "(none)" } else { &numbers })
}

/// Names of delivery modes in a local vector table.
const LOCAL_MODES: [&str; 8] = ["Fixed", "...", "SMI", "...", "NMI", "INIT", "...", "ExtINT"];
const NMI: u32 = 4;
/// Registers, bytes from the start of the page.
const TPR: u32 = 0x80;
const APR: u32 = 0x90;
const PPR: u32 = 0xa0;
const LDR: u32 = 0xd0;
const DFR: u32 = 0xe0;
const SPIV: u32 = 0xf0;
const ISR: u32 = 0x100;
const TMR: u32 = 0x180;
const IRR: u32 = 0x200;
const ESR: u32 = 0x280;
const ICR: u32 = 0x300;
const ICR2: u32 = 0x310;
const LVTT: u32 = 0x320;
const INITIAL_COUNT: u32 = 0x380;
const CURRENT_COUNT: u32 = 0x390;
const DIVIDE: u32 = 0x3e0;
/// The local vector table with the names it is shown with.
const LVT: [(&str, u32); 6] = [
    ("LVT0", 0x350),
    ("LVT1", 0x360),
    ("LVTPC", 0x340),
    ("LVTERR", 0x370),
    ("LVTTHMR", 0x330),
    ("LVTT", LVTT),
];

/// The local APIC of vCPU `cpu`.
pub(super) fn local_apic(cpu: u32, apic: &LocalApic) -> String {
    let register = |offset| apic.register(offset);
    let mut out = format!("dumping local APIC state for CPU {cpu:<2}\n\n");
    for (name, offset) in LVT {
        out += &vector(name, register(offset), offset == LVTT);
    }
    let divide = register(DIVIDE) & 0xf;
    // 0 to 7, of which the last divides by 1.
    let shift = ((divide & 3 | divide >> 1 & 4) + 1) & 7;
    let _ = writeln!(
        out,
        "Timer\t DCR={divide:#x} (divide by {}) initial_count = {} current_count = {}",
        1 << shift,
        register(INITIAL_COUNT),
        register(CURRENT_COUNT)
    );
    let spiv = register(SPIV);
    let enabled = if spiv & 1 << 8 == 0 { "disabled" } else { "enabled" };
    let focus = if spiv & 1 << 9 == 0 { "off" } else { "on" };
    let _ = writeln!(out, "SPIV\t {spiv:#010x} APIC {enabled}, focus={focus}, spurious vec {}", spiv & 0xff);
    out += &command(apic);
    let _ = writeln!(out, "ESR\t {:#010x}", register(ESR));
    out += &vectors("ISR", ISR, apic);
    out += &vectors("IRR", IRR, apic);
    let (dfr, ldr) = (register(DFR) >> 28, register(LDR) >> 24);
    let [apr, tpr, ppr] = [APR, TPR, PPR].map(|offset| register(offset) & 0xff);
    let _ = write!(out, "\nAPR {apr:#04x} TPR {tpr:#04x} DFR {dfr:#04x} LDR {ldr:#04x}");
    if dfr == 0 {
        let _ = write!(out, "(cluster {}: id {})", ldr >> 4, ldr & 0xf);
    }
    let _ = writeln!(out, " PPR {ppr:#04x}");
    out
}

/// An entry of the local vector table.
fn vector(name: &str, lvt: u32, timer: bool) -> String {
    let of =
        |bit: u32, then: &'static str, other: &'static str| if lvt >> bit & 1 == 0 { other } else { then };
    let timer = match lvt >> 17 & 3 {
        _ if !timer => "",
        2 => "tsc-deadline",
        1 => "periodic",
        _ => "one-shot",
    };
    let mode = lvt >> 8 & 7;
    let (polarity, trigger) = (of(13, "active-lo", "active-hi"), of(15, "level", "edge"));
    let (masked, pending) = (of(16, "masked", ""), of(12, "pending", ""));
    let delivery = LOCAL_MODES[mode as usize];
    let line = format!(
        "{name}\t {lvt:#010x} {polarity} {trigger:<5} {masked:<6} {pending:<7} {timer:<12} {delivery:<6}"
    );
    // What comes as an NMI has no vector.
    if mode == NMI { line + "\n" } else { format!("{line} (vec {})\n", lvt & 0xff) }
}

/// The interrupt command register: what this processor sent last, and to whom.
fn command(apic: &LocalApic) -> String {
    let (icr, icr2) = (apic.register(ICR), apic.register(ICR2));
    let of =
        |bit: u32, then: &'static str, other: &'static str| if icr >> bit & 1 == 0 { other } else { then };
    let shorthand = icr >> 18 & 3;
    let mut out = format!(
        "ICR\t {icr:#010x} {} {} {} {}\nICR2\t {icr2:#010x}",
        of(11, "logical", "physical"),
        of(15, "level", "edge"),
        of(14, "assert", "de-assert"),
        ["no-shorthand", "self", "all-self", "all"][shorthand as usize],
    );
    if shorthand != 0 {
        return out + "\n";
    }
    let dest = if apic.x2apic { icr2 } else { icr2 >> 24 };
    let kind = if apic.x2apic { "X2APIC ID" } else { "APIC ID" };
    let _ = match (icr >> 11 & 1, apic.register(DFR) >> 28) {
        (0, _) if apic.x2apic => write!(out, " cpu {dest} ({kind})"),
        (0, _) => write!(out, " cpu {} ({kind})", dest & 0xf),
        (_, 0xf) => write!(out, " mask {:08b} (APIC ID)", icr2 >> 24),
        (_, 0) if apic.x2apic => write!(out, " cluster {} mask {:016b} ({kind})", dest >> 16, dest & 0xffff),
        (_, 0) => write!(out, " cluster {} mask {:04b} ({kind})", dest >> 4, dest & 0xf),
        _ => Ok(()),
    };
    out + "\n"
}

/// Vectors whose bit is set from the register at `offset` on.
fn vectors(name: &str, offset: u32, apic: &LocalApic) -> String {
    let level = |vector| if apic.vector(TMR, vector) { "(level)" } else { "" };
    let found: String = (0..=u8::MAX)
        .filter(|vector| apic.vector(offset, *vector))
        .map(|vector| format!("{vector}{} ", level(vector)))
        .collect();
    format!("{name}\t {}\n", if found.is_empty() { "(none)" } else { &found })
}

#[cfg(test)]
mod tests;

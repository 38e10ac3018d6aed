//! The DSDT: devices that cannot be found otherwise, and the program that carries out hot-plug.
//!
//! Revision 2, so that integers have 64 bits.

mod cpus;
mod generation;
mod interrupts;
mod memory;
mod pci;
mod plug;
mod reduced;

use super::code::{
    Access, Code, Space, arg, device, eisa, field, int, isa_interrupt, local, method, named, package, path,
    ports, region, resources, ret, store, text,
};
use super::facts::{Facts, Platform, Serial};
use super::table;

pub(super) use generation::place_of_page;

/// The table.
pub(super) fn dsdt(facts: &Facts) -> Vec<u8> {
    let mut body = if let Platform::Microvm { .. } = facts.platform {
        vec![reduced::devices(facts)]
    } else {
        full(facts)
    };
    body.extend(facts.generation.map(generation::device_at));
    body.push(cpus::processors(facts));
    table(b"DSDT", 2, &body.into_iter().flat_map(|code| code.0).collect::<Vec<_>>())
}

fn full(facts: &Facts) -> Vec<Code> {
    // Sleep type 0 is what the PM1 control register takes for S5.
    let off = package(&[int(0u8), int(0u8), int(0u8), int(0u8)]);
    let mut body = vec![
        pci::root(facts),
        pci::isa_bridge(facts, &isa_devices(facts)),
        interrupts::devices(facts.platform),
        pci::board(facts),
        named("_S5_", &off),
    ];
    body.extend(plug::program(facts));
    if facts.memory_slots > 0 {
        body.push(memory::program(facts.memory_slots));
    }
    body
}

/// What is at fixed ports.
fn isa_devices(facts: &Facts) -> Vec<Code> {
    let mut list: Vec<Code> = facts.serial.iter().map(serial).collect();
    if facts.rtc {
        list.push(rtc());
    }
    if let Some([keyboard_irq, mouse_irq]) = facts.i8042 {
        list.extend([keyboard(keyboard_irq), mouse(mouse_irq)]);
    }
    if facts.fw_cfg {
        list.push(fw_cfg());
    }
    list.extend(facts.pvpanic.map(pvpanic));
    list
}

fn serial(port: &Serial) -> Code {
    let crs = resources(&[ports(port.base, 8), isa_interrupt(port.irq)]);
    device(
        &format!("COM{}", port.index % 4 + 1),
        &[named("_HID", &eisa("PNP0501")), named("_UID", &int(port.index + 1)), named("_CRS", &crs)],
    )
}

fn rtc() -> Code {
    let crs = resources(&[ports(0x70, 8), isa_interrupt(8)]);
    device("RTC_", &[named("_HID", &eisa("PNP0B00")), named("_CRS", &crs)])
}

fn keyboard(irq: u8) -> Code {
    let crs = resources(&[ports(0x60, 1), ports(0x64, 1), isa_interrupt(irq)]);
    device("KBD_", &[named("_HID", &eisa("PNP0303")), named("_STA", &int(0x0fu8)), named("_CRS", &crs)])
}

/// Its ports are the keyboard's.
fn mouse(irq: u8) -> Code {
    let crs = resources(&[isa_interrupt(irq)]);
    device("MOU_", &[named("_HID", &eisa("PNP0F13")), named("_STA", &int(0x0fu8)), named("_CRS", &crs)])
}

fn fw_cfg() -> Code {
    let crs = resources(&[ports(0x510, 12)]);
    // Present, working, not to be shown.
    device("FWCF", &[named("_HID", &text("QEMU0002")), named("_STA", &int(0x0bu8)), named("_CRS", &crs)])
}

/// The device that takes news of panics, with methods for systems that leave ports to their firmware.
fn pvpanic(port: u16) -> Code {
    device(
        "PEVT",
        &[
            named("_HID", &text("QEMU0001")),
            named("_CRS", &resources(&[ports(port, 1)])),
            region("PEOR", Space::SystemIO, port.into(), 1),
            field("PEOR", Access::Byte, &[("PEPT", 8)]),
            named("_STA", &int(0x0fu8)),
            method("RDPT", 0, &[store(&path("PEPT"), &local(0)), ret(&local(0))]),
            method("WRPT", 1, &[store(&arg(0), &path("PEPT"))]),
        ],
    )
}

/// The path of an object in the root bridge.
fn in_root(name: &str) -> Code {
    path(&format!("\\_SB_.PCI0.{name}"))
}

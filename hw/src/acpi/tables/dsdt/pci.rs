//! The root bridge, its ISA bridge, and what the board keeps for itself.

use super::super::code::{
    Access, Code, Space, and_to, arg, bus_numbers, device, dword_field, eisa, equal, field, fixed_memory,
    int, local, method, named, not, or_to, otherwise, path, port_window, ports, region, resources, ret,
    scope, store, uuid, when, window32, window64,
};
use super::super::facts::{Facts, Platform};
use super::super::fixed::gpe_block;
use super::{interrupts, plug};
use crate::acpi::{cpuhp, memhp, pcihp};
use crate::i386::host_bridge::ECAM_BASE;

/// Bytes of memory-mapped configuration: 256 buses.
const ECAM_SIZE: u64 = 256 << 20;
/// The I/O APIC ends the window for 32-bit BARs.
const WINDOW32_END: u64 = 0xfec0_0000;
const FOUR_GIB: u64 = 1 << 32;
/// `_OSC` of a PCI host bridge (PCI Firmware Specification 3.3 §4.5.1).
const OSC_UUID: &str = "33db4d5b-1ff7-401c-9657-7441c03dd766";
const OSC_UNKNOWN_UUID: u8 = 1 << 2;
const OSC_UNKNOWN_REVISION: u8 = 1 << 3;
const OSC_MASKED: u8 = 1 << 4;
/// What the system may have: native hot-plug, SHPC, PME, AER, the capability structure.
const OSC_ALL: u8 = 0x1f;
const OSC_NATIVE_HOTPLUG: u8 = 1;

/// The root bridge.
pub(super) fn root(facts: &Facts) -> Code {
    let q35 = facts.platform == Platform::Q35;
    let mut body = if q35 {
        vec![named("_HID", &eisa("PNP0A08")), named("_CID", &eisa("PNP0A03"))]
    } else {
        vec![named("_HID", &eisa("PNP0A03"))]
    };
    body.extend([named("_UID", &int(0u8)), named("_CRS", &windows(facts))]);
    // Everything comes on the first root bus's node.
    if q35 {
        body.push(control(facts));
    }
    body.push(interrupts::table(facts.platform));
    scope("_SB_", &[device("PCI0", &body)])
}

fn windows(facts: &Facts) -> Code {
    let mut list = vec![
        bus_numbers(0, facts.last_bus.into()),
        ports(0xcf8, 8),
        port_window(0, 0xcf7),
        port_window(0xd00, 0xffff),
        window32(0xa_0000, 0xb_ffff),
    ];
    let mut below = |start: u64, end: u64| {
        if start < end && end <= FOUR_GIB {
            list.push(window32(start as u32, (end - 1) as u32));
        }
    };
    if facts.platform == Platform::Q35 {
        below(facts.layout.below_4g, ECAM_BASE);
        below(ECAM_BASE + ECAM_SIZE, WINDOW32_END);
    } else {
        below(facts.layout.below_4g, WINDOW32_END);
    }
    list.push(window64(facts.window64.0, facts.window64.1));
    resources(&list)
}

/// What the system may control itself: all but native hot-plug where ACPI plugs, whether there is a bridge yet or not.
fn control(facts: &Facts) -> Code {
    let granted = if facts.acpi_hotplug { OSC_ALL & !OSC_NATIVE_HOTPLUG } else { OSC_ALL };
    let (status, wanted, allowed) = (path("CDW1"), path("CDW3"), local(0));
    let flag = |bit: u8| or_to(&status, &int(bit), &status);
    method(
        "_OSC",
        4,
        &[
            dword_field(&arg(3), 0, "CDW1"),
            when(
                &equal(&arg(0), &uuid(OSC_UUID)),
                &[
                    dword_field(&arg(3), 8, "CDW3"),
                    and_to(&wanted, &int(granted), &allowed),
                    when(&not(&equal(&arg(1), &int(1u8))), &[flag(OSC_UNKNOWN_REVISION)]),
                    when(&not(&equal(&wanted, &allowed)), &[flag(OSC_MASKED)]),
                    store(&allowed, &wanted),
                ],
            ),
            otherwise(&[flag(OSC_UNKNOWN_UUID)]),
            ret(&arg(3)),
        ],
    )
}

/// The ISA bridge with the routing registers and the devices behind it.
pub(super) fn isa_bridge(facts: &Facts, devices: &[Code]) -> Code {
    let q35 = facts.platform == Platform::Q35;
    let address: u32 = if q35 { 0x1f_0000 } else { 0x1_0000 };
    let names: Vec<String> = (0..8).map(interrupts::register_name).collect();
    let first = names[..4].iter().map(|name| (name.as_str(), 8));
    let second = names[4..].iter().map(|name| (name.as_str(), 8));
    let registers: Vec<(&str, usize)> =
        if q35 { first.chain([("", 32)]).chain(second).collect() } else { first.collect() };
    let mut body = vec![
        named("_ADR", &int(address)),
        region("PIRQ", Space::PCIConfig, 0x60, if q35 { 12 } else { 4 }),
        field("PIRQ", Access::Byte, &registers),
    ];
    body.extend_from_slice(devices);
    scope("\\_SB_.PCI0", &[device("ISA_", &body)])
}

/// Ports and memory that belong to the board, so that nobody else is put there.
pub(super) fn board(facts: &Facts) -> Code {
    let mut list = Vec::new();
    // The south bridge of q35 has a BAR around its own, with which a second claim would only clash.
    if facts.platform == Platform::Pc {
        let (gpe, length) = gpe_block(facts.platform);
        list.push(ports(gpe, length));
    }
    if facts.bus.is_pluggable() {
        list.push(ports(plug::registers(facts.platform), pcihp::REGISTERS as u8));
    }
    if let Some(base) = facts.cpu_hotplug {
        list.push(ports(base as u16, cpuhp::REGISTERS as u8));
    }
    if facts.memory_slots > 0 {
        list.push(ports(memhp::BASE as u16, memhp::REGISTERS as u8));
    }
    if facts.platform == Platform::Q35 {
        list.push(fixed_memory(ECAM_BASE as u32, ECAM_SIZE as u32));
    }
    let body = [named("_HID", &eisa("PNP0C02")), named("_UID", &int(0u8)), named("_CRS", &resources(&list))];
    scope("_SB_", &[device("MRES", &body)])
}

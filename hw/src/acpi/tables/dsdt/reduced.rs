//! The devices of a hardware-reduced machine: the generic event device, its power button, transports of virtio devices.

use super::super::code::{
    Access, Code, Space, all, and, device, edge_interrupt, field, fixed_memory, int, level_interrupt, local,
    method, named, notify, package, path, region, resources, scope, store, text, when,
};
use super::super::facts::Facts;
use super::isa_devices;
use crate::acpi::ged;

/// Bytes of a virtio-mmio transport.
const TRANSPORT: u32 = 0x200;
const STATUS_CHANGE: u8 = 0x80;

/// All of them, and how the machine is switched off.
pub(super) fn devices(facts: &Facts) -> Code {
    let mut list = isa_devices(facts);
    list.extend([events(), button()]);
    list.extend((0u32..).zip(&facts.virtio_mmio).map(|(index, &(base, irq))| transport(index, base, irq)));
    let off = package(&[int(ged::SLEEP_TYPE_S5), int(0u8), int(0u8), int(0u8)]);
    all([scope("_SB_", &list), named("_S5_", &off)])
}

fn events() -> Code {
    let pressed = and(&local(0), &int(ged::POWER_BUTTON));
    let event = [
        store(&path("ESEL"), &local(0)),
        when(&pressed, &[notify(&path("\\_SB_.PWRB"), &int(STATUS_CHANGE))]),
    ];
    device(
        "GED_",
        &[
            named("_HID", &text("ACPI0013")),
            named("_UID", &text("GED")),
            named("_CRS", &resources(&[edge_interrupt(ged::IRQ)])),
            region("EREG", Space::SystemMemory, ged::EVENTS_BASE, ged::EVENTS_SIZE),
            field("EREG", Access::Word32, &[("ESEL", 32)]),
            method("_EVT", 1, &event),
        ],
    )
}

fn button() -> Code {
    device("PWRB", &[named("_HID", &text("PNP0C0C")), named("_UID", &int(0u8))])
}

fn transport(index: u32, base: u32, irq: u32) -> Code {
    // The line stays up until the driver has acknowledged all causes: an edge that is lost while the pin is masked would be the last one.
    let crs = resources(&[fixed_memory(base, TRANSPORT), level_interrupt(irq)]);
    device(
        &format!("VR{index:02X}"),
        &[named("_HID", &text("LNRO0005")), named("_UID", &int(index)), named("_CRS", &crs)],
    )
}

//! PCI hot-plug: the event looks at the registers of each bus and tells the system which slots changed; `_EJ0` of a slot
//! lets go of it.

use super::super::code::{
    Access, Code, Space, all, and, arg, call, device, field, int, local, locked, method, mutex, named,
    notify, path, reentrant, region, scope, shift_to, store, when,
};
use super::super::facts::{Bus, Facts, Platform};
use crate::acpi::{pcihp, piix4_pm};

const DEVICE_CHECK: u8 = 1;
const EJECT_REQUEST: u8 = 3;
const ROOT: &str = "\\_SB_.PCI0";
/// Held while a bus is selected in the registers.
const LOCK: &str = "\\_SB_.PCI0.HPLK";

/// Where the registers are.
pub(super) fn registers(platform: Platform) -> u16 {
    (if platform == Platform::Q35 { pcihp::ICH9_BASE } else { piix4_pm::PCI_HOTPLUG_BASE }) as u16
}

/// The program; none where ACPI plugs nowhere.
pub(super) fn program(facts: &Facts) -> Option<Code> {
    if !facts.bus.is_pluggable() {
        return None;
    }
    let mut body = vec![
        region("HPRG", Space::SystemIO, registers(facts.platform).into(), pcihp::REGISTERS),
        field("HPRG", Access::Word32, &[("PCIU", 32), ("PCID", 32), ("B0EJ", 32), ("", 32), ("BNUM", 32)]),
        mutex("HPLK"),
        eject(),
    ];
    body.extend(slots(&facts.bus));
    let event = method("_E01", 0, &[locked(LOCK, &scans(&facts.bus, ROOT))]);
    Some(all([scope(ROOT, &body), scope("\\_GPE", &[event])]))
}

/// Lets go of a slot: bus, slot.
fn eject() -> Code {
    let steps = [
        store(&arg(0), &path("BNUM")),
        shift_to(&int(1u8), &arg(1), &local(0)),
        store(&local(0), &path("B0EJ")),
    ];
    method("HPEJ", 2, &[locked("HPLK", &steps)])
}

fn device_name(devfn: u8) -> String {
    format!("S{devfn:02X}_")
}

fn address(devfn: u8) -> Code {
    named("_ADR", &int(u32::from(devfn >> 3) << 16 | u32::from(devfn & 7)))
}

/// What is on a bus: slots and bridges, and the method that looks for changes.
fn slots(bus: &Bus) -> Vec<Code> {
    let mut list = Vec::new();
    for (devfn, behind) in &bus.bridges {
        let mut body = vec![address(*devfn)];
        body.extend(slots(behind));
        list.push(device(&device_name(*devfn), &body));
    }
    let Some(selector) = bus.selector else { return list };
    list.extend(bus.slots.iter().map(|&slot| {
        let eject = call("HPEJ", &[int(selector), int(slot)]);
        device(
            &device_name(slot << 3),
            &[address(slot << 3), named("_SUN", &int(slot)), reentrant("_EJ0", 1, &[eject])],
        )
    }));
    list.push(scan(bus, selector));
    list
}

/// With the lock held: tells of the slots of a bus that changed.
fn scan(bus: &Bus, selector: u32) -> Code {
    let mut body = vec![
        store(&int(selector), &path("BNUM")),
        store(&path("PCIU"), &local(0)),
        store(&path("PCID"), &local(1)),
    ];
    for slot in &bus.slots {
        let (object, bit) = (path(&device_name(slot << 3)), int(1u32 << slot));
        for (changed, event) in [(local(0), DEVICE_CHECK), (local(1), EJECT_REQUEST)] {
            body.push(when(&and(&changed, &bit), &[notify(&object, &int(event))]));
        }
    }
    method("HPSC", 0, &body)
}

/// Calls of the scans of a bus and of those below it.
fn scans(bus: &Bus, at: &str) -> Vec<Code> {
    let mut list = Vec::new();
    if bus.selector.is_some() {
        list.push(call(&format!("{at}.HPSC"), &[]));
    }
    for (devfn, behind) in &bus.bridges {
        list.extend(scans(behind, &format!("{at}.{}", device_name(*devfn))));
    }
    list
}

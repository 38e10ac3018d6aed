//! Where interrupt pins of PCI devices go: link devices over the routing registers of the south bridge, and on `q35` the
//! inputs of the I/O APIC that each line has besides.

use super::super::code::{
    Code, all, and, and_to, arg, call, device, dword_field, eisa, int, link_interrupts, method, named, or_to,
    package, path, reentrant, resources, ret, scope, store, when,
};
use super::super::facts::Platform;
use super::in_root;
use crate::isa::pirq::Wiring;

/// Interrupts that a line can be routed to.
const CHOICE: [u32; 3] = [5, 10, 11];
/// Bit of a routing register: routed nowhere.
const NOWHERE: u8 = 0x80;
/// Input of the I/O APIC that the first line is connected to on `q35`.
const FIRST_INPUT: u32 = 16;
/// The power management function of the PIIX4 drives the SCI with its pin.
const SCI_SLOT: u8 = 1;

fn wiring(platform: Platform) -> Wiring {
    if platform == Platform::Q35 { Wiring::Ich9 } else { Wiring::Piix }
}

fn lines(platform: Platform) -> u8 {
    if platform == Platform::Q35 { 8 } else { 4 }
}

fn link_name(line: u8) -> String {
    format!("LNK{}", char::from(b'A' + line))
}

/// The name of the routing register of a line.
pub(super) fn register_name(line: u8) -> String {
    format!("PRQ{}", char::from(b'A' + line))
}

/// One entry for each pin of each slot; `target` gives the last two parts of it.
fn routing(platform: Platform, target: impl Fn(u8, u8, u8) -> [Code; 2]) -> Code {
    let mut entries = Vec::new();
    for (slot, pin) in (0..32u8).flat_map(|slot| (0..4u8).map(move |pin| (slot, pin))) {
        let [source, index] = target(slot, pin, wiring(platform).line(slot, pin));
        entries.push(package(&[int(u32::from(slot) << 16 | 0xffff), int(pin), source, index]));
    }
    package(&entries)
}

/// The routing table of the root bus.
pub(super) fn table(platform: Platform) -> Code {
    let through_links = routing(platform, |slot, pin, line| {
        let sci = platform == Platform::Pc && (slot, pin) == (SCI_SLOT, 0);
        [path(&if sci { "LNKS".to_owned() } else { link_name(line) }), int(0u8)]
    });
    if platform == Platform::Pc {
        return named("_PRT", &through_links);
    }
    let to_inputs = routing(platform, |_, _, line| [int(0u8), int(FIRST_INPUT + u32::from(line))]);
    all([
        named("PRTP", &through_links),
        named("PRTA", &to_inputs),
        reentrant("_PRT", 0, &[when(&path("\\PICF"), &[ret(&path("PRTA"))]), ret(&path("PRTP"))]),
    ])
}

/// The link devices, and the method by which the system says which controller it uses.
pub(super) fn devices(platform: Platform) -> Code {
    let mut list = vec![is_routed(), current()];
    list.extend((0..lines(platform)).map(link));
    if platform == Platform::Pc {
        list.push(sci_link());
    }
    let mode = [named("PICF", &int(0u8)), reentrant("_PIC", 1, &[store(&arg(0), &path("PICF"))])];
    all([all(mode), scope("_SB_", &list)])
}

/// `_STA` of a link whose register holds the argument: present, and enabled if it is routed.
fn is_routed() -> Code {
    let nowhere = and(&arg(0), &int(NOWHERE));
    reentrant("LSTA", 1, &[when(&nowhere, &[ret(&int(0x09u8))]), ret(&int(0x0bu8))])
}

/// `_CRS` of a link whose register holds the argument.
fn current() -> Code {
    method(
        "LCRS",
        1,
        &[
            named("LBUF", &resources(&[link_interrupts(&[0])])),
            dword_field(&path("LBUF"), 5, "LIRQ"),
            and_to(&arg(0), &int(0x0fu8), &path("LIRQ")),
            ret(&path("LBUF")),
        ],
    )
}

fn link(line: u8) -> Code {
    let register = in_root(&format!("ISA_.{}", register_name(line)));
    let set = [dword_field(&arg(0), 5, "LIRQ"), store(&path("LIRQ"), &register)];
    let passed = |name: &str| ret(&call(name, std::slice::from_ref(&register)));
    device(
        &link_name(line),
        &[
            named("_HID", &eisa("PNP0C0F")),
            named("_UID", &int(line)),
            named("_PRS", &resources(&[link_interrupts(&CHOICE)])),
            reentrant("_STA", 0, &[passed("LSTA")]),
            reentrant("_DIS", 0, &[or_to(&register, &int(NOWHERE), &register)]),
            reentrant("_CRS", 0, &[passed("LCRS")]),
            method("_SRS", 1, &set),
        ],
    )
}

/// The link that cannot be set: the SCI.
fn sci_link() -> Code {
    let sci = resources(&[link_interrupts(&[crate::acpi::pm::SCI])]);
    device(
        "LNKS",
        &[
            named("_HID", &eisa("PNP0C0F")),
            named("_UID", &int(4u8)),
            named("_STA", &int(0x0bu8)),
            named("_PRS", &sci),
            named("_CRS", &sci),
            reentrant("_DIS", 0, &[]),
            reentrant("_SRS", 1, &[]),
        ],
    )
}

//! Memory hot-plug: a device for each DIMM slot, whose methods read the registers (`acpi::memhp`) with the slot selected.

use super::super::code::{
    Access, Code, Space, add_to, all, arg, call, device, eisa, equal, field, int, less, local, locked,
    method, mutex, named, notify, or_to, otherwise, path, qword_field, reentrant, region, resources, ret,
    scope, shift_to, store, subtract_to, text, when, while_true, window64,
};
use crate::acpi::memhp;

const DEVICE_CHECK: u8 = 1;
const EJECT_REQUEST: u8 = 3;
const LOCK: &str = "\\_SB_.MHPC.MLCK";
/// Where a QWord address descriptor has its first, its last address, its length.
const FIRST: u8 = 14;
const LAST: u8 = 22;
const LENGTH: u8 = 38;

/// The program for `slots` slots.
pub(super) fn program(slots: u32) -> Code {
    let mut body = vec![
        named("_HID", &eisa("PNP0A06")),
        named("_UID", &text("DIMM slots")),
        region("MREG", Space::SystemIO, memhp::BASE, memhp::REGISTERS),
        field(
            "MREG",
            Access::Word32,
            &[("MBLO", 32), ("MBHI", 32), ("MLLO", 32), ("MLHI", 32), ("MPRX", 32)],
        ),
        // The same places, written.
        field("MREG", Access::Word32, &[("MSEL", 32), ("MEVT", 32), ("MSTA", 32)]),
        field("MREG", Access::Flags, &[("", 160), ("MENA", 1), ("MINS", 1), ("MREM", 1), ("MEJC", 1)]),
        mutex("MLCK"),
        status(),
        window(),
        node(),
        report(),
        eject(),
        tell(slots),
        scan(slots),
    ];
    body.extend((0..slots).map(slot));
    let event = reentrant("_E03", 0, &[call("\\_SB_.MHPC.MSCN", &[])]);
    all([scope("_SB_", &[device("MHPC", &body)]), scope("\\_GPE", &[event])])
}

fn name(slot: u32) -> String {
    format!("M{slot:03X}")
}

/// `steps` with the slot of the first argument selected.
fn selected(steps: &[Code]) -> Code {
    let mut body = vec![store(&arg(0), &path("MSEL"))];
    body.extend_from_slice(steps);
    locked(LOCK, &body)
}

fn status() -> Code {
    let read = selected(&[store(&path("MENA"), &local(0))]);
    method("MSTS", 1, &[read, when(&local(0), &[ret(&int(0x0fu8))]), ret(&int(0u8))])
}

/// Two registers as one number.
fn wide(high: &str, low: &str, target: &Code) -> [Code; 2] {
    [shift_to(&path(high), &int(32u8), target), or_to(target, &path(low), target)]
}

fn window() -> Code {
    let mut steps = Vec::new();
    steps.extend(wide("MBHI", "MBLO", &local(0)));
    steps.extend(wide("MLHI", "MLLO", &local(1)));
    method(
        "MCRS",
        1,
        &[
            named("MBUF", &resources(&[window64(0, u64::MAX - 1)])),
            qword_field(&path("MBUF"), FIRST, "MFST"),
            qword_field(&path("MBUF"), LAST, "MLST"),
            qword_field(&path("MBUF"), LENGTH, "MLEN"),
            selected(&steps),
            store(&local(0), &path("MFST")),
            store(&local(1), &path("MLEN")),
            add_to(&local(0), &local(1), &local(2)),
            subtract_to(&local(2), &int(1u8), &path("MLST")),
            ret(&path("MBUF")),
        ],
    )
}

fn node() -> Code {
    method("MPXM", 1, &[selected(&[store(&path("MPRX"), &local(0))]), ret(&local(0))])
}

/// `_OST`: slot, event, status.
fn report() -> Code {
    let steps = [store(&arg(1), &path("MEVT")), store(&arg(2), &path("MSTA"))];
    method("MOST", 3, &[selected(&steps)])
}

fn eject() -> Code {
    method("MEJE", 1, &[selected(&[store(&int(1u8), &path("MEJC"))])])
}

/// Tells the system of something about a slot: slot, what.
fn tell(slots: u32) -> Code {
    let one = |slot| when(&equal(&arg(0), &int(slot)), &[notify(&path(&name(slot)), &arg(1))]);
    method("MNTF", 2, &(0..slots).map(one).collect::<Vec<_>>())
}

/// Looks at each slot, and takes each event once it is told.
fn scan(slots: u32) -> Code {
    let slot = local(0);
    let told =
        |event: u8, flag: &str| [call("MNTF", &[slot.clone(), int(event)]), store(&int(1u8), &path(flag))];
    let steps = [
        store(&slot, &path("MSEL")),
        when(&equal(&path("MINS"), &int(1u8)), &told(DEVICE_CHECK, "MINS")),
        otherwise(&[when(&equal(&path("MREM"), &int(1u8)), &told(EJECT_REQUEST, "MREM"))]),
        add_to(&slot, &int(1u8), &slot),
    ];
    let body = [store(&int(0u8), &slot), while_true(&less(&slot, &int(slots)), &steps)];
    method("MSCN", 0, &[locked(LOCK, &body)])
}

fn slot(slot: u32) -> Code {
    let to = |method: &str| ret(&call(method, &[int(slot)]));
    device(
        &name(slot),
        &[
            named("_HID", &eisa("PNP0C80")),
            named("_UID", &int(slot)),
            reentrant("_STA", 0, &[to("MSTS")]),
            reentrant("_CRS", 0, &[to("MCRS")]),
            reentrant("_PXM", 0, &[to("MPXM")]),
            reentrant("_OST", 3, &[call("MOST", &[int(slot), arg(0), arg(1)])]),
            reentrant("_EJ0", 1, &[call("MEJE", &[int(slot)])]),
        ],
    )
}

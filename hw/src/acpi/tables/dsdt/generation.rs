//! The device by which a guest finds the number of its generation.

use super::super::code::{
    Code, add_to, all, device, dword, element, equal, int, local, method, named, notify, package, path,
    reentrant, ret, scope, store, text, when,
};
use crate::acpi::vmgenid::OFFSET;

/// The address of the page: an object of its own, so that firmware can change it in place.
const PLACE: &[u8] = b"\x08VGIA\x0c";
const STATUS_CHANGE: u8 = 0x80;

/// The device, for a page at `page`.
pub(super) fn device_at(page: u32) -> Code {
    let nowhere = when(&equal(&path("\\VGIA"), &int(0u8)), &[ret(&int(0u8))]);
    let body = [
        named("_HID", &text("QEMUVGID")),
        named("_CID", &text("VM_Gen_Counter")),
        named("_DDN", &text("VM_Gen_Counter")),
        reentrant("_STA", 0, &[nowhere, ret(&int(0x0fu8))]),
        address(),
    ];
    // Whoever moves the page needs its address to be four bytes long, even if it is 0.
    let place = named("VGIA", &dword(page));
    let event = reentrant("_E05", 0, &[notify(&path("\\_SB_.VGEN"), &int(STATUS_CHANGE))]);
    all([place, scope("_SB_", &[device("VGEN", &body)]), scope("\\_GPE", &[event])])
}

/// Where the number is: the lower and the upper half of the address.
fn address() -> Code {
    let empty = package(&[int(0u8), int(0u8)]);
    let steps = [
        store(&empty, &local(0)),
        add_to(&path("\\VGIA"), &int(OFFSET), &local(1)),
        store(&local(1), &element(&local(0), &int(0u8))),
        ret(&local(0)),
    ];
    method("ADDR", 0, &steps)
}

/// Where in the tables the address of the page is, 32 bits, if it is in them.
pub(in super::super) fn place_of_page(blob: &[u8]) -> Option<usize> {
    let at = blob.windows(PLACE.len()).position(|bytes| bytes == PLACE)?;
    Some(at + PLACE.len())
}

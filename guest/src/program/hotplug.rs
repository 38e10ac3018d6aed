//! Giving functions back: ACPI PCI hot-plug of the boards (`pc`: ports ae00h–ae13h, `q35`: cc0h–cd3h; what the DSDT's `_EJ0` would do).
//!
//! Which number stands for which bus is said in tables that nobody reads here. 0 is the root bus on `pc`; there is none for that of `q35`. What is behind bridges is
//! found by its slot alone: all that holds nothing there is given up, and what was not meant is found again.
//!
//! Left out: native PCIe hot-plug. New functions are found by the regular scan.

use super::Program;
use super::console::say;
use crate::bus::Bus;
use crate::pci::Function;

/// Registers, by their distance from the first.
const DOWN: u16 = 4;
const EJECT: u16 = 8;
const SELECT: u16 = 16;
const PC: u16 = 0xae00;
const Q35: u16 = 0xcc0;
/// The host bridge of `q35`: vendor and device.
const MCH: (u16, u16) = (0x8086, 0x29c0);

impl Program {
    /// Ejects the slots that the board wants back. A memory device is given back only once nothing of it is plugged, a disk once it has no request.
    pub(super) fn eject(&mut self, bus: &mut impl Bus) {
        let q35 = Function { bus: 0, device: 0, function: 0 }.id(bus) == Some(MCH);
        let base = if q35 { Q35 } else { PC };
        for number in 0..=u32::from(self.last_bus) {
            bus.out32(base + SELECT, number);
            if bus.in32(base + SELECT) != number {
                return;
            }
            let wanted = bus.in32(base + DOWN);
            let on_root = number == 0 && !q35;
            for slot in (0..32).filter(|slot| wanted >> slot & 1 != 0) {
                if self.give_up(bus, slot, on_root) {
                    bus.out32(base + EJECT, 1 << slot);
                    say!(self.console, bus, "pci slot {slot}: ejected");
                }
            }
        }
    }

    /// Forgets what is in a slot, of the root bus or of all others, and holds nothing. False: it does, and is to be asked for again.
    fn give_up(&mut self, bus: &mut impl Bus, slot: u32, on_root: bool) -> bool {
        let mut in_use = false;
        for place in &mut self.devices {
            let Some(device) = place else { continue };
            let function = device.driver.function();
            if (function.bus == 0, u32::from(function.device)) != (on_root, slot) {
                continue;
            }
            if device.driver.plugged() == 0 {
                *place = None;
            } else {
                in_use = true;
            }
        }
        // Behind bridges, what is in use may be in the same slot of another bus; nobody is asked to give memory back that is plugged.
        !(on_root && in_use) && self.give_up_disk(bus, slot, on_root)
    }
}

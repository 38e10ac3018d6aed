//! Giving functions back: ACPI PCI hot-plug of the `pc` board (ports ae00h–ae13h; what the DSDT's `_EJ0` would do), for the
//! root bus only.
//!
//! Left out: hot-plug behind bridges, native PCIe hot-plug. New functions are found by the regular scan.

use super::Program;
use super::console::say;
use crate::bus::Bus;

const DOWN: u16 = 0xae04;
const EJECT: u16 = 0xae08;
const SELECT: u16 = 0xae10;

impl Program {
    /// Ejects the slots of the root bus that the board wants back. A memory device is given back only once nothing of it is
    /// plugged, a disk once it has no request.
    pub(super) fn eject(&mut self, bus: &mut impl Bus) {
        bus.out32(SELECT, 0);
        if bus.in32(SELECT) != 0 {
            return;
        }
        let wanted = bus.in32(DOWN);
        for slot in (0..32).filter(|slot| wanted >> slot & 1 != 0) {
            let here =
                |function: crate::pci::Function| (function.bus, u32::from(function.device)) == (0, slot);
            let mut in_use = false;
            for place in &mut self.devices {
                let Some(device) = place.filter(|device| here(device.driver.function())) else { continue };
                if device.driver.plugged() == 0 {
                    *place = None;
                } else {
                    in_use = true;
                }
            }
            if in_use || !self.give_up_disk(bus, slot) {
                continue;
            }
            bus.out32(EJECT, 1 << slot);
            say!(self.console, bus, "pci slot {slot}: ejected");
        }
    }
}

//! Giving functions back: ACPI PCI hot-plug of the boards (`pc`: ports ae00h–ae13h, `q35`: cc0h–cd3h; what the DSDT's `_EJ0` would do).
//!
//! Which number stands for which bus is said in tables that nobody reads here. 0 is the root bus on `pc`; there is none for that of `q35`. What is behind bridges is
//! found by its slot alone: all that holds nothing there is given up, and what was not meant is found again.
//!
//! CPUs go in the same way (QEMU `docs/specs/acpi_cpu_hotplug`, ports af00h or cd8h): this program runs on the first one alone, and lets go of all others.
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
/// Registers of CPU hot-plug, and where they are.
const CPU_SELECT: u16 = 0;
const CPU_FLAGS: u16 = 4;
const CPU_COMMAND: u16 = 5;
const CPU_DATA: u16 = 8;
const PC_CPUS: u16 = 0xaf00;
const Q35_CPUS: u16 = 0xcd8;
/// Bits of the flags: written ones clear the first two, the last lets go.
const CPU_INSERTED: u8 = 1 << 1;
const CPU_REMOVING: u8 = 1 << 2;
const CPU_EJECT: u8 = 1 << 3;
/// Events that are looked at in one turn.
const MAX_CPUS: usize = 64;
/// The host bridge of `q35`: vendor and device.
const MCH: (u16, u16) = (0x8086, 0x29c0);

impl Program {
    /// Ejects the slots that the board wants back. A memory device is given back only once nothing of it is plugged, a disk once it has no request.
    pub(super) fn eject(&mut self, bus: &mut impl Bus) {
        let q35 = Function { bus: 0, device: 0, function: 0 }.id(bus) == Some(MCH);
        self.eject_cpus(bus, if q35 { Q35_CPUS } else { PC_CPUS });
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

    /// Lets go of the CPUs that the board wants back, and says which have come.
    fn eject_cpus(&mut self, bus: &mut impl Bus, base: u16) {
        bus.out32(base + CPU_SELECT, 0);
        for _ in 0..MAX_CPUS {
            // Selects the next one with an event.
            bus.out8(base + CPU_COMMAND, 0);
            let flags = bus.in8(base + CPU_FLAGS);
            if flags == 0xff || flags & (CPU_INSERTED | CPU_REMOVING) == 0 {
                return;
            }
            let cpu = bus.in32(base + CPU_DATA);
            if flags & CPU_INSERTED != 0 {
                bus.out8(base + CPU_FLAGS, CPU_INSERTED);
                say!(self.console, bus, "cpu {cpu}: there");
            }
            if flags & CPU_REMOVING != 0 {
                bus.out8(base + CPU_FLAGS, CPU_REMOVING);
                bus.out8(base + CPU_FLAGS, CPU_EJECT);
                say!(self.console, bus, "cpu {cpu}: ejected");
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

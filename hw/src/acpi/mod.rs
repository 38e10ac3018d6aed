//! Power management registers (ACPI 6.5 §4.8) and PCI hot-plug by ACPI.

pub mod pcihp;
pub mod piix4_pm;
pub mod pm;

/// Registers the devices of this room.
pub fn register(registry: &mut qom::Registry) {
    piix4_pm::register(registry);
}

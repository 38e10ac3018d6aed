//! What ACPI has: power management registers (ACPI 6.5 §4.8), events, hot-plug, and the tables that tell a guest of it.

pub mod cpuhp;
pub mod ged;
pub mod memhp;
mod migration;
pub mod pcihp;
pub mod piix4_pm;
pub mod pm;
pub(crate) mod sleep;
pub mod tables;
pub mod vmgenid;

pub use self::migration::AcpiState;

/// Registers the devices of this room.
pub fn register(registry: &mut qom::Registry) {
    ged::register(registry);
    piix4_pm::register(registry);
    vmgenid::register(registry);
}

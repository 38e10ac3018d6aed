//! Serial ports.

pub mod isa_serial;
pub mod uart;

/// Registers the devices of this room.
pub fn register(registry: &mut qom::Registry) {
    isa_serial::register(registry);
}

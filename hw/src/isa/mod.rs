//! Devices with fixed ports behind the south bridge: keyboard controller with keyboard and mouse, port 92, real-time clock, debug exit, pvpanic,
//! firmware configuration, and the south bridges themselves.
//!
//! Interrupt controllers and timer are the accelerator's (`kvm`: in the kernel). Left out: DMA, floppy, parallel port,
//! PC speaker.

pub mod debug_exit;
pub mod fw_cfg;
pub mod i8042;
pub mod kvm_pit;
pub mod pirq;
pub mod port92;
pub mod ports;
pub mod ps2;
pub mod pvpanic;
pub mod reset_control;
pub mod rtc;
pub mod south_bridge;
pub mod tco;
pub mod vmcoreinfo;

pub use ports::Ports;

use crate::core::bus::plain_bus_class;

/// Registers the bus and the devices of this room.
pub fn register(registry: &mut qom::Registry) {
    registry.register(plain_bus_class("ISA", "bus", None));
    debug_exit::register(registry);
    fw_cfg::register(registry);
    i8042::register(registry);
    kvm_pit::register(registry);
    port92::register(registry);
    ps2::register(registry);
    pvpanic::register(registry);
    rtc::register(registry);
    south_bridge::register(registry);
    vmcoreinfo::register(registry);
}

//! Devices, buses, interrupts, the machine and its life: what every other room of this crate builds on.

pub mod bus;
pub mod config;
pub mod device;
pub mod globals;
pub mod help;
pub mod hotplug;
pub mod iothread;
pub mod irq;
pub mod link;
pub mod machine;
pub mod machine_object;
pub mod machine_types;
pub mod microvm_options;
mod moving;
pub mod numa;
pub mod qdev;
pub mod qtree;
pub mod runstate;
pub mod secret;
pub mod uuid;
mod watchdog;

pub use bus::{Bus, BusState, PlainBus};
pub use config::{
    Actions, BootConfig, MachineConfig, MemoryConfig, MemorySizes, RtcBase, RtcClock, RtcConfig, SmbiosBios,
    SmbiosBoard, SmbiosChassis, SmbiosConfig, SmbiosMemory, SmbiosProcessor, SmbiosSystem, Smp, SmpConfig,
};
pub use device::{Category, Device, DeviceClass, DeviceState, ResetKind};
pub use globals::Global;
pub use hotplug::{HotplugHandler, Unplug};
pub use iothread::IoThread;
pub use irq::IrqLine;
pub use machine::{Board, DeviceMemory, EventSink, Host, Machine};
pub use numa::{Numa, NumaCpuOptions, NumaNode, NumaNodeOptions};

/// Registers the abstract classes, the plain buses and the machine types.
pub fn register(registry: &mut qom::Registry) {
    registry.register(device::device_class());
    registry.register(bus::bus_class());
    registry.register(
        bus::plain_bus_class("System", "bus", None)
            .instance(|class| PlainBus::new(class, "main-system-bus", None)),
    );
    machine_object::register(registry);
    iothread::register(registry);
    secret::register(registry);
}

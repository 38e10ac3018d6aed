//! Port 92h, system control port A: bit 0 resets the machine, bit 1 is A20 (always on here, but it reads back).

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use memory::RegionOps;
use qapi::Result;
use qapi::types::ShutdownCause;
use qom::{Class, Registry, TypeInfo};
use vmstate::{Saved, Section, vmstate};

use super::Ports;
use crate::core::device::{Device, DeviceClass, DeviceState, ResetKind};
use crate::core::machine::Machine;

const RESET: u8 = 1 << 0;

/// The device.
pub struct Port92 {
    dev: DeviceState,
    ports: Ports,
    value: AtomicU8,
}
crate::device_object!(Port92, dev);

vmstate! {
    /// What a migration takes along.
    pub struct Port92State: "port92", version 1 {
        /// What was written last.
        outport: u8,
    }
}

pub(super) fn register(registry: &mut Registry) {
    registry.register(
        TypeInfo::new("port92")
            .parent("device")
            .extension(DeviceClass::internal_on("ISA"))
            .instance(|class: &Arc<Class>| {
                Arc::new(Port92 {
                    dev: DeviceState::new(class),
                    ports: Ports::default(),
                    value: AtomicU8::new(0),
                })
            })
            .cast::<Port92, dyn Device>(|d| d),
    );
}

impl Device for Port92 {
    fn dev(&self) -> &DeviceState {
        &self.dev
    }

    fn realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        let owner: qom::ObjectRef = Arc::<Self>::clone(&self);
        let ops = Arc::new(Port { device: Arc::downgrade(&self), machine: Arc::downgrade(machine) });
        self.ports.map(machine, &owner, "port92", 0x92, 1, ops);
        Ok(())
    }

    fn unrealize(self: Arc<Self>, machine: &Arc<Machine>) {
        self.ports.unmap(machine);
    }

    fn saved(self: Arc<Self>) -> Saved {
        let loaded = Arc::clone(&self);
        let save = move || Port92State { outport: self.value.load(Relaxed) };
        let load = move |Port92State { outport }| {
            loaded.value.store(outport, Relaxed);
            Ok(())
        };
        Saved::one(Section::new(save, load))
    }

    fn reset(&self, _kind: ResetKind) {
        self.value.store(0, Relaxed);
    }

    fn qtree_gpios(&self) -> Vec<String> {
        vec!["gpio-out \"a20\" 1".into()]
    }
}

struct Port {
    device: Weak<Port92>,
    machine: Weak<Machine>,
}

impl RegionOps for Port {
    fn read(&self, _offset: u64, _size: u8) -> u64 {
        self.device.upgrade().map_or(0xff, |d| d.value.load(Relaxed).into())
    }
    fn write(&self, _offset: u64, _size: u8, value: u64) {
        let (Some(device), Some(machine)) = (self.device.upgrade(), self.machine.upgrade()) else { return };
        let old = device.value.swap(value as u8, Relaxed);
        // Only the edge resets.
        if value as u8 & RESET != 0 && old & RESET == 0 {
            machine.request_reset(ShutdownCause::GuestReset);
        }
    }
}

//! `isa-debug-exit`: a write of V ends the program with status (V << 1) | 1.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use memory::{AccessConstraints, RegionOps};
use qapi::Result;
use qom::{Class, Property, Registry, TypeInfo};
use vmstate::Saved;

use super::Ports;
use crate::core::device::{Category, Device, DeviceClass, DeviceState};
use crate::core::machine::Machine;

/// The device.
pub struct DebugExit {
    dev: DeviceState,
    iobase: AtomicU32,
    iosize: AtomicU32,
    ports: Ports,
}
crate::device_object!(DebugExit, dev);

pub(super) fn register(registry: &mut Registry) {
    let number = |name: &'static str, default: u32, field: fn(&DebugExit) -> &AtomicU32| {
        Property::new(name, "uint32")
            .default(default)
            .get(move |d: &DebugExit| Ok(field(d).load(Relaxed).into()))
            .set(move |d: &DebugExit, v, name| {
                field(d).store(v.to_uint(name, 32)? as u32, Relaxed);
                Ok(())
            })
    };
    registry.register(
        TypeInfo::new("isa-debug-exit")
            .parent("device")
            .extension(DeviceClass::on("ISA").category(Category::Misc))
            .instance(DebugExit::new)
            .cast::<DebugExit, dyn Device>(|d| d)
            .property(number("iobase", 0x501, |d| &d.iobase))
            .property(number("iosize", 2, |d| &d.iosize)),
    );
}

impl DebugExit {
    fn new(class: &Arc<Class>) -> Arc<Self> {
        Arc::new(Self {
            dev: DeviceState::new(class),
            iobase: AtomicU32::new(0x501),
            iosize: AtomicU32::new(2),
            ports: Ports::default(),
        })
    }
}

impl Device for DebugExit {
    fn dev(&self) -> &DeviceState {
        &self.dev
    }

    fn realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        let (base, size) = (u64::from(self.iobase.load(Relaxed)), u64::from(self.iosize.load(Relaxed)));
        if size == 0 || base + size > 0x1_0000 {
            return Err(qapi::Error::generic(format!("ports {base:#x}+{size:#x} do not exist")));
        }
        let ops = Arc::new(Exit(Arc::downgrade(machine)));
        let owner: qom::ObjectRef = Arc::<Self>::clone(&self);
        self.ports.map(machine, &owner, "isa-debug-exit", base, size, ops);
        Ok(())
    }

    fn unrealize(self: Arc<Self>, machine: &Arc<Machine>) {
        self.ports.unmap(machine);
    }

    fn saved(self: Arc<Self>) -> Saved {
        Saved::Nothing
    }
}

struct Exit(Weak<Machine>);

impl RegionOps for Exit {
    fn read(&self, _offset: u64, _size: u8) -> u64 {
        0
    }
    fn write(&self, _offset: u64, _size: u8, value: u64) {
        if let Some(machine) = self.0.upgrade() {
            machine.mainloop().quit(exit_status(value));
        }
    }
    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(1, 4).implemented(1, 4).unaligned()
    }
}

/// The low 32 bits decide, as in C.
fn exit_status(value: u64) -> i32 {
    ((value as u32) << 1 | 1).cast_signed()
}

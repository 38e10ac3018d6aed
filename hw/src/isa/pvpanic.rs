//! `pvpanic`: a port through which a guest's kernel tells that it panicked, that it goes on to its crash kernel, or that it shuts
//! down (QEMU `docs/specs/pvpanic`). Reading gives the events that the host listens to. A guest finds it in the tables of ACPI, and
//! its firmware in `etc/pvpanic-port`.
//!
//! What follows a panic is `-action panic=`, carried out on the main loop thread; the guest's kernel may run on until then.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use memory::{AccessConstraints, RegionOps};
use qapi::Result;
use qom::{Class, Property, Registry, TypeInfo};
use vmstate::Saved;

use super::Ports;
use super::fw_cfg::FwCfg;
use crate::core::device::{Category, Device, DeviceClass, DeviceState};
use crate::core::machine::Machine;

/// The kernel panicked, and nothing of it follows.
const PANICKED: u8 = 1 << 0;
/// The kernel panicked, and its crash kernel follows.
const CRASH_LOADED: u8 = 1 << 1;
/// The kernel shuts the machine down.
const SHUTDOWN: u8 = 1 << 2;
/// Every event that there is.
pub(crate) const EVENTS: u8 = PANICKED | CRASH_LOADED | SHUTDOWN;
/// The file that tells the port: 16 bits, little-endian.
const FILE: &str = "etc/pvpanic-port";
/// The usual port.
const PORT: u16 = 0x505;

/// The device.
pub struct PvPanic {
    dev: DeviceState,
    ioport: AtomicU32,
    events: AtomicU8,
    ports: Ports,
}
crate::device_object!(PvPanic, dev);

pub(super) fn register(registry: &mut Registry) {
    registry.register(
        TypeInfo::new("pvpanic")
            .parent("device")
            .extension(DeviceClass::on("ISA").category(Category::Misc))
            .instance(PvPanic::new)
            .cast::<PvPanic, dyn Device>(|d| d)
            .property(
                Property::new("ioport", "uint16")
                    .default(PORT)
                    .get(|d: &PvPanic| Ok(d.ioport.load(Relaxed).into()))
                    .set(|d: &PvPanic, v, name| {
                        d.ioport.store(v.to_uint(name, 16)? as u32, Relaxed);
                        Ok(())
                    }),
            )
            .property(events(|d: &PvPanic| &d.events)),
    );
}

/// The property of either device that says of what the guest is to tell.
pub(crate) fn events<T: qom::Object>(field: fn(&T) -> &AtomicU8) -> Property {
    Property::new("events", "uint8").default(EVENTS).get(move |d: &T| Ok(field(d).load(Relaxed).into())).set(
        move |d: &T, v, name| {
            field(d).store(v.to_uint(name, 8)? as u8, Relaxed);
            Ok(())
        },
    )
}

impl PvPanic {
    fn new(class: &Arc<Class>) -> Arc<Self> {
        Arc::new(Self {
            dev: DeviceState::new(class),
            ioport: AtomicU32::new(PORT.into()),
            events: AtomicU8::new(EVENTS),
            ports: Ports::default(),
        })
    }

    /// The port, for the guest's ACPI tables.
    pub fn ioport(&self) -> u16 {
        self.ioport.load(Relaxed) as u16
    }
}

impl Device for PvPanic {
    fn dev(&self) -> &DeviceState {
        &self.dev
    }

    fn realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        // On a board without the files nobody looks for a second one.
        if let Some(fw) = FwCfg::of(machine) {
            fw.add_file(FILE, self.ioport().to_le_bytes())?;
        }
        let ops = Arc::new(Register::new(machine, self.events.load(Relaxed)));
        let owner: qom::ObjectRef = Arc::<Self>::clone(&self);
        self.ports.map(machine, &owner, "pvpanic", self.ioport().into(), 1, ops);
        Ok(())
    }

    fn unrealize(self: Arc<Self>, machine: &Arc<Machine>) {
        self.ports.unmap(machine);
    }

    fn saved(self: Arc<Self>) -> Saved {
        Saved::Nothing
    }
}

/// The register, one byte wherever it is written.
pub(crate) struct Register {
    machine: Weak<Machine>,
    events: u8,
}

impl Register {
    /// One that reads as `events`.
    pub(crate) fn new(machine: &Arc<Machine>, events: u8) -> Self {
        Self { machine: Arc::downgrade(machine), events }
    }
}

impl RegionOps for Register {
    fn read(&self, _offset: u64, _size: u8) -> u64 {
        self.events.into()
    }

    fn write(&self, _offset: u64, _size: u8, value: u64) {
        let (value, Some(machine)) = (value as u8, self.machine.upgrade()) else { return };
        if value & !EVENTS != 0 {
            trace::guest_error!("pvpanic: unknown event {value:#x}");
        }
        // One event at a time: the gravest.
        if value & PANICKED != 0 {
            machine.guest_panicked();
        } else if value & CRASH_LOADED != 0 {
            machine.guest_crash_loaded();
        } else if value & SHUTDOWN != 0 {
            machine.guest_shutdown_announced();
        }
    }

    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().implemented(1, 1)
    }
}

//! The generic event device of hardware-reduced machines (ACPI 6.5 §5.6.9), `acpi-ged`: events that the guest picks up, and
//! the registers by which it switches the machine off (§4.8.3.7) or resets it.
//!
//! One event is known, the power button. Left out: events of hot-plug.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use memory::{AccessConstraints, Owner, RegionDesc, RegionOps};
use qapi::Result;
use qapi::types::ShutdownCause;
use qom::{Class, ObjectRef, Property, Registry, TypeInfo};
use vmstate::{LoadError, Saved, Section, vmstate};

use crate::core::device::{Device, DeviceClass, DeviceState, ResetKind};
use crate::core::machine::Machine;

/// Where the event selector is, and its bytes.
pub const EVENTS_BASE: u64 = 0xfea0_0000;
/// Bytes of the event selector.
pub const EVENTS_SIZE: u64 = 4;
/// Where the sleep and reset registers are.
pub const REGISTERS_BASE: u64 = 0xfea0_0200;
/// The interrupt that announces an event.
pub const IRQ: u32 = 9;
/// The event: the power button was pressed.
pub const POWER_BUTTON: u32 = 1 << 1;
/// Registers, from [`REGISTERS_BASE`].
pub const SLEEP_CONTROL: u64 = 0;
/// See [`SLEEP_CONTROL`].
pub const SLEEP_STATUS: u64 = 1;
/// See [`SLEEP_CONTROL`].
pub const RESET: u64 = 2;
/// What resets the machine when it is written there.
pub const RESET_VALUE: u8 = 0x42;
/// The sleep type that switches the machine off.
pub const SLEEP_TYPE_S5: u8 = 5;
const REGISTERS: u64 = 3;
const SLEEP_ENABLE: u8 = 1 << 5;

/// The device.
pub struct Ged {
    dev: DeviceState,
    /// Events that the machine has.
    known: AtomicU32,
    parts: OnceLock<Arc<Parts>>,
}
crate::device_object!(Ged, dev);

struct Parts {
    machine: Weak<Machine>,
    pending: AtomicU32,
}

vmstate! {
    /// What a migration takes along.
    pub struct GedState: "acpi-ged", version 1 {
        /// Events that the guest has not picked up.
        sel: u32,
    }
}

pub(super) fn register(registry: &mut Registry) {
    let known = Property::new("ged-event", "uint32")
        .default(0)
        .get(|ged: &Ged| Ok(ged.known.load(Ordering::Relaxed).into()))
        .set(|ged: &Ged, value, name| {
            ged.known.store(value.to_uint(name, 32)? as u32, Ordering::Relaxed);
            Ok(())
        });
    registry.register(
        TypeInfo::new("acpi-ged")
            .parent("device")
            .extension(DeviceClass::internal_on("System"))
            .instance(|class: &Arc<Class>| {
                Arc::new(Ged {
                    dev: DeviceState::new(class),
                    known: AtomicU32::new(0),
                    parts: OnceLock::new(),
                })
            })
            .cast::<Ged, dyn Device>(|d| d)
            .property(known),
    );
}

impl Ged {
    /// The power button was pressed.
    pub fn power_button(&self) {
        self.announce(POWER_BUTTON);
    }

    fn announce(&self, event: u32) {
        let Some(parts) = self.parts.get() else { return };
        let Some(machine) = parts.machine.upgrade() else { return };
        if self.known.load(Ordering::Relaxed) & event == 0 {
            return;
        }
        parts.pending.fetch_or(event, Ordering::AcqRel);
        // An edge: the guest acknowledges by reading.
        machine.irq().set_gsi(IRQ, true);
        machine.irq().set_gsi(IRQ, false);
    }
}

impl Device for Ged {
    fn dev(&self) -> &DeviceState {
        &self.dev
    }

    fn realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        let parts = Arc::new(Parts { machine: Arc::downgrade(machine), pending: AtomicU32::new(0) });
        let object: ObjectRef = Arc::<Self>::clone(&self);
        let owner = Owner::of(&object);
        let mut tx = machine.memory().transaction();
        let desc = RegionDesc::new("acpi-ged", EVENTS_SIZE.into()).owned_by(owner.clone());
        let events = tx.io(desc, Arc::new(Events(Arc::clone(&parts))));
        tx.add_subregion(machine.system_region(), EVENTS_BASE, events, 0);
        let desc = RegionDesc::new("acpi-ged-regs", REGISTERS.into()).owned_by(owner);
        let registers = tx.io(desc, Arc::new(Registers(Arc::clone(&parts))));
        tx.add_subregion(machine.system_region(), REGISTERS_BASE, registers, 0);
        tx.commit();
        self.parts.get_or_init(|| parts);
        Ok(())
    }

    fn saved(self: Arc<Self>) -> Saved {
        let loaded = Arc::clone(&self);
        let pending = |ged: &Self| ged.parts.get().map(|parts| parts.pending.load(Ordering::Acquire));
        let save = move || GedState { sel: pending(&self).unwrap_or_default() };
        let load = move |GedState { sel }| {
            if sel & !loaded.known.load(Ordering::Relaxed) != 0 {
                return Err(LoadError::invalid(format!(
                    "acpi-ged: this machine has not all events of {sel:#x}"
                )));
            }
            // Announced already: the interrupt was an edge, and the controller has it.
            if let Some(parts) = loaded.parts.get() {
                parts.pending.store(sel, Ordering::Release);
            }
            Ok(())
        };
        Saved::one(Section::new(save, load))
    }

    fn reset(&self, _kind: ResetKind) {
        if let Some(parts) = self.parts.get() {
            parts.pending.store(0, Ordering::Release);
        }
    }

    fn qtree_gpios(&self) -> Vec<String> {
        vec!["gpio-out \"sysbus-irq\" 1".into()]
    }

    fn qtree_bus_info(&self) -> Vec<String> {
        let mmio = |base: u64, size: u64| format!("mmio {base:016x}/{size:016x}");
        // The one that is nowhere is that of memory hot-plug.
        vec![
            mmio(EVENTS_BASE, EVENTS_SIZE),
            mmio(u64::MAX, super::memhp::REGISTERS),
            mmio(REGISTERS_BASE, REGISTERS),
        ]
    }
}

struct Events(Arc<Parts>);

impl RegionOps for Events {
    fn read(&self, _offset: u64, _size: u8) -> u64 {
        self.0.pending.swap(0, Ordering::AcqRel).into()
    }
    fn write(&self, _offset: u64, _size: u8, _value: u64) {}
    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(4, 4).implemented(4, 4)
    }
}

struct Registers(Arc<Parts>);

impl RegionOps for Registers {
    fn read(&self, _offset: u64, _size: u8) -> u64 {
        0
    }
    fn write(&self, offset: u64, _size: u8, value: u64) {
        let Some(machine) = self.0.machine.upgrade() else { return };
        let value = value as u8;
        match offset {
            SLEEP_CONTROL if value & SLEEP_ENABLE != 0 => match value >> 2 & 7 {
                SLEEP_TYPE_S5 => machine.request_shutdown(ShutdownCause::GuestShutdown),
                kind => tracing::warn!(kind, "the guest asks for a sleep state that does not exist"),
            },
            RESET if value == RESET_VALUE => machine.request_reset(ShutdownCause::GuestReset),
            _ => {}
        }
    }
    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(1, 1).implemented(1, 1)
    }
}

//! Virtio over registers in memory (virtio 1.3 §4.2): the device `virtio-mmio`, one a board's slot, with a bus for one back end.
//!
//! With `force-legacy` (the default, as in QEMU) it is a legacy device (§4.2.4): version 1, split rings in one piece, 32 feature bits.
//! Without a back end all but magic, version and vendor read 0. Left out: devices whose rings another process serves; hot-plug; shared memory.

mod registers;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memory::{Owner, RegionDesc, RegionId};
use qapi::{Error, Result};
use qom::{Class, Object, ObjectCore, ObjectRef, Property, Registry, TypeInfo, cast};
use vmstate::Saved;

pub(super) use self::registers::MmioState;
use self::registers::{Registers, Slot};
use super::backend::VirtioBackend;
use super::migration::Carrier;
use super::transport::{Doorbells, Parts, Transport, Wiring, follow_run_state};
use crate::core::bus::attach;
use crate::core::irq::IrqLine;
use crate::core::{Bus, BusState, Device, DeviceClass, DeviceState, Machine, ResetKind};

/// Bytes of the registers.
pub const SIZE: u64 = 0x200;
/// Offset of the register that takes the number of a queue with something in it.
const QUEUE_NOTIFY: u64 = 0x50;

/// The device.
pub struct VirtioMmio {
    dev: DeviceState,
    flags: [AtomicBool; FLAGS.len()],
    /// Where the board has its registers.
    base: AtomicU64,
    live: Mutex<Option<Live>>,
}
crate::device_object!(VirtioMmio, dev);

struct Live {
    slot: Arc<Slot>,
    region: RegionId,
}

/// Properties, in the order of `info qtree`.
const FLAGS: [&str; 3] = ["format_transport_address", "force-legacy", "ioeventfd"];
const FORCE_LEGACY: usize = 1;
const IOEVENTFD: usize = 2;

impl VirtioMmio {
    fn flag(&self, index: usize) -> bool {
        self.flags[index].load(Ordering::Relaxed)
    }

    fn live(&self) -> MutexGuard<'_, Option<Live>> {
        // Assigned whole.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self) -> Option<Arc<Slot>> {
        self.live().as_ref().map(|live| Arc::clone(&live.slot))
    }

    /// The transport of the back end on its bus.
    pub fn transport(&self) -> Option<Arc<Transport>> {
        self.slot()?.transport()
    }

    /// Gives it registers at `base`, line `gsi`, and the bus `virtio-mmio-bus.N` with N being `index`; before it is realized.
    ///
    /// # Errors
    /// It was placed before.
    pub fn place(self: &Arc<Self>, machine: &Arc<Machine>, index: usize, base: u64, gsi: u32) -> Result<()> {
        let registry = machine.tree().registry();
        let class = registry.lookup("virtio-mmio-bus").ok_or_else(|| Error::generic("no virtio-mmio-bus"))?;
        let name = format!("virtio-mmio-bus.{index}");
        let bus: Arc<dyn Bus> = Arc::new(MmioBus { bus: BusState::new(class, name.clone()) });
        let device: Arc<dyn Device> = Arc::<Self>::clone(self);
        attach(&device, &name, bus)?;
        self.base.store(base, Ordering::Relaxed);
        let slot = Arc::new(Slot::new(self.flag(FORCE_LEGACY), Arc::new(IrqLine::new(machine.irq(), gsi))));
        let object: ObjectRef = Arc::<Self>::clone(self);
        let mut tx = machine.memory().transaction();
        let desc = RegionDesc::new("virtio-mmio", SIZE.into()).owned_by(Owner::of(&object));
        let region = tx.io(desc, Arc::new(Registers(Arc::clone(&slot))));
        tx.add_subregion(machine.system_region(), base, region, 0);
        drop(tx);
        *self.live() = Some(Live { slot, region });
        Ok(())
    }

    /// What a migration takes along of the registers, while there are any.
    pub(super) fn saved_state(&self) -> Option<MmioState> {
        self.slot().map(|slot| slot.saved_state())
    }

    /// Takes that over.
    ///
    /// # Errors
    /// It is another slot's.
    pub(super) fn load_state(&self, saved: &MmioState) -> vmstate::Result<()> {
        self.slot().map_or(Ok(()), |slot| slot.load_state(saved))
    }

    /// A back end that was realized on the bus is connected.
    fn connect(&self, machine: &Arc<Machine>, backend: Arc<dyn VirtioBackend>) -> Result<()> {
        let Some((slot, region)) = self.live().as_ref().map(|live| (Arc::clone(&live.slot), live.region))
        else {
            return Err(Error::generic("the transport has no registers"));
        };
        if backend.ring_server().is_some() {
            let name = backend.core().class().name();
            return Err(Error::generic(format!(
                "'{name}' is not supported on virtio-mmio: use its PCI device"
            )));
        }
        let transport = Transport::new(Parts {
            backend: Arc::clone(&backend),
            wiring: Wiring::Line(Arc::clone(slot.line())),
            memory: Arc::downgrade(machine.memory()),
            space: Arc::clone(machine.system_space()),
            mainloop: machine.mainloop().clone(),
            ioeventfd: self.flag(IOEVENTFD),
            notify_stride: 0,
        });
        transport.set_doorbells(Doorbells { registers: None, shared: Some((region, QUEUE_NOTIFY, 4)) });
        follow_run_state(machine, &transport);
        backend.common().notifier.set(Some(Arc::clone(&transport) as _));
        slot.set_transport(Some(transport));
        Ok(())
    }

    /// The back end goes.
    fn disconnect(&self, backend: &dyn VirtioBackend) {
        backend.common().notifier.set(None);
        if let Some(transport) = self.slot().and_then(|slot| slot.set_transport(None)) {
            transport.shut_down();
        }
    }
}

impl Device for VirtioMmio {
    fn dev(&self) -> &DeviceState {
        &self.dev
    }

    fn realize(self: Arc<Self>, _machine: &Arc<Machine>) -> Result<()> {
        match *self.live() {
            Some(_) => Ok(()),
            None => Err(Error::generic("a virtio-mmio device is where its board has it")),
        }
    }

    fn reset(&self, _kind: ResetKind) {
        if let Some(slot) = self.slot() {
            slot.reset();
        }
    }

    /// A slot with nothing behind it takes no writes.
    fn saved(self: Arc<Self>) -> Saved {
        let Some(transport) = self.transport() else { return Saved::Nothing };
        Arc::clone(transport.backend()).saved_behind(Carrier::mmio(self, transport))
    }

    fn qtree_gpios(&self) -> Vec<String> {
        vec!["gpio-out \"sysbus-irq\" 1".into()]
    }

    fn qtree_bus_info(&self) -> Vec<String> {
        vec![format!("mmio {:016x}/{SIZE:016x}", self.base.load(Ordering::Relaxed))]
    }
}

/// The bus between, with room for one back end.
struct MmioBus {
    bus: BusState,
}

impl Object for MmioBus {
    fn core(&self) -> &ObjectCore {
        self.bus.core()
    }
}

impl MmioBus {
    fn transport(&self) -> Option<Arc<VirtioMmio>> {
        (self.bus.parent()? as ObjectRef).downcast()
    }
}

impl Bus for MmioBus {
    fn bus(&self) -> &BusState {
        &self.bus
    }

    fn max_devices(&self) -> Option<usize> {
        Some(1)
    }

    fn device_realized(&self, machine: &Arc<Machine>, device: &Arc<dyn Device>) -> Result<()> {
        let backend = cast::<dyn VirtioBackend>(&(Arc::clone(device) as ObjectRef));
        match (self.transport(), backend) {
            (Some(transport), Some(backend)) => transport.connect(machine, backend),
            _ => Err(Error::generic("not a virtio device")),
        }
    }

    fn device_unrealized(&self, device: &Arc<dyn Device>) {
        let backend = cast::<dyn VirtioBackend>(&(Arc::clone(device) as ObjectRef));
        if let (Some(transport), Some(backend)) = (self.transport(), backend) {
            transport.disconnect(&*backend);
        }
    }
}

fn flag((index, name): (usize, &'static str)) -> Property {
    Property::new(name, "bool")
        .description("on/off")
        .default(true)
        .get(move |mmio: &VirtioMmio| Ok(mmio.flag(index).into()))
        .set(move |mmio: &VirtioMmio, value, name| {
            mmio.flags[index].store(value.to_bool(name)?, Ordering::Relaxed);
            Ok(())
        })
}

/// Registers `virtio-mmio` and `virtio-mmio-bus`.
pub(super) fn register(registry: &mut Registry) {
    registry.register(
        TypeInfo::new("virtio-mmio-bus")
            .parent("virtio-bus")
            .instance(|class| Arc::new(MmioBus { bus: BusState::new(class, class.name()) }))
            .cast::<MmioBus, dyn Bus>(|bus| bus),
    );
    registry.register(
        TypeInfo::new("virtio-mmio")
            .parent("device")
            .extension(DeviceClass::internal_on("System"))
            .instance(|class: &Arc<Class>| {
                Arc::new(VirtioMmio {
                    dev: DeviceState::new(class),
                    flags: FLAGS.map(|_| AtomicBool::new(true)),
                    base: AtomicU64::new(0),
                    live: Mutex::default(),
                })
            })
            .properties(FLAGS.into_iter().enumerate().map(flag))
            .cast::<VirtioMmio, dyn Device>(|device| device),
    );
}

#[cfg(test)]
mod tests;

//! Devices: objects that plug into a bus, are realized once all their properties are set, and can be reset.
//!
//! The life of a device is the qdev life of QEMU: created, properties set, realized, perhaps asked to unplug, unrealized.
//! Left out: GPIO lines as objects; a device that drives an interrupt holds an [`crate::core::irq::IrqLine`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use qapi::{Error, Result};
use qom::{Class, Object, ObjectCore, Property, TypeInfo};
use vmstate::Saved;

use super::bus::Bus;
use super::hotplug::HotplugHandler;
use super::machine::Machine;

/// Why a device is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetKind {
    /// Power-on state: machine start, `system_reset`, a reset the guest asked for, hot-plug.
    Cold,
    /// Resume from suspend-to-RAM; memory devices keep their memory.
    Wakeup,
    /// The guest reset the bus that the device is on, or switched its power off; memory devices keep their memory.
    Bus,
}

/// What a device struct implements. Register it with `TypeInfo::cast::<T, dyn Device>`.
///
/// `realize`, `unrealize` run on the main loop thread, with no lock of the device tree held.
pub trait Device: Object {
    /// The part every device has.
    fn dev(&self) -> &DeviceState;

    /// Makes the device work: all properties are set, the parent bus is known. Claims what it needs from the machine.
    ///
    /// # Errors
    /// QEMU's texts. Whatever was claimed has been given back then: no `unrealize` follows.
    fn realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()>;

    /// Undoes `realize`. Devices on the buses of this one are gone already.
    fn unrealize(self: Arc<Self>, _machine: &Arc<Machine>) {}

    /// Back to power-on state. vCPUs do not run. Devices on its buses are reset before it.
    fn reset(&self, _kind: ResetKind) {}

    /// What a migration takes along; see `docs/architecture.md`, "Contract: migration".
    fn saved(self: Arc<Self>) -> Saved;

    /// Lines of `info qtree` between the head and the properties (`gpio-in "" 24`).
    fn qtree_gpios(&self) -> Vec<String> {
        Vec::new()
    }

    /// Lines of `info qtree` after the properties (`mmio …`, `class …`, `bar …`).
    fn qtree_bus_info(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Implements [`qom::Object`] for a device struct: `device_object!(Rtc, dev)`, `dev` being its [`DeviceState`]; for a generic one
/// `device_object!(for [T: Bound] Device<T>, dev)`.
#[macro_export]
macro_rules! device_object {
    (for [$($generics:tt)*] $type:ty, $($field:tt).+) => {
        $crate::device_object!(@ [$($generics)*] $type, $($field).+);
    };
    (@ [$($generics:tt)*] $type:ty, $($field:tt).+) => {
        impl<$($generics)*> qom::Object for $type {
            fn core(&self) -> &qom::ObjectCore {
                self.$($field).+.core()
            }
            fn may_set(&self, property: &qom::Property) -> qapi::Result<()> {
                self.$($field).+.may_set(property)
            }
        }
    };
    ($type:ty, $($field:tt).+) => {
        $crate::device_object!(@ [] $type, $($field).+);
    };
}

/// Kind of a device, the headings of `-device help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Category {
    /// Controller/Bridge/Hub devices
    Bridge,
    /// Storage devices
    Storage,
    /// Network devices
    Network,
    /// Input devices
    Input,
    /// Misc devices
    Misc,
    /// CPU devices
    Cpu,
    /// Uncategorized devices
    None,
}

impl Category {
    /// The heading.
    pub fn heading(self) -> &'static str {
        match self {
            Self::Bridge => "Controller/Bridge/Hub devices:",
            Self::Storage => "Storage devices:",
            Self::Network => "Network devices:",
            Self::Input => "Input devices:",
            Self::Misc => "Misc devices:",
            Self::Cpu => "CPU devices:",
            Self::None => "Uncategorized devices:",
        }
    }
}

/// What the device floor knows of a class; attached with `TypeInfo::extension`. A subclass without one inherits it.
#[derive(Clone)]
pub struct DeviceClass {
    /// Class of the bus it plugs into (`PCI`, `ISA`, `System`, `virtio-bus`); `None` for a device without a bus.
    pub bus: Option<&'static str>,
    /// Whether `-device` and `device_add` may create it.
    pub user_creatable: bool,
    /// Whether `device_add` may create it while the machine runs.
    pub hotpluggable: bool,
    /// Heading in `-device help`.
    pub category: Category,
    /// Who plugs it into the machine, besides its bus (memory devices).
    pub plug: Option<Arc<dyn HotplugHandler>>,
    /// Properties that are not configuration and that `info qtree` leaves out.
    pub hidden: &'static [&'static str],
}

impl DeviceClass {
    /// A device on a bus of class `bus`, which the user may create and hot-plug.
    pub fn on(bus: &'static str) -> Self {
        Self { bus: Some(bus), ..Self::internal() }.creatable()
    }
    /// A device that only the board creates.
    pub fn internal() -> Self {
        Self {
            bus: None,
            user_creatable: false,
            hotpluggable: true,
            category: Category::None,
            plug: None,
            hidden: &[],
        }
    }
    /// A device on bus class `bus` that only the board creates.
    pub fn internal_on(bus: &'static str) -> Self {
        Self { bus: Some(bus), ..Self::internal() }
    }
    /// The same, creatable by the user.
    #[must_use]
    pub fn creatable(mut self) -> Self {
        self.user_creatable = true;
        self
    }
    /// The same, for machines that do not run yet only.
    #[must_use]
    pub fn cold_only(mut self) -> Self {
        self.hotpluggable = false;
        self
    }
    /// Sets the heading.
    #[must_use]
    pub fn category(mut self, category: Category) -> Self {
        self.category = category;
        self
    }
    /// Sets who plugs it into the machine.
    #[must_use]
    pub fn plugged_by(mut self, handler: Arc<dyn HotplugHandler>) -> Self {
        self.plug = Some(handler);
        self
    }
    /// Sets the properties that `info qtree` leaves out.
    #[must_use]
    pub fn hide(mut self, names: &'static [&'static str]) -> Self {
        self.hidden = names;
        self
    }
}

/// What every device carries.
pub struct DeviceState {
    core: ObjectCore,
    life: Mutex<Life>,
}

#[derive(Default)]
struct Life {
    id: Option<String>,
    realized: bool,
    hotplugged: bool,
    unplug_pending: bool,
    /// From when on an unplug may be asked for again, in milliseconds of the guest's time; never without.
    unplug_expiry: Option<i64>,
    bus: Option<Weak<dyn Bus>>,
    buses: Vec<Arc<dyn Bus>>,
    machine: Weak<Machine>,
}

impl DeviceState {
    /// The state of a new device of `class`.
    pub fn new(class: &Arc<Class>) -> Self {
        Self { core: ObjectCore::new(class), life: Mutex::default() }
    }

    /// The object part.
    pub fn core(&self) -> &ObjectCore {
        &self.core
    }

    /// The name of the class, as `virtio-mem-pci`.
    pub fn type_name(&self) -> &'static str {
        self.core.class().name()
    }

    /// The `id=`, if the device has one.
    pub fn id(&self) -> Option<String> {
        self.life().id.clone()
    }

    /// Whether `realize` succeeded and `unrealize` was not called.
    pub fn is_realized(&self) -> bool {
        self.life().realized
    }

    /// Whether it was added while the machine ran.
    pub fn is_hotplugged(&self) -> bool {
        self.life().hotplugged
    }

    /// Whether an accepted `device_del` waits for the guest.
    pub fn unplug_pending(&self) -> bool {
        self.life().unplug_pending
    }

    /// The bus it sits on.
    pub fn parent_bus(&self) -> Option<Arc<dyn Bus>> {
        self.life().bus.as_ref().and_then(Weak::upgrade)
    }

    /// The buses it provides, in order of creation.
    pub fn buses(&self) -> Vec<Arc<dyn Bus>> {
        self.life().buses.clone()
    }

    /// The machine, once it was created through one.
    pub fn machine(&self) -> Option<Arc<Machine>> {
        self.life().machine.upgrade()
    }

    /// Marks an unplug as accepted and waiting, or as no longer so.
    pub fn set_unplug_pending(&self, pending: bool) {
        self.life().unplug_pending = pending;
    }

    /// Says from when on an unplug that waits may be asked for once more, in milliseconds of the guest's time. 0, as in QEMU, is never.
    pub fn set_unplug_expiry(&self, ms: i64) {
        self.life().unplug_expiry = (ms != 0).then_some(ms);
    }

    /// From when on it may be, in milliseconds of the guest's time.
    pub fn unplug_expiry(&self) -> Option<i64> {
        self.life().unplug_expiry
    }

    /// Whether an accepted `device_del` waits for the guest so that there is no use in another at `now_ms`.
    pub fn unplug_refused(&self, now_ms: i64) -> bool {
        let life = self.life();
        life.unplug_pending && life.unplug_expiry.is_none_or(|expiry| expiry > now_ms)
    }

    pub(super) fn set_id(&self, id: Option<String>) {
        self.life().id = id;
    }
    pub(super) fn set_hotplugged(&self, hotplugged: bool) {
        self.life().hotplugged = hotplugged;
    }
    pub(super) fn set_realized(&self, realized: bool) {
        self.life().realized = realized;
    }
    pub(super) fn set_bus(&self, bus: Option<&Arc<dyn Bus>>) {
        self.life().bus = bus.map(Arc::downgrade);
    }
    pub(super) fn set_machine(&self, machine: &Arc<Machine>) {
        self.life().machine = Arc::downgrade(machine);
    }
    pub(super) fn remove_bus(&self, bus: &Arc<dyn Bus>) {
        self.life().buses.retain(|b| !Arc::ptr_eq(b, bus));
    }
    pub(super) fn push_bus(&self, bus: Arc<dyn Bus>) {
        self.life().buses.push(bus);
    }

    /// Refuses a property that cannot change any more; what `Object::may_set` of a device asks.
    pub fn may_set(&self, property: &Property) -> Result<()> {
        let life = self.life();
        if !life.realized || property.is_live() {
            return Ok(());
        }
        let (name, class) = (property.name(), self.type_name());
        Err(Error::generic(match (&life.id, property.is_link()) {
            (id, true) => format!(
                "Attempt to set link property '{name}' on device '{}' (type '{class}') after it was realized",
                id.as_deref().unwrap_or("(null)")
            ),
            (Some(id), false) => format!(
                "Attempt to set property '{name}' on device '{id}' (type '{class}') after it was realized"
            ),
            (None, false) => format!(
                "Attempt to set property '{name}' on anonymous device (type '{class}') after it was realized"
            ),
        }))
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        // Every critical section is one read or one assignment, so a poisoned lock holds whole values.
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The abstract class `device` with the properties every device has.
pub(super) fn device_class() -> TypeInfo {
    let dev = |o: &qom::ObjectRef| qom::cast::<dyn Device>(o).ok_or_else(|| Error::generic("not a device"));
    TypeInfo::new("device")
        .property(
            Property::new("realized", "bool")
                .live()
                .get_any(move |o| Ok(dev(o)?.dev().is_realized().into()))
                .set_any(move |o, value, name| {
                    let on = value.to_bool(name)?;
                    super::qdev::set_realized(&dev(o)?, on)
                }),
        )
        .property(
            Property::new("hotplugged", "bool").get_any(move |o| Ok(dev(o)?.dev().is_hotplugged().into())),
        )
        .property(Property::new("hotpluggable", "bool").get_any(move |o| {
            let device = dev(o)?;
            let class = device.core().class().extension::<DeviceClass>().is_none_or(|c| c.hotpluggable);
            Ok((class && device.dev().parent_bus().is_none_or(|b| b.bus().is_hotpluggable())).into())
        }))
        .property(Property::new("parent_bus", "link<bus>").get_any(move |o| {
            Ok(dev(o)?.dev().parent_bus().map_or_else(String::new, |b| (b as qom::ObjectRef).path()).into())
        }))
}

//! Buses: where devices sit, how they are found by name, and which of them take devices while the machine runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use qapi::Result;
use qom::{Class, Object, ObjectCore, ObjectRef, TypeInfo, object};

use super::device::Device;
use super::hotplug::HotplugHandler;
use super::machine::Machine;

/// What a bus struct implements. Register it with `TypeInfo::cast::<T, dyn Bus>`.
pub trait Bus: Object {
    /// The part every bus has.
    fn bus(&self) -> &BusState;

    /// How many devices fit; beyond that the bus is passed over when one is looked for.
    fn max_devices(&self) -> Option<usize> {
        None
    }

    /// A device on it was realized, hot-plugged or not.
    ///
    /// # Errors
    /// The bus cannot have it; it is unrealized again.
    fn device_realized(&self, _machine: &Arc<Machine>, _device: &Arc<dyn Device>) -> Result<()> {
        Ok(())
    }

    /// A device on it is about to be unrealized.
    fn device_unrealized(&self, _device: &Arc<dyn Device>) {}
}

/// What every bus carries.
pub struct BusState {
    core: ObjectCore,
    name: String,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    parent: Option<Weak<dyn Device>>,
    /// Newest first, the order of `info qtree`.
    children: Vec<Arc<dyn Device>>,
    hotplug: Option<Arc<dyn HotplugHandler>>,
}

impl BusState {
    /// The state of a new bus called `name`.
    pub fn new(class: &Arc<Class>, name: impl Into<String>) -> Self {
        Self { core: ObjectCore::new(class), name: name.into(), inner: Mutex::default() }
    }

    /// The object part.
    pub fn core(&self) -> &ObjectCore {
        &self.core
    }

    /// The name that `bus=` takes, as `pcie.0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The class name, the `type` of `info qtree`.
    pub fn type_name(&self) -> &'static str {
        self.core.class().name()
    }

    /// The device that provides it; `None` for the main system bus.
    pub fn parent(&self) -> Option<Arc<dyn Device>> {
        self.inner().parent.as_ref().and_then(Weak::upgrade)
    }

    /// Devices on it, newest first.
    pub fn children(&self) -> Vec<Arc<dyn Device>> {
        self.inner().children.clone()
    }

    /// Who plugs devices into this bus at run time.
    pub fn hotplug_handler(&self) -> Option<Arc<dyn HotplugHandler>> {
        self.inner().hotplug.clone()
    }

    /// Makes the bus hot-pluggable.
    pub fn set_hotplug_handler(&self, handler: Arc<dyn HotplugHandler>) {
        self.inner().hotplug = Some(handler);
    }

    /// Whether `device_add` may use it while the machine runs.
    pub fn is_hotpluggable(&self) -> bool {
        self.inner().hotplug.is_some()
    }

    pub(super) fn add(&self, device: Arc<dyn Device>) {
        let mut inner = self.inner();
        // A device that is realized again never left.
        if !inner.children.iter().any(|c| Arc::ptr_eq(c, &device)) {
            inner.children.insert(0, device);
        }
    }

    pub(super) fn remove(&self, device: &Arc<dyn Device>) {
        let mut inner = self.inner();
        inner.children.retain(|c| !Arc::ptr_eq(c, device));
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Sections are single reads or whole assignments: nothing torn can be seen.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A bus that is just a place: the main system bus, ISA, `virtio-pci-bus`.
pub struct PlainBus {
    bus: BusState,
    max: Option<usize>,
}
object!(PlainBus, bus.core);

impl Bus for PlainBus {
    fn bus(&self) -> &BusState {
        &self.bus
    }
    fn max_devices(&self) -> Option<usize> {
        self.max
    }
}

impl PlainBus {
    /// A bus of class `class` called `name`.
    pub fn new(class: &Arc<Class>, name: impl Into<String>, max: Option<usize>) -> Arc<Self> {
        Arc::new(Self { bus: BusState::new(class, name), max })
    }
}

/// A [`TypeInfo`] for a class of [`PlainBus`]es; `max` bounds the devices on one.
pub fn plain_bus_class(name: &'static str, parent: &'static str, max: Option<usize>) -> TypeInfo {
    TypeInfo::new(name)
        .parent(parent)
        .instance(move |class| PlainBus::new(class, class.name(), max))
        .cast::<PlainBus, dyn Bus>(|b| b)
}

/// Makes `bus` a bus of `device`: in the tree, as the child `child_name`, and for the search by name.
///
/// # Errors
/// `child_name` is taken.
pub fn attach(device: &Arc<dyn Device>, child_name: &str, bus: Arc<dyn Bus>) -> Result<()> {
    let object: ObjectRef = Arc::clone(device) as ObjectRef;
    object.add_child(child_name, Arc::clone(&bus) as ObjectRef)?;
    bus.bus().inner().parent = Some(Arc::downgrade(device));
    device.dev().push_bus(bus);
    Ok(())
}

/// Undoes [`attach`]; nothing is on the bus any more.
pub fn detach(device: &Arc<dyn Device>, bus: &Arc<dyn Bus>) {
    device.dev().remove_bus(bus);
    let object: ObjectRef = Arc::clone(device) as ObjectRef;
    object.remove_child(&bus.core().name());
}

/// Calls `visit` for `bus` and the buses below it, depth first, until it gives something.
pub fn find<T>(bus: &Arc<dyn Bus>, visit: &mut dyn FnMut(&Arc<dyn Bus>) -> Option<T>) -> Option<T> {
    if let Some(found) = visit(bus) {
        return Some(found);
    }
    for device in bus.bus().children() {
        for below in device.dev().buses() {
            if let Some(found) = find(&below, visit) {
                return Some(found);
            }
        }
    }
    None
}

/// Whether no further device fits.
pub fn is_full(bus: &Arc<dyn Bus>) -> bool {
    bus.max_devices().is_some_and(|max| bus.bus().children().len() >= max)
}

/// The abstract class `bus`.
pub(super) fn bus_class() -> TypeInfo {
    TypeInfo::new("bus")
}

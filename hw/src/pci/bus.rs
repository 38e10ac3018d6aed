//! A bus: which function is in which slot, how interrupt pins become lines, and which buses are behind bridges.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use memory::RegionId;
use qapi::{Error, Result};
use qom::{Class, Object, ObjectCore, Registry, TypeInfo};

use super::bar::BarKind;
use super::config::reg;
use super::device::PciDevice;
use crate::core::bus::{Bus, BusState};

/// How the board routes interrupt pins.
pub trait IntxRouter: Send + Sync {
    /// The board's line (0 to 7) for pin `pin` (0 for INTA#) of `slot`.
    fn line(&self, slot: u8, pin: u8) -> u8;
    /// Sets a line.
    fn set(&self, line: u8, level: bool);
}

/// What a bus is connected to.
pub struct PciBusWiring {
    /// Where memory BARs are mapped.
    pub memory: RegionId,
    /// Where port BARs are mapped.
    pub io: RegionId,
}

/// A root bus, number 0, or one behind a bridge.
pub struct PciBus {
    bus: BusState,
    wiring: OnceLock<PciBusWiring>,
    router: OnceLock<Arc<dyn IntxRouter>>,
    /// The bridge that it is behind; a root bus has none.
    bridge: OnceLock<Weak<dyn PciDevice>>,
    /// What the registers of ACPI hot-plug call it.
    hotplug_number: Mutex<Option<u32>>,
    inner: Mutex<Inner>,
}

impl Object for PciBus {
    fn core(&self) -> &ObjectCore {
        self.bus.core()
    }
}

#[derive(Default)]
struct Inner {
    functions: BTreeMap<u8, Arc<dyn PciDevice>>,
    /// Functions that are not complete yet (or any more): the guest does not find them.
    hidden: BTreeSet<u8>,
    /// How many functions raise each line.
    raised: [u32; 8],
}

impl Bus for PciBus {
    fn bus(&self) -> &BusState {
        &self.bus
    }
}

/// Registers `PCI` and `PCIE`.
pub(super) fn register(registry: &mut Registry) {
    for (name, parent) in [("PCI", "bus"), ("PCIE", "PCI")] {
        registry.register(
            TypeInfo::new(name)
                .parent(parent)
                .instance(|class| PciBus::new(class, class.name()))
                .cast::<PciBus, dyn Bus>(|b| b),
        );
    }
}

impl PciBus {
    /// A bus called `name`, not connected yet.
    pub fn new(class: &Arc<Class>, name: &str) -> Arc<Self> {
        Arc::new(Self {
            bus: BusState::new(class, name),
            wiring: OnceLock::new(),
            router: OnceLock::new(),
            bridge: OnceLock::new(),
            hotplug_number: Mutex::default(),
            inner: Mutex::default(),
        })
    }

    /// Connects the bus. Before any device is realized on it; a second call changes nothing.
    pub fn connect(&self, wiring: PciBusWiring) {
        let _ = self.wiring.set(wiring);
    }

    /// Says who takes interrupt pins (the south bridge); a second call changes nothing.
    pub fn route_interrupts(&self, router: Arc<dyn IntxRouter>) {
        let _ = self.router.set(router);
    }

    /// Says which bridge it is behind; before any device is on it.
    pub(super) fn put_behind(&self, bridge: &Arc<dyn PciDevice>) {
        let _ = self.bridge.set(Arc::downgrade(bridge));
    }

    /// The bridge that it is behind, while that exists.
    pub fn bridge(&self) -> Option<Arc<dyn PciDevice>> {
        self.bridge.get()?.upgrade()
    }

    /// Whether it hangs on the host bridge.
    pub fn is_root(&self) -> bool {
        self.bridge.get().is_none()
    }

    /// The number that firmware or the guest gave it; 0 for a root bus.
    pub fn number(&self) -> u8 {
        self.bridge().map_or(0, |b| b.pci().with_config(|c| c.read(reg::SECONDARY_BUS, 1)) as u8)
    }

    /// What the registers of ACPI hot-plug call it (QEMU's `acpi-pcihp-bsel`); nothing where ACPI does not plug.
    pub fn hotplug_number(&self) -> Option<u32> {
        *self.hotplug_number.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets that: once the machine is there, and when another one's is taken over, of which the guest has the tables.
    pub(crate) fn set_hotplug_number(&self, number: Option<u32>) {
        *self.hotplug_number.lock().unwrap_or_else(PoisonError::into_inner) = number;
    }

    /// Buses behind bridges on this one, in the order of their bridges' slots.
    pub fn behind(&self) -> Vec<Arc<PciBus>> {
        self.functions().iter().filter_map(|(_, f)| f.bridge()?.bus()).collect()
    }

    /// The bus that accesses for bus `number` reach through this one, `self` being the root.
    pub(super) fn behind_with_number(&self, number: u8) -> Option<Arc<PciBus>> {
        self.functions().iter().find_map(|(devfn, function)| {
            let bus = function.bridge()?.bus()?;
            self.visible(*devfn)?;
            let (first, last) = function.pci().with_config(|c| {
                (c.read(reg::SECONDARY_BUS, 1) as u8, c.read(reg::SUBORDINATE_BUS, 1) as u8)
            });
            if first == 0 || !(first..=last).contains(&number) {
                return None;
            }
            if first == number { Some(bus) } else { bus.behind_with_number(number) }
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Map and counters are changed in single steps.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wiring(&self) -> &PciBusWiring {
        self.wiring.get().expect("the host bridge connects its bus before anything is on it")
    }

    /// The region that BARs of `kind` are mapped in.
    pub fn space_of(&self, kind: BarKind) -> RegionId {
        match kind {
            BarKind::Io => self.wiring().io,
            BarKind::Memory32 | BarKind::Memory64 { .. } => self.wiring().memory,
        }
    }

    /// Whether it is a PCI Express bus.
    pub fn is_express(&self) -> bool {
        self.bus.type_name() == "PCIE"
    }

    /// The function in a slot.
    pub fn function(&self, devfn: u8) -> Option<Arc<dyn PciDevice>> {
        self.inner().functions.get(&devfn).cloned()
    }

    /// The function in a slot, if the guest may find it.
    pub(super) fn visible(&self, devfn: u8) -> Option<Arc<dyn PciDevice>> {
        let inner = self.inner();
        inner.functions.get(&devfn).filter(|_| !inner.hidden.contains(&devfn)).cloned()
    }

    /// Lets the guest find a function, or no longer.
    pub fn set_visible(&self, devfn: u8, visible: bool) {
        let mut inner = self.inner();
        if visible {
            inner.hidden.remove(&devfn);
        } else if inner.functions.contains_key(&devfn) {
            inner.hidden.insert(devfn);
        }
    }

    /// All functions by slot and function number.
    pub fn functions(&self) -> Vec<(u8, Arc<dyn PciDevice>)> {
        self.inner().functions.iter().map(|(devfn, f)| (*devfn, Arc::clone(f))).collect()
    }

    /// Puts a function into the slot it asks for, or the first free one.
    pub(super) fn claim(&self, device: &Arc<dyn PciDevice>, wanted: Option<u8>) -> Result<u8> {
        let mut inner = self.inner();
        let name = device.dev().type_name();
        let devfn = match wanted {
            None => (0..=31u8)
                .map(|slot| slot << 3)
                .find(|devfn| !inner.functions.contains_key(devfn))
                .ok_or_else(|| {
                    Error::generic(format!(
                        "PCI: no slot/function available for {name}, all in use or reserved"
                    ))
                })?,
            Some(devfn) => devfn,
        };
        let (slot, function) = (devfn >> 3, devfn & 7);
        if let Some(other) = inner.functions.get(&devfn) {
            let id = other.dev().id();
            return Err(Error::generic(format!(
                "PCI: slot {slot} function {function} not available for {name}, in use by {},id={}",
                other.dev().type_name(),
                id.as_deref().unwrap_or("(null)")
            )));
        }
        // QEMU looks at the address asked for, which is the last slot when none was: a late device without an address is
        // refused while that slot is taken.
        // Behind a port the first function is that of the only slot.
        let behind_port = self.is_express() && !self.is_root();
        let asked = if behind_port { 0 } else { wanted.map_or(31, |devfn| devfn >> 3) };
        if device.dev().is_hotplugged()
            && let Some(first) = inner.functions.get(&(asked << 3))
        {
            return Err(Error::generic(format!(
                "PCI: slot {asked} function 0 already occupied by {}, new func {name} cannot be exposed to guest.",
                first.dev().type_name()
            )));
        }
        if behind_port && slot != 0 {
            tracing::warn!(
                "PCI: slot {slot} is not valid for {name}, parent device only allows plugging into slot 0."
            );
        }
        if function != 0
            && let Some(first) = inner.functions.get(&(slot << 3))
            && !first.pci().props.multifunction()
        {
            return Err(Error::generic(format!(
                "PCI: single function device can't be populated in function {slot:x}.{function:x}"
            )));
        }
        if function == 0 && !device.pci().props.multifunction() {
            let mut others = inner.functions.range(devfn + 1..=devfn | 7);
            if let Some((other, _)) = others.next() {
                return Err(Error::generic(format!(
                    "PCI: {slot:x}.0 indicates single function, but {slot:x}.{:x} is already populated.",
                    other & 7
                )));
            }
        }
        inner.functions.insert(devfn, Arc::clone(device));
        inner.hidden.insert(devfn);
        Ok(devfn)
    }

    pub(super) fn remove(&self, devfn: u8) {
        let gone = {
            let mut inner = self.inner();
            inner.hidden.remove(&devfn);
            inner.functions.remove(&devfn)
        };
        drop(gone);
    }

    /// A function's pin (1 for INTA#) changed; the line is up while any function raises it.
    pub(super) fn change_intx(&self, devfn: u8, pin: u8, level: bool) {
        let Some(pin) = pin.checked_sub(1) else { return };
        if let Some(bridge) = self.bridge() {
            // PCI-to-PCI Bridge 1.2 §9.1: the pin turns with the slot.
            let pin = swizzle(devfn >> 3, pin) + 1;
            if let Some((bus, devfn)) = bridge.pci().bus_and_devfn() {
                bus.change_intx(devfn, pin, level);
            }
            return;
        }
        let Some(router) = self.router.get() else { return };
        let line = router.line(devfn >> 3, pin) & 7;
        let mut inner = self.inner();
        let raised = &mut inner.raised[usize::from(line)];
        *raised = if level { *raised + 1 } else { raised.saturating_sub(1) };
        // Under the lock: two functions on one line must not pass each other on the way to the controller.
        router.set(line, *raised > 0);
    }
}

/// The pin of a bridge (0 for INTA#) that pin `pin` of `slot` behind it becomes.
pub fn swizzle(slot: u8, pin: u8) -> u8 {
    pin.wrapping_add(slot) & 3
}

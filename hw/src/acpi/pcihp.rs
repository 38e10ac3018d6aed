//! PCI hot-plug that ACPI tables drive (QEMU `docs/specs/acpi_pci_hotplug`): the guest is told by a general-purpose event which
//! slots of which bus changed, and ejects a slot by writing its bit. A register says which bus the others mean.

mod migration;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use mainloop::Clock;
use memory::{AccessConstraints, Owner, RegionDesc, RegionOps};
use qapi::Result;
use qom::ObjectRef;

pub(crate) use self::migration::PciHotplugState;
use super::pm::Pm;
use crate::core::bus::Bus;
use crate::core::device::{Device, DeviceClass};
use crate::core::hotplug::{HotplugHandler, Unplug};
use crate::core::machine::Machine;
use crate::core::qdev;
use crate::pci::{PciBus, PciDevice, PciState};

/// Where the register block is on `q35`.
pub const ICH9_BASE: u64 = 0xcc0;
/// Bytes of the register block.
pub const REGISTERS: u64 = 0x18;
/// The general-purpose event that announces a change.
const GPE: u8 = 1;
const UP: u64 = 0x00;
const DOWN: u64 = 0x04;
const EJECT: u64 = 0x08;
const REMOVABLE: u64 = 0x0c;
const SELECT: u64 = 0x10;
const INDEX: u64 = 0x14;

/// A bus on which ACPI plugs, for whoever writes the tables.
pub struct HotplugBus {
    /// The bus.
    pub bus: Arc<PciBus>,
    /// What the registers call it.
    pub bsel: u32,
    /// Slots that devices may come to and go from, a bit each.
    pub slots: u32,
}

/// The buses on which ACPI plugs, by number. Asked for once the machine's devices are there: buses that come later have no number.
pub fn buses(machine: &Machine) -> Vec<HotplugBus> {
    let Some(hotplug) = installed(machine) else { return Vec::new() };
    hotplug.number_buses();
    let mut list = Vec::new();
    if let Some(root) = hotplug.root.upgrade() {
        visit(&root, &mut |bus| {
            if let Some(bsel) = bus.hotplug_number() {
                list.push(HotplugBus { bus: Arc::clone(bus), bsel, slots: pluggable_slots(bus) });
            }
        });
    }
    list.sort_by_key(|entry| entry.bsel);
    list
}

/// Slots that devices may come to and go from: the one behind a port, else all but those of what stays.
fn pluggable_slots(bus: &PciBus) -> u32 {
    if bus.is_express() && !bus.is_root() {
        return 1;
    }
    let fixed = |(devfn, f): &(u8, Arc<dyn PciDevice>)| (!is_hotpluggable(f)).then_some(1u32 << (devfn >> 3));
    !bus.functions().iter().filter_map(fixed).fold(0, |bits, bit| bits | bit)
}

/// Who plugs devices behind `bridge`, a bridge that is being realized, if that is ACPI.
pub(crate) fn handler_behind(machine: &Machine, bridge: &PciState) -> Option<Arc<dyn HotplugHandler>> {
    let hotplug = installed(machine)?;
    // The tables do not know a bridge that comes later.
    (hotplug.bridges && !bridge.dev.is_hotplugged()).then_some(hotplug as Arc<dyn HotplugHandler>)
}

/// Whether it is here that devices are plugged behind bridges.
pub fn plugs_behind_bridges(machine: &Machine) -> bool {
    installed(machine).is_some_and(|hotplug| hotplug.bridges)
}

/// The one of a machine.
#[derive(Default)]
struct Installed(OnceLock<Weak<AcpiPciHotplug>>);

pub(super) fn installed(machine: &Machine) -> Option<Arc<AcpiPciHotplug>> {
    machine.extension(Installed::default).0.get()?.upgrade()
}

/// `bus`, then the buses behind its bridges, those of the newest bridge first.
fn visit(bus: &Arc<PciBus>, each: &mut dyn FnMut(&Arc<PciBus>)) {
    each(bus);
    for device in bus.bus().children() {
        let behind = qom::cast::<dyn PciDevice>(&(device as ObjectRef)).and_then(|d| d.bridge()?.bus());
        if let Some(behind) = behind {
            visit(&behind, each);
        }
    }
}

/// Hot-plug of the buses of one machine.
pub struct AcpiPciHotplug {
    machine: Weak<Machine>,
    root: Weak<PciBus>,
    pm: Arc<Pm>,
    /// Whether buses behind bridges take part.
    bridges: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By number of the bus.
    buses: BTreeMap<u32, Slots>,
    /// Which bus the registers mean.
    selected: u32,
    /// What the index register shows.
    index: u32,
    /// Whether the buses have their numbers.
    numbered: bool,
    /// Whether the main loop was asked to empty slots.
    posted: bool,
}

/// Slots of a bus, a bit each.
#[derive(Debug, Clone, Copy, Default)]
struct Slots {
    up: u32,
    down: u32,
    /// Those that the main loop is to empty.
    ejecting: u32,
}

impl AcpiPciHotplug {
    /// Hot-plug of `root` if `on_root`, and of the buses behind bridges if `bridges`, announced through `pm`; its registers are at port
    /// `base`.
    pub fn install(
        machine: &Arc<Machine>,
        root: &Arc<PciBus>,
        pm: &Arc<Pm>,
        (on_root, bridges): (bool, bool),
        (base, owner): (u64, &Owner),
    ) -> Arc<Self> {
        let me = Arc::new(Self {
            machine: Arc::downgrade(machine),
            root: Arc::downgrade(root),
            pm: Arc::clone(pm),
            bridges,
            state: Mutex::default(),
        });
        let _ = machine.extension(Installed::default).0.set(Arc::downgrade(&me));
        let stopped = Arc::downgrade(&me);
        machine.on_run_state(move |running, _| {
            // Whoever looks at a machine that stopped finds nothing half done.
            if let Some(hotplug) = stopped.upgrade().filter(|_| !running) {
                hotplug.empty_slots();
            }
        });
        let mut tx = machine.memory().transaction();
        let desc = RegionDesc::new("acpi-pci-hotplug", REGISTERS.into()).owned_by(owner.clone());
        let ports = tx.io(desc, Arc::new(Registers(Arc::clone(&me))));
        tx.add_subregion(machine.io_region(), base, ports, 0);
        tx.commit();
        if on_root {
            root.bus().set_hotplug_handler(Arc::<Self>::clone(&me));
        }
        me
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Words, assigned whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the buses that take part their numbers, once.
    fn number_buses(&self) {
        if std::mem::replace(&mut self.lock().numbered, true) {
            return;
        }
        let Some(root) = self.root.upgrade() else { return };
        let mut next = 0;
        visit(&root, &mut |bus| {
            if bus.bus().is_hotpluggable() && (bus.is_root() || self.bridges) {
                bus.set_hotplug_number(Some(next));
                next += 1;
            }
        });
    }

    /// The bus of that number.
    fn bus(&self, number: u32) -> Option<Arc<PciBus>> {
        let mut found = None;
        visit(&self.root.upgrade()?, &mut |bus| {
            if bus.hotplug_number() == Some(number) {
                found = Some(Arc::clone(bus));
            }
        });
        found
    }

    /// Power-on state. Devices whose unplug was pending are gone for good, as in QEMU.
    pub fn reset(&self) {
        self.number_buses();
        {
            let mut state = self.lock();
            (state.selected, state.index) = (0, 0);
            // What the guest let go of before it was reset still goes.
            for slots in state.buses.values_mut() {
                *slots = Slots { ejecting: slots.ejecting, ..Slots::default() };
            }
        }
        let (Some(machine), Some(root)) = (self.machine.upgrade(), self.root.upgrade()) else { return };
        let mut going = Vec::new();
        visit(&root, &mut |bus| {
            if bus.hotplug_number().is_some() {
                going.extend(bus.functions().into_iter().filter(|(_, f)| f.dev().unplug_pending()));
            }
        });
        for (_, function) in going {
            qdev::complete_unplug(&machine, &(function as Arc<dyn Device>));
        }
    }

    /// Where the device is, with the number of its bus; nowhere while it is not realized.
    fn place(device: &Arc<dyn Device>) -> Option<(Arc<PciBus>, u8)> {
        let object = Arc::clone(device) as ObjectRef;
        qom::cast::<dyn PciDevice>(&object)?.pci().bus_and_devfn()
    }

    /// Changes what is known of the device's bus, given the bit of its slot, and tells the guest.
    fn announce(&self, device: &Arc<dyn Device>, work: impl FnOnce(&mut Slots, u32)) {
        let Some((bus, devfn)) = Self::place(device) else { return };
        let Some(number) = bus.hotplug_number() else { return };
        work(self.lock().buses.entry(number).or_default(), 1 << (devfn >> 3));
        self.pm.raise_gpe(GPE);
    }

    /// Devices that may go, a bit for each slot.
    fn removable(&self, number: u32) -> u32 {
        let Some(bus) = self.bus(number) else { return 0 };
        bus.functions()
            .iter()
            .filter(|(_, f)| is_hotpluggable(f))
            .fold(0, |bits, (devfn, _)| bits | 1 << (devfn >> 3))
    }

    /// The `acpi-index` of the device in `slot` of a bus; 0 without one.
    fn index_of(&self, number: u32, slot: u32) -> u32 {
        let devfn = u8::try_from(slot).ok().filter(|slot| *slot < 32).map(|slot| slot << 3);
        let function = devfn.and_then(|devfn| self.bus(number)?.function(devfn));
        function.map_or(0, |f| f.pci().props.acpi_index())
    }

    /// The guest let go of `slots` of a bus. Devices go on the main loop; no vCPU waits for that, and a guest that writes again and
    /// again has posted once.
    fn eject(self: &Arc<Self>, number: u32, slots: u32) {
        let Some(bus) = self.bus(number) else { return };
        let posted = {
            let mut state = self.lock();
            let entry = state.buses.entry(number).or_default();
            entry.down &= !slots;
            entry.ejecting |= slots;
            std::mem::replace(&mut state.posted, true)
        };
        // The guest may look again at once, and must not find what it let go of.
        for (devfn, function) in bus.functions() {
            if slots >> (devfn >> 3) & 1 != 0 && is_hotpluggable(&function) {
                bus.set_visible(devfn, false);
            }
        }
        let Some(machine) = self.machine.upgrade().filter(|_| !posted) else { return };
        let me = Arc::downgrade(self);
        machine.mainloop().post(move || {
            if let Some(me) = me.upgrade() {
                me.empty_slots();
            }
        });
    }

    fn empty_slots(&self) {
        let ejecting: Vec<(u32, u32)> = {
            let mut state = self.lock();
            state.posted = false;
            state.buses.iter_mut().map(|(n, slots)| (*n, std::mem::take(&mut slots.ejecting))).collect()
        };
        let Some(machine) = self.machine.upgrade() else { return };
        for (number, slots) in ejecting.into_iter().filter(|(_, slots)| *slots != 0) {
            let functions = self.bus(number).map(|bus| bus.functions()).unwrap_or_default();
            for (devfn, function) in functions {
                if slots >> (devfn >> 3) & 1 != 0 && is_hotpluggable(&function) {
                    qdev::complete_unplug(&machine, &(function as Arc<dyn Device>));
                }
            }
        }
    }
}

/// Whether a function can go while the machine runs. A bridge that was there from the start cannot: the tables describe what is
/// behind it.
pub(super) fn is_hotpluggable(function: &Arc<dyn PciDevice>) -> bool {
    let dev = function.dev();
    dev.core().class().extension::<DeviceClass>().is_some_and(|c| c.hotpluggable)
        && (function.bridge().is_none() || dev.is_hotplugged())
}

impl HotplugHandler for AcpiPciHotplug {
    fn plug(&self, _machine: &Arc<Machine>, device: &Arc<dyn Device>) -> Result<()> {
        if let Some((bus, devfn)) = Self::place(device) {
            bus.set_visible(devfn, true);
            if let Some(bridge) = bus.bridge() {
                bridge.supply_slot();
            }
        }
        if device.dev().is_hotplugged() {
            self.announce(device, |slots, bit| slots.up |= bit);
        }
        Ok(())
    }

    fn unplug_request(&self, machine: &Arc<Machine>, device: &Arc<dyn Device>) -> Result<Unplug> {
        let slot = Self::place(device).map_or(32, |(_, devfn)| devfn >> 3);
        trace::emit!(acpi_pci_unplug_request, 0, slot);
        // A guest that is starting may have missed it, so the user may say it again at once.
        device.dev().set_unplug_expiry(machine.mainloop().now_ns(Clock::Virtual) / 1_000_000);
        self.announce(device, |slots, bit| slots.down |= bit);
        Ok(Unplug::GuestAsked)
    }

    fn unplug(&self, _machine: &Arc<Machine>, device: &Arc<dyn Device>) {
        let Some((bus, devfn)) = Self::place(device) else { return };
        trace::emit!(acpi_pci_unplug, bus.hotplug_number().unwrap_or_default(), devfn >> 3);
        bus.set_visible(devfn, false);
    }
}

/// The register block.
struct Registers(Arc<AcpiPciHotplug>);

impl RegionOps for Registers {
    fn read(&self, offset: u64, _size: u8) -> u64 {
        let mut state = self.0.lock();
        let selected = state.selected;
        let slots = state.buses.get_mut(&selected);
        let value = match offset {
            // Reading takes the announcement, so that the next scan finds only what is new.
            UP => slots.map_or(0, |slots| std::mem::take(&mut slots.up)),
            DOWN => slots.map_or(0, |slots| slots.down),
            REMOVABLE => {
                drop(state);
                self.0.removable(selected)
            }
            SELECT => selected,
            INDEX => state.index,
            _ => 0,
        };
        match offset {
            UP => trace::emit!(acpi_pci_up_read, value),
            DOWN => trace::emit!(acpi_pci_down_read, value),
            REMOVABLE => trace::emit!(acpi_pci_rmv_read, value),
            SELECT => trace::emit!(acpi_pci_sel_read, value),
            INDEX => {}
            _ => trace::unimp!("ACPI PCI hot-plug: register {offset:#x} is read"),
        }
        value.into()
    }
    fn write(&self, offset: u64, _size: u8, value: u64) {
        let selected = self.0.lock().selected;
        match offset {
            EJECT => {
                trace::emit!(acpi_pci_ej_write, offset, value);
                if value as u32 != 0 {
                    self.0.eject(selected, value as u32);
                }
            }
            SELECT => {
                trace::emit!(acpi_pci_sel_write, offset, value);
                self.0.lock().selected = value as u32;
            }
            INDEX => {
                let index = self.0.index_of(selected, value as u32);
                self.0.lock().index = index;
            }
            _ => trace::unimp!("ACPI PCI hot-plug: register {offset:#x} is written {value:#x}"),
        }
    }
    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(4, 4).implemented(4, 4)
    }
}

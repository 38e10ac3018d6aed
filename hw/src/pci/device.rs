//! What every PCI function has: configuration space, BARs and where they are mapped, its view of memory, its interrupts.
//!
//! Lock order: the function's lock, then `memory`'s topology, then the interrupt controller. [`PciDevice`] hooks are
//! called with no lock held.

mod life;
mod migration;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use memory::{AddressSpace, Memory, Owner, RegionDesc, RegionId};
use qapi::{Error, Result};
use qom::{Class, ObjectRef};
use vmstate::Saved;

pub use self::life::{realize, unrealize};
pub use self::migration::PciDeviceState;
use super::bar::{Bar, BarKind};
use super::bridge::Bridge;
use super::bus::PciBus;
use super::config::{COMMAND_INTX_DISABLE, COMMAND_MASTER, ConfigSpace, PciInfo, reg};
use super::msix::{MAX_VECTORS, Msix, MsixLayout, PendingOps, TableOps};
use super::properties::PciProperties;
use crate::core::device::{Device, DeviceState, ResetKind};
use crate::core::machine::Machine;

/// Capability ID of MSI-X.
const CAP_MSIX: u8 = 0x11;
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_MASK_ALL: u16 = 1 << 14;

/// What a PCI device struct implements; [`pci_device!`](crate::pci_device) writes `Device` on top of it.
pub trait PciDevice: Device {
    /// The part every PCI device has.
    fn pci(&self) -> &PciState;

    /// Its identity. Asked once, when it is realized.
    fn pci_info(&self) -> PciInfo;

    /// Realizes the device: capabilities, BARs, what is behind. Slot, configuration space and bus master view exist.
    ///
    /// # Errors
    /// The device's texts; BARs and capabilities added so far are taken back by the caller.
    fn pci_realize(self: Arc<Self>, _machine: &Arc<Machine>) -> Result<()> {
        Ok(())
    }

    /// Undoes `pci_realize`. BARs are unmapped already; the regions are the device's to destroy.
    fn pci_unrealize(self: Arc<Self>, _machine: &Arc<Machine>) {}

    /// Resets the device; configuration space, BARs and MSI-X are reset already.
    fn pci_reset(&self, _kind: ResetKind) {}

    /// Asked before configuration space is read: registers that are windows.
    fn config_read(&self, _offset: u16, _size: u8) -> Option<u32> {
        None
    }

    /// Told after configuration space was written and everything common was done.
    fn config_written(&self, _offset: u16, _size: u8, _value: u32) {}

    /// The part of a bridge.
    fn bridge(&self) -> Option<&Bridge> {
        None
    }

    /// Bridges with a slot: a function was plugged behind it by somebody else, who wants the slot to have power.
    fn supply_slot(&self) {}

    /// What a migration takes along, [`PciState::saved_state`] of this function included.
    fn pci_saved(self: Arc<Self>) -> Saved {
        Saved::Blocked(format!("State blocked by non-migratable device '{}'", self.dev().type_name()))
    }

    /// Lines of `info qtree` about GPIO lines.
    fn pci_qtree_gpios(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Implements `Object` and `Device` for a [`PciDevice`]: `pci_device!(Lpc, pci)`, `pci` being its [`PciState`].
#[macro_export]
macro_rules! pci_device {
    (for [$($generics:tt)*] $type:ty, $($field:tt).+) => {
        $crate::device_object!(for [$($generics)*] $type, $($field).+.dev);
        impl<$($generics)*> $crate::core::device::Device for $type {
            fn dev(&self) -> &$crate::core::device::DeviceState {
                &self.$($field).+.dev
            }
            fn realize(
                self: std::sync::Arc<Self>,
                machine: &std::sync::Arc<$crate::core::machine::Machine>,
            ) -> qapi::Result<()> {
                $crate::pci::device::realize(self, machine)
            }
            fn unrealize(self: std::sync::Arc<Self>, machine: &std::sync::Arc<$crate::core::machine::Machine>) {
                $crate::pci::device::unrealize(self, machine);
            }
            fn reset(&self, kind: $crate::core::device::ResetKind) {
                self.$($field).+.reset();
                $crate::pci::device::PciDevice::pci_reset(self, kind);
            }
            fn saved(self: std::sync::Arc<Self>) -> vmstate::Saved {
                $crate::pci::device::PciDevice::pci_saved(self)
            }
            fn qtree_gpios(&self) -> Vec<String> {
                $crate::pci::device::PciDevice::pci_qtree_gpios(self)
            }
            fn qtree_bus_info(&self) -> Vec<String> {
                $crate::pci::info::qtree_lines(&self.$($field).+)
            }
        }
    };
    ($type:ty, $($field:tt).+) => {
        $crate::pci_device!(for [] $type, $($field).+);
    };
}

/// What every PCI device carries.
pub struct PciState {
    /// The device part.
    pub dev: DeviceState,
    /// Values of the common properties.
    pub props: PciProperties,
    place: Mutex<Option<KeptPlace>>,
    inner: Mutex<Inner>,
    msix: OnceLock<Arc<Msix>>,
}

/// Where a realized function is.
struct Place {
    bus: Arc<PciBus>,
    devfn: u8,
    memory: Arc<Memory>,
    /// The function's view of memory: a container, and in it, while bus mastering is on, all of memory.
    master: RegionId,
    master_alias: RegionId,
    space: Arc<AddressSpace>,
}

/// The same, kept: bus and memory know the function, so it must not own them.
struct KeptPlace {
    bus: Weak<PciBus>,
    devfn: u8,
    memory: Weak<Memory>,
    master: RegionId,
    master_alias: RegionId,
    space: Arc<AddressSpace>,
}

impl KeptPlace {
    fn upgrade(&self) -> Option<Place> {
        let Self { bus, devfn, memory, master, master_alias, space } = self;
        Some(Place {
            bus: bus.upgrade()?,
            devfn: *devfn,
            memory: memory.upgrade()?,
            master: *master,
            master_alias: *master_alias,
            space: Arc::clone(space),
        })
    }
}

struct Inner {
    config: ConfigSpace,
    bars: Vec<Bar>,
    msix_cap: Option<u16>,
    msix_regions: Vec<RegionId>,
    intx_level: bool,
}

impl PciState {
    /// The state of a new device of `class`.
    pub fn new(class: &Arc<Class>) -> Self {
        let empty = ConfigSpace::new(&PciInfo::new(0xffff, 0xffff, 0));
        Self {
            dev: DeviceState::new(class),
            props: PciProperties::default(),
            place: Mutex::default(),
            inner: Mutex::new(Inner {
                config: empty,
                bars: Vec::new(),
                msix_cap: None,
                msix_regions: Vec::new(),
                intx_level: false,
            }),
            msix: OnceLock::new(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Registers are bytes, BARs are written whole: a panic elsewhere leaves nothing half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self) -> Option<Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.upgrade()
    }

    /// Slot and function as one number, `slot << 3 | function`.
    pub fn devfn(&self) -> Option<u8> {
        self.place().map(|p| p.devfn)
    }

    /// The bus it is on, and slot and function there.
    pub fn bus_and_devfn(&self) -> Option<(Arc<PciBus>, u8)> {
        self.place().map(|p| (p.bus, p.devfn))
    }

    /// Number of the bus it is on.
    pub fn bus_number(&self) -> u8 {
        self.place().map_or(0, |p| p.bus.number())
    }

    /// `0000:00:02.0`, for names that must be stable across a migration: behind a bridge the bridge's slot comes first, as
    /// `0000:00:01.0:00.0`.
    pub fn address_text(&self) -> Option<String> {
        let place = self.place()?;
        let above = match place.bus.bridge() {
            Some(bridge) => bridge.pci().address_text()?,
            None => "0000:00".into(),
        };
        Some(format!("{above}:{:02x}.{:x}", place.devfn >> 3, place.devfn & 7))
    }

    /// The memory as the device reaches it: nothing while the guest has bus mastering off.
    pub fn bus_master_space(&self) -> Option<Arc<AddressSpace>> {
        self.place().map(|p| p.space)
    }

    /// Whether bus mastering is on.
    pub fn is_bus_master(&self) -> bool {
        self.inner().config.command() & COMMAND_MASTER != 0
    }

    /// Looks at or changes configuration space, as the device itself may.
    pub fn with_config<T>(&self, work: impl FnOnce(&mut ConfigSpace) -> T) -> T {
        work(&mut self.inner().config)
    }

    /// The BARs with where they are mapped.
    pub fn bars(&self) -> Vec<Bar> {
        self.inner().bars.clone()
    }

    /// Adds a BAR of `size` bytes (a power of two) that maps `region`.
    pub fn add_bar(&self, index: u8, kind: BarKind, size: u64, region: RegionId) {
        let mut inner = self.inner();
        let bar = Bar { index, kind, size, region, mapped: None };
        bar.install(&mut inner.config);
        inner.bars.push(bar);
    }

    /// Adds a read-only capability whose body (behind id and next pointer) is `body`, and returns its offset.
    ///
    /// # Errors
    /// Configuration space is full.
    pub fn add_capability(&self, id: u8, body: &[u8]) -> Result<u16> {
        let mut inner = self.inner();
        let offset = inner
            .config
            .add_capability(id, body.len() + 2)
            .ok_or_else(|| Error::generic("no room left for a PCI capability"))?;
        inner.config.set(offset + 2, body);
        Ok(offset)
    }

    /// Adds MSI-X with `vectors` vectors in a BAR of its own (`index`), owned by this device.
    ///
    /// # Errors
    /// `0` or more than 2048 vectors.
    pub fn init_msix_exclusive(&self, machine: &Arc<Machine>, index: u8, vectors: u16) -> Result<()> {
        if vectors == 0 || vectors > MAX_VECTORS {
            return Err(Error::generic(format!("unable to init msix vectors to {vectors}")));
        }
        let layout = MsixLayout::exclusive(vectors);
        let space = self
            .bus_master_space()
            .ok_or_else(|| Error::generic("a function on no bus has no interrupts"))?;
        let msix = Arc::clone(self.msix.get_or_init(|| Msix::new(vectors, machine.irq(), space)));
        let owner = self.owner();
        let name = format!("{}-msix", self.dev.type_name());
        let mut tx = machine.memory().transaction();
        let bar = tx.container(RegionDesc::new(&*name, layout.bar_size.into()).owned_by(owner.clone()));
        let table_desc = RegionDesc::new("msix-table", layout.table_size.into()).owned_by(owner.clone());
        let table = tx.io(table_desc, Arc::new(TableOps(Arc::clone(&msix))));
        let pba_desc = RegionDesc::new("msix-pba", layout.pba_size.into()).owned_by(owner);
        let pba = tx.io(pba_desc, Arc::new(PendingOps(msix)));
        tx.add_subregion(bar, 0, table, 0);
        tx.add_subregion(bar, layout.pba_offset, pba, 0);
        tx.commit();
        self.add_bar(index, BarKind::Memory32, layout.bar_size, bar);
        let mut body = Vec::from((vectors - 1).to_le_bytes());
        body.extend(u32::from(index).to_le_bytes());
        body.extend((layout.pba_offset as u32 | u32::from(index)).to_le_bytes());
        let cap = self.add_capability(CAP_MSIX, &body)?;
        let mut inner = self.inner();
        inner.config.set_writable(cap + 2, &(MSIX_ENABLE | MSIX_MASK_ALL).to_le_bytes());
        inner.msix_cap = Some(cap);
        inner.msix_regions = vec![table, pba, bar];
        drop(inner);
        Ok(())
    }

    /// The MSI-X table, if the device has one.
    pub fn msix(&self) -> Option<&Arc<Msix>> {
        // The table of a device that failed to be realized is of no use any more.
        self.msix.get().filter(|_| self.inner().msix_cap.is_some())
    }

    /// Who owns the device's regions; nobody before it is in the tree.
    pub fn owner(&self) -> Owner {
        self.object().map_or(Owner::None, |o| Owner::of(&o))
    }

    fn object(&self) -> Option<ObjectRef> {
        self.dev.core().parent()?.core().child(&self.dev.core().name())
    }

    /// Raises or lowers the interrupt pin.
    pub fn set_intx(&self, level: bool) {
        let Some(place) = self.place() else { return };
        let mut inner = self.inner();
        if inner.intx_level == level {
            return;
        }
        inner.intx_level = level;
        inner.config.set_interrupt_status(level);
        let pin = inner.config.read(reg::INTERRUPT_PIN, 1) as u8;
        if inner.config.command() & COMMAND_INTX_DISABLE == 0 {
            place.bus.change_intx(place.devfn, pin, level);
        }
    }

    /// A guest's read of configuration space, without the device's windows.
    fn read_config(&self, offset: u16, size: u8) -> u32 {
        self.inner().config.read(offset, size)
    }

    /// A guest's write: registers, then everything common that follows from them.
    fn write_config(&self, offset: u16, size: u8, value: u32) {
        let mut inner = self.inner();
        let before = inner.config.command();
        inner.config.write(offset, size, value);
        self.after_write(&mut inner, before, offset, size);
    }

    fn after_write(&self, inner: &mut Inner, before: u16, offset: u16, size: u8) {
        let end = offset + u16::from(size);
        let touches = |start: u16, len: u16| offset < start + len && end > start;
        let Some(place) = self.place() else { return };
        if touches(reg::COMMAND, 2) || touches(reg::BAR0, 24) {
            update_mappings(inner, &place, self.dev.type_name());
        }
        let now = inner.config.command();
        let pin_off = (before & COMMAND_INTX_DISABLE != 0, now & COMMAND_INTX_DISABLE != 0);
        if inner.intx_level && pin_off.0 != pin_off.1 {
            let pin = inner.config.read(reg::INTERRUPT_PIN, 1) as u8;
            place.bus.change_intx(place.devfn, pin, !pin_off.1);
        }
        if let (Some(cap), Some(msix)) = (inner.msix_cap, self.msix.get())
            && touches(cap + 2, 2)
        {
            let control = inner.config.get16(cap + 2);
            let (on, masked) = (control & MSIX_ENABLE != 0, control & MSIX_MASK_ALL != 0);
            trace::emit!(msix_write_config, self.dev.type_name(), on.into(), masked.into());
            msix.set_control(on, masked);
        }
    }

    /// Power-on state of everything common.
    pub fn reset(&self) {
        self.set_intx(false);
        let mut inner = self.inner();
        inner.config.reset();
        for index in 0..inner.bars.len() {
            let bar = inner.bars[index].clone();
            bar.clear(&mut inner.config);
        }
        if let Some(place) = self.place() {
            update_mappings(&mut inner, &place, self.dev.type_name());
        }
        if let (Some(cap), Some(msix)) = (inner.msix_cap, self.msix.get()) {
            let control = inner.config.get16(cap + 2) & !(MSIX_ENABLE | MSIX_MASK_ALL);
            inner.config.set16(cap + 2, control);
            msix.reset();
        }
    }

    /// Gives a BAR an address, as firmware does. Decoding is switched on separately.
    pub fn assign_bar(&self, index: u8, address: u64) {
        let mut inner = self.inner();
        if let Some(bar) = inner.bars.iter().find(|b| b.index == index).cloned() {
            bar.assign(&mut inner.config, address);
            let before = inner.config.command();
            self.after_write(&mut inner, before, reg::BAR0, 24);
        }
    }
}

/// Brings the topology in line with BARs and command register, in one transaction. `name` is the device's, for traces.
fn update_mappings(inner: &mut Inner, place: &Place, name: &str) {
    let mut changes = Vec::new();
    let Inner { config, bars, .. } = inner;
    for bar in bars {
        let wanted = bar.decoded(config);
        if wanted != bar.mapped {
            let (slot, func) = (place.devfn >> 3, place.devfn & 7);
            if let Some(addr) = bar.mapped {
                trace::emit!(pci_update_mappings_del, name, slot, func, bar.index, addr, bar.size);
            }
            if let Some(addr) = wanted {
                trace::emit!(pci_update_mappings_add, name, slot, func, bar.index, addr, bar.size);
            }
            changes.push((place.bus.space_of(bar.kind), bar.region, bar.mapped, wanted));
            bar.mapped = wanted;
        }
    }
    let master = config.command() & COMMAND_MASTER != 0;
    let mut tx = place.memory.transaction();
    for (space, region, _, _) in changes.iter().filter(|c| c.2.is_some()) {
        tx.del_subregion(*space, *region);
    }
    for (space, region, _, wanted) in changes {
        if let Some(address) = wanted {
            tx.add_subregion(space, address, region, 1);
        }
    }
    tx.set_enabled(place.master_alias, master);
}

/// A guest's read of a function's configuration space.
pub fn config_read(device: &Arc<dyn PciDevice>, offset: u16, size: u8) -> u32 {
    device.config_read(offset, size).unwrap_or_else(|| device.pci().read_config(offset, size))
}

/// A guest's write to a function's configuration space.
pub fn config_write(device: &Arc<dyn PciDevice>, offset: u16, size: u8, value: u32) {
    device.pci().write_config(offset, size, value);
    device.config_written(offset, size, value);
}

#[cfg(test)]
mod tests;

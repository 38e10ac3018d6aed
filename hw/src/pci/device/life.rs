//! How a function comes and goes: its place on the bus, its view of memory, and how both are taken back.

use std::sync::{Arc, PoisonError};

use memory::{RegionDesc, SIZE_ALL};
use qapi::{Error, Result};
use qom::ObjectRef;

use super::{KeptPlace, PciDevice, PciState, update_mappings};
use crate::core::machine::Machine;
use crate::pci::bus::PciBus;
use crate::pci::config::{ConfigSpace, HEADER_MULTIFUNCTION, reg};

impl PciState {
    /// Unmaps the BARs for good. A vCPU may be on its way into configuration space still: what it writes there must not map
    /// regions again that are about to be destroyed.
    pub(super) fn retire_bars(&self) {
        let mut inner = self.inner();
        inner.config.set16(reg::COMMAND, 0);
        if let Some(place) = self.place() {
            update_mappings(&mut inner, &place, self.dev.type_name());
        }
        inner.bars.clear();
    }

    fn take_off(&self, machine: &Arc<Machine>) {
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(place) = place.and_then(|p| p.upgrade()) else { return };
        if self.inner().intx_level {
            let pin = self.read_config(reg::INTERRUPT_PIN, 1) as u8;
            place.bus.change_intx(place.devfn, pin, false);
        }
        place.bus.remove(place.devfn);
        let mut inner = self.inner();
        let mut tx = machine.memory().transaction();
        for bar in inner.bars.drain(..) {
            if bar.mapped.is_some() {
                tx.del_subregion(place.bus.space_of(bar.kind), bar.region);
            }
        }
        tx.remove_address_space(&place.space);
        inner.msix_cap = None;
        let own = [place.master_alias, place.master];
        for region in inner.msix_regions.drain(..).chain(own) {
            if let Err(error) = tx.destroy(region) {
                tracing::warn!(%error, "region of {}", self.dev.type_name());
            }
        }
    }
}

/// `Device::realize` of every PCI device.
///
/// # Errors
/// The slot is taken or none is free; what `pci_realize` says.
pub fn realize<T: PciDevice>(device: Arc<T>, machine: &Arc<Machine>) -> Result<()> {
    let state = device.pci();
    let bus = state
        .dev
        .parent_bus()
        .and_then(|b| (b as ObjectRef).downcast::<PciBus>())
        .ok_or_else(|| Error::generic("a PCI device needs a PCI bus"))?;
    let as_dyn: Arc<dyn PciDevice> = Arc::<T>::clone(&device);
    let devfn = bus.claim(&as_dyn, state.props.devfn())?;
    state.props.set_devfn(devfn);
    let info = device.pci_info();
    {
        let mut inner = state.inner();
        inner.config = ConfigSpace::new(&info);
        if state.props.multifunction() {
            let header = inner.config.read(reg::HEADER_TYPE, 1) as u8 | HEADER_MULTIFUNCTION;
            inner.config.set8(reg::HEADER_TYPE, header);
        }
    }
    let owner = state.owner();
    let mut tx = machine.memory().transaction();
    let master = tx.container(RegionDesc::new("bus master container", SIZE_ALL).owned_by(owner.clone()));
    let alias_desc = RegionDesc::new("bus master", SIZE_ALL).owned_by(owner);
    let master_alias = tx.alias(alias_desc, machine.system_region(), 0);
    tx.set_enabled(master_alias, false);
    tx.add_subregion(master, 0, master_alias, 0);
    let space = tx.address_space(state.dev.type_name(), master);
    tx.commit();
    let memory = Arc::downgrade(machine.memory());
    let place = KeptPlace { bus: Arc::downgrade(&bus), devfn, memory, master, master_alias, space };
    *state.place.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
    if let Err(error) = Arc::clone(&device).pci_realize(machine) {
        device.pci().take_off(machine);
        return Err(error);
    }
    // A running guest finds the function when it is plugged, not half-way.
    if !state.dev.is_hotplugged() {
        bus.set_visible(devfn, true);
    }
    Ok(())
}

/// `Device::unrealize` of every PCI device.
pub fn unrealize<T: PciDevice>(device: Arc<T>, machine: &Arc<Machine>) {
    device.pci().set_intx(false);
    device.pci().retire_bars();
    Arc::clone(&device).pci_unrealize(machine);
    device.pci().take_off(machine);
}

//! What a migration takes along of every function: its registers, the level of its pin, its MSI-X table.
//!
//! Where BARs are mapped and whether the function reaches memory follow from the registers.

use vmstate::{LoadError, Result, vmstate};

use super::{COMMAND_INTX_DISABLE, Inner, MSIX_ENABLE, MSIX_MASK_ALL, PciState, reg, update_mappings};
use crate::pci::msix::MsixState;

vmstate! {
    /// The part of a function's state that every function has.
    pub struct PciDeviceState: "PCIDevice", version 2 {
        /// All bytes of configuration space.
        config: Vec<u8>,
        /// Whether it raises its pin.
        irq_state: bool,
        /// If it has MSI-X.
        msix: Option<MsixState>,
    }
}

/// Whether the pin is up for others to see.
fn asserts(inner: &Inner) -> bool {
    inner.intx_level && inner.config.command() & COMMAND_INTX_DISABLE == 0
}

impl PciState {
    /// The state of now. What is the device's own comes in addition.
    pub fn saved_state(&self) -> PciDeviceState {
        let msix = self.msix().map(|msix| msix.saved_state());
        let inner = self.inner();
        // What else there is was made when the function was realized, or follows from these.
        let Inner { config, bars: _, msix_cap: _, msix_regions: _, intx_level } = &*inner;
        PciDeviceState { config: config.bytes().to_vec(), irq_state: *intx_level, msix }
    }

    /// Takes over what the same function had elsewhere: maps BARs and drives the pin accordingly. What follows from registers that
    /// are the device's own (windows of bridges) is up to the caller.
    ///
    /// # Errors
    /// It is another function's. QEMU's texts, the line about `PCIDevice` included.
    pub fn load_state(&self, state: &PciDeviceState) -> Result<()> {
        let field = |field| move |error: LoadError| error.in_field("PCIDevice", field);
        let place = self.place().ok_or_else(|| LoadError::invalid("a function on no bus has no state"))?;
        let PciDeviceState { config, irq_state, msix: table } = state;
        let mut inner = self.inner();
        let before = asserts(&inner);
        inner.config.load(config).map_err(field("config"))?;
        update_mappings(&mut inner, &place, self.dev.type_name());
        inner.intx_level = *irq_state;
        inner.config.set_interrupt_status(*irq_state);
        let now = asserts(&inner);
        if now != before {
            let pin = inner.config.read(reg::INTERRUPT_PIN, 1) as u8;
            place.bus.change_intx(place.devfn, pin, now);
        }
        let own = self.msix.get().zip(inner.msix_cap);
        match (own, table) {
            (None, None) => Ok(()),
            (Some((msix, cap)), Some(table)) => {
                let control = inner.config.get16(cap + 2);
                let (on, masked) = (control & MSIX_ENABLE != 0, control & MSIX_MASK_ALL != 0);
                msix.load_state(table, on, masked)
            }
            _ => Err(LoadError::invalid("MSI-X is at one end only")),
        }
        .map_err(field("msix"))
    }
}

#[cfg(test)]
mod tests;

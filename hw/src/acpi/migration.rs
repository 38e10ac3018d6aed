//! What a migration takes along of ACPI, with whichever function has its registers.

use std::sync::Arc;

use vmstate::{LoadError, Result, vmstate};

use super::cpuhp::{CpuHotplug, CpuHotplugState};
use super::memhp::{MemoryHotplug, MemoryHotplugState};
use super::pcihp::{AcpiPciHotplug, PciHotplugState};
use super::pm::{Pm, PmState};
use crate::core::machine::Machine;

vmstate! {
    /// Registers and events.
    pub struct AcpiState: "acpi", version 1 {
        /// Fixed registers and general-purpose events.
        registers: PmState,
        /// If it plugs PCI devices.
        pcihp: Option<PciHotplugState>,
        /// If there are slots for DIMMs.
        memhp: Option<MemoryHotplugState>,
    }
    subsections {
        /// If the registers of CPU hot-plug are in use.
        cpuhp: CpuHotplugState,
    }
}

impl AcpiState {
    /// What there is now.
    pub(crate) fn of(machine: &Machine, pm: &Pm, pcihp: Option<&AcpiPciHotplug>) -> Self {
        Self {
            registers: pm.saved_state(),
            pcihp: pcihp.map(AcpiPciHotplug::saved_state),
            memhp: MemoryHotplug::of(machine).saved_state(),
            cpuhp: CpuHotplug::of(machine).saved_state(),
        }
    }

    /// Takes `state` over into `own`: both or neither are there.
    ///
    /// # Errors
    /// It is of another machine.
    pub(crate) fn load(
        state: Option<Self>,
        machine: Option<&Machine>,
        own: Option<(&Arc<Pm>, Option<&AcpiPciHotplug>)>,
    ) -> Result<()> {
        let one_end = |what| LoadError::invalid(format!("{what} is at one end only"));
        let (Self { registers, pcihp, memhp, cpuhp }, (pm, own_pcihp)) = match (state, own) {
            (None, None) => return Ok(()),
            (Some(state), Some(own)) => (state, own),
            _ => return Err(one_end("ACPI")),
        };
        match (pcihp, own_pcihp) {
            (None, None) => {}
            (Some(state), Some(own)) => own.load_state(state)?,
            _ => return Err(one_end("ACPI PCI hotplug")),
        }
        if let Some(machine) = machine {
            MemoryHotplug::of(machine).load_state(memhp)?;
            CpuHotplug::of(machine).load_state(cpuhp)?;
        }
        pm.load_state(&registers);
        Ok(())
    }
}

#[cfg(test)]
mod tests;

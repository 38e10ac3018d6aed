//! What a proxy has behind a port in addition: 4096 bytes of configuration space, the structures of PCI Express and power management, and
//! the resets that come with them (PCI Express 3.0 §6.6.2, PCI Power Management 1.2 §3.2.4).

use qapi::Result;

use crate::pci::PciState;
use crate::pci::express::{self, CONTROL_FUNCTION_RESET, Kind, at};

/// Offset of control and status in the power management structure.
const POWER_CONTROL: u16 = 4;
const POWER_STATE: u16 = 3;
const D3_HOT: u16 = 3;

/// Where the structures are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Express {
    express: u16,
    power: u16,
    /// The power state that the driver chose last.
    state: u16,
}

/// Whether a function is behind a port, and so a PCI Express one.
pub(super) fn is_behind_port(pci: &PciState) -> bool {
    pci.bus_and_devfn().is_some_and(|(bus, _)| bus.is_express() && !bus.is_root())
}

impl Express {
    /// Adds the structures.
    ///
    /// # Errors
    /// Configuration space is full.
    pub(super) fn add(pci: &PciState) -> Result<Self> {
        let express = express::add(pci, Kind::Endpoint)?;
        let power = express::add_power_management(pci)?;
        pci.with_config(|config| {
            config.extend();
            config.set_writable(express + at::DEVICE_CONTROL + 1, &[(CONTROL_FUNCTION_RESET >> 8) as u8]);
        });
        Ok(Self { express, power, state: 0 })
    }

    /// After a write of configuration space: whether it asks for a reset of the function.
    pub(super) fn written(&mut self, pci: &PciState) -> bool {
        pci.with_config(|config| {
            let control = config.get16(self.express + at::DEVICE_CONTROL);
            let wanted = control & CONTROL_FUNCTION_RESET != 0;
            // The bit reads as 0.
            config.set16(self.express + at::DEVICE_CONTROL, control & !CONTROL_FUNCTION_RESET);
            let state = config.get16(self.power + POWER_CONTROL) & POWER_STATE;
            let before = std::mem::replace(&mut self.state, state);
            wanted || before == D3_HOT && state == 0
        })
    }

    /// The registers were loaded.
    pub(super) fn loaded(&mut self, pci: &PciState) {
        let Self { express: _, power, state } = self;
        *state = pci.with_config(|config| config.get16(*power + POWER_CONTROL) & POWER_STATE);
    }

    /// Registers as after power-on.
    pub(super) fn reset(&mut self, pci: &PciState) {
        self.state = 0;
        pci.with_config(|config| {
            config.set16(self.express + at::DEVICE_CONTROL, 0);
            config.set16(self.express + at::DEVICE_CONTROL2, 0);
            config.set16(self.express + at::LINK_CONTROL, 0);
            config.set16(self.power + POWER_CONTROL, 0);
        });
    }
}

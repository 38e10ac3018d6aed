//! What every PCI-to-PCI bridge has: the bus behind it, and the windows through which accesses get there (PCI-to-PCI Bridge 1.2 §3.2.5,
//! §4).
//!
//! As in QEMU, functions behind a bridge reach memory whatever the bridge's own bus master bit says. Left out: the error bits of
//! the secondary status, the discard timers of conventional bridges.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use memory::{AddressSpace, Memory, RegionDesc, RegionId, SIZE_ALL};
use qapi::{Error, Result};

use super::bar::BarKind;
use super::bus::{PciBus, PciBusWiring};
use super::config::{COMMAND_IO, COMMAND_MEMORY, ConfigSpace, reg};
use super::device::PciDevice;
use crate::core::bus::{self, Bus};
use crate::core::device::{Device, ResetKind};
use crate::core::machine::Machine;
use crate::core::qdev;

/// Control bit: VGA accesses are forwarded.
const CONTROL_VGA: u16 = 1 << 3;
/// Control bit: the bus behind is held in reset.
const CONTROL_RESET: u16 = 1 << 6;
const IO_SIZE: u128 = 1 << 32;

/// A window of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// Ports.
    Io,
    /// Registers below 4 GiB.
    Memory,
    /// Memory that may be read ahead.
    Prefetch,
}

impl Window {
    /// In the order of the registers.
    pub const ALL: [Self; 3] = [Self::Io, Self::Memory, Self::Prefetch];

    /// Granularity in bytes.
    pub fn unit(self) -> u64 {
        if self == Self::Io { 0x1000 } else { 0x10_0000 }
    }

    /// First and last address in the registers. The window is closed if the first is higher.
    pub fn range(self, config: &ConfigSpace) -> (u64, u64) {
        let mib = |at| u64::from(config.get16(at) & 0xfff0) << 16;
        let upper = |at| u64::from(config.get32(at)) << 32;
        match self {
            Self::Io => {
                let page = |at| u64::from(config.read(at, 1) & 0xf0) << 8;
                (page(reg::IO_BASE), page(reg::IO_BASE + 1) | 0xfff)
            }
            Self::Memory => (mib(reg::MEMORY_BASE), mib(reg::MEMORY_BASE + 2) | 0xf_ffff),
            Self::Prefetch => {
                let (base, limit) = (reg::PREFETCH_BASE, reg::PREFETCH_BASE_UPPER);
                (mib(base) | upper(limit), mib(base + 2) | 0xf_ffff | upper(limit + 4))
            }
        }
    }

    /// Writes first and last address as firmware does; `None` closes the window.
    pub fn assign(self, config: &mut ConfigSpace, range: Option<(u64, u64)>) {
        let (first, last) = range.unwrap_or((self.highest(), 0));
        let (low, high) = ((first >> 16) as u32 & 0xfff0, (last >> 16) as u32 & 0xfff0);
        match self {
            Self::Io => {
                config.write(reg::IO_BASE, 2, (first >> 8) as u32 & 0xf0 | (last & 0xf000) as u32);
            }
            Self::Memory => config.write(reg::MEMORY_BASE, 4, low | high << 16),
            Self::Prefetch => {
                config.write(reg::PREFETCH_BASE, 4, low | high << 16);
                config.write(reg::PREFETCH_BASE_UPPER, 4, (first >> 32) as u32);
                config.write(reg::PREFETCH_BASE_UPPER + 4, 4, (last >> 32) as u32);
            }
        }
    }

    /// The first address of a closed window.
    fn highest(self) -> u64 {
        if self == Self::Io { 0xf000 } else { 0xfff0_0000 }
    }

    /// What is forwarded: nothing while decoding is off or the window is closed.
    fn forwarded(self, config: &ConfigSpace) -> Option<(u64, u64)> {
        let enable = if self == Self::Io { COMMAND_IO } else { COMMAND_MEMORY };
        Some(self.range(config)).filter(|(first, last)| config.command() & enable != 0 && first <= last)
    }

    fn region(self) -> &'static str {
        match self {
            Self::Io => "pci_bridge_io",
            Self::Memory => "pci_bridge_mem",
            Self::Prefetch => "pci_bridge_pref_mem",
        }
    }
}

/// What firmware leaves free behind a bridge for what is plugged later; `None` where nobody asked for anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reserve {
    /// Bus numbers.
    pub buses: Option<u32>,
    /// Bytes of ports.
    pub io: Option<u64>,
    /// Bytes for registers.
    pub memory: Option<u64>,
    /// Bytes that may be read ahead.
    pub prefetch: Option<u64>,
}

/// Counts the buses of bridges without an id, by class.
#[derive(Default)]
struct Unnamed(Mutex<BTreeMap<&'static str, u32>>);

impl Unnamed {
    /// A name in QEMU's manner, as `pcie.0`.
    fn name(&self, class: &'static str) -> String {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(class).or_default();
        *count += 1;
        format!("{}.{}", class.to_lowercase(), *count - 1)
    }
}

/// The part that a bridge carries.
#[derive(Default)]
pub struct Bridge {
    live: Mutex<Option<Live>>,
    reserve: Mutex<Reserve>,
}

struct Live {
    bus: Arc<PciBus>,
    memory: Weak<Memory>,
    /// Windows in the order of [`Window::ALL`], then those for VGA.
    windows: [RegionId; 3],
    vga: [RegionId; 3],
    /// What is behind: `pci_bridge_pci` and `pci_bridge_io`.
    behind: [RegionId; 2],
    spaces: [Arc<AddressSpace>; 2],
}

impl Bridge {
    fn live(&self) -> MutexGuard<'_, Option<Live>> {
        // Set and taken whole.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bus behind, while the bridge is realized.
    pub fn bus(&self) -> Option<Arc<PciBus>> {
        self.live().as_ref().map(|live| Arc::clone(&live.bus))
    }

    /// What firmware is to leave free.
    pub fn reserve(&self) -> Reserve {
        *self.reserve.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets that.
    pub fn set_reserve(&self, reserve: Reserve) {
        *self.reserve.lock().unwrap_or_else(PoisonError::into_inner) = reserve;
    }

    /// Makes the bus of class `class` behind `device`, and the closed windows to it.
    ///
    /// # Errors
    /// The bridge is on no bus, or a child of it has the bus's name.
    pub fn realize(&self, device: &Arc<dyn PciDevice>, machine: &Arc<Machine>, class: &str) -> Result<()> {
        let state = device.pci();
        let (parent, _) =
            state.bus_and_devfn().ok_or_else(|| Error::generic("a PCI bridge needs a PCI bus"))?;
        let registry = machine.tree().registry();
        let class = registry.lookup(class).ok_or_else(|| Error::generic("hw::register was not called"))?;
        let name = match state.dev.id() {
            Some(id) => id,
            None => machine.extension(Unnamed::default).name(class.name()),
        };
        let bus = PciBus::new(class, &name);
        bus.put_behind(device);
        let owner = state.owner();
        let mut tx = machine.memory().transaction();
        let desc = |name: &str, size: u128| RegionDesc::new(name, size).owned_by(owner.clone());
        let memory = tx.container(desc("pci_bridge_pci", SIZE_ALL));
        let io = tx.container(desc("pci_bridge_io", IO_SIZE));
        let (above, above_io) = (parent.space_of(BarKind::Memory32), parent.space_of(BarKind::Io));
        let windows = Window::ALL.map(|window| {
            let (target, parent) = if window == Window::Io { (io, above_io) } else { (memory, above) };
            let alias = tx.alias(desc(window.region(), 0), target, 0);
            tx.add_subregion(parent, 0, alias, 1);
            alias
        });
        let vga = [
            ("pci_bridge_vga_io_lo", io, above_io, 0x3b0, 0xc),
            ("pci_bridge_vga_io_hi", io, above_io, 0x3c0, 0x20),
            ("pci_bridge_vga_mem", memory, above, 0xa_0000, 0x2_0000),
        ]
        .map(|(name, target, parent, at, size)| {
            let alias = tx.alias(desc(name, size), target, at);
            tx.set_enabled(alias, false);
            tx.add_subregion(parent, at, alias, 1);
            alias
        });
        let spaces =
            [tx.address_space("pci_bridge_pci_mem", memory), tx.address_space("pci_bridge_pci_io", io)];
        tx.commit();
        bus.connect(PciBusWiring { memory, io });
        let live = Live {
            bus: Arc::clone(&bus),
            memory: Arc::downgrade(machine.memory()),
            windows,
            vga,
            behind: [memory, io],
            spaces,
        };
        let attached = bus::attach(&(Arc::clone(device) as Arc<dyn Device>), &name, bus as Arc<dyn Bus>);
        if let Err(error) = attached {
            live.destroy();
            return Err(error);
        }
        *self.live() = Some(live);
        Ok(())
    }

    /// Undoes [`Bridge::realize`]; nothing is on the bus any more.
    pub fn unrealize(&self, device: &Arc<dyn PciDevice>) {
        let Some(live) = self.live().take() else { return };
        bus::detach(&(Arc::clone(device) as Arc<dyn Device>), &(Arc::clone(&live.bus) as Arc<dyn Bus>));
        live.destroy();
    }

    /// Registers as after power-on; `closed` has the windows closed, as ports have them, and not at address 0.
    pub fn reset(&self, device: &dyn PciDevice, closed: bool) {
        device.pci().with_config(|config| {
            config.set(reg::PRIMARY_BUS, &[0; 4]);
            for window in Window::ALL {
                window.assign(config, Some((0, 0)).filter(|_| !closed));
            }
            if closed {
                config.set(reg::PREFETCH_BASE_UPPER, &[0; 8]);
            }
            config.set16(reg::BRIDGE_CONTROL, 0);
        });
        self.update(device);
    }

    /// After a write of configuration space: the windows, and a reset of the bus behind.
    pub fn config_written(&self, device: &dyn PciDevice, offset: u16, size: u8, value: u32) {
        let touches = |start: u16, len: u16| offset < start + len && offset + u16::from(size) > start;
        if touches(reg::COMMAND, 2) || touches(reg::IO_BASE, 0x14) || touches(reg::BRIDGE_CONTROL, 2) {
            self.update(device);
        }
        // Held in reset is reset once, when the bit is written; what is found meanwhile is in its power-on state.
        let control = u64::from(value) << (8 * u32::from(offset & 3)) >> 16;
        if touches(reg::BRIDGE_CONTROL, 1)
            && control as u16 & CONTROL_RESET != 0
            && let Some(bus) = self.bus()
        {
            qdev::reset_bus(&(bus as Arc<dyn Bus>), ResetKind::Bus);
        }
    }

    /// Opens and closes the windows as the registers say.
    pub(super) fn update(&self, device: &dyn PciDevice) {
        let (ranges, vga) = device.pci().with_config(|config| {
            let vga = config.get16(reg::BRIDGE_CONTROL) & CONTROL_VGA != 0;
            let on = |bit| vga && config.command() & bit != 0;
            (Window::ALL.map(|w| w.forwarded(config)), [on(COMMAND_IO), on(COMMAND_IO), on(COMMAND_MEMORY)])
        });
        let live = self.live();
        let Some((live, memory)) = live.as_ref().and_then(|live| Some((live, live.memory.upgrade()?))) else {
            return;
        };
        let mut tx = memory.transaction();
        for (region, range) in live.windows.into_iter().zip(ranges) {
            let (first, size) =
                range.map_or((0, 0), |(first, last)| (first, u128::from(last) - u128::from(first) + 1));
            tx.set_size(region, size);
            tx.set_alias_offset(region, first);
            tx.set_address(region, first);
        }
        for (region, on) in live.vga.into_iter().zip(vga) {
            tx.set_enabled(region, on);
        }
    }
}

impl Live {
    fn destroy(self) {
        let Some(memory) = self.memory.upgrade() else { return };
        let mut tx = memory.transaction();
        for space in &self.spaces {
            tx.remove_address_space(space);
        }
        for region in self.windows.into_iter().chain(self.vga).chain(self.behind) {
            if let Err(error) = tx.destroy(region) {
                tracing::error!(%error, "a window of a bridge outlives it");
            }
        }
    }
}

#[cfg(test)]
mod tests;

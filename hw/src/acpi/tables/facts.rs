//! What the tables say of a machine, read once.

use std::sync::Arc;

use qapi::{Error, Result};
use qom::ObjectRef;

use super::hmat::Performance;
use crate::acpi::cpuhp::CpuHotplug;
use crate::acpi::pcihp::{self, HotplugBus};
use crate::acpi::vmgenid;
use crate::core::machine::Machine;
use crate::core::machine_types::Board;
use crate::core::qdev;
use crate::i386::cpu::{self, Cpus};
use crate::i386::layout::Layout;
use crate::i386::{firmware, transports};
use crate::isa::fw_cfg::FwCfg;
use crate::isa::pvpanic::PvPanic;
use crate::pci::{PciBus, PciDevice};

/// What kind of machine it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Platform {
    /// `pc`: 440FX and PIIX.
    Pc,
    /// `q35`: MCH and ICH9.
    Q35,
    /// `microvm`: hardware-reduced, without PCI.
    Microvm {
        /// Whether there is a second I/O APIC.
        second_ioapic: bool,
    },
}

impl Platform {
    /// Whether it has no fixed hardware.
    pub(super) fn is_reduced(self) -> bool {
        matches!(self, Self::Microvm { .. })
    }
}

/// A vCPU that is there or may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Processor {
    pub(super) apic_id: u32,
    pub(super) present: bool,
    /// Its node, if there are nodes.
    pub(super) node: Option<u16>,
}

/// A serial port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Serial {
    /// 0 for COM1.
    pub(super) index: u8,
    pub(super) base: u16,
    pub(super) irq: u8,
}

/// A PCI bus whose slots take devices while the machine runs, and what hangs below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bus {
    /// Its number for the hot-plug registers, if ACPI plugs into it.
    pub(super) selector: Option<u32>,
    /// Slots that devices come into and go from.
    pub(super) slots: Vec<u8>,
    /// Bridges on it: device and function, and the bus behind.
    pub(super) bridges: Vec<(u8, Bus)>,
}

impl Bus {
    /// Whether ACPI plugs anywhere.
    pub(super) fn is_pluggable(&self) -> bool {
        self.selector.is_some() || self.bridges.iter().any(|(_, bus)| bus.is_pluggable())
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) platform: Platform,
    pub(super) layout: Layout,
    /// First and last address of the window for 64-bit BARs.
    pub(super) window64: (u64, u64),
    /// By index.
    pub(super) processors: Vec<Processor>,
    /// RAM of each node in bytes; empty without NUMA.
    pub(super) nodes: Vec<u64>,
    /// Distances from each node to each, if any is given.
    pub(super) distances: Option<Vec<Vec<u8>>>,
    /// How fast memory is, if that is told.
    pub(super) performance: Option<Performance>,
    pub(super) serial: Vec<Serial>,
    pub(super) rtc: bool,
    /// Interrupts of the keyboard and the mouse behind the keyboard controller.
    pub(super) i8042: Option<[u8; 2]>,
    pub(super) fw_cfg: bool,
    /// Port of the device that takes news of panics.
    pub(super) pvpanic: Option<u16>,
    /// Address of the page with the number of the generation.
    pub(super) generation: Option<u32>,
    /// Slots for DIMMs.
    pub(super) memory_slots: u32,
    /// Where the registers of CPU hot-plug are, if there are any.
    pub(super) cpu_hotplug: Option<u64>,
    pub(super) bus: Bus,
    /// The highest number that a PCI bus can have. A kernel looks for devices on each of them that the tables speak of: 256 buses of 32 slots, two exits a
    /// slot, were half of all exits of a boot.
    pub(super) last_bus: u8,
    /// Whether ACPI, and not the ports, is who plugs behind bridges.
    pub(super) acpi_hotplug: bool,
    /// Transports of virtio devices in memory: address and interrupt.
    pub(super) virtio_mmio: Vec<(u32, u32)>,
}

impl Facts {
    /// Those of `machine`.
    ///
    /// # Errors
    /// A board without ACPI.
    pub(super) fn of(machine: &Arc<Machine>, layout: &Layout) -> Result<Self> {
        let platform = match machine.kind().board {
            Board::I440fx => Platform::Pc,
            Board::Q35 => Platform::Q35,
            Board::Microvm => Platform::Microvm { second_ioapic: false },
            Board::None => return Err(Error::generic("this machine has no ACPI tables")),
        };
        let (numa, smp, cpus) = (machine.numa(), machine.smp(), Cpus::of(machine));
        let processor = |index| Processor {
            apic_id: smp.apic_id(index),
            present: cpus.has(index),
            node: numa.node_of_cpu(index),
        };
        let distances = numa.has_distances().then(|| {
            let row = |from| numa.nodes().map(|(to, _)| numa.distance(from, to)).collect();
            numa.nodes().map(|(from, _)| row(from)).collect()
        });
        let isa = devices_on(machine, "ISA");
        let has = |class: &str| isa.iter().any(|device| device.core().class().name() == class);
        let bus = machine.board().and_then(|board| board.pci_bus());
        let last_bus = match &bus {
            // Nothing is plugged into its root bus later, and what comes behind a bridge has the numbers that are kept for it.
            Some(bus) if platform == Platform::Q35 => firmware::last_bus(bus) | 0xf,
            _ => u8::MAX,
        };
        Ok(Self {
            platform,
            last_bus,
            layout: *layout,
            window64: firmware::memory64_window(layout, cpu::phys_bits(machine)),
            processors: (0..smp.maxcpus).map(processor).collect(),
            nodes: numa.nodes().map(|(_, node)| node.size).collect(),
            distances,
            performance: Performance::of(machine),
            serial: isa.iter().filter_map(serial).collect(),
            rtc: has("mc146818rtc"),
            i8042: isa.iter().find_map(i8042),
            fw_cfg: FwCfg::of(machine).is_some(),
            pvpanic: isa.iter().find_map(|device| Some(device.clone().downcast::<PvPanic>()?.ioport())),
            generation: vmgenid::page(machine).map(|_| vmgenid::PAGE),
            memory_slots: machine.sizes().slots.min(256) as u32,
            cpu_hotplug: CpuHotplug::of(machine).base(),
            bus: bus.map_or_else(Bus::default, |bus| pluggable(&bus, &pcihp::buses(machine))),
            acpi_hotplug: pcihp::plugs_behind_bridges(machine),
            virtio_mmio: match platform {
                Platform::Microvm { .. } => transports(machine),
                Platform::Pc | Platform::Q35 => Vec::new(),
            },
        })
    }
}

/// Devices on the first bus of that class, in the order they came.
fn devices_on(machine: &Machine, bus: &str) -> Vec<ObjectRef> {
    let bus = qdev::find_bus(machine, bus);
    bus.iter().flat_map(|bus| bus.bus().children()).rev().map(|device| device as ObjectRef).collect()
}

fn serial(device: &ObjectRef) -> Option<Serial> {
    if device.core().class().name() != "isa-serial" {
        return None;
    }
    let number = |name| device.get(name).ok().and_then(|value| value.as_u64());
    Some(Serial {
        index: number("index")?.try_into().ok()?,
        base: number("iobase")?.try_into().ok()?,
        irq: number("irq")?.try_into().ok()?,
    })
}

fn i8042(device: &ObjectRef) -> Option<[u8; 2]> {
    if device.core().class().name() != "i8042" {
        return None;
    }
    let irq = |name| u8::try_from(device.get(name).ok()?.as_u64()?).ok();
    Some([irq("kbd-irq")?, irq("mouse-irq")?])
}

/// A bus, and those behind its bridges, as hot-plug sees them.
fn pluggable(bus: &PciBus, known: &[HotplugBus]) -> Bus {
    let own = known.iter().find(|entry| std::ptr::eq(&*entry.bus, bus));
    let slots = own.map_or(0, |entry| entry.slots);
    let behind = |(devfn, function): (u8, Arc<dyn PciDevice>)| {
        let below = pluggable(&*function.bridge()?.bus()?, known);
        below.is_pluggable().then_some((devfn, below))
    };
    Bus {
        selector: own.map(|entry| entry.bsel),
        slots: (0..32).filter(|slot| slots >> slot & 1 != 0).collect(),
        bridges: bus.functions().into_iter().filter_map(behind).collect(),
    }
}

//! What monitors are told about PCI: `query-pci`, and the lines of `info qtree`.

use qapi::types::{
    PciBridgeInfo, PciBusInfo, PciDeviceClass, PciDeviceId, PciDeviceInfo, PciInfo as PciBusReport,
    PciMemoryRange, PciMemoryRegion,
};

use super::bar::BarKind;
use super::bridge::Window;
use super::bus::PciBus;
use super::config::reg;
use super::device::{PciDevice, PciState};

/// Names of (class, subclass), as far as devices of this program have them.
const CLASSES: &[(u16, &str)] = &[
    (0x0100, "SCSI controller"),
    (0x0101, "IDE controller"),
    (0x0106, "SATA controller"),
    (0x0200, "Ethernet controller"),
    (0x0300, "VGA controller"),
    (0x0500, "RAM controller"),
    (0x0600, "Host bridge"),
    (0x0601, "ISA bridge"),
    (0x0604, "PCI bridge"),
    (0x0680, "Bridge"),
    (0x0780, "Communication controller"),
    (0x0c05, "SMBus"),
];

fn class_name(class: u16) -> Option<&'static str> {
    CLASSES.iter().find(|(c, _)| *c == class).map(|(_, name)| *name)
}

/// The answer of `query-pci` for one bus.
pub fn bus_info(bus: &PciBus) -> PciBusReport {
    let number = bus.number();
    PciBusReport { bus: number.into(), devices: devices(bus, number) }
}

fn devices(bus: &PciBus, number: u8) -> Vec<PciDeviceInfo> {
    bus.functions().into_iter().map(|(devfn, f)| device_info(number, devfn, &*f)).collect()
}

/// What is behind a bridge.
fn bridge_info(device: &dyn PciDevice) -> Option<PciBridgeInfo> {
    let behind = device.bridge()?.bus()?;
    let (numbers, windows) = device.pci().with_config(|c| {
        let number = |at| i64::from(c.read(at, 1));
        let numbers = [reg::PRIMARY_BUS, reg::SECONDARY_BUS, reg::SUBORDINATE_BUS].map(number);
        (numbers, Window::ALL.map(|w| w.range(c)))
    });
    let [io_range, memory_range, prefetchable_range] =
        windows.map(|(base, limit)| PciMemoryRange { base: base.cast_signed(), limit: limit.cast_signed() });
    // A bus that nobody numbered cannot be looked at.
    let found = numbers[1] != 0;
    Some(PciBridgeInfo {
        bus: PciBusInfo {
            number: numbers[0],
            secondary: numbers[1],
            subordinate: numbers[2],
            io_range,
            memory_range,
            prefetchable_range,
        },
        devices: found.then(|| devices(&behind, numbers[1] as u8)),
    })
}

fn device_info(number: u8, devfn: u8, device: &dyn PciDevice) -> PciDeviceInfo {
    let state = device.pci();
    let word = |offset: u16| i64::from(state.with_config(|c| c.get16(offset)));
    let class = word(reg::CLASS + 1);
    let (line, pin) = state.with_config(|c| (c.read(reg::INTERRUPT_LINE, 1), c.read(reg::INTERRUPT_PIN, 1)));
    let header_bridge = device.bridge().is_some();
    PciDeviceInfo {
        bus: number.into(),
        slot: i64::from(devfn >> 3),
        function: i64::from(devfn & 7),
        class_info: PciDeviceClass { desc: class_name(class as u16).map(str::to_owned), class },
        id: PciDeviceId {
            device: word(reg::DEVICE_ID),
            vendor: word(reg::VENDOR_ID),
            subsystem: (!header_bridge).then(|| word(reg::SUBSYSTEM)),
            subsystem_vendor: (!header_bridge).then(|| word(reg::SUBSYSTEM_VENDOR)),
        },
        irq: (pin != 0).then_some(i64::from(line)),
        irq_pin: i64::from(pin),
        qdev_id: device.dev().id().unwrap_or_default(),
        pci_bridge: bridge_info(device),
        regions: regions(state),
    }
}

fn regions(state: &PciState) -> Vec<PciMemoryRegion> {
    let mut bars = state.bars();
    bars.sort_by_key(|b| b.index);
    let region = |bar: super::Bar| {
        let (kind, wide, prefetch) = match bar.kind {
            BarKind::Io => ("io", None, None),
            BarKind::Memory32 => ("memory", Some(false), Some(false)),
            BarKind::Memory64 { prefetch } => ("memory", Some(true), Some(prefetch)),
        };
        PciMemoryRegion {
            bar: i64::from(bar.index),
            type_: kind.into(),
            // Unmapped is all ones, -1 as a signed number.
            address: bar.mapped.unwrap_or(u64::MAX).cast_signed(),
            size: bar.size.cast_signed(),
            prefetch,
            mem_type_64: wide,
        }
    };
    bars.into_iter().map(region).collect()
}

/// `class …` and `bar …` of `info qtree`.
pub fn qtree_lines(state: &PciState) -> Vec<String> {
    let word = |offset: u16| state.with_config(|c| c.get16(offset));
    let class = word(reg::CLASS + 1);
    let name = class_name(class).map_or_else(|| format!("Class {class:04x}"), str::to_owned);
    let devfn = state.devfn().unwrap_or_default();
    // As QEMU, which looks at the same registers of bridges, where they are something else.
    let mut lines = vec![format!(
        "class {name}, addr {:02x}:{:02x}.{:x}, pci id {:04x}:{:04x} (sub {:04x}:{:04x})",
        state.bus_number(),
        devfn >> 3,
        devfn & 7,
        word(reg::VENDOR_ID),
        word(reg::DEVICE_ID),
        word(reg::SUBSYSTEM_VENDOR),
        word(reg::SUBSYSTEM)
    )];
    let mut bars = state.bars();
    bars.sort_by_key(|b| b.index);
    for bar in bars {
        let kind = if bar.kind == BarKind::Io { "i/o" } else { "mem" };
        let start = bar.mapped.unwrap_or(u64::MAX);
        let end = start.wrapping_add(bar.size - 1);
        lines.push(format!("bar {}: {kind} at {start:#x} [{end:#x}]", bar.index));
    }
    lines
}

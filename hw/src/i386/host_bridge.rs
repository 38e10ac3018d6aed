//! The host bridges: 440FX (`i440FX-pcihost`, function `i440FX`) and Q35 (`q35-pcihost`, function `mch`).
//!
//! Intel 82441FX datasheet, Intel 3 Series (Q35) datasheet §5. What matters here: the root bus, the two ways into configuration
//! space, the window registers of memory-mapped configuration. Left out: PAM and SMRAM registers (they are storage; RAM is
//! visible everywhere below 1 MiB but for the VGA window).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};

use memory::{Owner, RegionDesc, RegionId, SIZE_ALL};
use qapi::{Error, Result};
use qom::{Class, ObjectRef, Property, Registry, TypeInfo};
use vmstate::{LoadError, Priority, Saved, Section, vmstate};

use super::layout::Layout;
use crate::core::bus::{self, Bus};
use crate::core::device::{Category, Device, DeviceClass, DeviceState, ResetKind};
use crate::core::machine::Machine;
use crate::core::machine_types::Board;
use crate::pci::bus::PciBusWiring;
use crate::pci::host::{ConfigPorts, Ecam};
use crate::pci::{BarKind, PciBus, PciDevice, PciDeviceState, PciInfo, PciState, chipset_class};

/// Q35: base of memory-mapped configuration and its enable bit.
pub const PCIEXBAR: u16 = 0x60;
/// Where firmware puts it.
pub const ECAM_BASE: u64 = 0xb000_0000;
/// Bytes of it: all buses.
pub const ECAM_SIZE: u64 = 256 << 20;
const ECAM_ENABLE: u64 = 1;
/// `MCFG` while it is off.
const UNMAPPED: u64 = u64::MAX;

/// The bridge as a device of the system bus; it owns the root bus.
pub struct PciHost {
    dev: DeviceState,
    layout: OnceLock<Layout>,
    mcfg: AtomicU64,
    parts: OnceLock<(Arc<PciBus>, Arc<ConfigPorts>)>,
}
crate::device_object!(PciHost, dev);

vmstate! {
    /// What a migration takes along of either bridge.
    pub struct HostState: "PCIHost", version 1 {
        /// The address register of the configuration ports.
        config_reg: u32,
    }
}
vmstate! {
    /// Of the function `i440FX`.
    pub struct I440FxState: "I440FX", version 3 {
        /// What it has as a function.
        parent_obj: PciDeviceState,
    }
}
vmstate! {
    /// Of the function `mch`.
    pub struct MchState: "mch", version 1 {
        /// What it has as a function.
        parent_obj: PciDeviceState,
    }
}

pub(super) fn register(registry: &mut Registry) {
    let size = |name: &'static str, get: fn(&Layout) -> u64| {
        Property::new(name, "size").get(move |h: &PciHost| Ok(h.layout.get().map_or(0, get).into()))
    };
    for (name, mcfg) in [("i440FX-pcihost", false), ("q35-pcihost", true)] {
        let mut info = TypeInfo::new(name)
            .parent("device")
            .extension(DeviceClass::internal_on("System").category(Category::Bridge))
            .instance(PciHost::new)
            .cast::<PciHost, dyn Device>(|d| d);
        if mcfg {
            let get = |h: &PciHost| {
                Ok(match h.mcfg.load(Relaxed) {
                    UNMAPPED => qapi::Value::Int(-1),
                    base => base.into(),
                })
            };
            info = info.property(Property::new("MCFG", "uint64").get(get));
        }
        registry.register(
            info.property(size("pci-hole64-size", |l| l.pci_hole64.1))
                .property(size("below-4g-mem-size", |l| l.below_4g))
                .property(size("above-4g-mem-size", |l| l.above_4g)),
        );
    }
    for (name, ecam) in [("i440FX", false), ("mch", true)] {
        registry.register(chipset_class::<HostFunction>(name).instance(move |class: &Arc<Class>| {
            Arc::new(HostFunction { pci: PciState::new(class), ecam, window: OnceLock::new() })
        }));
    }
}

impl PciHost {
    fn new(class: &Arc<Class>) -> Arc<Self> {
        Arc::new(Self {
            dev: DeviceState::new(class),
            layout: OnceLock::new(),
            mcfg: AtomicU64::new(UNMAPPED),
            parts: OnceLock::new(),
        })
    }

    /// Tells it the layout; before it is realized.
    pub fn set_layout(&self, layout: Layout) {
        self.layout.get_or_init(|| layout);
    }

    /// The root bus; none before it is realized.
    pub fn root_bus(&self) -> Option<&Arc<PciBus>> {
        self.parts.get().map(|p| &p.0)
    }
}

impl Device for PciHost {
    fn dev(&self) -> &DeviceState {
        &self.dev
    }

    fn realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        let q35 = machine.kind().board == Board::Q35;
        let (class, name) = if q35 { ("PCIE", "pcie.0") } else { ("PCI", "pci.0") };
        let registry = machine.tree().registry();
        let class = registry.lookup(class).ok_or_else(|| Error::generic("hw::register was not called"))?;
        let root = PciBus::new(class, name);
        let mut tx = machine.memory().transaction();
        let pci = tx.container(RegionDesc::new("pci", SIZE_ALL));
        tx.add_subregion(machine.system_region(), 0, pci, -1);
        tx.commit();
        root.connect(PciBusWiring { memory: pci, io: machine.io_region() });
        let device: Arc<dyn Device> = Arc::<Self>::clone(&self);
        bus::attach(&device, name, Arc::<PciBus>::clone(&root) as Arc<dyn Bus>)?;
        let ports = ConfigPorts::new(Arc::clone(&root));
        ports.map(machine, &Owner::of(&(device as ObjectRef)));
        self.parts.get_or_init(|| (root, ports));
        Ok(())
    }

    fn reset(&self, _kind: ResetKind) {
        if let Some((_, ports)) = self.parts.get() {
            ports.reset();
        }
    }

    fn saved(self: Arc<Self>) -> Saved {
        let loaded = Arc::clone(&self);
        let save = move || HostState { config_reg: self.parts.get().map_or(0, |(_, ports)| ports.address()) };
        let load = move |HostState { config_reg }| {
            if let Some((_, ports)) = loaded.parts.get() {
                ports.set_address(config_reg);
            }
            Ok(())
        };
        Saved::one(Section::new(save, load).at(Priority::Bus))
    }
}

/// Function 0 of slot 0.
pub struct HostFunction {
    pci: PciState,
    /// Whether it has a window for memory-mapped configuration.
    ecam: bool,
    window: OnceLock<Window>,
}
crate::pci_device!(HostFunction, pci);

struct Window {
    machine: Weak<Machine>,
    host: Weak<PciHost>,
    region: RegionId,
}

impl HostFunction {
    /// Maps the window where PCIEXBAR says.
    fn update(&self) {
        let Some(window) = self.window.get() else { return };
        let Some(machine) = window.machine.upgrade() else { return };
        let bar =
            self.pci.with_config(|c| u64::from(c.get32(PCIEXBAR)) | u64::from(c.get32(PCIEXBAR + 4)) << 32);
        let enabled = bar & ECAM_ENABLE != 0;
        // Bits 1 and 2 choose 256, 128 or 64 MiB; the last pattern is reserved.
        let size: u64 = 256 << 20 >> (bar >> 1 & 3).min(2);
        let base = bar & 0xf_ffff_ffff & !(size - 1);
        let mut tx = machine.memory().transaction();
        if tx.container_of(window.region).is_some() {
            tx.del_subregion(machine.system_region(), window.region);
        }
        tx.set_size(window.region, size.into());
        if enabled {
            tx.add_subregion(machine.system_region(), base, window.region, 0);
        }
        if let Some(host) = window.host.upgrade() {
            host.mcfg.store(if enabled { base } else { UNMAPPED }, Relaxed);
        }
    }
}

impl PciDevice for HostFunction {
    fn pci(&self) -> &PciState {
        &self.pci
    }

    fn pci_info(&self) -> PciInfo {
        if self.ecam {
            PciInfo::new(0x8086, 0x29c0, 0x0600)
        } else {
            PciInfo { revision: 2, ..PciInfo::new(0x8086, 0x1237, 0x0600) }
        }
    }

    fn pci_realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        let bus = self.pci.dev.parent_bus();
        let host = bus.as_ref().and_then(|b| b.bus().parent());
        let root = bus.and_then(|b| (b as ObjectRef).downcast::<PciBus>());
        let host = host.and_then(|h| (h as ObjectRef).downcast::<PciHost>());
        let (Some(root), Some(host)) = (root, host) else {
            return Err(Error::generic("a host bridge's function sits on its root bus"));
        };
        let mut tx = machine.memory().transaction();
        // Accesses to the VGA window go to PCI, RAM or not.
        let desc = RegionDesc::new("smram-region", 0x2_0000).owned_by(self.pci.owner());
        let vga = tx.alias(desc, root.space_of(BarKind::Memory32), 0xa_0000);
        tx.add_subregion(machine.system_region(), 0xa_0000, vga, 1);
        if !self.ecam {
            return Ok(());
        }
        let owner = Owner::of(&(Arc::<PciHost>::clone(&host) as ObjectRef));
        let region =
            tx.io(RegionDesc::new("pcie-mmcfg-mmio", 256 << 20).owned_by(owner), Arc::new(Ecam(root)));
        tx.commit();
        self.pci.with_config(|c| c.set_writable(PCIEXBAR, &[0x07, 0, 0, 0xfc, 0x0f, 0, 0, 0]));
        self.window.get_or_init(|| Window {
            machine: Arc::downgrade(machine),
            host: Arc::downgrade(&host),
            region,
        });
        Ok(())
    }

    fn pci_reset(&self, _kind: ResetKind) {
        if self.ecam {
            self.pci.with_config(|c| c.set(PCIEXBAR, &[0; 8]));
            self.update();
        }
    }

    fn config_written(&self, _offset: u16, _size: u8, _value: u32) {
        self.update();
    }

    fn pci_saved(self: Arc<Self>) -> Saved {
        let (own, loaded) = (Arc::clone(&self), self);
        let load = move |device: &PciDeviceState| {
            loaded.pci.load_state(device)?;
            loaded.update();
            Ok(())
        };
        let section = if own.ecam {
            let load = move |MchState { parent_obj }| {
                load(&parent_obj).map_err(|error: LoadError| error.in_field("mch", "parent_obj"))
            };
            Section::new(move || MchState { parent_obj: own.pci.saved_state() }, load)
        } else {
            let load = move |I440FxState { parent_obj }| {
                load(&parent_obj).map_err(|error: LoadError| error.in_field("I440FX", "parent_obj"))
            };
            Section::new(move || I440FxState { parent_obj: own.pci.saved_state() }, load)
        };
        Saved::one(section.at(Priority::Bus))
    }
}

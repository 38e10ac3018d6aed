//! `pci-bridge` and `pcie-pci-bridge`: bridges to conventional buses (PCI-to-PCI Bridge 1.2; PCI Express to PCI Bridge 1.0).
//!
//! Left out: the standard hot-plug controller with its BAR and its messages (`shpc` and `msi` are kept and have no effect): devices are
//! plugged behind these bridges where ACPI does it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use qapi::{Error, Result};
use qom::{Class, Property, Registry, TypeInfo};
use vmstate::{LoadError, Priority, Saved, Section, vmstate};

use super::bridge::Bridge;
use super::config::{PciInfo, reg};
use super::device::{PciDevice, PciDeviceState, PciState};
use super::express::{self, Kind, ReserveProps, at};
use crate::acpi::pcihp;
use crate::core::bus::Bus as _;
use crate::core::device::{Category, Device, DeviceClass, ResetKind};
use crate::core::machine::Machine;

const VENDOR_REDHAT: u16 = 0x1b36;
const CAP_SLOT_NUMBERING: u8 = 4;
/// Slot numbering: this is the first bridge of its chassis.
const FIRST_IN_CHASSIS: u8 = 0x20;
/// Status: fast back-to-back and 66 MHz.
const STATUS_CONVENTIONAL: u16 = 0xa0;
const ON_OFF_AUTO: [&str; 3] = ["auto", "on", "off"];
const MSI_OFF: usize = 2;

/// The bridge.
pub(super) struct PciBridge {
    pci: PciState,
    bridge: Bridge,
    express: bool,
    props: Mutex<Props>,
}
crate::pci_device!(PciBridge, pci);

#[derive(Debug, Clone)]
struct Props {
    chassis: u8,
    /// Index into `auto`, `on`, `off`.
    msi: usize,
    shpc: bool,
    writeable_slt_bug: bool,
    reserve: ReserveProps,
}

vmstate! {
    /// What a migration takes along of `pci-bridge`.
    pub struct PciBridgeState: "pci_bridge", version 1 {
        /// What it has as a function.
        parent_obj: PciDeviceState,
    }
}
vmstate! {
    /// Of `pcie-pci-bridge`.
    pub struct PciePciBridgeState: "pcie-pci-bridge", version 1 {
        /// What it has as a function.
        parent_obj: PciDeviceState,
    }
}

/// Registers the classes.
pub(super) fn register(registry: &mut Registry) {
    for (name, express) in [("pci-bridge", false), ("pcie-pci-bridge", true)] {
        registry.register(
            TypeInfo::new(name)
                .parent("base-pci-bridge")
                .instance(move |class| PciBridge::new(class, express))
                .properties(properties(express))
                .cast::<PciBridge, dyn Device>(|d| d)
                .cast::<PciBridge, dyn PciDevice>(|d| d)
                .extension(DeviceClass::on("PCI").category(Category::Bridge)),
        );
    }
}

impl PciBridge {
    fn new(class: &Arc<Class>, express: bool) -> Arc<Self> {
        let props = Props {
            chassis: 0,
            msi: 0,
            shpc: true,
            writeable_slt_bug: false,
            reserve: ReserveProps::default(),
        };
        Arc::new(Self {
            pci: PciState::new(class),
            bridge: Bridge::default(),
            express,
            props: Mutex::new(props),
        })
    }

    fn props(&self) -> MutexGuard<'_, Props> {
        // Plain values, assigned whole.
        self.props.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn build(self: &Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        let props = self.props().clone();
        if self.express {
            let cap = express::add(&self.pci, Kind::PciBridge)?;
            let masks = self.pci.props.flag(express::ERROR_MASK, true);
            express::add_power_management(&self.pci)?;
            self.pci.with_config(|config| {
                config.set16(cap + at::LINK_STATUS, express::LINK_SLOWEST);
                express::add_port_extended(config, 0, false, masks);
            });
        } else {
            if props.chassis == 0 {
                return Err(Error::generic(
                    "Bridge chassis not specified. Each bridge is required to be assigned a unique chassis id > 0.",
                ));
            }
            if !props.shpc {
                // Nothing is left that could interrupt.
                self.props().msi = MSI_OFF;
            }
            let cap = self.pci.add_capability(CAP_SLOT_NUMBERING, &[FIRST_IN_CHASSIS, props.chassis])?;
            // The chassis is whatever the guest says it is.
            self.pci.with_config(|config| config.set_writable(cap + 3, &[0xff]));
            express::add_reserve(&self.pci, &props.reserve)?;
            self.bridge.set_reserve(props.reserve.reserve());
        }
        self.pci.with_config(|config| {
            config.set_writable(reg::BRIDGE_CONTROL, &[0xff, 0x0b]);
            config.set_writable(reg::SECONDARY_BUS + 2, &[0xff]);
            let fixed = if self.express { 0 } else { STATUS_CONVENTIONAL };
            config.set16(reg::STATUS, config.get16(reg::STATUS) | fixed);
            config.set16(reg::SECONDARY_STATUS, STATUS_CONVENTIONAL);
        });
        let device: Arc<dyn PciDevice> = Arc::<Self>::clone(self);
        self.bridge.realize(&device, machine, "PCI")?;
        if let (Some(bus), Some(handler)) = (self.bridge.bus(), pcihp::handler_behind(machine, &self.pci)) {
            bus.bus().set_hotplug_handler(handler);
        }
        Ok(())
    }
}

impl PciDevice for PciBridge {
    fn pci(&self) -> &PciState {
        &self.pci
    }

    fn pci_info(&self) -> PciInfo {
        let id = if self.express { 0x000e } else { 0x0001 };
        PciInfo { express: self.express, bridge: true, ..PciInfo::new(VENDOR_REDHAT, id, 0x0604) }
    }

    fn pci_realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        let done = self.build(machine);
        if done.is_err() {
            self.bridge.unrealize(&(Arc::<Self>::clone(&self) as Arc<dyn PciDevice>));
        }
        done
    }

    fn pci_unrealize(self: Arc<Self>, _machine: &Arc<Machine>) {
        self.bridge.unrealize(&(Arc::<Self>::clone(&self) as Arc<dyn PciDevice>));
    }

    fn pci_reset(&self, _kind: ResetKind) {
        self.bridge.reset(self, false);
    }

    fn config_written(&self, offset: u16, size: u8, value: u32) {
        self.bridge.config_written(self, offset, size, value);
    }

    fn bridge(&self) -> Option<&Bridge> {
        Some(&self.bridge)
    }

    fn pci_saved(self: Arc<Self>) -> Saved {
        let (own, loaded) = (Arc::clone(&self), self);
        let load = move |device: &PciDeviceState| {
            loaded.pci.load_state(device)?;
            loaded.bridge.update(&*loaded);
            Ok(())
        };
        Saved::one(if own.express {
            let load = move |PciePciBridgeState { parent_obj }| {
                load(&parent_obj).map_err(|error: LoadError| error.in_field("pcie-pci-bridge", "parent_obj"))
            };
            Section::new(move || PciePciBridgeState { parent_obj: own.pci.saved_state() }, load)
                .at(Priority::Bus)
        } else {
            let load = move |PciBridgeState { parent_obj }| {
                load(&parent_obj).map_err(|error: LoadError| error.in_field("pci_bridge", "parent_obj"))
            };
            Section::new(move || PciBridgeState { parent_obj: own.pci.saved_state() }, load).at(Priority::Bus)
        })
    }
}

fn flag(name: &'static str, default: bool, field: fn(&mut Props) -> &mut bool) -> Property {
    Property::new(name, "bool")
        .description("on/off")
        .default(default)
        .get(move |d: &PciBridge| Ok((*field(&mut d.props())).into()))
        .set(move |d: &PciBridge, value, name| {
            *field(&mut d.props()) = value.to_bool(name)?;
            Ok(())
        })
}

fn reserve(name: &'static str, field: fn(&mut Props) -> &mut u64) -> Property {
    Property::new(name, "size")
        .default(u64::MAX)
        .get(move |d: &PciBridge| Ok((*field(&mut d.props())).into()))
        .set(move |d: &PciBridge, value, name| {
            *field(&mut d.props()) = value.to_size(name)?;
            Ok(())
        })
}

/// In the order of `info qtree`.
fn properties(express: bool) -> Vec<Property> {
    let msi = Property::new("msi", "OnOffAuto")
        .values(&ON_OFF_AUTO)
        .description("on/off/auto")
        .default("auto")
        .get(|d: &PciBridge| Ok(ON_OFF_AUTO[d.props().msi].into()))
        .set(|d: &PciBridge, value, name| {
            d.props().msi = value.to_enum(name, &ON_OFF_AUTO)?;
            Ok(())
        });
    let bug = flag("x-pci-express-writeable-slt-bug", false, |p| &mut p.writeable_slt_bug);
    if express {
        return vec![msi, bug];
    }
    let chassis = Property::new("chassis_nr", "uint8")
        .default(0)
        .get(|d: &PciBridge| Ok(d.props().chassis.into()))
        .set(|d: &PciBridge, value, name| {
            // In range: the setter refuses more than 8 bits.
            d.props().chassis = value.to_uint(name, 8)? as u8;
            Ok(())
        });
    let buses = Property::new("bus-reserve", "uint32")
        .default(u64::from(u32::MAX))
        .get(|d: &PciBridge| Ok(d.props().reserve.buses.into()))
        .set(|d: &PciBridge, value, name| {
            // In range: the setter refuses more than 32 bits.
            d.props().reserve.buses = value.to_uint(name, 32)? as u32;
            Ok(())
        });
    vec![
        chassis,
        msi,
        flag("shpc", true, |p| &mut p.shpc),
        buses,
        reserve("io-reserve", |p| &mut p.reserve.io),
        reserve("mem-reserve", |p| &mut p.reserve.memory),
        reserve("pref32-reserve", |p| &mut p.reserve.pref32),
        reserve("pref64-reserve", |p| &mut p.reserve.pref64),
        bug,
    ]
}

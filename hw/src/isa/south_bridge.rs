//! The ISA bridges: PIIX3 (`PIIX3`, function 0) and ICH9 (`ICH9-LPC`), with interrupt routing and reset control.
//!
//! Intel 82371SB (PIIX3) §3, Intel ICH9 datasheet §13. Left out: USB, IDE, SATA, SMBus, SMI (SMI_EN is storage).

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};

use memory::{RegionDesc, RegionId};
use qapi::{Error, Result};
use qom::{Class, ObjectRef, Property, Registry};
use vmstate::{LoadError, Priority, Result as LoadResult, Saved, Section, vmstate};

use super::pirq::{Pirq, Wiring};
use super::reset_control::{self, ResetControl};
use super::tco::{self, Tco, TcoState};
use crate::acpi::AcpiState;
use crate::acpi::cpuhp::{self, CpuHotplug};
use crate::acpi::memhp::MemoryHotplug;
use crate::acpi::pcihp::{self, AcpiPciHotplug};
use crate::acpi::pm::{ICH9_GPE_OFFSET, ICH9_GPE_PORTS, Pm, SCI};
use crate::acpi::sleep;
use crate::core::bus::{self, Bus, PlainBus};
use crate::core::device::{Category, Device, DeviceClass, ResetKind};
use crate::core::machine::Machine;
use crate::pci::{PciDevice, PciDeviceState, PciInfo, PciState, chipset_class};

/// First routing register of PIRQA–PIRQD on both chips.
pub const PIRQ_A: u16 = 0x60;
/// First routing register of PIRQE–PIRQH on the ICH9.
pub const PIRQ_E: u16 = 0x68;
/// ICH9: where the power management ports are.
pub const ICH9_PMBASE: u16 = 0x40;
/// ICH9: bit 7 enables them.
pub const ICH9_ACPI_CNTL: u16 = 0x44;
/// ICH9: where the chipset's configuration space is; bit 0 enables it.
pub const ICH9_RCBA: u16 = 0xf0;
/// Where firmware puts that.
pub const RCBA_BASE: u32 = 0xfed1_c000;
const RCBA_SIZE: u64 = 0x4000;
const ICH9_PM_PORTS: u64 = 128;
const ACPI_ENABLE: u8 = 0x80;
/// The property that says whether ACPI or the ports plug behind bridges.
const ACPI_HOTPLUG: &str = "acpi-pci-hotplug-with-bridge-support";
const ROUTE_NOWHERE: u8 = 0x80;

/// A south bridge's ISA function.
pub struct SouthBridge {
    pci: PciState,
    wiring: Wiring,
    /// ICH9: whether ACPI plugs behind bridges.
    acpi_hotplug: AtomicBool,
    /// ICH9: whether the watchdog is there, and whether it is strapped to do nothing.
    tco: AtomicBool,
    noreboot: AtomicBool,
    parts: OnceLock<Parts>,
}
crate::pci_device!(SouthBridge, pci);

struct Parts {
    machine: Weak<Machine>,
    pirq: Arc<Pirq>,
    reset: Arc<ResetControl>,
    isa: Arc<dyn Bus>,
    /// ICH9, where ACPI plugs.
    hotplug: Option<Arc<AcpiPciHotplug>>,
    /// ICH9 only.
    power: Option<(Arc<Pm>, RegionId)>,
    /// The same; absent with `enable_tco=off`. The region is the chipset's configuration space.
    tco: Option<(Arc<Tco>, RegionId)>,
}

vmstate! {
    /// What a migration takes along of a PIIX3. Lines of interrupts are up while their devices say so, who say it again.
    pub struct PiixState: "PIIX3", version 1 {
        /// What it has as a function, the routes of interrupts included.
        dev: PciDeviceState,
        /// The reset control register.
        rcr: u8,
    }
}
vmstate! {
    /// The same of an ICH9.
    pub struct Ich9State: "ICH9LPC", version 1 {
        /// What it has as a function, the routes of interrupts included.
        d: PciDeviceState,
        /// The reset control register.
        rst_cnt: u8,
        /// If the machine has ACPI.
        pm: Option<AcpiState>,
    }
    subsections {
        /// The watchdog, if the guest touched it.
        tco: TcoState,
    }
}

pub(super) fn register(registry: &mut Registry) {
    for (name, wiring) in [("PIIX3", Wiring::Piix), ("ICH9-LPC", Wiring::Ich9)] {
        let mut class = chipset_class::<SouthBridge>(name).instance(move |class: &Arc<Class>| {
            Arc::new(SouthBridge {
                pci: PciState::new(class),
                wiring,
                acpi_hotplug: AtomicBool::new(true),
                tco: AtomicBool::new(true),
                noreboot: AtomicBool::new(false),
                parts: OnceLock::new(),
            })
        });
        if wiring == Wiring::Ich9 {
            let mut device = DeviceClass::internal_on("PCI").category(Category::Bridge).hide(&[ACPI_HOTPLUG]);
            device.hotpluggable = false;
            class = class
                .extension(device)
                .property(switch(ACPI_HOTPLUG, |d| &d.acpi_hotplug))
                .property(switch("enable_tco", |d| &d.tco))
                .property(switch("noreboot", |d| &d.noreboot).description("on/off").default(false))
                .properties(sleep::properties::<SouthBridge>());
        }
        registry.register(class);
    }
}

fn switch(name: &'static str, field: fn(&SouthBridge) -> &AtomicBool) -> Property {
    Property::new(name, "bool").get(move |d: &SouthBridge| Ok(field(d).load(Relaxed).into())).set(
        move |d: &SouthBridge, value, name| {
            field(d).store(value.to_bool(name)?, Relaxed);
            Ok(())
        },
    )
}

impl SouthBridge {
    /// The ISA bus; none before it is realized.
    pub fn isa_bus(&self) -> Option<Arc<dyn Bus>> {
        self.parts.get().map(|p| Arc::clone(&p.isa))
    }

    /// The power management registers of an ICH9.
    pub fn pm(&self) -> Option<&Arc<Pm>> {
        self.parts.get()?.power.as_ref().map(|(pm, _)| pm)
    }

    fn update(&self) {
        let Some(parts) = self.parts.get() else { return };
        let (routes, base, enabled) = self.pci.with_config(|c| {
            let mut routes = [ROUTE_NOWHERE; 8];
            for i in 0..4u16 {
                routes[usize::from(i)] = c.read(PIRQ_A + i, 1) as u8;
                if self.wiring == Wiring::Ich9 {
                    routes[usize::from(i) + 4] = c.read(PIRQ_E + i, 1) as u8;
                }
            }
            let enabled = c.read(ICH9_ACPI_CNTL, 1) as u8 & ACPI_ENABLE != 0;
            (routes, u64::from(c.get16(ICH9_PMBASE)) & 0xff80, enabled)
        });
        parts.pirq.set_routes(routes);
        if let (Some((_, region)), Some(machine)) = (&parts.power, parts.machine.upgrade()) {
            let mut tx = machine.memory().transaction();
            tx.set_enabled(*region, enabled);
            tx.set_address(*region, base);
            if let Some((_, config)) = &parts.tco {
                let base = self.pci.with_config(|c| c.get32(ICH9_RCBA));
                tx.set_enabled(*config, base & 1 != 0);
                tx.set_address(*config, u64::from(base) & !(RCBA_SIZE - 1));
            }
        }
    }

    fn reset_control(&self) -> u8 {
        self.parts.get().map_or(0, |parts| parts.reset.value())
    }

    fn acpi_state(&self) -> Option<AcpiState> {
        let parts = self.parts.get()?;
        let (pm, _) = parts.power.as_ref()?;
        let machine = parts.machine.upgrade()?;
        Some(AcpiState::of(&machine, pm, parts.hotplug.as_deref()))
    }

    fn tco_state(&self) -> Option<TcoState> {
        let (tco, _) = self.parts.get()?.tco.as_ref()?;
        (!tco.is_untouched()).then(|| tco.saved_state())
    }

    fn load(
        &self,
        device: &PciDeviceState,
        reset: u8,
        acpi: Option<AcpiState>,
        tco: Option<&TcoState>,
    ) -> LoadResult<()> {
        self.pci.load_state(device)?;
        self.update();
        let Some(parts) = self.parts.get() else { return Ok(()) };
        parts.reset.load(reset);
        match (&parts.tco, tco) {
            (Some((own, _)), saved) => own.load_state(saved),
            (None, Some(_)) => return Err(LoadError::invalid("the watchdog is at one end only".to_owned())),
            (None, None) => {}
        }
        let own = parts.power.as_ref().map(|(pm, _)| (pm, parts.hotplug.as_deref()));
        AcpiState::load(acpi, parts.machine.upgrade().as_deref(), own)
    }

    fn make_power(&self, machine: &Arc<Machine>) -> (Arc<Pm>, RegionId) {
        let pm = Pm::new(machine, SCI);
        let owner = self.pci.owner();
        let mut tx = machine.memory().transaction();
        let region = tx.container(RegionDesc::new("ich9-pm", ICH9_PM_PORTS.into()).owned_by(owner.clone()));
        tx.set_enabled(region, false);
        tx.add_subregion(machine.io_region(), 0, region, 0);
        tx.commit();
        pm.map_fixed(machine, &owner, region);
        MemoryHotplug::install(machine, &pm, owner.clone());
        CpuHotplug::install(machine, &pm, owner.clone(), cpuhp::ICH9_BASE);
        pm.map_gpe(machine, &owner, region, ICH9_GPE_OFFSET, ICH9_GPE_PORTS);
        (pm, region)
    }

    fn make_tco(&self, machine: &Arc<Machine>, power: RegionId) -> (Arc<Tco>, RegionId) {
        let tco = Tco::new(machine, self.noreboot.load(Relaxed));
        let owner = self.pci.owner();
        let mut tx = machine.memory().transaction();
        let ports = RegionDesc::new("sm-tco", tco::SIZE.into()).owned_by(owner.clone());
        let ports = tx.io(ports, Arc::new(tco::TcoPorts(Arc::clone(&tco))));
        tx.add_subregion(power, tco::OFFSET, ports, 0);
        let smi = RegionDesc::new("acpi-smi", tco::SMI.1.into()).owned_by(owner.clone());
        let smi = tx.io(smi, Arc::new(tco::SmiPorts(Arc::clone(&tco))));
        tx.add_subregion(power, tco::SMI.0, smi, 0);
        let config = RegionDesc::new("lpc-rcrb-mmio", RCBA_SIZE.into()).owned_by(owner);
        let config = tx.io(config, Arc::new(tco::ChipsetConfig(Arc::clone(&tco))));
        tx.set_enabled(config, false);
        tx.add_subregion(machine.system_region(), 0, config, 1);
        (tco, config)
    }
}

impl PciDevice for SouthBridge {
    fn pci(&self) -> &PciState {
        &self.pci
    }

    fn pci_info(&self) -> PciInfo {
        match self.wiring {
            Wiring::Piix => PciInfo::new(0x8086, 0x7000, 0x0601),
            Wiring::Ich9 => PciInfo { revision: 2, ..PciInfo::new(0x8086, 0x2918, 0x0601) },
        }
    }

    fn pci_realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        let parent =
            self.pci.dev.parent_bus().and_then(|b| (b as ObjectRef).downcast::<crate::pci::PciBus>());
        let parent = parent.ok_or_else(|| Error::generic("an ISA bridge needs a PCI bus"))?;
        let pirq = Pirq::new(machine.irq(), self.wiring);
        parent.route_interrupts(Arc::<Pirq>::clone(&pirq));
        let registry = machine.tree().registry();
        let class = registry.lookup("ISA").ok_or_else(|| Error::generic("hw::register was not called"))?;
        let isa: Arc<dyn Bus> = PlainBus::new(class, "isa.0", None);
        let device: Arc<dyn Device> = Arc::<Self>::clone(&self);
        bus::attach(&device, "isa.0", Arc::clone(&isa))?;
        let reset = Arc::new(ResetControl::new(Arc::downgrade(machine)));
        let name = match self.wiring {
            Wiring::Piix => "piix-reset-control",
            Wiring::Ich9 => "lpc-reset-control",
        };
        let mut tx = machine.memory().transaction();
        let desc = RegionDesc::new(name, 1).owned_by(self.pci.owner());
        let ops = Arc::<ResetControl>::clone(&reset);
        let control = tx.io(desc, ops);
        tx.add_subregion(machine.io_region(), reset_control::PORT, control, 1);
        tx.commit();
        let power = match self.wiring {
            Wiring::Ich9 if machine.properties().acpi() => Some(self.make_power(machine)),
            _ => None,
        };
        let tco = power.as_ref().filter(|_| self.tco.load(Relaxed));
        let tco = tco.map(|(_, ports)| self.make_tco(machine, *ports));
        let on = self.acpi_hotplug.load(Relaxed);
        let hotplug = power.as_ref().filter(|_| on).map(|(pm, _)| {
            let at = (pcihp::ICH9_BASE, &self.pci.owner());
            AcpiPciHotplug::install(machine, &parent, pm, (false, true), at)
        });
        self.parts.get_or_init(|| Parts {
            machine: Arc::downgrade(machine),
            pirq,
            reset,
            isa,
            hotplug,
            power,
            tco,
        });
        Ok(())
    }

    fn pci_reset(&self, _kind: ResetKind) {
        self.pci.with_config(|c| {
            for i in 0..4 {
                c.set8(PIRQ_A + i, ROUTE_NOWHERE);
            }
            if self.wiring == Wiring::Ich9 {
                for i in 0..4 {
                    c.set8(PIRQ_E + i, ROUTE_NOWHERE);
                }
                c.set32(ICH9_PMBASE, 1);
                c.set8(ICH9_ACPI_CNTL, 0);
                c.set32(ICH9_RCBA, 0);
            }
        });
        self.update();
        if let Some(parts) = self.parts.get() {
            parts.reset.reset();
            if let Some((pm, _)) = &parts.power {
                pm.reset();
            }
            if let Some((tco, _)) = &parts.tco {
                tco.reset();
            }
            if let Some(hotplug) = &parts.hotplug {
                hotplug.reset();
            }
        }
    }

    fn config_written(&self, _offset: u16, _size: u8, _value: u32) {
        self.update();
    }

    fn pci_saved(self: Arc<Self>) -> Saved {
        let (own, loaded) = (Arc::clone(&self), self);
        let section = match own.wiring {
            Wiring::Piix => Section::new(
                move || PiixState { dev: own.pci.saved_state(), rcr: own.reset_control() },
                move |PiixState { dev, rcr }| loaded.load(&dev, rcr, None, None),
            ),
            Wiring::Ich9 => Section::new(
                move || Ich9State {
                    d: own.pci.saved_state(),
                    rst_cnt: own.reset_control(),
                    pm: own.acpi_state(),
                    tco: own.tco_state(),
                },
                move |Ich9State { d, rst_cnt, pm, tco }| loaded.load(&d, rst_cnt, pm, tco.as_ref()),
            ),
        };
        // What is behind it drives lines that it routes.
        Saved::one(section.at(Priority::Bus))
    }

    fn pci_qtree_gpios(&self) -> Vec<String> {
        vec![
            match self.wiring {
                Wiring::Piix => "gpio-out \"isa-irqs\" 16",
                Wiring::Ich9 => "gpio-out \"gsi\" 24",
            }
            .into(),
        ]
    }
}

//! `pc` and `q35`: builds the board and does what firmware does at every reset.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use memory::{RegionDesc, UnassignedIo};
use qapi::{Error, Result};
use qom::ObjectRef;

use super::boot::Boot;
use super::firmware;
use super::host_bridge::{ECAM_BASE, PCIEXBAR, PciHost};
use super::layout::{Constraints, Layout};
use super::{cpu, fw_files, ram};
use crate::acpi::piix4_pm::Piix4Pm;
use crate::acpi::pm::{FIRMWARE_BASE, Pm};
use crate::core::bus::Bus;
use crate::core::device::Device;
use crate::core::machine::{Board, Machine};
use crate::core::machine_types::Board as Kind;
use crate::core::qdev::{self, Place};
use crate::isa::fw_cfg::FwCfg;
use crate::isa::i8042::I8042;
use crate::isa::kvm_pit;
use crate::isa::rtc::Rtc;
use crate::isa::south_bridge::{
    ICH9_ACPI_CNTL, ICH9_PMBASE, ICH9_RCBA, PIRQ_A, PIRQ_E, RCBA_BASE, SouthBridge,
};
use crate::pci::device::config_write;
use crate::pci::{PciBus, PciDevice};

const PIIX4_PMBASE: u16 = 0x40;
const PIIX4_PMREGMISC: u16 = 0x80;
/// Physical address bits that decide nothing: what a processor has at least.
const PHYS_BITS_UNKNOWN: u32 = 36;

/// A built board.
pub(super) struct PcBoard {
    layout: Layout,
    phys_bits: u32,
    bus: Arc<PciBus>,
    south: Arc<SouthBridge>,
    piix4: Option<Arc<Piix4Pm>>,
    rtc: Arc<Rtc>,
    keyboard: Option<Arc<I8042>>,
    boot: Boot,
    /// See [`Constraints::reserved`].
    reserved: Vec<(u64, u64)>,
    /// Whether it has been described before.
    described: AtomicBool,
}

/// Builds the board.
///
/// # Errors
/// QEMU's texts.
pub(super) fn build(machine: &Arc<Machine>) -> Result<Arc<dyn Board>> {
    // First, so that RAM that the host does not have is what the user hears of.
    let region = ram::take(machine)?.ok_or_else(|| Error::generic("a PC needs RAM"))?;
    let sizes = machine.sizes();
    let host_cpu = HostCpu::read();
    let limits = Constraints {
        max_ram_below_4g: machine.properties().max_ram_below_4g(),
        phys_bits: machine.cpu().phys_bits(host_cpu.phys_bits),
        amd: is_amd(machine, &host_cpu),
    };
    let layout = Layout::new(machine.kind(), &sizes, &limits)?;
    kvm_pit::check(machine)?;
    cpu::create(machine, limits.phys_bits)?;
    ram::map(machine, region, &layout);
    let boot = Boot::open(machine)?;
    let q35 = machine.kind().board == Kind::Q35;
    // The order of `info qtree`.
    if q35 {
        fw_files::create(machine, &layout)?;
    }
    let bus = host_bridge(machine, q35, layout)?;
    if !q35 {
        fw_files::create(machine, &layout)?;
    }
    let (south, piix4) = south_bridge(machine, q35, &bus)?;
    let isa = south.isa_bus().ok_or_else(|| Error::generic("the south bridge has no ISA bus"))?;
    let (rtc, keyboard) = legacy(machine, &south, &isa, &layout)?;
    if let Some(fw) = FwCfg::of(machine) {
        boot.describe(&fw, &layout)?;
    }
    let reserved = limits.reserved(machine.kind(), machine.accel().is_kvm());
    let (phys_bits, described) = (limits.phys_bits, AtomicBool::new(false));
    Ok(Arc::new(PcBoard { layout, phys_bits, bus, south, piix4, rtc, keyboard, boot, reserved, described }))
}

fn downcast<T: qom::Object>(device: Arc<dyn Device>) -> Result<Arc<T>> {
    let name = device.dev().type_name();
    (device as ObjectRef)
        .downcast()
        .ok_or_else(|| Error::generic(format!("class '{name}' is something else")))
}

fn host_bridge(machine: &Arc<Machine>, q35: bool, layout: Layout) -> Result<Arc<PciBus>> {
    let (class, child) = if q35 { ("q35-pcihost", "q35") } else { ("i440FX-pcihost", "i440fx") };
    let registry = machine.tree().registry();
    let class = registry.lookup(class).ok_or_else(|| Error::generic("hw::register was not called"))?;
    let device = qdev::create(machine, class)?;
    machine.object().add_child(child, Arc::clone(&device) as ObjectRef)?;
    let host = downcast::<PciHost>(Arc::clone(&device))?;
    host.set_layout(layout);
    qdev::realize_on(machine, &device, Some(&machine.main_bus()))?;
    let bus = host.root_bus().cloned().ok_or_else(|| Error::generic("the host bridge has no bus"))?;
    let as_bus: Arc<dyn Bus> = Arc::<PciBus>::clone(&bus);
    let place = if q35 { Place::Child(host, "mch") } else { Place::Unattached };
    let name = if q35 { "mch" } else { "i440FX" };
    qdev::build(machine, name, place, Some(&as_bus), &[("addr", "00.0".into())])?;
    Ok(bus)
}

fn south_bridge(
    machine: &Arc<Machine>,
    q35: bool,
    bus: &Arc<PciBus>,
) -> Result<(Arc<SouthBridge>, Option<Arc<Piix4Pm>>)> {
    let as_bus: Arc<dyn Bus> = Arc::<PciBus>::clone(bus);
    let (name, addr) = if q35 { ("ICH9-LPC", "1f.0") } else { ("PIIX3", "01.0") };
    let properties = [("addr", addr.into()), ("multifunction", true.into())];
    let south = qdev::build(machine, name, Place::Unattached, Some(&as_bus), &properties)?;
    let mut piix4 = None;
    if !q35 && machine.properties().acpi() {
        let place = Place::Child(Arc::clone(&south) as ObjectRef, "pm");
        let pm = qdev::build(machine, "PIIX4_PM", place, Some(&as_bus), &[("addr", "01.3".into())])?;
        piix4 = Some(downcast(pm)?);
    }
    Ok((downcast(south)?, piix4))
}

fn legacy(
    machine: &Arc<Machine>,
    south: &Arc<SouthBridge>,
    isa: &Arc<dyn Bus>,
    layout: &Layout,
) -> Result<(Arc<Rtc>, Option<Arc<I8042>>)> {
    let place = Place::Child(Arc::<SouthBridge>::clone(south), "rtc");
    let rtc = qdev::build(machine, "mc146818rtc", place, Some(isa), &[])?;
    let rtc = downcast::<Rtc>(rtc)?;
    rtc.set_memory_size(layout.below_4g, layout.above_4g);
    rtc.set_processors(cpu::Cpus::of(machine).count());
    // Judged before the machine is there; each reset writes it.
    [false, true].into_iter().try_for_each(|first| machine.config().boot.cmos(first).map(drop))?;
    let keyboard = match machine.properties().i8042() {
        true => Some(downcast(qdev::build(machine, "i8042", Place::Unattached, Some(isa), &[])?)?),
        false => None,
    };
    qdev::build(machine, "port92", Place::Unattached, Some(isa), &[])?;
    let mut tx = machine.memory().transaction();
    // The port that POST codes and delays are written to.
    let delay = tx.io(RegionDesc::new("ioport80", 1), Arc::new(UnassignedIo));
    tx.add_subregion(machine.io_region(), 0x80, delay, 0);
    Ok((rtc, keyboard))
}

impl PcBoard {
    fn memory64(&self) -> u64 {
        firmware::memory64_start(self.layout.pci_hole64.0, self.phys_bits)
    }

    fn pm(&self) -> Option<&Arc<Pm>> {
        self.piix4.as_ref().map_or_else(|| self.south.pm(), |p| p.pm())
    }

    /// Registers as firmware leaves them.
    fn program_bridges(&self) {
        let south: Arc<dyn PciDevice> = Arc::<SouthBridge>::clone(&self.south);
        for (i, route) in firmware::routes().into_iter().enumerate() {
            config_write(&south, PIRQ_A + i as u16, 1, route.into());
            if self.piix4.is_none() && self.south.pm().is_some() {
                config_write(&south, PIRQ_E + i as u16, 1, route.into());
            }
        }
        if self.south.pm().is_some() {
            config_write(&south, ICH9_PMBASE, 4, u32::from(FIRMWARE_BASE) | 1);
            config_write(&south, ICH9_ACPI_CNTL, 1, 0x80);
            config_write(&south, ICH9_RCBA, 4, RCBA_BASE | 1);
        }
        if let Some(piix4) = &self.piix4 {
            let function: Arc<dyn PciDevice> = Arc::<Piix4Pm>::clone(piix4);
            config_write(&function, PIIX4_PMBASE, 4, u32::from(FIRMWARE_BASE) | 1);
            config_write(&function, PIIX4_PMREGMISC, 1, 1);
        }
        if let Some(host) = self.bus.function(0)
            && host.dev().type_name() == "mch"
        {
            config_write(&host, PCIEXBAR + 4, 4, (ECAM_BASE >> 32) as u32);
            config_write(&host, PCIEXBAR, 4, ECAM_BASE as u32 | 1);
        }
    }
}

impl Board for PcBoard {
    fn load(&self, machine: &Arc<Machine>) -> Result<()> {
        self.describe(machine)?;
        self.boot.load(machine, &self.layout, &self.reserved, "")
    }

    fn describe(&self, machine: &Arc<Machine>) -> Result<()> {
        let first = !self.described.swap(true, Relaxed);
        self.rtc.set_boot_order(machine.config().boot.cmos(first)?);
        fw_files::refresh(machine, &self.layout, &self.reserved, first)
    }

    fn firmware(&self, machine: &Arc<Machine>) {
        if machine.config().boot_guest {
            self.program_bridges();
            if let Some(keyboard) = &self.keyboard {
                keyboard.set_up();
            }
            firmware::assign_bars(&self.bus, self.memory64());
        }
    }

    fn power_button(&self, _machine: &Arc<Machine>) {
        if let Some(pm) = self.pm() {
            pm.power_button();
        }
    }

    fn general_event(&self, number: u8) {
        if let Some(pm) = self.pm() {
            pm.raise_gpe(number);
        }
    }

    fn pci_bus(&self) -> Option<Arc<PciBus>> {
        Some(Arc::clone(&self.bus))
    }

    fn device_plugged(&self, _machine: &Arc<Machine>, device: &Arc<dyn Device>) {
        // The built-in guest leaves BARs to the board, those of later devices too.
        let object = Arc::clone(device) as ObjectRef;
        if self.boot.is_built_in()
            && let Some(pci) = qom::cast::<dyn PciDevice>(&object)
        {
            firmware::assign_late(&pci, self.memory64());
        }
    }
}

/// What matters of the host's processor.
struct HostCpu {
    phys_bits: u32,
    amd: bool,
}

impl HostCpu {
    fn read() -> Self {
        let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let value = |key: &str| {
            text.lines()
                .find_map(|l| l.split_once(':').filter(|(k, _)| k.trim() == key).map(|(_, v)| v.trim()))
        };
        let bits = value("address sizes").and_then(|v| v.split(' ').next()).and_then(|v| v.parse().ok());
        let amd = value("vendor_id").is_some_and(|v| v == "AuthenticAMD" || v == "HygonGenuine");
        Self { phys_bits: bits.unwrap_or(PHYS_BITS_UNKNOWN), amd }
    }
}

/// Bits of the physical addresses of a machine's processors, as far as the host has them.
pub(super) fn phys_bits(machine: &Machine) -> u32 {
    machine.cpu().phys_bits(HostCpu::read().phys_bits)
}

/// The vendor that `-cpu` names, else under KVM the host's, else AMD, which `qemu64` is.
fn is_amd(machine: &Machine, host: &HostCpu) -> bool {
    match machine.cpu().vendor() {
        Some(vendor) => vendor == b"AuthenticAMD" || vendor == b"HygonGenuine",
        None => !machine.accel().is_kvm() || host.amd,
    }
}

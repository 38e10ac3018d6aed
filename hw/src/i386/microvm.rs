//! The machine `microvm`: RAM, processors, slots for virtio devices with registers in memory, and next to nothing besides.
//!
//! With ACPI (the default) it is hardware-reduced: a generic event device has the power button and switches off and resets. Without
//! ACPI the kernel's command line says where devices are. Left out: a second I/O APIC (`ioapic2=on`), PCI Express (`pcie=on`).

use std::sync::Arc;

use qapi::{Error, Result};
use qom::{Class, ObjectRef, Registry, TypeInfo};
use vmstate::Saved;

use super::boot::Boot;
use super::layout::{Constraints, KVM_PAGES, Layout};
use super::{cpu, ram};
use crate::acpi::ged::{self, Ged};
use crate::core::bus::{self, Bus, PlainBus};
use crate::core::device::{Device, DeviceClass, DeviceState};
use crate::core::machine::{Board, Machine};
use crate::core::machine_object::OnOffAuto;
use crate::core::qdev::{self, Place};
use crate::isa::rtc::Rtc;
use crate::virtio::mmio::{SIZE, VirtioMmio};

/// Where the first slot has its registers.
const SLOTS_BASE: u64 = 0xfeb0_0000;
const SLOTS: usize = 8;
/// The first slot's line; the others follow.
const SLOTS_GSI: u32 = 16;
/// The same without ACPI: a kernel that knows of no I/O APIC has 16 lines.
const SLOTS_GSI_PIC: u32 = 5;

/// The board.
struct Microvm {
    layout: Layout,
    boot: Boot,
    ged: Option<Arc<Ged>>,
}

/// Builds the board.
///
/// # Errors
/// QEMU's texts.
pub(super) fn build(machine: &Arc<Machine>) -> Result<Arc<dyn Board>> {
    let region = ram::take(machine)?.ok_or_else(|| Error::generic("a microvm needs RAM"))?;
    let limits = Constraints {
        max_ram_below_4g: 0,
        phys_bits: super::pc::phys_bits(machine),
        // Nothing of it comes near that hole unless RAM does.
        amd: false,
    };
    let layout = Layout::new(machine.kind(), &machine.sizes(), &limits)?;
    let properties = machine.properties();
    if properties.microvm().pit() == OnOffAuto::Off {
        machine.accel().omit_pit();
    }
    cpu::create(machine, limits.phys_bits)?;
    ram::map(machine, region, &layout);
    let boot = Boot::open(machine)?;
    let root = machine.main_bus();
    let bridge = qdev::build(machine, "isabus-bridge", Place::Unattached, Some(&root), &[])?;
    slots(machine)?;
    let ged = properties.acpi().then(|| generic_events(machine)).transpose()?;
    let isa = bridge.dev().buses().into_iter().next();
    let rtc = properties.microvm().rtc();
    if rtc == OnOffAuto::On || rtc == OnOffAuto::Auto && !machine.accel().is_kvm() {
        let rtc = qdev::build(machine, "mc146818rtc", Place::Unattached, isa.as_ref(), &[])?;
        if let Some(rtc) = (rtc as ObjectRef).downcast::<Rtc>() {
            rtc.set_memory_size(layout.below_4g, layout.above_4g);
        }
    }
    Ok(Arc::new(Microvm { layout, boot, ged }))
}

/// Slots by number: address and line.
fn places(machine: &Machine) -> impl Iterator<Item = (usize, u64, u32)> + use<> {
    let first = if machine.properties().acpi() { SLOTS_GSI } else { SLOTS_GSI_PIC };
    (0..SLOTS).map(move |index| (index, SLOTS_BASE + SIZE * index as u64, first + index as u32))
}

fn slots(machine: &Arc<Machine>) -> Result<()> {
    let registry = machine.tree().registry();
    let class = registry.lookup("virtio-mmio").ok_or_else(|| Error::generic("no virtio-mmio"))?;
    for (index, base, gsi) in places(machine) {
        let device = qdev::create(machine, class)?;
        let object = Arc::clone(&device) as ObjectRef;
        let unattached = machine.tree().container("/machine/unattached");
        unattached.add_child("device[*]", Arc::clone(&object))?;
        if let Some(mmio) = object.downcast::<VirtioMmio>() {
            mmio.place(machine, index, base, gsi)?;
        }
        qdev::realize_on(machine, &device, Some(&machine.main_bus()))?;
    }
    Ok(())
}

fn generic_events(machine: &Arc<Machine>) -> Result<Arc<Ged>> {
    let events = [("ged-event", u64::from(ged::POWER_BUTTON).into())];
    let root = machine.main_bus();
    let device = qdev::build(machine, "acpi-ged", Place::Unattached, Some(&root), &events)?;
    (device as ObjectRef).downcast().ok_or_else(|| Error::generic("class 'acpi-ged' is something else"))
}

/// Address and line of the slots of a machine; none if it has no such slots.
pub(crate) fn transports(machine: &Machine) -> Vec<(u32, u32)> {
    // Below 4 GiB.
    places(machine).map(|(_, base, gsi)| (base as u32, gsi)).collect()
}

/// What a kernel without ACPI is told of the slots that have a device, as the end of its command line.
fn slots_text(machine: &Machine) -> String {
    let root = machine.main_bus();
    let full = |index: usize| {
        let name = format!("virtio-mmio-bus.{index}");
        let found = bus::find(&root, &mut |bus| (bus.bus().name() == name).then(|| bus::is_full(bus)));
        found.unwrap_or(false)
    };
    let used = places(machine).filter(|(index, ..)| full(*index));
    used.map(|(_, base, gsi)| format!(" virtio_mmio.device={SIZE}@{base:#x}:{gsi}")).collect()
}

impl Board for Microvm {
    fn load(&self, machine: &Arc<Machine>) -> Result<()> {
        let told = !machine.properties().acpi() && machine.properties().microvm().auto_kernel_cmdline();
        let more = if told { slots_text(machine) } else { String::new() };
        let reserved: &[_] = if machine.accel().is_kvm() { &[KVM_PAGES] } else { &[] };
        self.boot.load(machine, &self.layout, reserved, &more)
    }

    fn power_button(&self, _machine: &Arc<Machine>) {
        if let Some(ged) = &self.ged {
            ged.power_button();
        }
    }
}

/// `isabus-bridge`: a place for devices at fixed ports, on a board without a south bridge.
struct IsaBridge {
    dev: DeviceState,
}
crate::device_object!(IsaBridge, dev);

impl Device for IsaBridge {
    fn dev(&self) -> &DeviceState {
        &self.dev
    }

    fn realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        let registry = machine.tree().registry();
        let class = registry.lookup("ISA").ok_or_else(|| Error::generic("hw::register was not called"))?;
        let isa: Arc<dyn Bus> = PlainBus::new(class, "isa.0", None);
        let device: Arc<dyn Device> = self;
        bus::attach(&device, "isa.0", isa)
    }

    fn saved(self: Arc<Self>) -> Saved {
        Saved::Nothing
    }
}

/// Registers `isabus-bridge`.
pub(super) fn register(registry: &mut Registry) {
    registry.register(
        TypeInfo::new("isabus-bridge")
            .parent("device")
            .extension(DeviceClass::internal_on("System"))
            .instance(|class: &Arc<Class>| Arc::new(IsaBridge { dev: DeviceState::new(class) }))
            .cast::<IsaBridge, dyn Device>(|bridge| bridge),
    );
}

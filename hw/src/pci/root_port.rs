//! `pcie-root-port`: a bridge of the root complex with one slot (PCI Express 3.0 §1.3.1, §6.7).
//!
//! Where ACPI plugs (the default of `q35`), the slot only shows the guest's power switch; else the port tells the guest itself. Left out:
//! the root's error and PME messages, link retraining. MSI-X always goes along in a migration (`x-migrate-msix` is kept and has no effect).

mod migration;
mod properties;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use mainloop::Clock;
use qapi::{Error, Result};
use qom::{Class, ObjectRef, Registry, TypeInfo};
use vmstate::Saved;

use super::bridge::Bridge;
use super::bus::PciBus;
use super::config::{PciInfo, reg};
use super::device::{PciDevice, PciState};
use super::express::{self, Kind, at};
use super::slot::{SHOWN_EVENTS, Slot, capabilities};
use crate::acpi::pcihp;
use crate::core::bus::Bus as _;
use crate::core::device::{Category, Device, DeviceClass, ResetKind};
use crate::core::hotplug::{HotplugHandler, Unplug};
use crate::core::machine::Machine;
use crate::core::qdev;
use properties::Props;

const VENDOR_REDHAT: u16 = 0x1b36;
const DEVICE_ID: u16 = 0x000c;
/// `io-reserve` of a port that does not show that it can be plugged into.
const HIDDEN_IO_RESERVE: u64 = 4096;
/// How long a guest has before `device_del` may be said again, in milliseconds of its time: as long as pciehp waits for a second
/// press of the button.
const ANSWER_TIME: i64 = 5000;

/// The port.
pub(super) struct RootPort {
    pci: PciState,
    bridge: Bridge,
    props: Mutex<Props>,
    state: Mutex<State>,
}
crate::pci_device!(RootPort, pci);

struct State {
    /// Offset of the PCI Express structure; 0 while not realized.
    cap: u16,
    slot: Slot,
    /// Whether the slot's interrupt is up.
    raised: bool,
    machine: Weak<Machine>,
}

/// Registers the class.
pub(super) fn register(registry: &mut Registry) {
    registry.register(
        TypeInfo::new("pcie-root-port")
            .parent("base-pci-bridge")
            .instance(RootPort::new)
            .properties(properties::all())
            .cast::<RootPort, dyn Device>(|d| d)
            .cast::<RootPort, dyn PciDevice>(|d| d)
            .extension(DeviceClass::on("PCI").category(Category::Bridge)),
    );
}

impl RootPort {
    fn new(class: &Arc<Class>) -> Arc<Self> {
        Arc::new(Self {
            pci: PciState::new(class),
            bridge: Bridge::default(),
            props: Mutex::default(),
            state: Mutex::new(State { cap: 0, slot: Slot::new(true), raised: false, machine: Weak::new() }),
        })
    }

    fn props(&self) -> MutexGuard<'_, Props> {
        // Plain values, assigned whole.
        self.props.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The slot changes by whole steps.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn secondary(&self) -> Option<Arc<PciBus>> {
        self.bridge.bus()
    }

    /// Changes the slot, then shows the guest what became of it: registers, power, interrupt.
    fn with_slot<T>(&self, work: impl FnOnce(&mut Slot) -> T) -> T {
        let mut state = self.state();
        let had_power = state.slot.has_power();
        let result = work(&mut state.slot);
        let (cap, slot) = (state.cap, state.slot);
        if cap == 0 {
            return result;
        }
        self.pci.with_config(|config| {
            config.set16(cap + at::SLOT_CONTROL, slot.control);
            config.set16(cap + at::SLOT_STATUS, slot.status);
        });
        let raised = slot.interrupts();
        let changed = std::mem::replace(&mut state.raised, raised) != raised;
        if changed {
            match self.pci.msix().filter(|msix| msix.is_enabled()) {
                Some(msix) if raised => msix.notify(0),
                Some(_) => {}
                None => self.pci.set_intx(raised),
            }
        }
        drop(state);
        if had_power != slot.has_power() {
            self.switch_power(slot.has_power());
        }
        result
    }

    /// Devices without power are not found, and start anew when they get it again.
    fn switch_power(&self, on: bool) {
        let Some(bus) = self.secondary() else { return };
        for (devfn, function) in bus.functions() {
            bus.set_visible(devfn, on);
            if !on {
                qdev::reset_tree(&(function as Arc<dyn Device>), ResetKind::Bus);
            }
        }
    }

    /// Says how fast the link runs: as the slower of port and device.
    fn show_link(&self, populated: bool, active: bool) {
        let (cap, own) = (self.state().cap, self.props().link());
        let active = if active && self.props().active_link(&self.pci) { 1 << 13 } else { 0 };
        self.pci.with_config(|config| {
            let status = if populated { express::LINK_SLOWEST | active } else { own };
            config.set16(cap + at::LINK_STATUS, status);
        });
    }

    /// Everything in the slot goes, on the main loop: the guest let go of it.
    fn empty(self: &Arc<Self>) {
        let machine = self.state().machine.upgrade();
        let (Some(machine), Some(bus)) = (machine, self.secondary()) else { return };
        self.show_link(false, false);
        let gone: Vec<Weak<dyn PciDevice>> = bus.functions().iter().map(|(_, f)| Arc::downgrade(f)).collect();
        let for_later = Arc::downgrade(&machine);
        machine.mainloop().post(move || {
            let Some(machine) = for_later.upgrade() else { return };
            for device in gone.iter().rev().filter_map(Weak::upgrade) {
                if device.dev().is_realized() {
                    qdev::complete_unplug(&machine, &(device as Arc<dyn Device>));
                }
            }
        });
    }

    fn build(self: &Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        let props = {
            let mut props = self.props();
            // A guest that sees no hot-plug would leave no ports for what is plugged.
            if props.hotplug && props.hide_native && props.reserve.io == u64::MAX {
                props.reserve.io = HIDDEN_IO_RESERVE;
            }
            props.clone()
        };
        express::add_subsystem(&self.pci, VENDOR_REDHAT, 0)?;
        self.pci.init_msix_exclusive(machine, 0, 1)?;
        let cap = express::add(&self.pci, Kind::RootPort(props.port))?;
        express::add_reserve(&self.pci, &props.reserve)?;
        self.bridge.set_reserve(props.reserve.reserve());
        let masks = self.pci.props.flag(express::ERROR_MASK, true);
        let shown = props.hotplug && !props.hide_native;
        self.pci.with_config(|config| {
            express::set_link(config, cap, props.speed_code(), props.width());
            config.set16(cap + at::LINK_STATUS, props.link());
            config.set32(cap + at::SLOT, capabilities(props.slot, shown, props.power_controller));
            // The slot has the last word on these two.
            config
                .set_writable(cap + at::SLOT_CONTROL, &Slot::writable(props.power_controller).to_le_bytes());
            config.set_write_1_clears(cap + at::SLOT_STATUS, &[SHOWN_EVENTS as u8]);
            config.set_checked(cap + at::SLOT_STATUS, &[0]);
            config.set_writable(cap + at::ROOT_CONTROL, &[7]);
            config.set_writable(reg::BRIDGE_CONTROL, &[0x5f]);
            if props.writeable_slt_bug {
                config.set_writable(reg::SECONDARY_BUS + 2, &[0xff]);
            }
            express::add_port_extended(config, props.aer_log_max, !props.disable_acs, masks);
        });
        *self.state() = State {
            cap,
            slot: Slot::new(props.power_controller),
            raised: false,
            machine: Arc::downgrade(machine),
        };
        let device: Arc<dyn PciDevice> = Arc::<Self>::clone(self);
        self.bridge.realize(&device, machine, "PCIE")?;
        self.props().claim(machine, true)?;
        let Some(bus) = self.secondary() else { return Ok(()) };
        if !props.hotplug {
            return Ok(());
        }
        if let Some(handler) = pcihp::handler_behind(machine, &self.pci) {
            bus.bus().set_hotplug_handler(handler);
        } else {
            bus.bus().set_hotplug_handler(Arc::new(NativeHotplug(Arc::downgrade(self))));
        }
        Ok(())
    }
}

impl PciDevice for RootPort {
    fn pci(&self) -> &PciState {
        &self.pci
    }

    fn pci_info(&self) -> PciInfo {
        PciInfo {
            interrupt_pin: 1,
            express: true,
            bridge: true,
            ..PciInfo::new(VENDOR_REDHAT, DEVICE_ID, 0x0604)
        }
    }

    fn pci_realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        let done = self.build(machine);
        if done.is_err() {
            self.bridge.unrealize(&(Arc::<Self>::clone(&self) as Arc<dyn PciDevice>));
        }
        done
    }

    fn pci_unrealize(self: Arc<Self>, machine: &Arc<Machine>) {
        // Releasing what is claimed cannot fail.
        let _ = self.props().claim(machine, false);
        self.state().cap = 0;
        self.bridge.unrealize(&(Arc::<Self>::clone(&self) as Arc<dyn PciDevice>));
    }

    fn pci_reset(&self, _kind: ResetKind) {
        let populated = self.secondary().is_some_and(|bus| !bus.functions().is_empty());
        let cap = self.state().cap;
        if cap == 0 {
            return;
        }
        self.pci.with_config(|config| {
            config.set8(cap + at::DEVICE_CONTROL, 0);
            config.set8(cap + at::ROOT_CONTROL, 0);
            config.set16(cap + at::DEVICE_CONTROL2, 0);
        });
        self.bridge.reset(self, true);
        let present = self.state().slot.status & super::slot::PRESENT != 0;
        self.show_link(populated, present);
        self.with_slot(|slot| slot.reset(populated));
    }

    fn config_written(&self, offset: u16, size: u8, value: u32) {
        self.bridge.config_written(self, offset, size, value);
        let cap = self.state().cap;
        if cap == 0 {
            return;
        }
        // Which bytes of a word at `register` are written, and with what.
        let written = |register: u16, old: u16| {
            let mut bytes = old.to_le_bytes();
            let mut any = false;
            for (i, byte) in value.to_le_bytes().into_iter().take(usize::from(size)).enumerate() {
                if let Some(target) =
                    (offset + i as u16).checked_sub(register).and_then(|at| bytes.get_mut(usize::from(at)))
                {
                    (*target, any) = (byte, true);
                }
            }
            any.then(|| u16::from_le_bytes(bytes))
        };
        let status = written(cap + at::SLOT_STATUS, 0);
        let control = self.state().slot.control;
        let control = written(cap + at::SLOT_CONTROL, control);
        let emptied = self.with_slot(|slot| {
            if let Some(status) = status {
                slot.write_status(status);
            }
            control.is_some_and(|control| slot.write_control(control))
        });
        if emptied {
            let object = self.pci.bus_and_devfn().and_then(|(bus, devfn)| bus.function(devfn));
            if let Some(me) = object.and_then(|f| (f as ObjectRef).downcast::<Self>()) {
                me.empty();
            }
        }
    }

    fn bridge(&self) -> Option<&Bridge> {
        Some(&self.bridge)
    }

    fn pci_saved(self: Arc<Self>) -> Saved {
        migration::saved(self)
    }

    fn supply_slot(&self) {
        self.show_link(true, false);
        self.with_slot(Slot::switch_on);
    }
}

/// Hot-plug that the port does itself.
struct NativeHotplug(Weak<RootPort>);

impl NativeHotplug {
    fn function(device: &Arc<dyn Device>) -> Option<(Arc<PciBus>, u8)> {
        qom::cast::<dyn PciDevice>(&(Arc::clone(device) as ObjectRef))?.pci().bus_and_devfn()
    }
}

impl HotplugHandler for NativeHotplug {
    fn pre_plug(&self, _machine: &Arc<Machine>, device: &Arc<dyn Device>) -> Result<()> {
        let Some(port) = self.0.upgrade() else { return Ok(()) };
        if !device.dev().is_hotplugged() {
            return Ok(());
        }
        let id = port.pci.dev.id().unwrap_or_default();
        if port.props().hide_native {
            return Err(Error::generic(format!("Hot-plug failed: unsupported by the port device '{id}'")));
        }
        locked(&port, device)
    }

    fn plug(&self, _machine: &Arc<Machine>, device: &Arc<dyn Device>) -> Result<()> {
        let (Some(port), Some((bus, devfn))) = (self.0.upgrade(), Self::function(device)) else {
            return Ok(());
        };
        let hotplugged = device.dev().is_hotplugged();
        port.show_link(true, true);
        // Functions are announced together, when the first of the slot comes as the last.
        let announce = hotplugged && bus.function(devfn & !7).is_some();
        let power = port.with_slot(|slot| {
            slot.put_in(announce);
            slot.has_power()
        });
        bus.set_visible(devfn, power || !hotplugged);
        Ok(())
    }

    fn unplug_request(&self, machine: &Arc<Machine>, device: &Arc<dyn Device>) -> Result<Unplug> {
        let (Some(port), Some((bus, devfn))) = (self.0.upgrade(), Self::function(device)) else {
            return Ok(Unplug::Now);
        };
        locked(&port, device)?;
        let slot = port.state().slot;
        if slot.is_busy() {
            let id = device.dev().id().unwrap_or_default();
            return Err(Error::generic(format!(
                "Hot-unplug failed: guest is busy (power indicator blinking): '{id}'"
            )));
        }
        // A function that the guest was never told of goes as it came, and so does what is in a slot without power.
        let alone = devfn & 7 != 0 && bus.function(devfn & !7).is_none();
        if alone || slot.is_off() {
            return Ok(Unplug::Now);
        }
        device.dev().set_unplug_expiry(machine.mainloop().now_ns(Clock::Virtual) / 1_000_000 + ANSWER_TIME);
        port.with_slot(Slot::press_button);
        Ok(Unplug::GuestAsked)
    }

    fn unplug(&self, _machine: &Arc<Machine>, device: &Arc<dyn Device>) {
        let (Some(port), Some((bus, devfn))) = (self.0.upgrade(), Self::function(device)) else { return };
        bus.set_visible(devfn, false);
        if bus.functions().len() == 1 && port.state().slot.status & super::slot::PRESENT != 0 {
            port.show_link(false, false);
            port.with_slot(Slot::withdrawn);
        }
    }
}

fn locked(port: &RootPort, device: &Arc<dyn Device>) -> Result<()> {
    let text = "slot is electromechanically locked";
    if !port.state().slot.is_locked() {
        return Ok(());
    }
    let id = device.dev().id().unwrap_or_default();
    Err(Error::generic(format!("{id}: {text}")))
}

#[cfg(test)]
mod tests;

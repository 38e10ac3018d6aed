//! CPU hot-plug that ACPI tables drive (QEMU `docs/specs/acpi_cpu_hotplug`): a block of registers shows the CPU that the guest
//! selected. It is told by a general-purpose event that something changed, has the block find the CPUs that it concerns, says what became of
//! it (`_OST`), and lets go of a CPU by writing its bit.
//!
//! At first there is a map of the CPUs that are there instead, by APIC ID, which old systems read when the event comes; nothing leaves
//! such a machine. A zero written to its beginning, which the tables of today make when a system begins with them, has the block take its place
//! for good.
//!
//! Left out: telling firmware of the event by an SMI.

mod migration;
mod registers;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use memory::{Owner, RegionDesc, RegionId};
use qapi::events::Event;
use qapi::types::{ACPIOSTInfo, ACPISlotType};

pub(crate) use self::migration::CpuHotplugState;
use self::registers::{Map, Registers};
use super::pm::Pm;
use crate::core::device::Device;
use crate::core::machine::Machine;
use crate::core::qdev;
use crate::i386::cpu::Cpus;

/// Where the registers of an ICH9 are.
pub const ICH9_BASE: u64 = 0xcd8;
/// Where those of a PIIX4 are.
pub const PIIX4_BASE: u64 = 0xaf00;
/// Bytes of the block.
pub const REGISTERS: u64 = 12;
/// Bytes of the map, and so an eighth of the APIC IDs that it has room for.
const MAP: u64 = 32;
/// The general-purpose event that announces a change.
const GPE: u8 = 2;
/// The CPU that cannot go.
const BOOT: u32 = 0;

#[derive(Default)]
struct Slot {
    apic_id: u32,
    cpu: Option<Arc<dyn Device>>,
    inserting: bool,
    removing: bool,
    /// The guest leaves it to its firmware to let go of it.
    firmware_removes: bool,
    /// The guest let go of it, and the main loop is to take it out.
    ejecting: bool,
    ost_event: u32,
    ost_status: u32,
}

#[derive(Default)]
struct State {
    /// Whether the block has taken the map's place.
    modern: bool,
    slots: Vec<Slot>,
    selected: u32,
    command: u8,
}

impl State {
    fn slot(&mut self, index: u32) -> Option<&mut Slot> {
        self.slots.get_mut(index as usize)
    }
}

/// What is known once there is somebody to announce changes to.
struct Wiring {
    machine: Weak<Machine>,
    pm: Arc<Pm>,
    owner: Owner,
    base: u64,
    map: RegionId,
}

/// The CPUs that there may be, of one machine.
#[derive(Default)]
pub struct CpuHotplug {
    wiring: OnceLock<Wiring>,
    state: Mutex<State>,
}

impl CpuHotplug {
    /// Those of `machine`.
    pub fn of(machine: &Machine) -> Arc<Self> {
        machine.extension(Self::default)
    }

    /// Gives `machine` the registers at `base`, and has changes announced through `pm`.
    pub(crate) fn install(machine: &Arc<Machine>, pm: &Arc<Pm>, owner: Owner, base: u64) {
        let (own, smp) = (Self::of(machine), machine.smp());
        {
            let mut state = own.lock();
            let slot = |index| Slot { apic_id: smp.apic_id(index), ..Slot::default() };
            state.slots = (0..smp.maxcpus).map(slot).collect();
            for (index, cpu) in Cpus::of(machine).devices() {
                if let Some(slot) = state.slot(index) {
                    slot.cpu = Some(cpu);
                }
            }
        }
        let stopped = Arc::downgrade(&own);
        machine.on_run_state(move |running, _| {
            // Whoever looks at a machine that stopped finds nothing half done.
            if let Some(own) = stopped.upgrade().filter(|_| !running) {
                own.take_out();
            }
        });
        let mut tx = machine.memory().transaction();
        let desc = RegionDesc::new("acpi-cpu-hotplug", MAP.into()).owned_by(owner.clone());
        let map = tx.io(desc, Arc::new(Map(Arc::clone(&own))));
        tx.add_subregion(machine.io_region(), base, map, 0);
        tx.commit();
        let (machine, pm) = (Arc::downgrade(machine), Arc::clone(pm));
        own.wiring.get_or_init(|| Wiring { machine, pm, owner, base, map });
        let wide = own.lock().slots.iter().any(|slot| slot.cpu.is_some() && !slot.is_in_map());
        if wide {
            own.switch();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Slots are changed by single assignments.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn machine(&self) -> Option<Arc<Machine>> {
        self.wiring.get()?.machine.upgrade()
    }

    /// Where the registers are; nowhere on a machine that cannot announce changes.
    pub(crate) fn base(&self) -> Option<u64> {
        self.wiring.get().map(|wiring| wiring.base)
    }

    /// Has the block take the map's place.
    fn switch(self: &Arc<Self>) {
        let Some((wiring, machine)) = self.wiring.get().zip(self.machine()) else { return };
        if std::mem::replace(&mut self.lock().modern, true) {
            return;
        }
        let mut tx = machine.memory().transaction();
        tx.del_subregion(machine.io_region(), wiring.map);
        if let Err(error) = tx.destroy(wiring.map) {
            tracing::error!(%error, "the map of CPUs stays");
        }
        let desc = RegionDesc::new("acpi-cpu-hotplug", REGISTERS.into()).owned_by(wiring.owner.clone());
        let block = tx.io(desc, Arc::new(Registers(Arc::clone(self))));
        tx.add_subregion(machine.io_region(), wiring.base, block, 0);
    }

    /// Puts a CPU into its slot; the guest is told if it is running.
    pub(crate) fn plug(self: &Arc<Self>, index: u32, device: &Arc<dyn Device>) {
        let hotplugged = device.dev().is_hotplugged();
        let wide = {
            let mut state = self.lock();
            let modern = state.modern;
            let Some(slot) = state.slot(index) else { return };
            slot.cpu = Some(Arc::clone(device));
            // A guest that let go of the one before without taking the event is not asked to let go of this one.
            (slot.removing, slot.firmware_removes, slot.ejecting) = (false, false, false);
            let wide = !modern && !slot.is_in_map();
            slot.inserting = hotplugged && (modern || wide);
            wide
        };
        if wide {
            self.switch();
        }
        if hotplugged {
            self.announce();
        }
    }

    /// Asks the guest to let go of a CPU. Whether it can be asked.
    pub(crate) fn unplug_request(&self, index: u32) -> bool {
        {
            let mut state = self.lock();
            if !state.modern {
                return false;
            }
            let Some(slot) = state.slot(index) else { return false };
            slot.removing = true;
        }
        self.announce();
        true
    }

    /// Takes a CPU out of its slot.
    pub(crate) fn unplug(&self, index: u32) {
        if let Some(slot) = self.lock().slot(index) {
            (slot.cpu, slot.ejecting) = (None, false);
        }
    }

    fn announce(&self) {
        if let Some(wiring) = self.wiring.get() {
            wiring.pm.raise_gpe(GPE);
        }
    }

    /// What `query-acpi-ospm-status` tells of them: nothing while there is but a map.
    pub fn status(&self) -> Vec<ACPIOSTInfo> {
        let state = self.lock();
        let slots = state.slots.iter().filter(|_| state.modern);
        slots.enumerate().map(|(index, slot)| slot.info(index)).collect()
    }

    /// Tells what the guest said of a slot, behind what became of earlier words of its.
    fn report(&self, info: ACPIOSTInfo) {
        let Some(machine) = self.machine() else { return };
        let teller = self.wiring.get().map(|wiring| Weak::clone(&wiring.machine));
        machine.mainloop().post(move || {
            if let Some(machine) = teller.and_then(|machine| machine.upgrade()) {
                machine.send(Event::AcpiDeviceOst { info });
            }
        });
    }

    /// The guest let go of the selected CPU.
    fn eject(self: &Arc<Self>, state: &mut State) {
        let index = state.selected;
        let Some(slot) = state.slot(index) else { return };
        if index == BOOT || slot.visible().is_none() {
            trace::emit!(cpuhp_acpi_ejecting_invalid_cpu, index);
            return;
        }
        trace::emit!(cpuhp_acpi_ejecting_cpu, index);
        // At once: the guest looks again, and one that writes again and again has posted once.
        (slot.firmware_removes, slot.ejecting) = (false, true);
        let Some(machine) = self.machine() else { return };
        let own = Arc::downgrade(self);
        // vCPUs go on the main loop; none waits for that, least of all the one that goes.
        machine.mainloop().post(move || {
            if let Some(own) = own.upgrade() {
                own.take_out();
            }
        });
    }

    /// Takes out what the guest let go of. Main loop thread.
    fn take_out(&self) {
        let ejected: Vec<Arc<dyn Device>> = {
            let mut state = self.lock();
            let ejected = |slot: &mut Slot| std::mem::take(&mut slot.ejecting).then(|| slot.cpu.take())?;
            state.slots.iter_mut().filter_map(ejected).collect()
        };
        let Some(machine) = self.machine() else { return };
        for cpu in ejected.iter().filter(|cpu| cpu.dev().is_realized()) {
            qdev::complete_unplug(&machine, cpu);
        }
    }
}

impl Slot {
    fn is_in_map(&self) -> bool {
        u64::from(self.apic_id) < 8 * MAP
    }

    /// The CPU that the guest finds.
    fn visible(&self) -> Option<&Arc<dyn Device>> {
        self.cpu.as_ref().filter(|_| !self.ejecting)
    }

    fn info(&self, index: usize) -> ACPIOSTInfo {
        ACPIOSTInfo {
            device: self.visible().and_then(|cpu| cpu.dev().id()),
            slot: index.to_string(),
            slot_type: ACPISlotType::Cpu,
            source: self.ost_event.into(),
            status: self.ost_status.into(),
        }
    }
}

#[cfg(test)]
mod tests;

//! Memory hot-plug that ACPI tables drive (QEMU `docs/specs/acpi_mem_hotplug`): one block of registers shows the slot that the
//! guest selected. It is told by a general-purpose event that something changed, looks at each slot, says what became of
//! it (`_OST`), and ejects a DIMM by writing its bit.
//!
//! Left out: refusing to eject; a DIMM can always go.

mod migration;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use memory::{AccessConstraints, Owner, RegionDesc, RegionOps};
use qapi::events::Event;
use qapi::types::{ACPIOSTInfo, ACPISlotType};
use qapi::{Error, Result};

pub(crate) use self::migration::MemoryHotplugState;
use super::pm::Pm;
use crate::core::device::Device;
use crate::core::machine::Machine;
use crate::core::qdev;
use crate::mem::MemoryDevice;

/// Where the register block is.
pub const BASE: u64 = 0xa00;
/// Bytes of it.
pub const REGISTERS: u64 = 0x18;
/// The general-purpose event that announces a change.
const GPE: u8 = 3;
// Read: the DIMM in the slot.
const ADDR_LOW: u64 = 0x00;
const ADDR_HIGH: u64 = 0x04;
const SIZE_LOW: u64 = 0x08;
const SIZE_HIGH: u64 = 0x0c;
const NODE: u64 = 0x10;
/// Read and written.
const FLAGS: u64 = 0x14;
// Written: the slot, and what became of an event in it.
const SELECT: u64 = 0x00;
const OST_EVENT: u64 = 0x04;
const OST_STATUS: u64 = 0x08;
const ENABLED: u64 = 1 << 0;
const INSERTING: u64 = 1 << 1;
const REMOVING: u64 = 1 << 2;
const EJECT: u64 = 1 << 3;

/// A DIMM in a slot.
#[derive(Clone)]
struct Dimm {
    device: Arc<dyn Device>,
    memory: Arc<dyn MemoryDevice>,
}

#[derive(Default)]
struct Slot {
    dimm: Option<Dimm>,
    /// Whether the guest finds it. A DIMM that it let go of is there until the main loop took it out.
    enabled: bool,
    inserting: bool,
    removing: bool,
    /// The guest let go of it, and the main loop is to take it out.
    ejecting: bool,
    ost_event: u32,
    ost_status: u32,
}

#[derive(Default)]
struct State {
    slots: Vec<Slot>,
    selected: u32,
}

impl State {
    fn slot(&mut self, slot: i32) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(slot).ok()?)
    }
}

/// The slots of one machine.
#[derive(Default)]
pub struct MemoryHotplug {
    /// Where events go; none while the machine has no ACPI.
    wiring: OnceLock<(Weak<Machine>, Arc<Pm>)>,
    state: Mutex<State>,
}

impl MemoryHotplug {
    /// Those of `machine`.
    pub fn of(machine: &Machine) -> Arc<Self> {
        machine.extension(Self::default)
    }

    /// Gives `machine` its slots, announced through `pm`, and the registers if there are any.
    pub(crate) fn install(machine: &Arc<Machine>, pm: &Arc<Pm>, owner: Owner) {
        let slots = Self::of(machine);
        slots.wiring.get_or_init(|| (Arc::downgrade(machine), Arc::clone(pm)));
        let count = machine.sizes().slots;
        if count == 0 {
            return;
        }
        slots.lock().slots.resize_with(count as usize, Slot::default);
        let stopped = Arc::downgrade(&slots);
        machine.on_run_state(move |running, _| {
            // Whoever looks at a machine that stopped finds nothing half done.
            if let Some(slots) = stopped.upgrade().filter(|_| !running) {
                slots.empty_slots();
            }
        });
        let mut tx = machine.memory().transaction();
        let desc = RegionDesc::new("acpi-mem-hotplug", REGISTERS.into()).owned_by(owner);
        let ports = tx.io(desc, Arc::new(Registers(slots)));
        tx.add_subregion(machine.io_region(), BASE, ports, 0);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Slots are changed by single assignments.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where events go.
    #[cfg(test)]
    pub(crate) fn pm(&self) -> Option<Arc<Pm>> {
        self.wiring.get().map(|(_, pm)| Arc::clone(pm))
    }

    /// Whether there is somebody to announce changes to.
    pub(crate) fn is_installed(&self) -> bool {
        self.wiring.get().is_some()
    }

    /// The slot for a new DIMM: `wanted`, or the first free one. It stays free until [`MemoryHotplug::plug`].
    ///
    /// # Errors
    /// QEMU's texts.
    pub(crate) fn free_slot(&self, wanted: Option<i32>) -> Result<i32> {
        let state = self.lock();
        let count = state.slots.len();
        if let Some(slot) = wanted {
            let taken = usize::try_from(slot).ok().and_then(|slot| state.slots.get(slot));
            let Some(taken) = taken else {
                let last = (count as u64).wrapping_sub(1);
                return Err(Error::generic(format!("invalid slot number {slot}, valid range is [0-{last}]")));
            };
            if taken.dimm.is_some() {
                return Err(Error::generic(format!("slot {slot} is busy")));
            }
            return Ok(slot);
        }
        if count == 0 {
            return Err(Error::generic("no slots where allocated, please specify the 'slots' option"));
        }
        let free = state.slots.iter().position(|slot| slot.dimm.is_none());
        free.map(|slot| slot as i32).ok_or_else(|| Error::generic("no free slots available"))
    }

    /// Puts a DIMM into its slot; the guest is told if it is running.
    pub(crate) fn plug(&self, slot: i32, device: &Arc<dyn Device>, memory: &Arc<dyn MemoryDevice>) {
        let hotplugged = device.dev().is_hotplugged();
        {
            let mut state = self.lock();
            let Some(place) = state.slot(slot) else { return };
            place.dimm = Some(Dimm { device: Arc::clone(device), memory: Arc::clone(memory) });
            // A guest that ejected the one before without taking the event is not asked to let go of this one.
            (place.enabled, place.inserting, place.removing) = (true, hotplugged, false);
            place.ejecting = false;
        }
        if hotplugged {
            self.announce();
        }
    }

    /// Asks the guest to let go of the DIMM in a slot.
    pub(crate) fn unplug_request(&self, slot: i32) {
        {
            let mut state = self.lock();
            let Some(place) = state.slot(slot) else { return };
            place.removing = true;
        }
        self.announce();
    }

    /// Takes the DIMM out of its slot.
    pub(crate) fn unplug(&self, slot: i32) {
        if let Some(place) = self.lock().slot(slot) {
            place.dimm = None;
            (place.enabled, place.ejecting) = (false, false);
        }
    }

    fn announce(&self) {
        if let Some((_, pm)) = self.wiring.get() {
            pm.raise_gpe(GPE);
        }
    }

    /// The answer of `query-acpi-ospm-status`.
    ///
    /// # Errors
    /// The machine has no ACPI.
    pub fn status(&self) -> Result<Vec<ACPIOSTInfo>> {
        if !self.is_installed() {
            return Err(Error::generic("command is not supported, missing ACPI device"));
        }
        Ok(self.lock().slots.iter().enumerate().map(|(index, slot)| slot.info(index)).collect())
    }

    /// The guest let go of the selected slot.
    fn eject(self: &Arc<Self>, state: &mut State) {
        let index = state.selected as usize;
        let Some(slot) = state.slots.get_mut(index).filter(|slot| slot.enabled) else { return };
        // At once: the guest looks again, and one that writes again and again has posted once.
        slot.enabled = false;
        slot.ejecting = slot.dimm.is_some();
        let machine = self.wiring.get().and_then(|(machine, _)| machine.upgrade());
        let Some(machine) = machine.filter(|_| slot.ejecting) else { return };
        let me = Arc::downgrade(self);
        // Devices go on the main loop; no vCPU waits for that.
        machine.mainloop().post(move || {
            if let Some(me) = me.upgrade() {
                me.empty_slots();
            }
        });
    }

    /// Takes out what the guest let go of. Main loop thread.
    fn empty_slots(&self) {
        let ejected: Vec<(usize, Dimm)> = {
            let mut state = self.lock();
            let slots = state.slots.iter_mut().enumerate();
            let ejected = |slot: &mut Slot| std::mem::take(&mut slot.ejecting).then(|| slot.dimm.clone())?;
            slots.filter_map(|(index, slot)| Some((index, ejected(slot)?))).collect()
        };
        let Some(machine) = self.wiring.get().and_then(|(machine, _)| machine.upgrade()) else { return };
        for (index, dimm) in ejected.into_iter().filter(|(_, dimm)| dimm.device.dev().is_realized()) {
            trace::emit!(mhp_acpi_pc_dimm_deleted, index as u32);
            qdev::complete_unplug(&machine, &dimm.device);
        }
    }
}

impl Slot {
    fn info(&self, index: usize) -> ACPIOSTInfo {
        ACPIOSTInfo {
            device: self.dimm.as_ref().and_then(|dimm| dimm.device.dev().id()),
            slot: index.to_string(),
            slot_type: ACPISlotType::Dimm,
            source: self.ost_event.into(),
            status: self.ost_status.into(),
        }
    }

    /// The DIMM that the guest finds.
    fn visible(&self) -> Option<&Arc<dyn MemoryDevice>> {
        self.dimm.as_ref().filter(|_| self.enabled).map(|dimm| &dimm.memory)
    }
}

/// The register block.
struct Registers(Arc<MemoryHotplug>);

impl RegionOps for Registers {
    fn read(&self, offset: u64, _size: u8) -> u64 {
        let state = self.0.lock();
        let Some(slot) = state.slots.get(state.selected as usize) else {
            trace::emit!(mhp_acpi_invalid_slot_selected, state.selected);
            return 0;
        };
        if offset == FLAGS {
            let flag = |on: bool, bit: u64| if on { bit } else { 0 };
            return flag(slot.enabled, ENABLED)
                | flag(slot.inserting, INSERTING)
                | flag(slot.removing, REMOVING);
        }
        let memory = slot.visible().cloned();
        // A device has a lock of its own.
        drop(state);
        let Some(memory) = memory else { return 0 };
        match offset {
            ADDR_LOW => memory.addr() & u64::from(u32::MAX),
            ADDR_HIGH => memory.addr() >> 32,
            SIZE_LOW => memory.region_size() & u64::from(u32::MAX),
            SIZE_HIGH => memory.region_size() >> 32,
            NODE => memory.node().into(),
            _ => 0,
        }
    }

    fn write(&self, offset: u64, _size: u8, value: u64) {
        let mut state = self.0.lock();
        if offset == SELECT {
            state.selected = value as u32;
            return;
        }
        let selected = state.selected;
        let Some(slot) = state.slots.get_mut(selected as usize) else {
            trace::emit!(mhp_acpi_invalid_slot_selected, selected);
            return;
        };
        match offset {
            OST_EVENT => {
                trace::emit!(mhp_acpi_write_ost_ev, selected, value as u32);
                slot.ost_event = value as u32;
            }
            OST_STATUS => {
                trace::emit!(mhp_acpi_write_ost_status, selected, value as u32);
                slot.ost_status = value as u32;
                let info = slot.info(selected as usize);
                drop(state);
                if let Some(machine) = self.0.wiring.get().and_then(|(machine, _)| machine.upgrade()) {
                    machine.send(Event::AcpiDeviceOst { info });
                }
            }
            // One of them, in this order.
            FLAGS if value & INSERTING != 0 => {
                trace::emit!(mhp_acpi_clear_insert_evt, selected);
                slot.inserting = false;
            }
            FLAGS if value & REMOVING != 0 => {
                trace::emit!(mhp_acpi_clear_remove_evt, selected);
                slot.removing = false;
            }
            FLAGS if value & EJECT != 0 => self.0.eject(&mut state),
            _ => {}
        }
    }

    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(1, 4).implemented(1, 4)
    }
}

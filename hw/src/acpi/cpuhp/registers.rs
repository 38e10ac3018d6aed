//! What the guest reads and writes.

use std::sync::Arc;

use memory::{AccessConstraints, RegionOps};

use super::CpuHotplug;

/// Read: more of the data. Written: the CPU.
const SELECT: u64 = 0x0;
/// Read and written.
const FLAGS: u64 = 0x4;
/// Written: what the data are.
const COMMAND: u64 = 0x5;
/// Read and written.
const DATA: u64 = 0x8;
const ENABLED: u64 = 1 << 0;
const INSERTING: u64 = 1 << 1;
const REMOVING: u64 = 1 << 2;
const EJECT: u64 = 1 << 3;
const FIRMWARE_REMOVES: u64 = 1 << 4;
/// Selects the next CPU of which the guest was not told something; the data are its number.
const NEXT_WITH_EVENT: u8 = 0;
/// What the guest answers to an event, and how it went.
const OST_EVENT: u8 = 1;
const OST_STATUS: u8 = 2;
/// The data are the APIC ID of the selected CPU.
const CPU_ID: u8 = 3;

/// The map of CPUs that are there.
pub(super) struct Map(pub(super) Arc<CpuHotplug>);

impl RegionOps for Map {
    fn read(&self, offset: u64, _size: u8) -> u64 {
        let state = self.0.lock();
        let here = state.slots.iter().filter(|slot| slot.cpu.is_some() && slot.apic_id / 8 == offset as u32);
        here.fold(0, |byte, slot| byte | 1 << (slot.apic_id % 8))
    }

    fn write(&self, offset: u64, _size: u8, value: u64) {
        if (offset, value) == (0, 0) {
            self.0.switch();
        }
    }

    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(1, 4).implemented(1, 1)
    }
}

/// The block of registers.
pub(super) struct Registers(pub(super) Arc<CpuHotplug>);

impl RegionOps for Registers {
    fn read(&self, offset: u64, _size: u8) -> u64 {
        let state = self.0.lock();
        let selected = state.selected;
        let Some(slot) = state.slots.get(selected as usize) else {
            trace::emit!(cpuhp_acpi_invalid_idx_selected, selected);
            return 0;
        };
        match offset {
            FLAGS => {
                let flag = |on: bool, bit: u64| if on { bit } else { 0 };
                let flags = flag(slot.visible().is_some(), ENABLED)
                    | flag(slot.inserting, INSERTING)
                    | flag(slot.removing, REMOVING)
                    | flag(slot.firmware_removes, FIRMWARE_REMOVES);
                trace::emit!(cpuhp_acpi_read_flags, selected, flags as u8);
                flags
            }
            DATA => {
                let data = match state.command {
                    NEXT_WITH_EVENT => selected,
                    CPU_ID => slot.apic_id,
                    _ => 0,
                };
                trace::emit!(cpuhp_acpi_read_cmd_data, selected, data);
                data.into()
            }
            // The upper half of an APIC ID among others, which has none.
            _ => 0,
        }
    }

    fn write(&self, offset: u64, _size: u8, value: u64) {
        let mut state = self.0.lock();
        if offset == SELECT {
            state.selected = value as u32;
            trace::emit!(cpuhp_acpi_write_idx, value as u32);
            return;
        }
        let (selected, command, count) = (state.selected, state.command, state.slots.len() as u32);
        let Some(slot) = state.slot(selected) else {
            trace::emit!(cpuhp_acpi_invalid_idx_selected, selected);
            return;
        };
        match (offset, command) {
            // One of them, in this order.
            (FLAGS, _) if value & INSERTING != 0 => {
                trace::emit!(cpuhp_acpi_clear_inserting_evt, selected);
                slot.inserting = false;
            }
            (FLAGS, _) if value & REMOVING != 0 => {
                trace::emit!(cpuhp_acpi_clear_remove_evt, selected);
                slot.removing = false;
            }
            (FLAGS, _) if value & EJECT != 0 => self.0.eject(&mut state),
            (FLAGS, _) if value & FIRMWARE_REMOVES != 0 => {
                if selected != super::BOOT && slot.visible().is_some() {
                    trace::emit!(cpuhp_acpi_fw_remove_cpu, selected);
                    slot.firmware_removes = true;
                } else {
                    trace::emit!(cpuhp_acpi_fw_remove_invalid_cpu, selected);
                }
            }
            (COMMAND, _) => {
                let command = value as u8;
                if !(NEXT_WITH_EVENT..=CPU_ID).contains(&command) {
                    return;
                }
                trace::emit!(cpuhp_acpi_write_cmd, selected, command);
                state.command = command;
                if command == NEXT_WITH_EVENT {
                    let around = (0..count).map(|step| (selected + step) % count);
                    let has_event = |index: &u32| {
                        state
                            .slots
                            .get(*index as usize)
                            .is_some_and(|slot| slot.inserting || slot.removing || slot.firmware_removes)
                    };
                    if let Some(next) = around.into_iter().find(has_event) {
                        state.selected = next;
                    }
                }
            }
            (DATA, OST_EVENT) => {
                trace::emit!(cpuhp_acpi_write_ost_ev, selected, value as u32);
                slot.ost_event = value as u32;
            }
            (DATA, OST_STATUS) => {
                trace::emit!(cpuhp_acpi_write_ost_status, selected, value as u32);
                slot.ost_status = value as u32;
                let info = slot.info(selected as usize);
                drop(state);
                self.0.report(info);
            }
            _ => {}
        }
    }

    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(1, 4).implemented(1, 4)
    }
}

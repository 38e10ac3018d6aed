//! Plugging memory devices: an address before they are realized, mapped afterwards, asked before they go.

use std::sync::Arc;

use qapi::{Error, Result};
use qom::{ObjectRef, cast};

use super::device::{MemoryDevice, MemoryDevices};
use super::placement::{self, Area, place};
use super::slot_plan::SlotPlan;
use super::unplugged;
use crate::core::{Device, HotplugHandler, Machine, Unplug};

/// The machine's part in plugging a memory device; attach it to the class with `DeviceClass::plugged_by`. The class
/// casts its objects to [`MemoryDevice`].
#[derive(Debug, Clone, Copy, Default)]
pub struct MemoryDevicePlug;

fn memory_device(device: &Arc<dyn Device>) -> Result<Arc<dyn MemoryDevice>> {
    let object: ObjectRef = Arc::clone(device) as ObjectRef;
    cast(&object).ok_or_else(|| Error::generic(format!("'{}' is no memory device", device.dev().type_name())))
}

fn area(machine: &Machine) -> Option<Area> {
    let sizes = machine.sizes();
    let limit = sizes.max.saturating_sub(sizes.ram);
    machine.device_memory().map(|memory| Area { base: memory.base, size: memory.size, limit })
}

/// How a trace names a memory device: by its id, if it has one.
fn name_of(device: &Arc<dyn MemoryDevice>) -> String {
    device.id().unwrap_or_default()
}

impl HotplugHandler for MemoryDevicePlug {
    fn pre_plug(&self, machine: &Arc<Machine>, device: &Arc<dyn Device>) -> Result<()> {
        let memory_device = memory_device(device)?;
        let (devices, plan) = (MemoryDevices::of(machine), SlotPlan::of(machine));
        // Before anything about the device: without room none of it matters.
        let area = area(machine).ok_or_else(placement::unprepared)?;
        let wanted = memory_device.wanted()?;
        // Nothing is noted down: what a device reserves is what it has once it is in the list.
        let required = memory_device.decide_memslots(&plan.budget(area.limit))?;
        plan.check(required)?;
        let warn = &mut |text: String| tracing::warn!("{text}");
        let addr = place(Some(&area), &devices.placed(), &wanted, warn)?;
        trace::emit!(memory_device_pre_plug, &name_of(&memory_device), addr);
        memory_device.set_addr(addr);
        Ok(())
    }

    fn plug(&self, machine: &Arc<Machine>, device: &Arc<dyn Device>) -> Result<()> {
        let memory_device = memory_device(device)?;
        let (Some(memory), Some(region)) = (machine.device_memory(), memory_device.region()) else {
            return Err(Error::generic("the memory device has nothing to map"));
        };
        let offset = memory_device.addr() - memory.base;
        machine.memory().transaction().add_subregion(memory.region, offset, region, 0);
        unplugged::watch(machine);
        trace::emit!(memory_device_plug, &name_of(&memory_device), memory_device.addr());
        MemoryDevices::of(machine).add(memory_device);
        Ok(())
    }

    fn unplug_request(&self, _machine: &Arc<Machine>, device: &Arc<dyn Device>) -> Result<Unplug> {
        memory_device(device)?.may_unplug()?;
        Ok(Unplug::Now)
    }

    fn unplug(&self, machine: &Arc<Machine>, device: &Arc<dyn Device>) {
        let Ok(memory_device) = memory_device(device) else { return };
        trace::emit!(memory_device_unplug, &name_of(&memory_device), memory_device.addr());
        MemoryDevices::of(machine).remove(&memory_device);
        if let (Some(memory), Some(region)) = (machine.device_memory(), memory_device.region()) {
            machine.memory().transaction().del_subregion(memory.region, region);
        }
    }
}

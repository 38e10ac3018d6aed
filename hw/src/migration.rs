//! What a migration moves: the machine, with the state of its devices in the order of the stream.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use accel::Accel;
use memory::Memory;
use migration::dirty_rate::VcpuWrites;
use migration::{FreePages, Placed, Sections};
use qapi::events::Event;
use qapi::types::RunState;
use vmstate::{Priority, Saved, Section, vmstate};

use crate::core::{Bus, Device, Machine, uuid};
use crate::mem::MemoryDevices;
use crate::pci::PciDevice;
use crate::virtio::balloon;

vmstate! {
    /// The guest's time.
    pub struct TimerState: "timer", version 1 {
        /// Nanoseconds of the guest's clock.
        now: i64,
    }
}

/// A machine as the migration sees it.
pub struct Movable {
    machine: Arc<Machine>,
    /// What was found before the guest was stopped, and [`Machine::device_changes`] of that time.
    found: Mutex<Option<(u64, Sections)>>,
}

impl Movable {
    /// Nothing is moved yet.
    pub fn new(machine: Arc<Machine>) -> Self {
        Self { machine, found: Mutex::default() }
    }

    fn found(&self) -> MutexGuard<'_, Option<(u64, Sections)>> {
        // Assigned whole.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self) -> Sections {
        let mut walk = Walk::default();
        walk.add("", Saved::one(timer(&self.machine)));
        walk.add("", self.machine.accel().saved());
        walk.add("", self.machine.saved());
        for device in self.machine.devices_without_bus() {
            walk.add("", device.saved());
        }
        walk.bus(&self.machine.main_bus());
        walk.finish()
    }
}

impl migration::Machine for Movable {
    fn memory(&self) -> &Arc<Memory> {
        self.machine.memory()
    }

    fn mainloop(&self) -> &mainloop::Handle {
        self.machine.mainloop()
    }

    fn send(&self, event: Event) {
        self.machine.send(event);
    }

    fn type_name(&self) -> String {
        self.machine.kind().name.to_owned()
    }

    fn uuid(&self) -> [u8; 16] {
        self.machine.config().uuid.as_deref().and_then(uuid::parse).unwrap_or_default()
    }

    fn sections(&self) -> Sections {
        let found = self.found().take();
        let current = found.filter(|(changes, _)| *changes == self.machine.device_changes());
        current.map_or_else(|| self.find(), |(_, sections)| sections)
    }

    fn prepare(&self) {
        self.machine.accel().make_ready();
    }

    fn freeze(&self) -> Box<dyn Any + Send> {
        Box::new((MemoryDevices::of(&self.machine).freeze(), self.machine.hold_devices()))
    }

    fn keep_shared(&self, keep: bool) {
        MemoryDevices::of(&self.machine).set_keeps_shared(keep);
    }

    fn run_state(&self) -> RunState {
        self.machine.run_state()
    }

    fn stop(&self) -> Option<RunState> {
        // While the guest still runs. Its last word may be that a device goes.
        let found = (self.machine.device_changes(), self.find());
        let stopped = self.machine.stop_to_move();
        *self.found() = stopped.then_some(found);
        stopped.then(|| self.machine.moving_state())
    }

    fn begin_save(&self) {
        self.machine.accel().begin_save();
    }

    fn moved(&self) {
        self.machine.moved();
    }

    fn go_on(&self) {
        *self.found() = None;
        self.machine.not_moved();
    }

    fn arrived(&self, source: RunState) {
        self.machine.incoming_done(source);
    }

    fn end(&self) {
        self.machine.mainloop().quit(1);
    }

    fn vcpu_writes(&self) -> Option<Arc<dyn VcpuWrites>> {
        Some(Arc::new(Writes(Arc::clone(self.machine.accel()))))
    }

    fn free_pages(&self, step: FreePages) {
        if let Some(balloon) = balloon::of(&self.machine) {
            balloon.free_pages(step);
        }
    }

    fn throttle(&self, percent: u8) {
        self.machine.accel().set_throttle(percent);
    }
}

/// What an accelerator tells of its vCPUs.
struct Writes(Arc<dyn Accel>);

impl VcpuWrites for Writes {
    fn indices(&self) -> Vec<u32> {
        self.0.vcpus().iter().map(|vcpu| vcpu.index).collect()
    }

    fn ring_size(&self) -> u32 {
        self.0.dirty_ring_size()
    }

    fn pages(&self, cpu: u32) -> u64 {
        self.0.dirty_pages(cpu).unwrap_or(0)
    }

    fn limit(&self, cpu: u32, limit: Option<u64>) {
        self.0.limit_dirty(cpu, limit);
    }

    fn pace(&self) {
        self.0.pace_dirty();
    }
}

/// The guest's clock; of a machine that a test drives, too.
fn timer(machine: &Arc<Machine>) -> Section {
    let (from, to) = (machine.mainloop().virtual_clock(), machine.mainloop().virtual_clock());
    let load = move |TimerState { now }| {
        to.set_now(now);
        Ok(())
    };
    Section::new::<TimerState>(move || TimerState { now: from.now_ns() }, load).at(Priority::Processor)
}

/// Collects sections.
#[derive(Default)]
struct Walk {
    list: Vec<Placed>,
    blocked: Vec<String>,
    /// How many there are of a name.
    instances: HashMap<String, u32>,
}

impl Walk {
    fn add(&mut self, path: &str, saved: Saved) {
        match saved {
            Saved::Nothing => {}
            Saved::Blocked(why) => self.blocked.push(why),
            Saved::Sections(sections) => {
                for section in sections {
                    let id = if path.is_empty() {
                        section.name().to_owned()
                    } else {
                        format!("{path}/{}", section.name())
                    };
                    let next = self.instances.entry(id.clone()).or_default();
                    self.list.push(Placed { id, instance: *next, section });
                    *next += 1;
                }
            }
        }
    }

    /// All devices below a bus, oldest first, each before those on its own buses.
    fn bus(&mut self, bus: &Arc<dyn Bus>) {
        for device in bus.bus().children().into_iter().rev() {
            let path = path(&device);
            self.add(&path, Arc::clone(&device).saved());
            for bus in device.dev().buses() {
                self.bus(&bus);
            }
        }
    }

    fn finish(mut self) -> Sections {
        // Stable: of equals, the order of the walk.
        self.list.sort_by_key(|placed| placed.section.priority());
        Sections { list: self.list, blocked: self.blocked }
    }
}

/// Where a device is, for the name of its sections: that of the PCI function that it is, or is part of.
#[doc(alias = "qdev_get_dev_path")]
fn path(device: &Arc<dyn Device>) -> String {
    let mut at = Some(Arc::clone(device));
    while let Some(device) = at {
        let object = Arc::clone(&device) as qom::ObjectRef;
        if let Some(function) = qom::cast::<dyn PciDevice>(&object) {
            return function.pci().address_text().unwrap_or_default();
        }
        at = device.dev().parent_bus().and_then(|bus| bus.bus().parent());
    }
    String::new()
}

#[cfg(test)]
mod tests;

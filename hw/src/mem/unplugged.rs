//! Accesses of vCPUs to memory that a device has not plugged: reported to clients, and answered as the device's user wants.
//!
//! vCPU threads note what they meet, which is quick and bounded; the main loop looks at it, finds the device, sends the event
//! `X_PLIANT_UNPLUGGED_ACCESS` (which clients get once a second at most), and stops or ends the program if the
//! device says so. The access itself is over by then: reads gave zeroes, writes were dropped.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use qapi::events::Event;

use super::device::{MemoryDevice, MemoryDevices};
use crate::core::Machine;

/// Accesses that wait for the main loop at most; more are only counted.
const PENDING: usize = 64;

/// What becomes of a guest that touches unplugged memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnAccess {
    /// It goes on.
    Report,
    /// It is stopped, and may be continued.
    Stop,
    /// The program ends with status 1.
    Kill,
}

impl OnAccess {
    /// Names, indexed by the discriminant.
    pub const NAMES: [&str; 3] = ["report", "stop", "kill"];
    /// In the order of [`OnAccess::NAMES`].
    pub const ALL: [Self; 3] = [Self::Report, Self::Stop, Self::Kill];
}

#[derive(Debug, Clone, Copy)]
struct Access {
    cpu: u32,
    addr: u64,
    write: bool,
}

#[derive(Debug, Default)]
struct Pending {
    accesses: Vec<Access>,
    more: u64,
}

/// See the module.
struct AccessReports {
    machine: Weak<Machine>,
    pending: Mutex<Pending>,
}

/// The extension of a machine whose accesses are followed.
struct Watched;

/// Follows the accesses of `machine` from now on. Twice does no harm.
pub(super) fn watch(machine: &Arc<Machine>) {
    machine.extension(|| {
        let reports = Arc::new(AccessReports { machine: Arc::downgrade(machine), pending: Mutex::default() });
        machine.on_failed_access(move |cpu, addr, write| reports.note(Access { cpu, addr, write }));
        Watched
    });
}

impl AccessReports {
    fn note(self: &Arc<Self>, access: Access) {
        let Some(machine) = self.machine.upgrade() else { return };
        let inside = machine
            .device_memory()
            .is_some_and(|area| access.addr.checked_sub(area.base).is_some_and(|at| at < area.size));
        if !inside {
            return;
        }
        let first = {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            if pending.accesses.len() < PENDING {
                pending.accesses.push(access);
            } else {
                pending.more += 1;
            }
            pending.accesses.len() == 1
        };
        if first {
            let this = Arc::clone(self);
            machine.mainloop().post(move || this.tell());
        }
    }

    /// On the main loop.
    fn tell(&self) {
        let Pending { accesses, more } =
            std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        let Some(machine) = self.machine.upgrade() else { return };
        for device in MemoryDevices::of(&machine).devices() {
            let (start, size) = (device.addr(), device.region_size());
            let hits = accesses.iter().filter(|a| a.addr.checked_sub(start).is_some_and(|at| at < size));
            let hits: Vec<_> = hits.collect();
            if let (Some(first), Some(policy)) = (hits.first(), device.on_unplugged_access()) {
                tell_one(&machine, &device, **first, hits.len() as u64 + more, policy);
            }
        }
    }
}

fn tell_one(
    machine: &Arc<Machine>,
    device: &Arc<dyn MemoryDevice>,
    access: Access,
    count: u64,
    policy: OnAccess,
) {
    let Access { cpu, addr, write } = access;
    let (id, qom_path) = (device.id(), device.qom_path());
    machine.send(Event::XPliantUnpluggedAccess {
        id: id.clone(),
        qom_path: qom_path.clone(),
        address: addr,
        cpu_index: cpu.into(),
        write,
        count,
    });
    let name = id.unwrap_or(qom_path);
    let verb = if write { "wrote to" } else { "read" };
    trace::emit!(pliant_unplugged_access, &name, cpu, addr, write.into(), count);
    match policy {
        OnAccess::Report => {}
        OnAccess::Stop => {
            tracing::warn!("{name}: CPU {cpu} {verb} unplugged memory at {addr:#x}, the guest is stopped");
            machine.stop();
        }
        OnAccess::Kill => {
            tracing::error!("{name}: CPU {cpu} {verb} unplugged memory at {addr:#x}");
            machine.kill();
        }
    }
}

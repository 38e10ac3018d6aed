//! The `kvm` accelerator: vCPUs run in the kernel, with the kernel's PIC, IOAPIC, LAPICs and PIT.
//!
//! Interface: Linux `Documentation/virt/kvm/api.rst`. `open` gets it, `create` makes its vCPUs, `accel` is what the machine asks of it.
//! One VM file (`shared`), used by:
//!
//! - `listener`, `ioeventfd`: memory slots and event descriptors follow the address spaces; `follow`: of a device whose memory is plugged in
//!   pieces they follow what is plugged, and are made by a thread of their own (`put_off`); `gate` keeps vCPUs out of the guest meanwhile;
//! - `irqchip`: lines, messages, routes and irqfds;
//! - `vcpu`: one thread a vCPU with its exit loop; `state` is what a vCPU has and what it is reset to, `save` takes that to another
//!   machine, `tsc` keeps the counters of vCPUs in step there, `throttle` slows them down before.
//!
//! # Start-up
//!
//! The first change to a fresh VM's slots and devices makes the kernel wait for milliseconds. Memory slots, routes and the PIT are
//! therefore given to it by the first vCPU thread just before its first `KVM_RUN` (or by `make_ready`); until then they are books kept here.
//!
//! # Stopping a vCPU without losing the request
//!
//! Whoever wants a vCPU out of the guest stores its stop flag and then sends the thread a signal. The handler, on the vCPU's
//! own thread, sets `kvm_run.immediate_exit`, so a signal that arrives just before `KVM_RUN` makes it return at once. The thread
//! clears `immediate_exit` *before* it reads the stop flag: either it sees the flag, or the signal comes later and sets
//! `immediate_exit` again. An access that the guest has started is completed by the kernel at the next `KVM_RUN`; before
//! it parks, a vCPU with such an access therefore enters once more with `immediate_exit` set.
//!
//! Left out: Hyper-V, Xen, SMM, MSI to APIC IDs above 255,
//! `kernel-irqchip=off|split`.

mod accel;
mod boot;
mod chips;
mod cpuid;
mod create;
mod features;
mod follow;
mod gate;
mod ioeventfd;
mod irqchip;
mod kick;
mod limit;
mod listener;
mod open;
mod put_off;
mod registers;
mod ring;
mod save;
mod shared;
mod slots;
mod state;
mod stats;
mod throttle;
mod tsc;
mod vcpu;

pub(crate) use kick::thread_id;
pub(crate) use save::declared as declared_states;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use kvm_bindings::CpuId;
use kvm_ioctls::Kvm;
use qapi::Error;

use crate::control::Snapshot;
use crate::cpu::Supported;
use crate::{Accel, VcpuConfig, VcpuEvents, VcpuInfo};
use ioeventfd::IoListener;
use shared::Shared;
use state::{ChipState, Extent};
use stats::StatsFile;
use vcpu::Vcpu;

/// Page size of the architecture, bytes.
pub(crate) const PAGE_SIZE: u64 = 4096;

/// How much was asked of the kernel; for tests and benchmarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KvmStats {
    /// `KVM_SET_USER_MEMORY_REGION`.
    pub slot_changes: u64,
    /// `KVM_SET_GSI_ROUTING`.
    pub routing_changes: u64,
}

/// See the module documentation.
pub struct KvmAccel {
    kvm: Kvm,
    /// Entries of each vCPU's dirty ring; 0 for none.
    dirty_ring: u32,
    chip_reset: ChipState,
    cpuid: CpuId,
    supported: Supported,
    /// Of the VM, once somebody asked.
    stats: OnceLock<Option<StatsFile>>,
    io_listener: Arc<IoListener>,
    /// What the kernel saves of any vCPU, once there is one.
    extent: OnceLock<Extent>,
    /// What vCPU threads share with us.
    shared: Arc<Shared>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By index.
    vcpus: Vec<Slot>,
    /// What they are made of.
    made_of: Option<MadeOf>,
}

/// A vCPU that may be there.
#[derive(Default)]
struct Slot {
    /// If it is.
    live: Option<Live>,
    /// If it was: the kernel does not take it back, and has no other of its APIC ID.
    parked: Option<Vcpu>,
    /// Made with it, as the thread takes the vCPU's file. `None` for a kernel without.
    stats: Option<Arc<StatsFile>>,
}

struct Live {
    info: VcpuInfo,
    /// Until the end of all.
    thread: Option<JoinHandle<Vcpu>>,
}

#[derive(Clone)]
struct MadeOf {
    config: Arc<VcpuConfig>,
    events: Arc<dyn VcpuEvents>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn os_error(error: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

/// `failed to initialize kvm: ...` after the line that says what failed.
fn init_error(first: &str, error: &io::Error) -> Error {
    let text = qapi::strerror(error);
    let first = if first.is_empty() { String::new() } else { format!("{first}\n") };
    Error::generic(format!("{first}failed to initialize kvm: {text}"))
}

impl KvmAccel {
    /// Counters.
    #[must_use]
    pub fn stats(&self) -> KvmStats {
        KvmStats {
            slot_changes: self.shared.slots.slot_changes(),
            routing_changes: self.shared.chip.routing_changes(),
        }
    }

    fn snapshot(&self, cpu: u32) -> Option<Snapshot> {
        self.shared.control.snapshot(usize::try_from(cpu).ok()?, self.kick())
    }

    fn kick(&self) -> impl Fn(usize) + '_ {
        |cpu| {
            let state = lock(&self.state);
            let live = state.vcpus.get(cpu).and_then(|slot| slot.live.as_ref());
            if let Some(thread) = live.and_then(|live| live.thread.as_ref()) {
                kick::kick(thread);
            }
        }
    }
}

impl Drop for KvmAccel {
    fn drop(&mut self) {
        self.shutdown();
    }
}

#[cfg(test)]
mod tests;

//! What the accelerator and its vCPUs' threads share, and what is given to the kernel just before the first of them runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock};

use kvm_bindings::{kvm_clock_data, kvm_pit_state2};
use kvm_ioctls::VmFd;
use memory::AddressSpace;

use super::irqchip::KvmIrqChip;
use super::listener::SystemListener;
use super::state::{self, Extent};
use super::{gate, limit, save, throttle};
use crate::BootState;
use crate::control::Control;

/// What vCPU threads need; they must not keep the accelerator alive.
pub(crate) struct Shared {
    pub(crate) control: Control,
    pub(crate) boot: Mutex<Option<BootState>>,
    /// [`Accel::set_device_window`](crate::Accel::set_device_window).
    pub(crate) device_window: Mutex<Option<u32>>,
    pub(crate) spaces: OnceLock<Spaces>,
    pub(super) vm: Arc<VmFd>,
    pub(super) chip: Arc<KvmIrqChip>,
    pub(super) slots: Arc<SystemListener>,
    pub(super) gate: Arc<gate::Gate>,
    /// The PIT's reset state; empty until there is one.
    pub(super) pit: OnceLock<Option<kvm_pit_state2>>,
    pub(super) omit_pit: AtomicBool,
    pub(super) first_run: Once,
    /// Ticks of the vCPUs' counters in a millisecond, once there are any.
    pub(super) tsc_khz: OnceLock<u32>,
    /// What the kernel loads of a vCPU, once there are any.
    pub(super) extent: OnceLock<Extent>,
    /// The guest's paravirtual clock when it was paused or loaded; it goes on from there.
    pub(super) clock: Mutex<Option<kvm_clock_data>>,
    pub(super) exchange: save::Exchange,
    pub(super) throttle: throttle::Throttle,
    pub(super) limits: limit::Limits,
}

impl Shared {
    /// Called by vCPU threads before they enter the guest. The first one does what makes the kernel wait for
    /// milliseconds, so that start-up (the monitor's greeting) does not.
    pub(crate) fn first_run(&self) {
        self.first_run.call_once(|| {
            self.slots.start();
            self.chip.start();
            self.pit();
        });
    }

    /// Makes the PIT, unless there is one or is to be none, and gives its reset state.
    pub(super) fn pit(&self) -> Option<&kvm_pit_state2> {
        if self.omits_pit() {
            return None;
        }
        let made = self.pit.get_or_init(|| {
            let made = state::create_pit(&self.vm);
            made.inspect_err(|error| tracing::error!(%error, "the guest has no PIT")).ok()
        });
        made.as_ref()
    }

    pub(super) fn omits_pit(&self) -> bool {
        self.omit_pit.load(Ordering::Relaxed)
    }
}

/// Where exits go.
pub(crate) struct Spaces {
    pub(crate) system: Arc<AddressSpace>,
    pub(crate) io: Arc<AddressSpace>,
}

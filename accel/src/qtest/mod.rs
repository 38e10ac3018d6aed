//! The `qtest` accelerator: no guest code runs; a test client reads and writes the machine over a text protocol.
//!
//! [`QtestAccel`] knows the line levels and the vCPUs; [`session::Session`] is the protocol, bytes in and bytes out, usable
//! without descriptors; [`Server`] runs it over a character device (`-qtest`), with any accelerator. Guest time under this
//! accelerator is manual: the program calls `mainloop::VirtualClock::set_manual`.
//!
//! Left out: vCPU threads (QEMU has idle ones), `set_irq_in`, `module_load`.

mod log;
mod server;
pub mod session;

pub use log::{Log, LogTarget};
pub use server::{Server, Target};

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memory::{AddressSpace, Memory};
use qapi::Result;
use vmstate::Saved;

use crate::cpu::Supported;
use crate::irq::{UserIrq, UserIrqChip};
use crate::{Accel, BootState, IrqChip, Registers, VcpuConfig, VcpuEvents, VcpuInfo};

/// See the module documentation.
pub struct QtestAccel {
    chip: Arc<UserIrqChip>,
    vcpus: Mutex<Vec<VcpuInfo>>,
    cpu: Supported,
}

impl QtestAccel {
    /// No vCPUs, all lines low.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { chip: UserIrqChip::new(), vcpus: Mutex::default(), cpu: Supported::nominal() })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<VcpuInfo>> {
        self.vcpus.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// vCPUs that are facts only: each has the process's id.
pub(crate) fn facts(config: &VcpuConfig) -> Vec<VcpuInfo> {
    let thread_id = i32::try_from(std::process::id()).unwrap_or(0);
    (0..)
        .zip(&config.apic_ids)
        .map(|(index, apic_id)| VcpuInfo { index, apic_id: *apic_id, thread_id })
        .collect()
}

impl Accel for QtestAccel {
    fn name(&self) -> &'static str {
        "qtest"
    }

    fn attach(
        &self,
        _memory: &Arc<Memory>,
        _system: &Arc<AddressSpace>,
        _io: &Arc<AddressSpace>,
    ) -> Result<()> {
        Ok(())
    }

    fn create_vcpus(&self, config: VcpuConfig, _events: Arc<dyn VcpuEvents>) -> Result<()> {
        *self.lock() = facts(&config);
        Ok(())
    }

    fn vcpus(&self) -> Vec<VcpuInfo> {
        self.lock().clone()
    }

    /// Nothing runs, so each vCPU stays as it was reset.
    fn registers(&self, cpu: u32) -> Option<Registers> {
        let there = usize::try_from(cpu).is_ok_and(|cpu| cpu < self.lock().len());
        there.then(Registers::at_reset)
    }

    fn supported_cpu(&self) -> &Supported {
        &self.cpu
    }

    fn set_boot(&self, _boot: Option<BootState>) {}

    fn reset(&self) {}

    fn resume(&self) {}

    fn pause(&self) {}

    /// Nothing runs, and lines have the levels that devices give them again.
    fn saved(&self) -> Saved {
        Saved::Nothing
    }

    fn shutdown(&self) {}

    fn irq(&self) -> Arc<dyn IrqChip> {
        Arc::new(UserIrq(Arc::clone(&self.chip)))
    }

    fn user_chip(&self) -> Option<&Arc<UserIrqChip>> {
        Some(&self.chip)
    }
}

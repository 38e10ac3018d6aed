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

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memory::{AddressSpace, Memory};
use qapi::{Error, Result};
use vmstate::Saved;

use crate::cpu::Supported;
use crate::irq::{UserIrq, UserIrqChip};
use crate::{Accel, BootState, IrqChip, Registers, VcpuConfig, VcpuEvents, VcpuInfo};

/// See the module documentation.
pub struct QtestAccel {
    chip: Arc<UserIrqChip>,
    vcpus: Mutex<Facts>,
    cpu: Supported,
}

impl QtestAccel {
    /// No vCPUs, all lines low.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { chip: UserIrqChip::new(), vcpus: Mutex::default(), cpu: Supported::nominal() })
    }

    fn lock(&self) -> MutexGuard<'_, Facts> {
        self.vcpus.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// vCPUs that are facts only: each has the process's id.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    apic_ids: Vec<u32>,
    present: BTreeMap<u32, VcpuInfo>,
}

impl Facts {
    /// Those that there are from the start.
    pub(crate) fn new(config: &VcpuConfig) -> Self {
        let mut facts = Self { apic_ids: config.apic_ids.clone(), present: BTreeMap::new() };
        for index in (0..config.present).take(config.apic_ids.len()) {
            facts.insert(index);
        }
        facts
    }

    fn insert(&mut self, index: u32) -> bool {
        let Some(apic_id) = self.apic_ids.get(index as usize) else { return false };
        let thread_id = i32::try_from(std::process::id()).unwrap_or(0);
        let info = VcpuInfo { index, apic_id: *apic_id, thread_id };
        self.present.insert(index, info).is_none()
    }

    /// One more.
    pub(crate) fn plug(&mut self, index: u32) -> Result<()> {
        if self.insert(index) {
            return Ok(());
        }
        Err(Error::generic(format!("vCPU {index} is there already, or may not be")))
    }

    /// One less.
    pub(crate) fn unplug(&mut self, index: u32) {
        self.present.remove(&index);
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut VcpuInfo> {
        self.present.get_mut(&index)
    }

    pub(crate) fn has(&self, index: u32) -> bool {
        self.present.contains_key(&index)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.present.is_empty()
    }

    pub(crate) fn list(&self) -> Vec<VcpuInfo> {
        self.present.values().copied().collect()
    }
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
        *self.lock() = Facts::new(&config);
        Ok(())
    }

    fn plug_vcpu(&self, index: u32) -> Result<()> {
        self.lock().plug(index)
    }

    fn unplug_vcpu(&self, index: u32) {
        self.lock().unplug(index);
    }

    fn vcpus(&self) -> Vec<VcpuInfo> {
        self.lock().list()
    }

    /// Nothing runs, so each vCPU stays as it was reset.
    fn registers(&self, cpu: u32) -> Option<Registers> {
        self.lock().has(cpu).then(Registers::at_reset)
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

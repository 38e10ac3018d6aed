//! Creating vCPUs: how many there may be, what each is, and its thread.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use kvm_bindings::{
    KVM_CAP_X2APIC_API, KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK, KVM_X2APIC_API_USE_32BIT_IDS, kvm_enable_cap,
};
use qapi::{Error, Result};

use super::state::Extent;
use super::stats::StatsFile;
use super::vcpu::Vcpu;
use super::{KvmAccel, cpuid, features, kick, lock, os_error, thread_id};
use crate::{VcpuConfig, VcpuEvents, VcpuInfo};

/// The APIC ID that means all of them where IDs have 8 bits.
const BROADCAST_ID: u32 = 255;

impl KvmAccel {
    /// See [`Accel::create_vcpus`](crate::Accel::create_vcpus).
    pub(super) fn create_all(&self, config: &VcpuConfig, events: &Arc<dyn VcpuEvents>) -> Result<()> {
        let (count, max) = (config.apic_ids.len(), self.kvm.get_max_vcpus());
        if count > max {
            return Err(too_many("SMP", count, "maximum", max));
        }
        if self.shared.spaces.get().is_none() || !lock(&self.state).vcpus.is_empty() || count == 0 {
            return Err(Error::generic("vCPUs are created once, after the memory is attached"));
        }
        kick::install().map_err(|error| Error::generic(format!("kvm: cannot handle signals: {error}")))?;
        if config.apic_ids.iter().any(|id| *id >= BROADCAST_ID) {
            self.widen_apic_ids()?;
        }
        let extent = Extent::of(&self.kvm);
        lock(&self.state).config = Some(Arc::new(config.clone()));
        for index in 0..count as u32 {
            let (info, thread, stats) =
                self.create_vcpu(index, config, &extent, events).map_err(|error| {
                    Error::generic(format!(
                        "kvm_init_vcpu: kvm_create_vcpu failed ({}): {}",
                        config.apic_ids[index as usize],
                        qapi::strerror(&error)
                    ))
                })?;
            let mut state = lock(&self.state);
            state.vcpus.push(info);
            state.threads.push(thread);
            state.stats.push(stats.map(Arc::new));
        }
        Ok(())
    }

    fn create_vcpu(
        &self,
        index: u32,
        config: &VcpuConfig,
        extent: &Extent,
        events: &Arc<dyn VcpuEvents>,
    ) -> io::Result<(VcpuInfo, JoinHandle<()>, Option<StatsFile>)> {
        let apic_id = config.apic_ids[index as usize];
        let facts = &config.facts;
        let identity = cpuid::Identity { apic_id, topology: config.topology, phys_bits: config.phys_bits };
        let fd = self.shared.vm.create_vcpu(u64::from(apic_id)).map_err(os_error)?;
        let table = cpuid::build(&self.cpuid, facts, &identity)
            .map_err(|error| io::Error::other(format!("CPUID table: {error:?}")))?;
        fd.set_cpuid2(&table).map_err(os_error)?;
        features::set_msrs(&fd, &self.supported, facts)?;
        if facts.tsc_frequency != 0 {
            let khz = u32::try_from(facts.tsc_frequency / 1000).unwrap_or(u32::MAX);
            fd.set_tsc_khz(khz).map_err(os_error)?;
        }
        if let Ok(khz) = fd.get_tsc_khz() {
            self.shared.tsc_khz.get_or_init(|| khz);
        }
        self.shared.slots.add_ring(&fd, self.dirty_ring)?;
        let stats = StatsFile::of(&fd);
        trace::emit!(kvm_create_vcpu, index, apic_id, fd.as_raw_fd());
        let vcpu = Vcpu::new(index, fd, Arc::clone(&self.shared), Arc::clone(events), extent)?;
        let cpu = vcpu.control_index();
        let (sender, receiver) = mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name(format!("CPU {index}/KVM"))
            .spawn(move || {
                let _ = sender.send(thread_id());
                vcpu.thread();
            })
            .inspect_err(|_| self.shared.control.give_up(cpu))?;
        let thread_id = receiver.recv().unwrap_or_default();
        Ok((VcpuInfo { index, apic_id, thread_id }, thread, stats))
    }

    /// Interrupts of devices reach APIC IDs of more than 8 bits.
    fn widen_apic_ids(&self) -> Result<()> {
        let mut cap = kvm_enable_cap { cap: KVM_CAP_X2APIC_API, ..kvm_enable_cap::default() };
        cap.args[0] = (KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK).into();
        self.shared.vm.enable_cap(&cap).map_err(|_| {
            Error::generic("current -smp configuration requires kernel irqchip and X2APIC API support.")
        })
    }
}

fn too_many(what: &str, count: usize, limit: &str, max: usize) -> Error {
    let text = "cpus supported by KVM";
    Error::generic(format!("Number of {what} cpus requested ({count}) exceeds the {limit} {text} ({max})"))
}

/// What [`Accel::check_cpus`](crate::Accel::check_cpus) does where `recommended` are and `max` can be had.
pub(super) fn cpu_limits(
    cpus: u32,
    maxcpus: u32,
    (recommended, max): (usize, usize),
    warn: &mut dyn FnMut(&str),
) -> Result<()> {
    for (what, count) in [("SMP", cpus as usize), ("hotpluggable", maxcpus as usize)] {
        if count > recommended {
            warn(too_many(what, count, "recommended", recommended).desc());
        }
        if count > max {
            return Err(too_many(what, count, "maximum", max));
        }
    }
    Ok(())
}

//! vCPUs come and go: how many there may be, what each is, and its thread.
//!
//! The kernel does not take a vCPU back. One that goes is parked, in reset state and without a thread, and is the one that comes again.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, mpsc};
use std::thread;

use kvm_bindings::{
    KVM_CAP_X2APIC_API, KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK, KVM_X2APIC_API_USE_32BIT_IDS, kvm_enable_cap,
};
use qapi::{Error, Result};

use super::state::Extent;
use super::stats::StatsFile;
use super::vcpu::Vcpu;
use super::{KvmAccel, Live, MadeOf, Slot, cpuid, features, kick, lock, os_error, thread_id};
use crate::{VcpuConfig, VcpuEvents, VcpuInfo};

/// The APIC ID that means all of them where IDs have 8 bits.
const BROADCAST_ID: u32 = 255;

impl KvmAccel {
    /// See [`Accel::create_vcpus`](crate::Accel::create_vcpus).
    pub(super) fn create_all(&self, config: VcpuConfig, events: Arc<dyn VcpuEvents>) -> Result<()> {
        let (count, max) = (config.present as usize, self.kvm.get_max_vcpus());
        if count > max {
            return Err(too_many("SMP", count, "maximum", max));
        }
        let room = config.apic_ids.len();
        if self.shared.spaces.get().is_none() || self.made_of().is_some() || count == 0 || count > room {
            return Err(Error::generic("vCPUs are created once, after the memory is attached"));
        }
        kick::install().map_err(|error| Error::generic(format!("kvm: cannot handle signals: {error}")))?;
        if config.apic_ids.iter().any(|id| *id >= BROADCAST_ID) {
            self.widen_apic_ids()?;
        }
        self.shared.control.reserve(room);
        self.shared.exchange.reserve(room);
        {
            let mut state = lock(&self.state);
            state.made_of = Some(MadeOf { config: Arc::new(config), events });
            state.vcpus.resize_with(room, Slot::default);
        }
        // As the kernel makes them is their reset state, and the board resets all.
        (0..count as u32).try_for_each(|index| self.plug(index, false))
    }

    /// See [`Accel::plug_vcpu`](crate::Accel::plug_vcpu).
    pub(super) fn plug(&self, index: u32, reset: bool) -> Result<()> {
        let cpu = index as usize;
        let none = || Error::generic(format!("there may be no vCPU {index}"));
        let made_of = self.made_of().ok_or_else(none)?;
        let apic_id = *made_of.config.apic_ids.get(cpu).ok_or_else(none)?;
        let parked = {
            let mut state = lock(&self.state);
            let slot = &mut state.vcpus[cpu];
            if slot.live.is_some() {
                return Err(Error::generic(format!("vCPU {index} is there already")));
            }
            slot.parked.take()
        };
        let live = match parked {
            Some(parked) => self.start(index, apic_id, parked, reset),
            None => self
                .create_vcpu(index, apic_id, &made_of)
                .and_then(|new| self.start(index, apic_id, new, reset)),
        };
        let failed = |error| {
            let text = qapi::strerror(&error);
            Error::generic(format!("kvm_init_vcpu: kvm_create_vcpu failed ({apic_id}): {text}"))
        };
        lock(&self.state).vcpus[cpu].live = Some(live.map_err(failed)?);
        self.shared.control.await_entered(cpu);
        Ok(())
    }

    /// See [`Accel::unplug_vcpu`](crate::Accel::unplug_vcpu).
    pub(super) fn unplug(&self, index: u32) {
        let cpu = index as usize;
        let is_there = |slot: &Slot| slot.live.is_some();
        if !lock(&self.state).vcpus.get(cpu).is_some_and(is_there) {
            return;
        }
        self.shared.control.leave(cpu, self.kick());
        let live = lock(&self.state).vcpus[cpu].live.take();
        if let Some(thread) = live.and_then(|live| live.thread) {
            match thread.join() {
                Ok(vcpu) => lock(&self.state).vcpus[cpu].parked = Some(vcpu),
                Err(_) => tracing::error!("a vCPU thread panicked"),
            }
        }
        self.shared.exchange.leave(cpu);
    }

    fn made_of(&self) -> Option<MadeOf> {
        lock(&self.state).made_of.clone()
    }

    /// Has the kernel make a vCPU.
    fn create_vcpu(&self, index: u32, apic_id: u32, made_of: &MadeOf) -> io::Result<Vcpu> {
        let MadeOf { config, events } = made_of;
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
        self.shared.slots.add_ring(index, &fd, self.dirty_ring)?;
        lock(&self.state).vcpus[index as usize].stats = StatsFile::of(&fd).map(Arc::new);
        trace::emit!(kvm_create_vcpu, index, apic_id, fd.as_raw_fd());
        let extent = self.extent.get_or_init(|| Extent::of(&self.kvm));
        Vcpu::new(index, fd, Arc::clone(&self.shared), Arc::clone(events), extent)
    }

    /// Starts the thread of a vCPU, which resets it first if `reset`.
    fn start(&self, index: u32, apic_id: u32, vcpu: Vcpu, reset: bool) -> io::Result<Live> {
        let cpu = index as usize;
        if let Some(khz) = self.shared.exchange.enter(cpu) {
            // As those of the machine that arrived.
            vcpu.set_tsc_khz(khz)?;
        }
        let stop = self.shared.control.enter(cpu, reset);
        let (sender, receiver) = mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name(format!("CPU {index}/KVM"))
            .spawn(move || {
                let _ = sender.send(thread_id());
                vcpu.thread(stop)
            })
            .inspect_err(|_| self.shared.control.give_up(cpu))?;
        let thread_id = receiver.recv().unwrap_or_default();
        Ok(Live { info: VcpuInfo { index, apic_id, thread_id }, thread: Some(thread) })
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

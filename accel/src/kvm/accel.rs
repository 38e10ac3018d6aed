//! What the machine asks of the accelerator.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use kvm_bindings::kvm_clock_data;
use kvm_ioctls::Cap;
use memory::{AddressSpace, Memory};
use qapi::{Error, Result};
use vmstate::Saved;

use super::create::cpu_limits;
use super::ioeventfd::IoListener;
use super::irqchip::KvmIrqChip;
use super::listener::SystemListener;
use super::shared::Spaces;
use super::stats::StatsFile;
use super::{KvmAccel, MadeOf, Slot, chips, cpuid, features, limit, lock, save, throttle};
use crate::cpu::{self, Supported};
use crate::stats::{Stat, StatTarget};
use crate::{
    Accel, BootState, Chips, IrqChip, LocalApic, MemorySlots, Registers, VcpuConfig, VcpuEvents, VcpuInfo,
};

impl Accel for KvmAccel {
    fn name(&self) -> &'static str {
        "kvm"
    }

    fn attach(&self, memory: &Arc<Memory>, system: &Arc<AddressSpace>, io: &Arc<AddressSpace>) -> Result<()> {
        let spaces = Spaces { system: Arc::clone(system), io: Arc::clone(io) };
        if self.shared.spaces.set(spaces).is_err() {
            return Err(Error::generic("kvm is attached already"));
        }
        memory.add_listener(system, Arc::<SystemListener>::clone(&self.shared.slots));
        memory.add_listener(io, Arc::<IoListener>::clone(&self.io_listener));
        Ok(())
    }

    fn check_cpus(&self, cpus: u32, maxcpus: u32, warn: &mut dyn FnMut(&str)) -> Result<()> {
        cpu_limits(cpus, maxcpus, (self.kvm.get_nr_vcpus(), self.kvm.get_max_vcpus()), warn)
    }

    fn create_vcpus(&self, config: VcpuConfig, events: Arc<dyn VcpuEvents>) -> Result<()> {
        self.create_all(config, events)
    }

    fn plug_vcpu(&self, index: u32) -> Result<()> {
        self.plug(index, true)
    }

    fn unplug_vcpu(&self, index: u32) {
        self.unplug(index);
    }

    fn vcpus(&self) -> Vec<VcpuInfo> {
        lock(&self.state).vcpus.iter().filter_map(|slot| Some(slot.live.as_ref()?.info)).collect()
    }

    fn registers(&self, cpu: u32) -> Option<Registers> {
        Some(self.snapshot(cpu)?.registers)
    }

    fn local_apic(&self, cpu: u32) -> Option<LocalApic> {
        self.snapshot(cpu)?.apic
    }

    fn chips(&self) -> Option<Chips> {
        let chips = chips::chips(&self.shared.vm);
        chips.inspect_err(|error| tracing::warn!(%error, "the interrupt controllers cannot be read")).ok()
    }

    fn inject_nmi(&self) -> Result<()> {
        for vcpu in self.vcpus() {
            self.shared.control.inject_nmi(vcpu.index as usize, self.kick());
        }
        Ok(())
    }

    fn set_boot(&self, boot: Option<BootState>) {
        *lock(&self.shared.boot) = boot;
    }

    fn set_device_window(&self, start: Option<u32>) {
        *lock(&self.shared.device_window) = start;
    }

    fn reset(&self) {
        let vm = &self.shared.vm;
        self.shared.exchange.clear();
        // Before the first run there is no PIT to reset.
        let pit = self.shared.pit.get().and_then(Option::as_ref);
        let result = self.chip_reset.restore(vm).and_then(|()| pit.map_or(Ok(()), |pit| vm.set_pit2(pit)));
        if let Err(error) = result {
            tracing::error!(%error, "cannot reset the kernel's interrupt controllers");
        }
        self.shared.control.reset();
    }

    fn make_ready(&self) {
        self.shared.first_run();
        self.shared.slots.get_ahead();
    }

    fn resume(&self) {
        self.shared.exchange.finish(&self.shared);
        if let Some(clock) = lock(&self.shared.clock).take()
            && let Err(error) = self.shared.vm.set_clock(&clock)
        {
            tracing::warn!(%error, "the guest's clock jumps");
        }
        trace::emit!(pliant_accel_run, 1);
        self.shared.control.resume();
    }

    fn pause(&self) {
        if self.shared.control.pause(self.kick()) {
            trace::emit!(pliant_accel_run, 0);
            let clock = self.shared.vm.get_clock();
            // Only the time goes back; flags and host times are the kernel's report.
            let clock = clock.map(|now| kvm_clock_data { clock: now.clock, ..Default::default() });
            *lock(&self.shared.clock) = clock.ok();
        }
    }

    fn begin_save(&self) {
        self.shared.exchange.begin(&self.shared);
    }

    fn saved(&self) -> Saved {
        let Some(MadeOf { config, .. }) = lock(&self.state).made_of.clone() else { return Saved::Nothing };
        let has = |name| cpu::feature(name).is_some_and(|feature| feature.is_in(&config.facts.words));
        if has("invtsc") && config.facts.tsc_frequency == 0 {
            return Saved::Blocked("State blocked by non-migratable CPU device (invtsc flag)".into());
        }
        if has("vmx") && !self.kvm.check_extension(Cap::NestedState) {
            return Saved::Blocked("Nested VMX virtualization does not support live migration yet".into());
        }
        let present: Vec<u32> = self.vcpus().iter().map(|vcpu| vcpu.index).collect();
        Saved::Sections(save::sections(&self.shared, &config, &present))
    }

    fn set_throttle(&self, percent: u8) {
        throttle::set(&self.shared, percent);
    }

    fn throttle(&self) -> u8 {
        self.shared.throttle.percent()
    }

    fn shutdown(&self) {
        self.shared.throttle.end();
        self.shared.control.shutdown(self.kick());
        let me = thread::current().id();
        let take = |slot: &mut Slot| slot.live.as_mut()?.thread.take();
        let threads: Vec<_> = lock(&self.state).vcpus.iter_mut().filter_map(take).collect();
        for thread in threads.into_iter().filter(|thread| thread.thread().id() != me) {
            if thread.join().is_err() {
                tracing::error!("a vCPU thread panicked");
            }
        }
    }

    fn irq(&self) -> Arc<dyn IrqChip> {
        Arc::<KvmIrqChip>::clone(&self.shared.chip)
    }

    fn omit_pit(&self) {
        self.shared.omit_pit.store(true, Ordering::Relaxed);
    }

    fn supported_cpu(&self) -> &Supported {
        &self.supported
    }

    fn statistics(&self, target: StatTarget) -> Result<Vec<(Stat, Vec<u64>)>> {
        let read = |file: &StatsFile| {
            let error = |error| Error::generic(format!("KVM's statistics: {}", qapi::strerror(&error)));
            let (stats, values) = file.read().map_err(error)?;
            Ok(stats.iter().cloned().zip(values).collect())
        };
        match target {
            StatTarget::Vm => self
                .stats
                .get_or_init(|| StatsFile::of(&*self.shared.vm))
                .as_ref()
                .map_or(Ok(Vec::new()), read),
            StatTarget::Vcpu(index) => {
                let file = {
                    let state = lock(&self.state);
                    let slot = state.vcpus.get(index as usize).filter(|slot| slot.live.is_some());
                    slot.and_then(|slot| slot.stats.clone())
                };
                file.map_or(Ok(Vec::new()), |file| read(&file))
            }
        }
    }

    fn tsc_frequency(&self) -> Option<u64> {
        self.shared.tsc_khz.get().map(|khz| u64::from(*khz) * 1000)
    }

    fn host_phys_bits(&self) -> Option<u32> {
        Some(cpuid::phys_bits(&self.cpuid))
    }

    fn processor_phys_bits(&self) -> Option<u32> {
        Some(features::host_phys_bits())
    }

    fn dirty_ring_size(&self) -> u32 {
        self.dirty_ring
    }

    fn dirty_pages(&self, cpu: u32) -> Option<u64> {
        self.shared.slots.ring_pages(cpu)
    }

    fn limit_dirty(&self, cpu: u32, limit: Option<u64>) {
        limit::set(&self.shared, cpu, limit);
    }

    fn pace_dirty(&self) {
        self.shared.slots.read_rings();
        for cpu in limit::limited(&self.shared) {
            let rest = limit::rest(&self.shared, cpu);
            if !rest.is_zero() {
                self.shared.control.rest_one(cpu as usize, rest);
                self.kick()(cpu as usize);
            }
        }
    }

    fn memory_slots(&self) -> Option<MemorySlots> {
        Some(self.shared.slots.memory_slots())
    }
}

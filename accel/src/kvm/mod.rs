//! The `kvm` accelerator: vCPUs run in the kernel, with the kernel's PIC, IOAPIC, LAPICs and PIT.
//!
//! Interface: Linux `Documentation/virt/kvm/api.rst`. One VM file, shared by:
//!
//! - `listener`: memory slots and ioeventfds follow the address spaces; `follow`: of a device whose memory is plugged in
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

mod boot;
mod chips;
mod cpuid;
mod features;
mod follow;
mod gate;
mod irqchip;
mod kick;
mod limit;
mod listener;
mod put_off;
mod registers;
mod ring;
mod save;
mod slots;
mod state;
mod stats;
mod throttle;
mod tsc;
mod vcpu;

pub(crate) use kick::thread_id;
pub(crate) use save::declared as declared_states;

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, OnceLock, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use kvm_bindings::{
    CpuId, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_CAP_X2APIC_API, KVM_DIRTY_LOG_INITIALLY_SET,
    KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, KVM_MAX_CPUID_ENTRIES, KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK,
    KVM_X2APIC_API_USE_32BIT_IDS, kvm_clock_data, kvm_enable_cap, kvm_pit_state2,
};
use kvm_ioctls::{Cap, Kvm, VmFd};
use memory::{AddressSpace, Memory};
use qapi::{Error, Result};
use vmstate::Saved;

use crate::control::{Control, Snapshot};
use crate::cpu::{self, Supported};
use crate::stats::{Stat, StatTarget};
use crate::{
    Accel, BootState, Chips, IrqChip, LocalApic, MemorySlots, Registers, VcpuConfig, VcpuEvents, VcpuInfo,
};
use irqchip::KvmIrqChip;
use listener::{DirtyLog, IoListener, SystemListener};
use state::{ChipState, Extent};
use stats::StatsFile;
use vcpu::Vcpu;

/// Page size of the architecture, bytes.
pub(crate) const PAGE_SIZE: u64 = 4096;
/// Three pages for the kernel's real-mode emulation on older Intel processors, then one for its identity map: just below
/// 4 GiB, under the 256 KiB of firmware, where no RAM is.
const TSS_ADDRESS: u64 = 0xfffb_d000;
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;
/// The APIC ID that means all of them where IDs have 8 bits.
const BROADCAST_ID: u32 = 255;
/// The version of the interface since Linux 2.6.22.
const API_VERSION: i32 = 12;

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
    /// What vCPU threads share with us.
    shared: Arc<Shared>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    vcpus: Vec<VcpuInfo>,
    threads: Vec<JoinHandle<()>>,
    /// Of each vCPU; made with it, as the thread takes the vCPU's file. `None` for a kernel without.
    stats: Vec<Option<Arc<StatsFile>>>,
    /// What they were made of.
    config: Option<Arc<VcpuConfig>>,
}

/// What vCPU threads need; they must not keep the accelerator alive.
pub(crate) struct Shared {
    pub(crate) control: Control,
    pub(crate) boot: Mutex<Option<BootState>>,
    /// [`Accel::set_device_window`].
    pub(crate) device_window: Mutex<Option<u32>>,
    pub(crate) spaces: OnceLock<Spaces>,
    vm: Arc<VmFd>,
    chip: Arc<KvmIrqChip>,
    slots: Arc<SystemListener>,
    gate: Arc<gate::Gate>,
    /// The PIT's reset state; empty until there is one.
    pit: OnceLock<Option<kvm_pit_state2>>,
    omit_pit: AtomicBool,
    first_run: Once,
    /// Ticks of the vCPUs' counters in a millisecond, once there are any.
    tsc_khz: OnceLock<u32>,
    /// What the kernel loads of a vCPU, once there are any.
    extent: OnceLock<Extent>,
    /// The guest's paravirtual clock when it was paused or loaded; it goes on from there.
    clock: Mutex<Option<kvm_clock_data>>,
    exchange: save::Exchange,
    throttle: throttle::Throttle,
    limits: limit::Limits,
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
    fn pit(&self) -> Option<&kvm_pit_state2> {
        if self.omits_pit() {
            return None;
        }
        let made = self.pit.get_or_init(|| {
            let made = state::create_pit(&self.vm);
            made.inspect_err(|error| tracing::error!(%error, "the guest has no PIT")).ok()
        });
        made.as_ref()
    }

    fn omits_pit(&self) -> bool {
        self.omit_pit.load(Ordering::Relaxed)
    }
}

/// Where exits go.
pub(crate) struct Spaces {
    pub(crate) system: Arc<AddressSpace>,
    pub(crate) io: Arc<AddressSpace>,
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
    /// Opens `/dev/kvm` and creates a VM. `options` are those of `-accel kvm,...`: `kernel-irqchip=on`, `dirty-ring-size=`.
    ///
    /// # Errors
    /// QEMU's messages, one a line.
    pub fn open(options: &[(String, String)]) -> Result<Arc<Self>> {
        Self::open_path("/dev/kvm", options)
    }

    /// [`KvmAccel::open`] with another device file.
    ///
    /// # Errors
    /// As [`KvmAccel::open`].
    pub fn open_path(path: impl AsRef<Path>, options: &[(String, String)]) -> Result<Arc<Self>> {
        let mut ring = 0;
        for (key, value) in options {
            match key.as_str() {
                "dirty-ring-size" => ring = ring::parse(value)?,
                _ => check_option(key, value)?,
            }
        }
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).map_err(|error| {
            init_error(&format!("Could not access KVM kernel module: {}", qapi::strerror(&error)), &error)
        })?;
        let kvm = kick::kvm_from_file(file);
        let version = kvm.get_api_version();
        if version != API_VERSION {
            let error = match version {
                ..0 => io::Error::last_os_error(),
                _ => io::Error::from_raw_os_error(libc::EINVAL),
            };
            let what =
                if version < API_VERSION { "kvm version too old" } else { "kvm version not supported" };
            return Err(init_error(what, &error));
        }
        let vm = create_vm(&kvm).map_err(|error| init_error("", &error))?;
        let ring = if ring::enable(&vm, ring)? { ring } else { 0 };
        Self::create(kvm, vm, ring).map_err(|error| init_error("", &error))
    }

    fn create(kvm: Kvm, vm: Arc<VmFd>, ring: u32) -> io::Result<Arc<Self>> {
        vm.set_identity_map_address(IDENTITY_MAP_ADDRESS).map_err(os_error)?;
        vm.set_tss_address(TSS_ADDRESS as usize).map_err(os_error)?;
        vm.create_irq_chip().map_err(os_error)?;
        save::exact_events(&vm);
        let chip_reset = ChipState::capture(&vm).map_err(os_error)?;
        let routes = usize::try_from(vm.check_extension_int(Cap::IrqRouting)).unwrap_or(0);
        let slots = u32::try_from(kvm.get_nr_memslots()).unwrap_or(32);
        let mut cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(os_error)?;
        cpuid::complete(&mut cpuid, kvm.check_extension(Cap::TscDeadlineTimer), features::host_leaf_7());
        let gate = Arc::<gate::Gate>::default();
        let log = match ring {
            0 if manual_dirty_log(&vm) => DirtyLog::Manual,
            0 => DirtyLog::Clearing,
            _ => DirtyLog::Ring,
        };
        Ok(Arc::new(Self {
            chip_reset,
            supported: features::supported(&kvm, &cpuid),
            cpuid,
            stats: OnceLock::new(),
            io_listener: Arc::new(IoListener::new(Arc::clone(&vm))),
            shared: Arc::new(Shared {
                control: Control::new(),
                boot: Mutex::default(),
                device_window: Mutex::default(),
                spaces: OnceLock::new(),
                chip: KvmIrqChip::new(Arc::clone(&vm), routes),
                slots: SystemListener::new(Arc::clone(&vm), Arc::clone(&gate), slots, log),
                gate,
                pit: OnceLock::new(),
                omit_pit: AtomicBool::new(false),
                first_run: Once::new(),
                tsc_khz: OnceLock::new(),
                extent: OnceLock::new(),
                clock: Mutex::default(),
                exchange: save::Exchange::default(),
                throttle: throttle::Throttle::default(),
                limits: limit::Limits::default(),
                vm,
            }),
            state: Mutex::default(),
            dirty_ring: ring,
            kvm,
        }))
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> KvmStats {
        KvmStats {
            slot_changes: self.shared.slots.slot_changes(),
            routing_changes: self.shared.chip.routing_changes(),
        }
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

    fn snapshot(&self, cpu: u32) -> Option<Snapshot> {
        self.shared.control.snapshot(usize::try_from(cpu).ok()?, self.kick())
    }

    fn kick(&self) -> impl Fn(usize) + '_ {
        |cpu| {
            if let Some(thread) = lock(&self.state).threads.get(cpu) {
                kick::kick(thread);
            }
        }
    }
}

fn create_vm(kvm: &Kvm) -> io::Result<Arc<VmFd>> {
    loop {
        match kvm.create_vm() {
            Ok(vm) => return Ok(Arc::new(vm)),
            // A signal arrived while the kernel set the VM up.
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => return Err(os_error(error)),
        }
    }
}

/// Has the dirty log's pages watched again only when asked for, if the kernel can. Gives whether it does.
fn manual_dirty_log(vm: &VmFd) -> bool {
    let known = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;
    let there = vm.check_extension_raw(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.into());
    let flags = u32::try_from(there).unwrap_or(0) & known;
    if flags & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE == 0 {
        return false;
    }
    let mut cap = kvm_enable_cap { cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, ..kvm_enable_cap::default() };
    cap.args[0] = flags.into();
    vm.enable_cap(&cap).inspect_err(|error| tracing::warn!(%error, "the dirty log clears itself")).is_ok()
}

fn too_many(what: &str, count: usize, limit: &str, max: usize) -> Error {
    let text = "cpus supported by KVM";
    Error::generic(format!("Number of {what} cpus requested ({count}) exceeds the {limit} {text} ({max})"))
}

/// What [`Accel::check_cpus`] does where `recommended` are and `max` can be had.
fn cpu_limits(
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

fn check_option(key: &str, value: &str) -> Result<()> {
    match (key, value) {
        ("kernel-irqchip", "on") => Ok(()),
        ("kernel-irqchip", "off" | "split") => {
            Err(Error::generic(format!("kernel-irqchip={value} is not supported")))
        }
        ("kernel-irqchip", _) => {
            Err(Error::generic(format!("Parameter 'kernel-irqchip' does not accept value '{value}'")))
        }
        _ => Err(Error::generic(format!("Property 'kvm-accel.{key}' not found"))),
    }
}

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
                self.create_vcpu(index, &config, &extent, &events).map_err(|error| {
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

    fn vcpus(&self) -> Vec<VcpuInfo> {
        lock(&self.state).vcpus.clone()
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
        let count = lock(&self.state).vcpus.len();
        (0..count).for_each(|cpu| self.shared.control.inject_nmi(cpu, self.kick()));
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

    fn saved(&self) -> Saved {
        let Some(config) = lock(&self.state).config.clone() else { return Saved::Nothing };
        let has = |name| cpu::feature(name).is_some_and(|feature| feature.is_in(&config.facts.words));
        if has("invtsc") && config.facts.tsc_frequency == 0 {
            return Saved::Blocked("State blocked by non-migratable CPU device (invtsc flag)".into());
        }
        if has("vmx") && !self.kvm.check_extension(Cap::NestedState) {
            return Saved::Blocked("Nested VMX virtualization does not support live migration yet".into());
        }
        Saved::Sections(save::sections(&self.shared, &config))
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
        let threads = std::mem::take(&mut lock(&self.state).threads);
        let me = thread::current().id();
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
                let file = lock(&self.state).stats.get(index as usize).cloned().flatten();
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

impl Drop for KvmAccel {
    fn drop(&mut self) {
        self.shutdown();
    }
}

#[cfg(test)]
mod tests;

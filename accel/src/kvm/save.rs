//! What a migration takes along of the kernel's half of a machine: the paravirtual clock, each vCPU, PIC pair, IOAPIC and PIT.
//!
//! Each vCPU's own thread saves and loads it, all at the same time ([`Exchange`]): all threads put down what they have when the machine
//! is about to be saved, and take over what arrived as soon as that of the last of them was read. Devices are saved and read meanwhile.
//! Interrupt controllers come behind the vCPUs, since what waits in them goes on to local APICs when it is loaded.
//!
//! What the guest was told of its processor is saved too and must be the same here: see [`processor`].

mod chips;
mod cpu;
mod nested;
mod processor;

use std::sync::{Arc, Mutex};

use kvm_bindings::{
    KVM_CAP_EXCEPTION_PAYLOAD, KVM_CAP_X86_TRIPLE_FAULT_EVENT, kvm_clock_data, kvm_enable_cap,
};
use kvm_ioctls::{Cap, VmFd};
use vmstate::{LoadError, Priority, Section, StateShape, VmState as _, vmstate};

use super::state::{LiveState, ResetState};
use super::tsc::InStep;
use super::{Shared, lock, os_error};
use crate::VcpuConfig;
pub(super) use cpu::CpuState;

type KvmResult<T> = Result<T, kvm_ioctls::Error>;

vmstate! {
    /// Nanoseconds of the guest's paravirtual clock when it was paused.
    pub(super) struct ClockState: "kvmclock", version 1 {
        clock: u64,
    }
}

/// Where vCPU threads put what they have, and find what they are to have.
#[derive(Default)]
pub(crate) struct Exchange {
    cells: Mutex<Cells>,
}

#[derive(Default)]
struct Cells {
    /// Of this time.
    step: Arc<InStep>,
    cpus: Vec<Cell>,
}

impl Cells {
    /// What was saved is out of date, also what a vCPU has yet to put down.
    fn forget(&mut self) {
        self.step = Arc::default();
        self.cpus.iter_mut().for_each(|cell| cell.saved = None);
    }
}

#[derive(Default)]
struct Cell {
    /// Whether there is such a vCPU.
    present: bool,
    /// Put down and not taken yet.
    saved: Option<KvmResult<LiveState>>,
    /// Waits to be taken over.
    arrived: Option<Arc<LiveState>>,
    /// An MSR that the kernel refused and its value, if there was one.
    loaded: Option<KvmResult<Option<(u32, u64)>>>,
    /// Ticks of its counter in a millisecond, if they were loaded.
    tsc_khz: Option<u32>,
}

impl Exchange {
    /// Makes room for `count` vCPUs that are not there yet.
    pub(super) fn reserve(&self, count: usize) {
        lock(&self.cells).cpus.resize_with(count, Cell::default);
    }

    /// Before a vCPU's thread starts. Gives the frequency of its counter, if those of the others were loaded.
    pub(super) fn enter(&self, cpu: usize) -> Option<u32> {
        let mut cells = lock(&self.cells);
        let tsc_khz = cells.cpus.iter().find_map(|cell| cell.tsc_khz.filter(|_| cell.present));
        cells.cpus[cpu] = Cell { present: true, tsc_khz, ..Cell::default() };
        tsc_khz
    }

    /// After a vCPU's thread ended.
    pub(super) fn leave(&self, cpu: usize) {
        lock(&self.cells).cpus[cpu] = Cell::default();
    }

    /// On the vCPU's thread. Its counter goes on at `tsc_khz`, unless it was loaded with another frequency.
    pub(crate) fn save(
        &self,
        cpu: usize,
        fd: &kvm_ioctls::VcpuFd,
        reset: &ResetState,
        tsc_khz: u32,
        broken: bool,
    ) {
        let (step, tsc_khz) = {
            let cells = lock(&self.cells);
            (Arc::clone(&cells.step), cells.cpus[cpu].tsc_khz.unwrap_or(tsc_khz))
        };
        let state = LiveState::capture(fd, reset.extent(), &step, tsc_khz, broken);
        let mut cells = lock(&self.cells);
        if Arc::ptr_eq(&cells.step, &step) {
            cells.cpus[cpu].saved = Some(state);
        }
    }

    /// On the vCPU's thread; says whether the vCPU is broken.
    pub(crate) fn load(&self, cpu: usize, fd: &kvm_ioctls::VcpuFd, reset: &ResetState) -> bool {
        let (step, state) = {
            let mut cells = lock(&self.cells);
            (Arc::clone(&cells.step), cells.cpus[cpu].arrived.take())
        };
        let Some(state) = state else { return false };
        let result = restore(&state, fd, reset, &step);
        let broken = state.broken || !matches!(result, Ok(None));
        let mut cells = lock(&self.cells);
        if state.tsc_khz != 0 {
            cells.cpus[cpu].tsc_khz = Some(state.tsc_khz);
        }
        if Arc::ptr_eq(&cells.step, &step) {
            cells.cpus[cpu].loaded = Some(result);
        }
        broken
    }

    /// Has all vCPUs put down what they have; does not wait for it.
    pub(super) fn begin(&self, shared: &Shared) {
        lock(&self.cells).forget();
        shared.control.begin_save();
    }

    /// The state of one vCPU; all are saved unless they were told to be before.
    fn saved(&self, shared: &Shared, cpu: usize) -> Option<KvmResult<LiveState>> {
        let take = || {
            shared.control.await_done();
            lock(&self.cells).cpus.get_mut(cpu)?.saved.take()
        };
        take().or_else(|| {
            self.begin(shared);
            take()
        })
    }

    /// Takes what arrived for one vCPU; when it is the last, all begin to load it.
    fn arrive(&self, shared: &Shared, cpu: usize, state: Arc<LiveState>) -> vmstate::Result<()> {
        let complete = {
            let mut cells = lock(&self.cells);
            let cell = cells.cpus.get_mut(cpu).filter(|cell| cell.present);
            let cell = cell.ok_or_else(|| LoadError::invalid("there is no such CPU"))?;
            (cell.arrived, cell.loaded) = (Some(state), None);
            cells.cpus.iter().filter(|cell| cell.present).all(|cell| cell.arrived.is_some())
        };
        if complete {
            self.begin_load(shared);
        }
        Ok(())
    }

    /// Waits until what [arrived](Self::arrive) for one vCPU is loaded, unless others are missing. A reset that came in between is undone.
    fn take_over(&self, shared: &Shared, cpu: usize, state: &Arc<LiveState>) -> vmstate::Result<()> {
        shared.control.await_done();
        let waits = |cell: &Cell| cell.arrived.as_ref().is_some_and(|arrived| Arc::ptr_eq(arrived, state));
        let is_here = |cell: &Cell| cell.loaded.is_some() || waits(cell);
        if !lock(&self.cells).cpus.get(cpu).is_some_and(is_here) {
            self.arrive(shared, cpu, Arc::clone(state))?;
            shared.control.await_done();
        }
        self.check()
    }

    /// Before vCPUs run: what arrived is loaded, though others are missing, which stay in reset state.
    pub(super) fn finish(&self, shared: &Shared) {
        lock(&self.cells).forget();
        let waits = lock(&self.cells).cpus.iter().any(|cell| cell.arrived.is_some());
        if waits {
            self.begin_load(shared);
            shared.control.await_done();
            if let Err(error) = self.check() {
                tracing::error!(%error, "a vCPU cannot go on");
            }
        }
    }

    /// What waits is out of date.
    pub(super) fn clear(&self) {
        let mut cells = lock(&self.cells);
        cells.forget();
        cells.cpus.iter_mut().for_each(|cell| {
            *cell = Cell { present: cell.present, tsc_khz: cell.tsc_khz, ..Cell::default() };
        });
    }

    fn begin_load(&self, shared: &Shared) {
        lock(&self.cells).step = Arc::default();
        // Registers name guest memory that the kernel writes to, and are refused without.
        shared.first_run();
        shared.control.begin_load();
    }

    /// Whether all is as it arrived that was loaded.
    fn check(&self) -> vmstate::Result<()> {
        let cells = lock(&self.cells);
        cells.cpus.iter().filter_map(|cell| cell.loaded.as_ref()).try_for_each(|result| match result {
            Ok(None) => Ok(()),
            Ok(Some((index, value))) => {
                Err(LoadError::invalid(format!("error: failed to set MSR {index:#x} to {value:#x}")))
            }
            Err(error) => {
                let text = qapi::strerror(&os_error(*error));
                Err(LoadError::invalid(format!("Failed to put registers after load: {text}")))
            }
        })
    }
}

/// Loads one vCPU. Gives an MSR that is not as saved, if there is one.
fn restore(
    state: &LiveState,
    fd: &kvm_ioctls::VcpuFd,
    reset: &ResetState,
    step: &InStep,
) -> KvmResult<Option<(u32, u64)>> {
    let refused = state.restore(fd, step)?;
    // A register that has the value anyhow need not be set: it may be read-only.
    let differs = |msr: &&kvm_bindings::kvm_msr_entry| reset.msr(msr.index).unwrap_or(0) != msr.data;
    Ok(refused.iter().find(differs).map(|msr| (msr.index, msr.data)))
}

/// Has the kernel tell what a vCPU has to deliver as it is, not half delivered. Older kernels cannot.
pub(super) fn exact_events(vm: &VmFd) {
    for cap in [KVM_CAP_EXCEPTION_PAYLOAD, KVM_CAP_X86_TRIPLE_FAULT_EVENT] {
        let mut enable = kvm_enable_cap { cap, ..kvm_enable_cap::default() };
        enable.args[0] = 1;
        if let Err(error) = vm.enable_cap(&enable) {
            tracing::debug!(%error, cap, "events are told as older kernels do");
        }
    }
}

/// What [`sections`] consist of.
pub(crate) fn declared() -> Vec<StateShape> {
    let mut all = vec![ClockState::declared(), CpuState::declared()];
    all.extend(chips::declared());
    all
}

/// All sections, in the order in which they are to be loaded: of the vCPUs that are `present`, by index.
pub(super) fn sections(shared: &Arc<Shared>, config: &Arc<VcpuConfig>, present: &[u32]) -> Vec<Section> {
    let mut all = vec![clock(shared)];
    all.extend(present.iter().map(|cpu| vcpu(shared, config, *cpu as usize, present.len())));
    all.extend(chips::sections(shared));
    all.into_iter().map(|section| section.at(Priority::Processor)).collect()
}

fn clock(shared: &Arc<Shared>) -> Section {
    let (from, to) = (Arc::clone(shared), Arc::clone(shared));
    Section::new(
        move || {
            let paused = *lock(&from.clock);
            let now = || from.vm.get_clock().inspect_err(|error| tracing::warn!(%error, "no clock")).ok();
            ClockState { clock: paused.or_else(now).map_or(0, |data| data.clock) }
        },
        move |ClockState { clock }| {
            *lock(&to.clock) = Some(kvm_clock_data { clock, ..Default::default() });
            Ok(())
        },
    )
}

/// That of vCPU `cpu`, one of `count`.
fn vcpu(shared: &Arc<Shared>, config: &Arc<VcpuConfig>, cpu: usize, count: usize) -> Section {
    let (from, to) = (Arc::clone(shared), Arc::clone(shared));
    let (told, known) = (Arc::clone(config), Arc::clone(config));
    Section::begun(
        move || {
            let live = match from.exchange.saved(&from, cpu) {
                Some(Ok(live)) => Some(live),
                Some(Err(error)) => {
                    tracing::error!(%error, cpu, "a vCPU's state cannot be read");
                    None
                }
                None => None,
            };
            CpuState::new(processor::told(&told, cpu, count), live.as_ref())
        },
        // Whatever else may fail to arrive: until all has, nobody looks at a vCPU.
        move |state: CpuState| {
            processor::check(&state.processor, &known, cpu, count)?;
            let extent = to.extent.get().cloned().unwrap_or_default();
            let mut live = state.live(&extent)?;
            live.tsc_khz = frequency_to_set(&to, live.tsc_khz, known.facts.tsc_frequency, cpu == 0)?;
            let (to, live) = (Arc::clone(&to), Arc::new(live));
            to.exchange.arrive(&to, cpu, Arc::clone(&live))?;
            Ok(Box::new(move || to.exchange.take_over(&to, cpu, &live)))
        },
    )
}

/// What counters have to be set to that went on at `khz`, and 0 if they do so anyhow, or cannot, of which a `first` one is told.
fn frequency_to_set(shared: &Shared, khz: u32, asked: u64, first: bool) -> vmstate::Result<u32> {
    let own = shared.tsc_khz.get().copied().filter(|own| khz != 0 && *own != khz);
    let Some(own) = own else { return Ok(0) };
    if asked != 0 {
        let text = "Mismatch between user-specified TSC frequency and migrated TSC frequency";
        return Err(LoadError::invalid(text));
    }
    if shared.vm.check_extension(Cap::TscControl) {
        return Ok(khz);
    }
    if first {
        tracing::warn!(
            "TSC frequency mismatch between VM ({khz} kHz) and host ({own} kHz), and TSC scaling unavailable"
        );
    }
    Ok(0)
}

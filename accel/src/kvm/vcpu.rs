//! A vCPU thread: enter the guest, carry out what it asks for, stop when told.
//!
//! Accesses go to the address spaces with no lock held. A string instruction on a port arrives as several elements of one
//! exit; each is an access of its own.

use std::io;
use std::sync::Arc;

use kvm_bindings::{
    KVM_EXIT_DIRTY_RING_FULL, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR,
    KVM_EXIT_IO, KVM_EXIT_IOAPIC_EOI, KVM_EXIT_IRQ_WINDOW_OPEN, KVM_EXIT_MEMORY_FAULT, KVM_EXIT_MMIO,
    KVM_EXIT_SHUTDOWN, KVM_EXIT_SYSTEM_EVENT, KVM_EXIT_UNKNOWN, KVM_INTERNAL_ERROR_EMULATION,
    KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN,
};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::follow::{Resolution, bad_address};
use super::gate::Passage;
use super::kick::Runner;
use super::state::{Extent, ResetState};
use super::{Shared, boot, chips, limit, lock, os_error, registers};
use crate::VcpuEvents;
use crate::control::{Snapshot, Step, StopFlag};

/// A vCPU that was created and has no thread: not yet, or not any more. The kernel keeps it as long as the VM, since what others send it may be
/// on its way.
#[doc(alias = "KVMParkedVcpu")]
pub(crate) struct Vcpu {
    index: u32,
    fd: VcpuFd,
    shared: Arc<Shared>,
    events: Arc<dyn VcpuEvents>,
    reset: ResetState,
}

/// What `KVM_RUN` returned with, without borrowing the run page.
enum Exit {
    /// Carried out; the kernel completes it at the next entry.
    Access,
    Port,
    /// A signal, or nothing of interest.
    Interrupted,
    TripleFault,
    System(u32),
    Internal,
    /// Memory of a slot that the host mapping does not have.
    Fault,
    /// Its dirty ring is nearly full.
    RingFull,
    Failed(String),
}

/// Faults in a row after which a vCPU that makes no progress is given up: others may plug and unplug at the same time.
const MAX_FAULTS: u32 = 16;

impl Vcpu {
    pub(crate) fn new(
        index: u32,
        fd: VcpuFd,
        shared: Arc<Shared>,
        events: Arc<dyn VcpuEvents>,
        extent: &Extent,
    ) -> io::Result<Self> {
        let reset = ResetState::capture(&fd, extent).map_err(os_error)?;
        shared.extent.get_or_init(|| reset.extent().clone());
        Ok(Self { index, fd, shared, events, reset })
    }

    /// Has its counter go on at a frequency.
    pub(super) fn set_tsc_khz(&self, khz: u32) -> io::Result<()> {
        self.fd.set_tsc_khz(khz).map_err(os_error)
    }

    /// Body of the vCPU's thread; gives the vCPU back when that ends. `stop` is what [`crate::control::Control::enter`] gave.
    pub(crate) fn thread(self, stop: Arc<StopFlag>) -> Self {
        let Self { index, fd, shared, events, reset } = self;
        let cpu = index as usize;
        trace::set_current_cpu(index);
        let control = Arc::clone(&shared);
        let _gone = control.control.gone_on_drop(cpu);
        let runner = Runner::bind(fd);
        let passage = control.gate.passage();
        let _forgotten = ForgetOnDrop(&control, &passage);
        let mut running = Running {
            index,
            cpu,
            stop,
            runner,
            shared,
            events,
            passage: Arc::clone(&passage),
            pending: false,
            faults: 0,
            put_offs: 0,
        };
        loop {
            match running.shared.control.next(cpu) {
                Step::Run => {
                    running.shared.first_run();
                    // Tells a guest with kvmclock that it was stopped; others have nothing to be told.
                    let _ = running.runner.fd.kvmclock_ctrl();
                    running.run();
                }
                Step::Reset => {
                    running.reset(&reset);
                    running.shared.control.reset_done(cpu);
                }
                Step::Save => {
                    let shared = &running.shared;
                    let (tsc_khz, broken) = (shared.tsc_khz.get().copied(), shared.control.is_broken(cpu));
                    shared.exchange.save(cpu, &running.runner.fd, &reset, tsc_khz.unwrap_or(0), broken);
                    shared.control.save_done(cpu);
                }
                Step::Load => {
                    let broken = running.shared.exchange.load(cpu, &running.runner.fd, &reset);
                    running.shared.control.load_done(cpu, broken);
                }
                Step::Report => {
                    let result = snapshot(&running.runner.fd);
                    let found =
                        result.inspect_err(|error| tracing::warn!(%error, cpu = index, "no registers"));
                    running.shared.control.report(cpu, found.ok());
                }
                Step::Nmi => {
                    if let Err(error) = chips::nmi(&running.runner.fd) {
                        tracing::error!(
                            "KVM: injection failed, NMI lost ({})",
                            qapi::strerror(&os_error(error))
                        );
                    }
                }
                Step::Leave => {
                    // Nothing that is sent to all is for it any more.
                    if let Err(error) = reset.restore(&running.runner.fd) {
                        let error = os_error(error);
                        tracing::warn!(%error, cpu = index, "cannot reset a vCPU that is taken away");
                    }
                    break;
                }
                Step::Exit => break,
            }
        }
        let Running { runner, shared, events, .. } = running;
        Self { index, fd: runner.unbind(), shared, events, reset }
    }
}

fn snapshot(fd: &VcpuFd) -> Result<Snapshot, kvm_ioctls::Error> {
    Ok(Snapshot { registers: registers::read(fd)?, apic: chips::local_apic(fd).ok() })
}

/// The gate must not wait for a thread that is gone.
struct ForgetOnDrop<'a>(&'a Shared, &'a Arc<Passage>);

impl Drop for ForgetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.gate.forget(self.1);
    }
}

struct Running {
    index: u32,
    /// The same, as its number in [`crate::control::Control`].
    cpu: usize,
    stop: Arc<StopFlag>,
    runner: Runner,
    shared: Arc<Shared>,
    events: Arc<dyn VcpuEvents>,
    passage: Arc<Passage>,
    /// An access was carried out and the kernel has not completed the instruction yet.
    pending: bool,
    /// Faults in a row.
    faults: u32,
    /// [`SystemListener::put_offs`](super::listener::SystemListener::put_offs) before the last `KVM_RUN`.
    put_offs: u64,
}

/// The kernel's number of an exit; 0 (`KVM_EXIT_UNKNOWN`) of those that end a vCPU anyhow.
fn reason(exit: &VcpuExit<'_>) -> u32 {
    match exit {
        VcpuExit::IoIn(..) | VcpuExit::IoOut(..) => KVM_EXIT_IO,
        VcpuExit::MmioRead(..) | VcpuExit::MmioWrite(..) => KVM_EXIT_MMIO,
        VcpuExit::Hlt => KVM_EXIT_HLT,
        VcpuExit::IrqWindowOpen => KVM_EXIT_IRQ_WINDOW_OPEN,
        VcpuExit::Shutdown => KVM_EXIT_SHUTDOWN,
        VcpuExit::FailEntry(..) => KVM_EXIT_FAIL_ENTRY,
        VcpuExit::Intr => KVM_EXIT_INTR,
        VcpuExit::InternalError => KVM_EXIT_INTERNAL_ERROR,
        VcpuExit::SystemEvent(..) => KVM_EXIT_SYSTEM_EVENT,
        VcpuExit::IoapicEoi(_) => KVM_EXIT_IOAPIC_EOI,
        VcpuExit::MemoryFault { .. } => KVM_EXIT_MEMORY_FAULT,
        VcpuExit::Unsupported(KVM_EXIT_DIRTY_RING_FULL) => KVM_EXIT_DIRTY_RING_FULL,
        _ => KVM_EXIT_UNKNOWN,
    }
}

impl Running {
    fn reset(&mut self, state: &ResetState) {
        let state = state.restore(&self.runner.fd);
        let result = state.and_then(|()| self.boot());
        if let Err(error) = result {
            self.fail(&format!("cannot load the reset state: {}", os_error(error)));
        }
    }

    /// What firmware would have done, if a kernel is entered without. The built-in guest sets its processor up itself.
    fn boot(&self) -> Result<(), kvm_ioctls::Error> {
        let Some(state) = *lock(&self.shared.boot) else { return Ok(()) };
        let fd = &self.runner.fd;
        let (first, window) = (self.index == 0, *lock(&self.shared.device_window));
        if first || window.is_some() {
            boot::local_interrupts(fd, first && window.is_some())?;
        }
        if let Some(window) = window {
            boot::set_memory_types(fd, window)?;
        }
        if first { boot::enter(fd, &state) } else { Ok(()) }
    }

    /// Runs the guest until the stop flag is set.
    fn run(&mut self) {
        loop {
            if self.stop.is_set() {
                if !self.pending {
                    return;
                }
                self.runner.request_exit();
            }
            let exit = self.enter();
            if !matches!(exit, Exit::Fault) {
                self.faults = 0;
            }
            match exit {
                Exit::Access => self.pending = true,
                Exit::Port => {
                    self.port();
                    self.pending = true;
                }
                Exit::Interrupted => {
                    self.pending = false;
                    self.runner.forget_kicks();
                }
                Exit::TripleFault => {
                    self.shared.control.break_down(self.cpu);
                    self.pending = false;
                    self.events.triple_fault(self.index);
                }
                Exit::System(event) => self.system_event(event),
                Exit::Internal => {
                    let (suberror, data) = self.runner.internal_error();
                    if suberror == KVM_INTERNAL_ERROR_EMULATION
                        && self.shared.slots.retry_emulation(self.put_offs)
                    {
                        self.pending = false;
                        continue;
                    }
                    let mut text = format!("KVM internal error. Suberror: {suberror}");
                    for (index, value) in data.iter().enumerate() {
                        text.push_str(&format!("\nextra data[{index}]: 0x{value:016x}"));
                    }
                    self.fail(&text);
                }
                Exit::Fault => self.fault(),
                Exit::RingFull => {
                    self.pending = false;
                    self.shared.slots.ring_is_full(self.index);
                    let rest = limit::rest(&self.shared, self.index);
                    if !rest.is_zero() {
                        self.shared.control.rest_one(self.cpu, rest);
                    }
                }
                Exit::Failed(text) => self.fail(&text),
            }
        }
    }

    /// Somebody touched memory that is unplugged and protected: has the next attempt leave the guest as an ordinary access,
    /// which tells the address.
    fn fault(&mut self) {
        self.pending = false;
        self.faults += 1;
        let resolution = self.shared.slots.resolve_fault();
        trace::emit!(pliant_kvm_fault, self.index, resolution);
        match resolution {
            Resolution::Changed => {}
            // Another vCPU may have been first, or the block was plugged meanwhile.
            Resolution::Nothing if self.faults < MAX_FAULTS => {}
            Resolution::Nothing => self.fail(&format!("error: kvm run failed {}", bad_address())),
            Resolution::TooMany => self.fail(
                "unplugged memory was accessed, and there are too few memory slots to find out where: kvm run failed",
            ),
        }
    }

    /// One `KVM_RUN`; memory-mapped accesses are carried out here, where their bytes are.
    fn enter(&mut self) -> Exit {
        let Some(spaces) = self.shared.spaces.get() else {
            return Exit::Failed("kvm is not attached".into());
        };
        self.put_offs = self.shared.slots.put_offs();
        self.shared.gate.enter(&self.passage);
        let exit = self.runner.fd.run();
        self.shared.gate.leave(&self.passage);
        if let Ok(exit) = &exit {
            trace::emit!(kvm_run_exit, self.index, reason(exit));
        }
        match exit {
            Ok(VcpuExit::MmioRead(addr, data)) => {
                // What nothing answers is read as the address space fills it in.
                if !spaces.system.read(addr, data).is_ok() {
                    self.events.failed_access(self.index, addr, false);
                }
                Exit::Access
            }
            Ok(VcpuExit::MmioWrite(addr, data)) => {
                if !spaces.system.write(addr, data).is_ok() {
                    self.events.failed_access(self.index, addr, true);
                }
                Exit::Access
            }
            Ok(VcpuExit::MemoryFault { .. }) => Exit::Fault,
            Ok(VcpuExit::Unsupported(KVM_EXIT_DIRTY_RING_FULL)) => Exit::RingFull,
            Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => Exit::Port,
            Ok(VcpuExit::Shutdown) => Exit::TripleFault,
            Ok(VcpuExit::SystemEvent(event, _)) => Exit::System(event),
            Ok(VcpuExit::InternalError) => Exit::Internal,
            Ok(VcpuExit::FailEntry(reason, cpu)) => {
                Exit::Failed(format!("KVM: entry failed, hardware error 0x{reason:x} (host processor {cpu})"))
            }
            // The in-kernel LAPIC waits for interrupts itself; should a halt get here, entering again waits.
            Ok(VcpuExit::Hlt | VcpuExit::IrqWindowOpen | VcpuExit::Intr | VcpuExit::IoapicEoi(_)) => {
                Exit::Interrupted
            }
            Ok(other) => Exit::Failed(format!("KVM: unknown exit, hardware reason {other:?}")),
            // EAGAIN: an application processor was woken and may run now.
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => Exit::Interrupted,
            Err(error) if error.errno() == libc::EFAULT => Exit::Fault,
            Err(error) => Exit::Failed(format!("error: kvm run failed {}", os_error(error))),
        }
    }

    fn port(&mut self) {
        let Some(spaces) = self.shared.spaces.get() else { return };
        let (port, size, is_read, data) = self.runner.port_access();
        for element in data.chunks_exact_mut(usize::from(size.max(1))) {
            let _ = if is_read {
                spaces.io.read(u64::from(port), element)
            } else {
                spaces.io.write(u64::from(port), element)
            };
        }
    }

    fn system_event(&mut self, event: u32) {
        trace::emit!(kvm_run_exit_system_event, self.index, event);
        match event {
            KVM_SYSTEM_EVENT_SHUTDOWN => self.events.shutdown(self.index),
            KVM_SYSTEM_EVENT_RESET => self.events.reset(self.index),
            KVM_SYSTEM_EVENT_CRASH => self.fail("the guest reported a crash"),
            other => tracing::warn!(event = other, "unknown system event"),
        }
    }

    /// Stops until the next reset.
    fn fail(&mut self, text: &str) {
        self.pending = false;
        self.shared.control.break_down(self.cpu);
        self.events.internal_error(self.index, text);
    }
}

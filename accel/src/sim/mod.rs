//! The `sim` accelerator: the built-in guest's program, as host code, on a host thread.
//!
//! Nothing is emulated: `guest::program` is compiled into this program and reaches the machine through the same
//! address spaces as a vCPU would. It stands in where there is no KVM. One vCPU runs; further ones exist, parked.
//! Interrupts carry no vector to the program: any of them ends its idle wait.
//!
//! Left out: running anything but the built-in guest ([`crate::BootState`] must point at start information; without one the vCPU
//! stays halted), and time that stands still while paused (`Bus::now_ns` is host time).

mod bus;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use guest::StartInfo;
use guest::program::{Program, Turn};
use memory::{AddressSpace, Memory};
use qapi::{Error, Result};
use vmstate::Saved;

use crate::control::{Control, Step, StopFlag};
use crate::cpu::Supported;
use crate::irq::{Interrupt, UserIrq, UserIrqChip};
use crate::qtest::Facts;
use crate::{Accel, BootState, IrqChip, VcpuConfig, VcpuEvents, VcpuInfo};
use bus::SimBus;

/// The longest idle wait; the program polls its serial line that often.
const IDLE: Duration = Duration::from_millis(50);

/// See the module documentation.
pub struct SimAccel {
    chip: Arc<UserIrqChip>,
    shared: Arc<Shared>,
    state: Mutex<State>,
    cpu: Supported,
}

#[derive(Default)]
struct State {
    vcpus: Facts,
    thread: Option<JoinHandle<()>>,
}

/// What the vCPU thread shares with the accelerator.
struct Shared {
    control: Control,
    boot: Mutex<Option<BootState>>,
    spaces: OnceLock<Spaces>,
    wake: Wake,
}

struct Spaces {
    system: Arc<AddressSpace>,
    io: Arc<AddressSpace>,
}

/// Ends an idle wait, also one that has not begun.
#[derive(Default)]
struct Wake {
    pending: Mutex<bool>,
    changed: Condvar,
}

impl Wake {
    fn raise(&self) {
        *self.pending.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    fn wait(&self) {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut pending, _) = self
            .changed
            .wait_timeout_while(pending, IDLE, |pending| !*pending)
            .unwrap_or_else(PoisonError::into_inner);
        *pending = false;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimAccel {
    /// Not attached, no vCPUs.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let shared = Arc::new(Shared {
            control: Control::new(),
            boot: Mutex::default(),
            spaces: OnceLock::new(),
            wake: Wake::default(),
        });
        let chip = UserIrqChip::new();
        let sleeper = Arc::clone(&shared);
        chip.listen(move |interrupt| match interrupt {
            Interrupt::Line { level: false, .. } => {}
            Interrupt::Line { .. } | Interrupt::Msi(_) => sleeper.wake.raise(),
        });
        Arc::new(Self { chip, shared, state: Mutex::default(), cpu: Supported::nominal() })
    }

    fn kick(&self) -> impl Fn(usize) + '_ {
        |_| self.shared.wake.raise()
    }
}

impl Accel for SimAccel {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn attach(
        &self,
        _memory: &Arc<Memory>,
        system: &Arc<AddressSpace>,
        io: &Arc<AddressSpace>,
    ) -> Result<()> {
        let spaces = Spaces { system: Arc::clone(system), io: Arc::clone(io) };
        self.shared.spaces.set(spaces).map_err(|_| Error::generic("sim is attached already"))
    }

    fn create_vcpus(&self, config: VcpuConfig, events: Arc<dyn VcpuEvents>) -> Result<()> {
        let mut state = lock(&self.state);
        if self.shared.spaces.get().is_none() || !state.vcpus.is_empty() || config.apic_ids.is_empty() {
            return Err(Error::generic("vCPUs are created once, after the memory is attached"));
        }
        let (cpu, stop) = self.shared.control.add();
        let shared = Arc::clone(&self.shared);
        let (sender, receiver) = mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name("CPU 0/SIM".to_owned())
            .spawn(move || {
                trace::set_current_cpu(0);
                let _ = sender.send(crate::kvm::thread_id());
                run_vcpu(&shared, cpu, &stop, &*events);
            })
            .map_err(|error| {
                self.shared.control.give_up(cpu);
                Error::generic(format!("cannot start a vCPU thread: {error}"))
            })?;
        state.vcpus = Facts::new(&config);
        if let Some(first) = state.vcpus.get_mut(0) {
            first.thread_id = receiver.recv().unwrap_or_default();
        }
        state.thread = Some(thread);
        Ok(())
    }

    fn plug_vcpu(&self, index: u32) -> Result<()> {
        lock(&self.state).vcpus.plug(index)
    }

    fn unplug_vcpu(&self, index: u32) {
        // The first one's thread is the program; boards do not take it away.
        lock(&self.state).vcpus.unplug(index);
    }

    fn vcpus(&self) -> Vec<VcpuInfo> {
        lock(&self.state).vcpus.list()
    }

    fn supported_cpu(&self) -> &Supported {
        &self.cpu
    }

    fn set_boot(&self, boot: Option<BootState>) {
        *lock(&self.shared.boot) = boot;
    }

    fn reset(&self) {
        self.shared.control.reset();
    }

    fn resume(&self) {
        self.shared.control.resume();
    }

    fn pause(&self) {
        self.shared.control.pause(self.kick());
    }

    fn saved(&self) -> Saved {
        // What the program is at lies on a host thread's stack.
        Saved::Blocked("State blocked by non-migratable accelerator 'sim'".into())
    }

    fn shutdown(&self) {
        self.shared.control.shutdown(self.kick());
        let thread = lock(&self.state).thread.take();
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != thread::current().id())
            && thread.join().is_err()
        {
            tracing::error!("the simulated vCPU's thread panicked");
        }
    }

    fn irq(&self) -> Arc<dyn IrqChip> {
        Arc::new(UserIrq(Arc::clone(&self.chip)))
    }
}

impl Drop for SimAccel {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// Body of the vCPU's thread.
fn run_vcpu(shared: &Shared, cpu: usize, stop: &StopFlag, events: &dyn VcpuEvents) {
    let _gone = shared.control.gone_on_drop(cpu);
    let mut step = shared.control.next(cpu);
    loop {
        step = match step {
            Step::Exit => return,
            Step::Reset => {
                shared.control.reset_done(cpu);
                shared.control.next(cpu)
            }
            // Nobody takes it away.
            Step::Leave => return,
            // Nobody asks: there are no sections.
            Step::Save => {
                shared.control.save_done(cpu);
                shared.control.next(cpu)
            }
            Step::Load => {
                shared.control.load_done(cpu, false);
                shared.control.next(cpu)
            }
            // The program is the host's own code: there are no registers to show.
            Step::Report => {
                shared.control.report(cpu, None);
                shared.control.next(cpu)
            }
            // Nobody sends one: `inject_nmi` is refused.
            Step::Nmi => shared.control.next(cpu),
            Step::Run => run_program(shared, cpu, stop, events).unwrap_or_else(|| {
                // The program is over: halted until a reset.
                shared.control.break_down(cpu);
                shared.control.next(cpu)
            }),
        };
    }
}

/// Runs the program from its start until a reset or the end is wanted (the step) or it ends by itself (`None`).
fn run_program(shared: &Shared, cpu: usize, stop: &StopFlag, events: &dyn VcpuEvents) -> Option<Step> {
    let spaces = shared.spaces.get()?;
    let BootState::Pvh { start_info, .. } = (*lock(&shared.boot))? else {
        events.internal_error(0, "sim: there is nothing here that runs a kernel");
        return None;
    };
    let mut bus = SimBus::new(shared, spaces, events, cpu, stop);
    // The program itself is not in guest memory, so all of it is free.
    let info = match StartInfo::read(&mut bus, u64::from(start_info), 0) {
        Ok(info) => info,
        Err(error) => {
            if bus.end().is_none() {
                events.internal_error(0, &format!("sim: no start information at {start_info:#x}: {error:?}"));
            }
            return bus.end();
        }
    };
    let mut program = Program::new(&mut bus, &info);
    loop {
        match program.step(&mut bus) {
            Turn::Again => {}
            Turn::Wait => guest::Bus::idle(&mut bus),
            Turn::Exit(_) => return bus.end(),
        }
    }
}

#[cfg(test)]
mod tests;

//! The run state of vCPU threads: who may run, who must stop, who has stopped.
//!
//! One [`Control`] for all vCPUs of an accelerator. The board sets a *goal*; each vCPU thread asks [`Control::next`] what to do
//! and reports its *phase* by asking:
//!
//! ```text
//!              resume                        next() -> Run
//!   goal Pause ------> goal Run      Parked ---------------> Running
//!        ^               |              ^                       |
//!        +---- pause ----+              +--- next() (waits) ----+   stop flag set, or broken
//!   shutdown: goal Exit (final)         next() -> Exit: Gone (final)
//! ```
//!
//! - A vCPU is *broken* after an error or a triple fault: it stays parked under goal Run until a reset.
//! - A vCPU that is taken away is Gone like one that ended; when it comes again, it begins anew ([`Control::enter`]).
//! - A reset is a task that each vCPU consumes (`next() -> Reset`) whatever the goal, in its own thread, because a
//!   vCPU's registers belong to its thread. So are saving and loading what it has (`Save`, `Load`): all vCPUs work at the same time.
//! - So is the question for its registers (`next() -> Report`): a running vCPU stops for it and goes on; and a non-maskable
//!   interrupt (`next() -> Nmi`), which nobody waits for.
//! - A running vCPU can be told to rest for a time: it is parked until then, or until there is something else to do. So nobody waits
//!   for one that rests.
//! - `pause` sets the stop flags, kicks, and waits until no vCPU is Running. A vCPU thread that itself calls `pause` (inside a
//!   device callback) counts as stopped for the time of the call; so two that do so at once do not wait for each other.
//!
//! Each vCPU thread waits for a bell of its own, and whoever waits for vCPUs for one of all: with hundreds of vCPUs every change
//! would wake every thread else.
//!
//! No lost wake-up: the stop flag is stored before the kick, and a vCPU thread clears the effect of a kick before it reads
//! the flag (see [`crate::kvm`] for the kernel's half).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use crate::chips::LocalApic;
use crate::registers::Registers;

/// What a vCPU has at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) registers: Registers,
    /// Absent if the vCPU has none that could be read.
    pub(crate) apic: Option<LocalApic>,
}

/// What a vCPU thread does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Execute guest code until the stop flag is set.
    Run,
    /// Load the reset state, then call [`Control::reset_done`] and ask again.
    Reset,
    /// Put all that the vCPU has where the asker finds it, then call [`Control::save_done`] and ask again.
    Save,
    /// Take over what lies ready for the vCPU, then call [`Control::load_done`] and ask again.
    Load,
    /// Read the registers, call [`Control::report`] and ask again.
    Report,
    /// Take a non-maskable interrupt and ask again.
    Nmi,
    /// Put the vCPU into its reset state and return from the thread's function: it is taken away, and may come again.
    Leave,
    /// Return from the thread's function.
    Exit,
}

/// What every vCPU does once while the machine is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    Reset,
    Save,
    Load,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    Pause,
    Run,
    Exit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Parked,
    Running,
    /// Inside a device callback that waits in `pause`.
    Pausing,
    /// It has no thread: not yet, or not any more.
    Gone,
}

/// What others may look at without a lock.
#[derive(Debug, Default)]
pub(crate) struct StopFlag(AtomicBool);

impl StopFlag {
    /// Whether the vCPU must ask [`Control::next`] before it executes more guest code.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

#[derive(Debug)]
struct Cpu {
    phase: Phase,
    broken: bool,
    task: Option<Task>,
    thread: Option<ThreadId>,
    stop: Arc<StopFlag>,
    /// How often somebody asked for the registers, and up to which of these times the last report answers.
    asked: u64,
    answered: u64,
    report: Option<Snapshot>,
    nmi: bool,
    /// It is taken away.
    leave: bool,
    /// Until when it executes no guest code.
    rest: Option<Instant>,
    /// Rings when there is something to do for its thread.
    bell: Arc<Condvar>,
}

impl Cpu {
    fn new(phase: Phase) -> Self {
        Self {
            phase,
            broken: false,
            task: None,
            thread: None,
            stop: Arc::new(StopFlag(AtomicBool::new(true))),
            asked: 0,
            answered: 0,
            report: None,
            nmi: false,
            leave: false,
            rest: None,
            bell: Arc::default(),
        }
    }
}

#[derive(Debug)]
struct Inner {
    goal: Goal,
    cpus: Vec<Cpu>,
}

impl Inner {
    /// What rings for every vCPU: without the lock, so that none wakes up to wait for it.
    fn bells(&self) -> Vec<Arc<Condvar>> {
        self.cpus.iter().map(|cpu| Arc::clone(&cpu.bell)).collect()
    }

    /// Something changed that is for every vCPU.
    fn ring_all(&self) {
        self.cpus.iter().for_each(|cpu| cpu.bell.notify_one());
    }
}

/// Held by a vCPU thread for its whole life.
pub(crate) struct GoneOnDrop<'a> {
    control: &'a Control,
    cpu: usize,
}

impl Drop for GoneOnDrop<'_> {
    fn drop(&mut self) {
        self.control.give_up(self.cpu);
    }
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Control {
    inner: Mutex<Inner>,
    /// A vCPU did something that others may wait for, or the goal changed.
    changed: Condvar,
}

impl Control {
    /// Goal Pause, no vCPUs.
    pub(crate) fn new() -> Self {
        Self { inner: Mutex::new(Inner { goal: Goal::Pause, cpus: Vec::new() }), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, inner: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
        self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a parked vCPU and returns its number and stop flag.
    pub(crate) fn add(&self) -> (usize, Arc<StopFlag>) {
        let mut inner = self.lock();
        let cpu = Cpu::new(Phase::Parked);
        let stop = Arc::clone(&cpu.stop);
        inner.cpus.push(cpu);
        (inner.cpus.len() - 1, stop)
    }

    /// Makes room for `count` vCPUs that are not there yet, numbered from 0.
    pub(crate) fn reserve(&self, count: usize) {
        self.lock().cpus.resize_with(count, || Cpu::new(Phase::Gone));
    }

    /// A vCPU that is not there comes, parked; whoever calls starts its thread, which loads its reset state first if `reset`. Gives its stop
    /// flag.
    pub(crate) fn enter(&self, cpu: usize, reset: bool) -> Arc<StopFlag> {
        let came = Cpu { task: reset.then_some(Task::Reset), ..Cpu::new(Phase::Parked) };
        let stop = Arc::clone(&came.stop);
        self.lock().cpus[cpu] = came;
        stop
    }

    /// Waits until a vCPU that came is in its reset state: what it is sent before is lost.
    pub(crate) fn await_entered(&self, cpu: usize) {
        let mut inner = self.lock();
        let busy = |cpu: &Cpu| cpu.task.is_some() && cpu.phase != Phase::Gone;
        while inner.goal != Goal::Exit && busy(&inner.cpus[cpu]) {
            inner = self.wait(inner);
        }
    }

    /// Has the thread of a vCPU end, which the caller waits for; `kick` is called if it runs. Not on that thread.
    pub(crate) fn leave(&self, cpu: usize, kick: impl Fn(usize)) {
        let mut inner = self.lock();
        let this = &mut inner.cpus[cpu];
        this.leave = true;
        this.stop.0.store(true, Ordering::SeqCst);
        if this.phase == Phase::Running {
            kick(cpu);
        }
        this.bell.notify_one();
    }

    /// Makes sure that nobody waits for a vCPU whose thread ended, a panic included.
    pub(crate) fn gone_on_drop(&self, cpu: usize) -> GoneOnDrop<'_> {
        GoneOnDrop { control: self, cpu }
    }

    /// Says that the vCPU will never run (again): its thread could not be started or has ended.
    pub(crate) fn give_up(&self, cpu: usize) {
        self.lock().cpus[cpu].phase = Phase::Gone;
        self.changed.notify_all();
    }

    /// Called by vCPU threads only: parks until there is something to do.
    pub(crate) fn next(&self, cpu: usize) -> Step {
        let mut inner = self.lock();
        let bell = Arc::clone(&inner.cpus[cpu].bell);
        inner.cpus[cpu].thread = Some(thread::current().id());
        loop {
            let goal = inner.goal;
            let this = &mut inner.cpus[cpu];
            let rest = this.rest.map(|until| until.saturating_duration_since(Instant::now()));
            let rest = rest.filter(|left| !left.is_zero());
            let step = match goal {
                Goal::Exit => Some((Phase::Gone, Step::Exit)),
                // It stays in the way of nobody who waits for what it was to do.
                _ if this.leave => Some((Phase::Gone, Step::Leave)),
                _ if this.task == Some(Task::Reset) => Some((Phase::Parked, Step::Reset)),
                _ if std::mem::take(&mut this.nmi) => Some((Phase::Parked, Step::Nmi)),
                // After what it was sent before.
                _ if this.task == Some(Task::Save) => Some((Phase::Parked, Step::Save)),
                _ if this.task == Some(Task::Load) => Some((Phase::Parked, Step::Load)),
                _ if this.asked != this.answered => Some((Phase::Parked, Step::Report)),
                Goal::Run if !this.broken && rest.is_none() => Some((Phase::Running, Step::Run)),
                Goal::Run | Goal::Pause => None,
            };
            let phase = step.map_or(Phase::Parked, |(phase, _)| phase);
            let before = std::mem::replace(&mut this.phase, phase);
            this.stop.0.store(step.is_none_or(|(_, step)| step != Step::Run), Ordering::SeqCst);
            if rest.is_none() {
                this.rest = None;
            }
            if before != phase {
                // Without the lock, so that nobody wakes up to wait for it.
                drop(inner);
                self.changed.notify_all();
                if let Some((_, step)) = step {
                    return step;
                }
                inner = self.lock();
                continue;
            }
            inner = match (step, rest) {
                (Some((_, step)), _) => return step,
                (None, Some(left)) => {
                    bell.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0
                }
                (None, None) => bell.wait(inner).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Called by a vCPU thread that cannot go on until it is reset.
    pub(crate) fn break_down(&self, cpu: usize) {
        let mut inner = self.lock();
        inner.cpus[cpu].broken = true;
        inner.cpus[cpu].stop.0.store(true, Ordering::SeqCst);
    }

    /// Called by a vCPU thread that has loaded its reset state.
    pub(crate) fn reset_done(&self, cpu: usize) {
        let mut inner = self.lock();
        inner.cpus[cpu].task = None;
        inner.cpus[cpu].nmi = false;
        inner.cpus[cpu].broken = false;
        drop(inner);
        self.changed.notify_all();
    }

    /// Whether it stays parked until a reset; asked by its own thread, as nobody else changes it.
    pub(crate) fn is_broken(&self, cpu: usize) -> bool {
        self.lock().cpus[cpu].broken
    }

    /// Called by a vCPU thread that has put down what it has.
    pub(crate) fn save_done(&self, cpu: usize) {
        self.lock().cpus[cpu].task = None;
        self.changed.notify_all();
    }

    /// Called by a vCPU thread that has taken over what was ready for it.
    pub(crate) fn load_done(&self, cpu: usize, broken: bool) {
        let mut inner = self.lock();
        inner.cpus[cpu].task = None;
        inner.cpus[cpu].broken = broken;
        drop(inner);
        self.changed.notify_all();
    }

    /// Called by a vCPU thread with what its registers hold now.
    pub(crate) fn report(&self, cpu: usize, snapshot: Option<Snapshot>) {
        let mut inner = self.lock();
        let this = &mut inner.cpus[cpu];
        // It has not run since it was told to report, so who asked meanwhile is answered as well.
        this.answered = this.asked;
        this.report = snapshot;
        drop(inner);
        self.changed.notify_all();
    }

    /// Has a vCPU take a non-maskable interrupt as soon as it can; `kick` is called if it runs. One that was not taken yet is the same.
    pub(crate) fn inject_nmi(&self, cpu: usize, kick: impl Fn(usize)) {
        let mut inner = self.lock();
        let Some(this) = inner.cpus.get_mut(cpu) else { return };
        this.nmi = true;
        this.stop.0.store(true, Ordering::SeqCst);
        if this.phase == Phase::Running {
            kick(cpu);
        }
        this.bell.notify_one();
    }

    /// Has a vCPU report what it has and waits for it; `kick` is called if it runs. `None` if it cannot: no such vCPU, it
    /// ended, or it is the caller's own, which is inside a device callback.
    pub(crate) fn snapshot(&self, cpu: usize, kick: impl Fn(usize)) -> Option<Snapshot> {
        let mut inner = self.lock();
        let this = inner.cpus.get_mut(cpu)?;
        if this.phase != Phase::Parked && this.thread == Some(thread::current().id()) {
            return None;
        }
        this.asked += 1;
        let mine = this.asked;
        this.stop.0.store(true, Ordering::SeqCst);
        if this.phase == Phase::Running {
            kick(cpu);
        }
        this.bell.notify_one();
        loop {
            let this = &inner.cpus[cpu];
            if this.answered >= mine {
                return this.report;
            }
            if inner.goal == Goal::Exit || this.phase == Phase::Gone {
                return None;
            }
            inner = self.wait(inner);
        }
    }

    /// Has every vCPU that runs stop and rest for `time`; the caller kicks them afterwards.
    pub(crate) fn rest(&self, time: Duration) {
        let until = Instant::now() + time;
        for cpu in self.lock().cpus.iter_mut().filter(|cpu| cpu.phase == Phase::Running) {
            cpu.rest = Some(until);
            cpu.stop.0.store(true, Ordering::SeqCst);
        }
    }

    /// Has one vCPU, if it runs, stop and rest for `time`. Unless that is the calling thread's, the caller kicks it afterwards.
    pub(crate) fn rest_one(&self, cpu: usize, time: Duration) {
        let mut inner = self.lock();
        if let Some(cpu) = inner.cpus.get_mut(cpu).filter(|cpu| cpu.phase == Phase::Running) {
            cpu.rest = cpu.rest.max(Some(Instant::now() + time));
            cpu.stop.0.store(true, Ordering::SeqCst);
        }
    }

    /// Nobody rests any longer.
    pub(crate) fn wake(&self) {
        let mut inner = self.lock();
        inner.cpus.iter_mut().for_each(|cpu| cpu.rest = None);
        inner.ring_all();
    }

    /// Sets goal Run.
    pub(crate) fn resume(&self) {
        let mut inner = self.lock();
        if inner.goal == Goal::Pause {
            inner.goal = Goal::Run;
            let bells = inner.bells();
            drop(inner);
            bells.iter().for_each(|bell| bell.notify_one());
            self.changed.notify_all();
        }
    }

    /// Sets goal Pause, calls `kick` for each running vCPU, and waits until none runs; see the module documentation for callers
    /// that are vCPU threads. If another thread resumes meanwhile, this returns too. Returns whether the goal was Run before.
    pub(crate) fn pause(&self, kick: impl Fn(usize)) -> bool {
        let mut inner = self.lock();
        if inner.goal == Goal::Exit {
            return false;
        }
        let was_running = std::mem::replace(&mut inner.goal, Goal::Pause) == Goal::Run;
        let this = self.stop_running(&mut inner, &kick);
        if let Some(this) = this {
            inner.cpus[this].phase = Phase::Pausing;
            self.changed.notify_all();
        }
        while inner.goal == Goal::Pause && inner.cpus.iter().any(|cpu| cpu.phase == Phase::Running) {
            inner = self.wait(inner);
        }
        if let Some(this) = this {
            inner.cpus[this].phase = Phase::Running;
        }
        was_running
    }

    /// Sets all stop flags and kicks; returns the caller's own vCPU if it is running one.
    fn stop_running(&self, inner: &mut Inner, kick: &impl Fn(usize)) -> Option<usize> {
        let me = thread::current().id();
        let mut own = None;
        for (index, cpu) in inner.cpus.iter().enumerate() {
            cpu.stop.0.store(true, Ordering::SeqCst);
            match cpu.phase {
                Phase::Running if cpu.thread == Some(me) => own = Some(index),
                Phase::Running => kick(index),
                Phase::Parked | Phase::Pausing | Phase::Gone => {}
            }
        }
        own
    }

    /// Has every vCPU consume a reset and waits for it. Only while paused (a running vCPU takes it when it stops).
    pub(crate) fn reset(&self) {
        self.begin_all(Task::Reset);
        self.await_all(|cpu| cpu.phase == Phase::Parked);
    }

    /// Has every vCPU put down what it has, all at the same time. Only while paused.
    pub(crate) fn begin_save(&self) {
        self.begin_all(Task::Save);
    }

    /// Has every vCPU take over what lies ready, all at the same time. Only while paused.
    pub(crate) fn begin_load(&self) {
        self.begin_all(Task::Load);
    }

    /// Waits until every vCPU has done what [`Control::begin_save`] or [`Control::begin_load`] told it to. Not on a vCPU thread.
    pub(crate) fn await_done(&self) {
        self.await_all(|cpu| cpu.phase != Phase::Gone);
    }

    fn begin_all(&self, task: Task) {
        let mut inner = self.lock();
        // What is half done is done first: its end would be taken for that of this.
        let half_done =
            |cpu: &Cpu| cpu.phase != Phase::Gone && matches!(cpu.task, Some(Task::Save | Task::Load));
        while inner.goal != Goal::Exit && inner.cpus.iter().any(half_done) {
            inner = self.wait(inner);
        }
        for cpu in &mut inner.cpus {
            cpu.task = (cpu.phase != Phase::Gone).then_some(task);
        }
        let bells = inner.bells();
        drop(inner);
        bells.iter().for_each(|bell| bell.notify_one());
    }

    fn await_all(&self, waits_for: impl Fn(&Cpu) -> bool) {
        let mut inner = self.lock();
        let busy = |cpu: &Cpu| cpu.task.is_some() && waits_for(cpu);
        while inner.goal != Goal::Exit && inner.cpus.iter().any(busy) {
            inner = self.wait(inner);
        }
    }

    /// Sets goal Exit for good and kicks whoever runs.
    pub(crate) fn shutdown(&self, kick: impl Fn(usize)) {
        let mut inner = self.lock();
        inner.goal = Goal::Exit;
        self.stop_running(&mut inner, &kick);
        inner.ring_all();
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests;

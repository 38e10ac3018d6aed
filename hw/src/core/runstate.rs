//! Running, stopping, resetting and ending a machine, with the events clients see, in QEMU's order.
//!
//! Requests may come from any thread and are carried out on the main loop thread. Of several requests of one kind that are not
//! carried out yet only the first counts. A vCPU thread must not wait here: the main loop may be waiting for it.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use accel::VcpuEvents;
use qapi::events::Event;
use qapi::types::{GuestPanicAction, PanicAction, RebootAction, RunState, ShutdownAction, ShutdownCause};
use qapi::{Enum, Error, Result};

use super::config::Actions;
use super::device::ResetKind;
use super::machine::Machine;

type Listener = Box<dyn Fn(bool, RunState) + Send + Sync>;
/// See [`Machine::on_failed_access`].
type AccessListener = Box<dyn Fn(u32, u64, bool) + Send + Sync>;

/// The run state and what is asked of it.
pub(super) struct RunControl {
    inner: Mutex<Inner>,
    listeners: Mutex<Vec<Arc<Listener>>>,
    /// Called on vCPU threads, at any rate: no lock.
    access_listener: OnceLock<AccessListener>,
}

pub(super) struct Inner {
    pub(super) state: RunState,
    actions: Actions,
    reset: Option<ShutdownCause>,
    shutdown: Option<ShutdownCause>,
    powerdown: bool,
    panicked: bool,
    ended: bool,
    /// Whether the board's firmware has to run before the guest does.
    pub(super) firmware_due: bool,
    /// Whether a reset that is asked for waits.
    resets_held: bool,
    /// Whether a machine that is to arrive runs then.
    pub(super) autostart: bool,
    /// While the state is `finish-migrate`: the one to go back to if the machine stays.
    pub(super) before: RunState,
    /// The one that the other machine is to have, since the first `finish-migrate` after the guest last ran here.
    pub(super) moving: RunState,
}

impl RunControl {
    pub(super) fn new(actions: Actions) -> Self {
        let inner = Inner {
            state: RunState::Prelaunch,
            actions,
            reset: None,
            shutdown: None,
            powerdown: false,
            panicked: false,
            ended: false,
            firmware_due: false,
            resets_held: false,
            autostart: false,
            before: RunState::Prelaunch,
            moving: RunState::Prelaunch,
        };
        Self { inner: Mutex::new(inner), listeners: Mutex::default(), access_listener: OnceLock::new() }
    }

    pub(super) fn set_firmware_due(&self, due: bool) {
        self.lock().firmware_due = due;
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        // Fields are independent and assigned whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Machine {
    /// The run state.
    pub fn run_state(&self) -> RunState {
        self.run.lock().state
    }

    /// Whether guest code runs.
    pub fn is_running(&self) -> bool {
        self.run_state() == RunState::Running
    }

    /// Hears of every start (`true`) and stop. Called on the main loop thread: before vCPUs start, after they stopped.
    pub fn on_run_state(&self, listener: impl Fn(bool, RunState) + Send + Sync + 'static) {
        let mut listeners = self.run.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.push(Arc::new(Box::new(listener)));
    }

    /// Hears of every access of a vCPU to memory that failed: vCPU, guest-physical address, whether it was a write. Called on vCPU
    /// threads as often as the guest likes, so it must be quick and wait for nobody. There is one such listener; a second is not
    /// taken.
    pub fn on_failed_access(&self, listener: impl Fn(u32, u64, bool) + Send + Sync + 'static) {
        if self.run.access_listener.set(Box::new(listener)).is_err() {
            tracing::error!("two listeners for failed accesses");
        }
    }

    pub(super) fn set_run_state(&self, state: RunState) {
        let old = std::mem::replace(&mut self.run.lock().state, state);
        trace::emit!(runstate_set, old as usize, old.as_str(), state as usize, state.as_str());
    }

    fn tell(&self, running: bool, state: RunState) {
        trace::emit!(vm_state_notify, running.into(), state as usize, state.as_str());
        let listeners = self.run.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for listener in listeners {
            listener(running, state);
        }
    }

    /// First start of the guest (without `-S`); of a machine that is to arrive, when it has.
    pub fn start(self: &Arc<Self>) {
        if !self.set_autostart(true) {
            self.resume();
        }
    }

    /// Whether the machine is yet to arrive; then it is said whether it runs once it has.
    fn set_autostart(&self, on: bool) -> bool {
        let mut inner = self.run.lock();
        let incoming = inner.state == RunState::Inmigrate;
        inner.autostart = if incoming { on } else { inner.autostart };
        incoming
    }

    fn run_firmware(self: &Arc<Self>) {
        let due = std::mem::take(&mut self.run.lock().firmware_due);
        if let Some(board) = self.board().filter(|_| due) {
            board.firmware(self);
        }
    }

    pub(super) fn resume(self: &Arc<Self>) {
        if self.is_running() {
            return;
        }
        self.run_firmware();
        self.send(Event::Resume);
        self.set_run_state(RunState::Running);
        self.tell(true, RunState::Running);
        self.mainloop().virtual_clock().start();
        self.accel().resume();
    }

    /// Stops the guest in `state`; sends `STOP` if it ran. Main loop thread.
    pub fn vm_stop(&self, state: RunState) {
        if !self.is_running() {
            return self.stopped_meanwhile(state);
        }
        self.accel().pause();
        self.mainloop().virtual_clock().stop();
        self.set_run_state(state);
        self.tell(false, state);
        self.send(Event::Stop);
    }

    /// The command `stop`.
    pub fn stop(&self) {
        if !self.set_autostart(false) {
            self.vm_stop(RunState::Paused);
        }
    }

    /// The command `cont`.
    ///
    /// # Errors
    /// `Resetting the Virtual Machine is required` after a shutdown or an internal error; `Migration is not finalized yet`.
    pub fn cont(self: &Arc<Self>) -> Result<()> {
        match self.run_state() {
            RunState::Shutdown | RunState::InternalError => {
                Err(Error::generic("Resetting the Virtual Machine is required"))
            }
            RunState::FinishMigrate => Err(Error::generic("Migration is not finalized yet")),
            _ => {
                self.start();
                Ok(())
            }
        }
    }

    /// Asks for a reset. `HostQmpSystemReset`, `GuestReset`, ….
    pub fn request_reset(self: &Arc<Self>, cause: ShutdownCause) {
        trace::emit!(pliant_system_reset_request, cause as usize);
        {
            let mut inner = self.run.lock();
            if inner.actions.reboot == RebootAction::Shutdown && cause != ShutdownCause::SubsystemReset {
                drop(inner);
                return self.request_shutdown(cause);
            }
            if inner.reset.replace(cause).is_some() {
                return;
            }
        }
        self.post(Self::run_reset);
    }

    /// Asks for the end. `GuestShutdown`, `HostSignal`, ….
    pub fn request_shutdown(self: &Arc<Self>, cause: ShutdownCause) {
        trace::emit!(qemu_system_shutdown_request, cause as usize);
        if self.run.lock().shutdown.replace(cause).is_none() {
            self.post(Self::run_shutdown);
        }
    }

    /// Presses the power button.
    pub fn request_powerdown(self: &Arc<Self>) {
        trace::emit!(qemu_system_powerdown_request);
        if !std::mem::replace(&mut self.run.lock().powerdown, true) {
            self.post(Self::run_powerdown);
        }
    }

    pub(super) fn post(self: &Arc<Self>, work: fn(&Arc<Self>)) {
        let weak = Arc::downgrade(self);
        self.mainloop().post(move || {
            if let Some(machine) = weak.upgrade() {
                work(&machine);
            }
        });
    }

    /// The command `quit`, whatever a shutdown does. Main loop thread; the loop ends with status 0.
    pub fn quit(self: &Arc<Self>) {
        trace::emit!(qemu_system_shutdown_request, ShutdownCause::HostQmpQuit as usize);
        {
            let mut inner = self.run.lock();
            inner.actions.shutdown = ShutdownAction::Poweroff;
            inner.shutdown = Some(ShutdownCause::HostQmpQuit);
        }
        self.run_shutdown();
    }

    /// What a guest's reset, shutdown, panic and watchdog do.
    pub fn actions(&self) -> Actions {
        self.run.lock().actions
    }

    /// `set-action`: what they do from now on. What is asked for already and not carried out yet goes by the new ones, too, except that
    /// a reset that became a shutdown stays one.
    pub fn set_actions(&self, change: impl FnOnce(&mut Actions)) {
        change(&mut self.run.lock().actions);
    }

    /// Ends the program with status 1, because of something it cannot be allowed to go on after. Main loop thread.
    pub fn kill(self: &Arc<Self>) {
        self.end(1, Some(Event::Shutdown { guest: false, reason: ShutdownCause::HostError }));
    }

    /// Ends the program with `status`, whatever a shutdown does, once; `told` is sent before. Main loop thread.
    pub(super) fn end(self: &Arc<Self>, status: i32, told: Option<Event>) {
        if std::mem::replace(&mut self.run.lock().ended, true) {
            return;
        }
        if let Some(event) = told {
            self.send(event);
        }
        self.accel().pause();
        self.mainloop().quit(status);
    }

    /// Whether the program ends.
    pub(super) fn has_ended(&self) -> bool {
        self.run.lock().ended
    }

    /// The guest's kernel told that it panicked. Any thread; `-action panic=` is carried out on the main loop's.
    pub fn guest_panicked(self: &Arc<Self>) {
        trace::guest_error!("Guest crashed");
        if !std::mem::replace(&mut self.run.lock().panicked, true) {
            self.post(Self::run_panic);
        }
    }

    /// It panicked, and its crash kernel follows.
    pub fn guest_crash_loaded(self: &Arc<Self>) {
        trace::guest_error!("Guest crash loaded");
        self.post(|machine| machine.send(Event::GuestCrashloaded { action: GuestPanicAction::Run }));
    }

    /// It told that it shuts the machine down, which is carried out for it.
    pub fn guest_shutdown_announced(self: &Arc<Self>) {
        self.post(|machine| {
            machine.send(Event::GuestPvshutdown);
            machine.request_shutdown(ShutdownCause::GuestShutdown);
        });
    }

    pub(super) fn run_panic(self: &Arc<Self>) {
        let actions = {
            let mut inner = self.run.lock();
            if !std::mem::take(&mut inner.panicked) || inner.ended {
                return;
            }
            inner.actions
        };
        let action = panic_action(&actions);
        self.send(Event::GuestPanicked { action });
        if action != GuestPanicAction::Run {
            self.vm_stop(RunState::GuestPanicked);
        }
        if action == GuestPanicAction::Poweroff {
            self.request_shutdown(ShutdownCause::GuestPanic);
        }
    }

    pub(super) fn run_shutdown(self: &Arc<Self>) {
        let (cause, pause, failed) = {
            let mut inner = self.run.lock();
            let Some(cause) = inner.shutdown.take() else { return };
            if inner.ended {
                return;
            }
            // Whoever ends the program with a signal means the program.
            let pause = inner.actions.shutdown == ShutdownAction::Pause && cause != ShutdownCause::HostSignal;
            inner.ended = !pause;
            let failed =
                cause == ShutdownCause::GuestPanic && inner.actions.panic == PanicAction::ExitFailure;
            (cause, pause, failed)
        };
        self.send(Event::Shutdown { guest: is_guest(cause), reason: cause });
        if pause {
            self.vm_stop(RunState::Shutdown);
        } else {
            self.accel().pause();
            self.mainloop().quit(failed.into());
        }
    }

    /// Has resets wait for something that looks at the machine as it is, or carries out what has waited. Main loop thread.
    pub(crate) fn hold_resets(self: &Arc<Self>, hold: bool) {
        self.run.lock().resets_held = hold;
        if !hold {
            self.run_reset();
        }
    }

    pub(super) fn run_reset(self: &Arc<Self>) {
        let cause = {
            let mut inner = self.run.lock();
            if inner.resets_held {
                return;
            }
            inner.reset.take()
        };
        let Some(cause) = cause else { return };
        self.accel().pause();
        if let Err(error) = self.reset_devices(ResetKind::Cold) {
            tracing::error!(%error, "the guest cannot be loaded again");
            self.vm_stop(RunState::InternalError);
            self.set_run_state(RunState::InternalError);
            return;
        }
        self.send(Event::Reset { guest: is_guest(cause), reason: cause });
        match self.run_state() {
            RunState::Running => {
                self.run_firmware();
                self.accel().resume();
            }
            RunState::Inmigrate => {}
            RunState::FinishMigrate => self.reset_meanwhile(),
            _ => self.set_run_state(RunState::Prelaunch),
        }
    }

    /// Carries out what was asked for, now: a monitor's client sees the event of its command before the reply. Main loop
    /// thread, with no lock held.
    pub fn carry_out_requests(self: &Arc<Self>) {
        self.run_shutdown();
        self.run_reset();
        self.run_powerdown();
    }

    fn run_powerdown(self: &Arc<Self>) {
        if !std::mem::replace(&mut self.run.lock().powerdown, false) {
            return;
        }
        self.send(Event::Powerdown);
        if let Some(board) = self.board().cloned() {
            board.power_button(self);
        }
    }

    /// Ends the vCPU threads; the last thing that is done with a machine.
    pub fn shut_down(&self) {
        self.accel().shutdown();
    }
}

/// What a panic comes to. Who wants the machine to stay when it is shut down wants to see it as it panicked.
fn panic_action(actions: &Actions) -> GuestPanicAction {
    match (actions.panic, actions.shutdown) {
        (PanicAction::Pause, _) | (PanicAction::Shutdown, ShutdownAction::Pause) => GuestPanicAction::Pause,
        (PanicAction::Shutdown | PanicAction::ExitFailure, _) => GuestPanicAction::Poweroff,
        (PanicAction::None, _) => GuestPanicAction::Run,
    }
}

/// Whether a cause counts as the guest's doing in events.
fn is_guest(cause: ShutdownCause) -> bool {
    matches!(cause, ShutdownCause::GuestShutdown | ShutdownCause::GuestReset | ShutdownCause::GuestPanic)
}

/// What the accelerator tells the machine.
pub(super) fn vcpu_events(machine: &Arc<Machine>) -> Arc<dyn VcpuEvents> {
    Arc::new(FromVcpus(Arc::downgrade(machine)))
}

struct FromVcpus(Weak<Machine>);

impl VcpuEvents for FromVcpus {
    fn triple_fault(&self, _cpu: u32) {
        self.reset(0);
    }

    fn reset(&self, _cpu: u32) {
        if let Some(machine) = self.0.upgrade() {
            machine.request_reset(ShutdownCause::GuestReset);
        }
    }

    fn shutdown(&self, _cpu: u32) {
        if let Some(machine) = self.0.upgrade() {
            machine.request_shutdown(ShutdownCause::GuestShutdown);
        }
    }

    fn failed_access(&self, cpu: u32, addr: u64, write: bool) {
        if let Some(machine) = self.0.upgrade()
            && let Some(listener) = machine.run.access_listener.get()
        {
            listener(cpu, addr, write);
        }
    }

    fn internal_error(&self, _cpu: u32, text: &str) {
        tracing::error!("{text}");
        if let Some(machine) = self.0.upgrade() {
            machine.post(|machine| machine.vm_stop(RunState::InternalError));
        }
    }
}

/// The state as `query-status` and `info status` name it.
pub fn state_name(state: RunState) -> &'static str {
    state.as_str()
}

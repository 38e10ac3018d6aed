//! `dump-guest-memory`: memory and registers of a guest as an ELF core file.
//!
//! - `plan` says what goes into the file: RAM as the vCPUs see it, of memory devices what is plugged, and with paging the
//!   linear addresses that the vCPUs' tables give it;
//! - `elf` and `notes` are the layout of the file (System V ABI, chapters 4 and 5; notes as QEMU writes them, which `gdb`,
//!   `crash` and `volatility` read);
//! - `write` writes it, on a thread of its own if the client does not want to wait.
//!
//! The guest is stopped meanwhile, memory devices are [frozen](MemoryDevices::freeze), and a reset waits until the dump has ended, so
//! that the file shows one moment. Reading leaves memory that the guest never wrote unallocated, and zeroes are holes in the
//! file. Left out: compressed formats, those of Windows.

mod commands;
mod elf;
mod notes;
mod plan;
mod write;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use qapi::Result;
use qapi::events::Event;
use qapi::types::{DumpQueryResult, DumpStatus, RunState};

use crate::core::Machine;
use crate::mem::{Frozen, MemoryDevices};

/// How far a dump is; shared with the thread that writes it.
#[derive(Debug, Default)]
struct Progress {
    /// Bytes of guest memory.
    completed: AtomicU64,
    /// Nobody is there any more who wants it.
    cancelled: AtomicBool,
}

/// The dumps of a machine: one at a time, of which the latest is remembered.
pub(crate) struct Dumps(Mutex<State>);

struct State {
    status: DumpStatus,
    total: u64,
    progress: Arc<Progress>,
    /// There while a dump is in progress.
    halt: Option<Halt>,
}

/// A guest that is held still.
struct Halt {
    was_running: bool,
    _frozen: Frozen,
}

impl Dumps {
    /// Those of `machine`.
    pub(crate) fn of(machine: &Machine) -> Arc<Self> {
        machine.extension(|| {
            let progress = Arc::default();
            Self(Mutex::new(State { status: DumpStatus::None, total: 0, progress, halt: None }))
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Fields are assigned whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one is being written.
    pub(crate) fn in_progress(&self) -> bool {
        self.state().halt.is_some()
    }

    fn query(&self) -> DumpQueryResult {
        let state = self.state();
        let completed = state.progress.completed.load(Ordering::Relaxed);
        DumpQueryResult {
            status: state.status,
            completed: completed.cast_signed(),
            total: state.total.cast_signed(),
        }
    }

    /// Stops the guest for a dump. Main loop thread, none in progress.
    fn begin(&self, machine: &Arc<Machine>) {
        let was_running = machine.is_running();
        machine.vm_stop(RunState::SaveVm);
        machine.hold_resets(true);
        let mut state = self.state();
        *state = State {
            status: DumpStatus::Active,
            total: 0,
            progress: Arc::default(),
            halt: Some(Halt { was_running, _frozen: MemoryDevices::of(machine).freeze() }),
        };
    }

    /// Says how much will be written, and gives what to report to.
    fn set_total(&self, total: u64) -> Arc<Progress> {
        let mut state = self.state();
        state.total = total;
        Arc::clone(&state.progress)
    }

    /// Tells the end and lets the guest go on. A dump that has not begun to write tells nobody but who asked for it. Main loop
    /// thread.
    fn end(&self, machine: &Arc<Machine>, result: &Result<()>) {
        let halt = {
            let mut state = self.state();
            let Some(halt) = state.halt.take() else { return };
            state.status = if result.is_ok() { DumpStatus::Completed } else { DumpStatus::Failed };
            halt
        };
        let result_now = self.query();
        if result_now.total > 0 {
            let error = result.as_ref().err().map(|error| error.desc().to_owned());
            machine.send(Event::DumpCompleted { result: result_now, error });
        }
        let was_running = halt.was_running;
        drop(halt);
        machine.hold_resets(false);
        if was_running && let Err(error) = machine.cont() {
            // Shut down meanwhile.
            trace::emit!(pliant_dump_left_stopped, &error);
        }
    }
}

impl Drop for Dumps {
    fn drop(&mut self) {
        self.state().progress.cancelled.store(true, Ordering::Relaxed);
    }
}

/// What a client is told who wants something that a dump stands in the way of.
pub(crate) fn busy() -> qapi::Error {
    qapi::Error::generic("There is a dump in process, please wait.")
}

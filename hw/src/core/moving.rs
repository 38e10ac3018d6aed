//! A machine that is moved to another process: run states on the way, and what the machine itself keeps besides its devices.
//!
//! Here: [`Machine::stop_to_move`] takes it from whatever state to `finish-migrate`; [`Machine::moved`] then leaves it in `postmigrate`, or
//! [`Machine::not_moved`] has it go on as if nothing had been. There: [`Machine::expect_incoming`] before [`Machine::finish`], and
//! [`Machine::incoming_done`] once the state of all devices was loaded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use net::Rounds;
use qapi::types::RunState;
use qapi::{Error, Result};
use qom::ObjectRef;
use vmstate::{LoadError, Saved, Section, Text, vmstate};

use super::device::Device;
use super::machine::Machine;
use crate::acpi::vmgenid;
use crate::inspect::roms::{Rom, Roms};

vmstate! {
    /// What is to be done before the guest runs.
    pub struct MachineState: "x-pliant-machine", version 1 {
        /// Whether the board's firmware has not run since the last reset: a machine that waited for its first start.
        firmware_due: bool,
    }
    subsections {
        /// If anything was put into memory.
        roms: RomsState,
    }
}
vmstate! {
    /// Something that was put into memory at the last reset.
    pub struct RomState: "x-pliant-rom", version 1 {
        /// Physical address.
        address: u64,
        /// Bytes.
        size: u64,
        /// For people.
        name: Text,
    }
}
vmstate! {
    /// All of it, for `info roms`.
    pub struct RomsState: "x-pliant-machine/roms", version 1 {
        /// By address.
        list: Vec<RomState>,
    }
}

/// How much the list can be: what is beyond that came from no board.
const ROMS: usize = 64;
const ROM_NAME: usize = 64;

impl RomsState {
    fn of(machine: &Machine) -> Option<Self> {
        let state = |Rom { address, size, name }| RomState { address, size, name: Text(name) };
        let list: Vec<_> = Roms::of(machine).list().into_iter().map(state).collect();
        (!list.is_empty()).then_some(Self { list })
    }

    fn load(self, machine: &Machine) -> vmstate::Result<()> {
        let printable =
            |name: &str| name.len() <= ROM_NAME && name.chars().all(|c| c == ' ' || c.is_ascii_graphic());
        if self.list.len() > ROMS || !self.list.iter().all(|rom| printable(&rom.name.0)) {
            return Err(LoadError::invalid("the list of what was loaded is none"));
        }
        let rom = |RomState { address, size, name }| Rom { address, size, name: name.0 };
        Roms::of(machine).set(self.list.into_iter().map(rom).collect());
        Ok(())
    }
}

/// How many hold the machine's devices as they are: `Arc`s beyond the first.
type Holders = Arc<()>;

/// How often devices were realized and unrealized.
#[derive(Default)]
struct Changes(AtomicU64);

impl Machine {
    /// A number that is another one once a device was realized or unrealized.
    pub fn device_changes(&self) -> u64 {
        self.extension(Changes::default).0.load(Ordering::Relaxed)
    }

    pub(super) fn devices_changed(&self) {
        self.extension(Changes::default).0.fetch_add(1, Ordering::Relaxed);
    }

    /// Refuses devices that come and go, until the guard is dropped: their state is on its way.
    #[must_use]
    pub fn hold_devices(&self) -> Arc<()> {
        Arc::clone(&*self.extension::<Holders>(Holders::default))
    }

    /// Whether a command may add or remove a device.
    ///
    /// # Errors
    /// `COMMAND not allowed while migrating`
    pub(super) fn may_change_devices(&self, command: &str) -> Result<()> {
        if Arc::strong_count(&*self.extension::<Holders>(Holders::default)) == 1 {
            return Ok(());
        }
        Err(Error::generic(format!("{command} not allowed while migrating")))
    }

    /// Has the machine wait for its contents, in the state `inmigrate`: [`Machine::finish`] loads no guest, firmware does not run, and
    /// `cont`, `stop` and [`Machine::start`] only say whether the guest runs when it has arrived. Before [`Machine::finish`].
    pub fn expect_incoming(&self) {
        self.set_run_state(RunState::Inmigrate);
    }

    /// Has the accelerator get ready for a guest that is going to arrive, on a thread of its own. After [`Machine::finish`].
    pub fn get_ready_to_arrive(&self) {
        let accel = Arc::clone(self.accel());
        let ready = std::thread::Builder::new().name("ready".into()).spawn(move || accel.make_ready());
        // Then the guest waits for it.
        if let Err(error) = ready {
            tracing::debug!(%error, "no thread gets ready");
        }
    }

    /// Whether it waits for its contents.
    pub fn is_incoming(&self) -> bool {
        self.run_state() == RunState::Inmigrate
    }

    /// The contents have arrived, those of a machine that was in the state `source`, which a stream says: any is taken. The guest runs if
    /// it did there and nobody said that it should not here (event `RESUME`). Main loop thread; nothing happens unless
    /// [`Machine::is_incoming`].
    ///
    /// Writes to the guest's memory: its generation ID is another one now.
    pub fn incoming_done(self: &Arc<Self>, source: RunState) {
        if !self.is_incoming() {
            return;
        }
        vmgenid::tell(self);
        self.net().announce_self(Rounds::default(), None, "");
        let autostart = self.run.lock().autostart;
        match source {
            RunState::Running | RunState::Suspended if autostart => {
                self.set_run_state(RunState::Paused);
                self.resume();
            }
            // States of something that is under way there, and not here.
            RunState::Running
            | RunState::Suspended
            | RunState::Inmigrate
            | RunState::FinishMigrate
            | RunState::SaveVm
            | RunState::RestoreVm
            | RunState::Debug
            | RunState::Colo => self.set_run_state(RunState::Paused),
            RunState::InternalError
            | RunState::IoError
            | RunState::Paused
            | RunState::Postmigrate
            | RunState::Prelaunch
            | RunState::Shutdown
            | RunState::Watchdog
            | RunState::GuestPanicked => self.set_run_state(source),
        }
    }

    /// Stops the guest for the last part of a migration: `finish-migrate`, with the event `STOP` if it ran. What the guest asked for in
    /// its last moments (a reset, its end) is carried out first, and belongs to the state that is moved. Main loop thread. `false`: the
    /// program ends, and there is nothing to be moved.
    pub fn stop_to_move(self: &Arc<Self>) -> bool {
        {
            let mut inner = self.run.lock();
            match inner.state {
                RunState::FinishMigrate => return true,
                // Another copy of what was moved before.
                RunState::Postmigrate => {}
                state => inner.moving = state,
            }
            inner.before = inner.state;
        }
        if self.is_running() {
            self.vm_stop(RunState::FinishMigrate);
        } else {
            self.set_run_state(RunState::FinishMigrate);
        }
        self.run_panic();
        self.carry_out_requests();
        !self.mainloop().is_quitting()
    }

    /// The state that the other machine is to be in, of one that was stopped by [`Machine::stop_to_move`]; of any other, its own.
    pub fn moving_state(&self) -> RunState {
        let inner = self.run.lock();
        match inner.state {
            RunState::FinishMigrate | RunState::Postmigrate => inner.moving,
            state => state,
        }
    }

    /// The machine is elsewhere: `postmigrate`. Nothing happens unless it was stopped by [`Machine::stop_to_move`].
    pub fn moved(&self) {
        if self.run_state() == RunState::FinishMigrate {
            self.set_run_state(RunState::Postmigrate);
        }
    }

    /// The machine stays after all: as before [`Machine::stop_to_move`], with the event `RESUME` if it ran. Nothing happens unless it was
    /// stopped by that. Main loop thread.
    pub fn not_moved(self: &Arc<Self>) {
        let before = {
            let inner = self.run.lock();
            if inner.state != RunState::FinishMigrate {
                return;
            }
            inner.before
        };
        if before == RunState::Running {
            self.resume();
        } else {
            self.set_run_state(before);
        }
    }

    /// A machine that is not running would have been stopped, for good; one that is being moved keeps that for later.
    pub(super) fn stopped_meanwhile(&self, state: RunState) {
        let mut inner = self.run.lock();
        let for_good =
            matches!(state, RunState::Shutdown | RunState::InternalError | RunState::GuestPanicked);
        if inner.state == RunState::FinishMigrate && for_good {
            (inner.before, inner.moving) = (state, state);
        }
    }

    /// A machine that is being moved was reset: one that did not run has not run yet.
    pub(super) fn reset_meanwhile(&self) {
        let mut inner = self.run.lock();
        if inner.before != RunState::Running {
            (inner.before, inner.moving) = (RunState::Prelaunch, RunState::Prelaunch);
        }
    }

    /// Devices that are on no bus, in the order of their paths: those of one kind come in the same order wherever a machine is built.
    pub fn devices_without_bus(&self) -> Vec<Arc<dyn Device>> {
        fn walk(object: &ObjectRef, list: &mut Vec<Arc<dyn Device>>) {
            for (_, child) in object.core().children() {
                let device = qom::cast::<dyn Device>(&child);
                list.extend(device.filter(|d| d.dev().is_realized() && d.dev().parent_bus().is_none()));
                walk(&child, list);
            }
        }
        let mut list = Vec::new();
        walk(&self.object(), &mut list);
        list.sort_by_cached_key(|device| (Arc::clone(device) as ObjectRef).path());
        list
    }

    /// What the machine keeps besides its devices.
    pub fn saved(self: &Arc<Self>) -> Saved {
        let (source, destination) = (Arc::clone(self), Arc::clone(self));
        Saved::one(Section::new::<MachineState>(
            move || MachineState {
                firmware_due: source.run.lock().firmware_due,
                roms: RomsState::of(&source),
            },
            move |MachineState { firmware_due, roms }| {
                destination.run.set_firmware_due(firmware_due);
                roms.map_or(Ok(()), |roms| roms.load(&destination))
            },
        ))
    }
}

#[cfg(test)]
mod tests;

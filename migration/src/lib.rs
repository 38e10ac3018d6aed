//! Moving a machine elsewhere, or into a file and back.
//!
//! [`Migration`] implements the commands. What it moves is a [`Machine`], which tells its memory and the [sections](vmstate::Section) of
//! its devices. The stream ([`wire`]) has QEMU's outer form: its sections, footers and description can be taken apart by the programs
//! that take QEMU's apart. What devices write into it is our own.

pub mod address;
pub mod capabilities;
pub mod channel;
mod commands;
pub mod configuration;
pub mod connect;
pub mod dirty_limit;
pub mod dirty_rate;
pub mod incoming;
pub mod machine;
pub mod multifd;
pub mod outgoing;
mod pace;
pub mod parameters;
pub mod progress;
pub mod ram;
pub mod return_path;
pub mod settings;
pub mod wire;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chardev::ChardevSet;
pub use machine::{FreePages, Machine, Placed, Sections};
use qapi::events::Event;
use qapi::types::{MigrationCapability as Capability, MigrationStatus as Status};
use qapi::{Error, Result};

use address::Address;
use dirty_limit::DirtyLimit;
use dirty_rate::DirtyRate;
use incoming::Incoming;
use outgoing::Outgoing;
use settings::Settings;

/// Migration of one machine. Commands come from the main loop thread; any thread may read.
pub struct Migration {
    machine: Arc<dyn Machine>,
    chardevs: Arc<ChardevSet>,
    settings: Arc<Mutex<Settings>>,
    outgoing: Mutex<Option<Outcome>>,
    /// Held by the thread that sends: one is over when the last one has put everything away.
    turn: Arc<Mutex<()>>,
    incoming: Mutex<Expected>,
    dirty_rate: DirtyRate,
    dirty_limit: DirtyLimit,
}

/// The last attempt to send the machine.
enum Outcome {
    /// It was begun.
    Begun(Arc<Outgoing>),
    /// The channel could not be opened.
    NotOpened(String),
}

/// Whether a machine is awaited.
enum Expected {
    /// No.
    No,
    /// From somewhere that is yet to be told.
    Deferred,
    /// It is listened for, or comes.
    Begun(Arc<Incoming>),
    /// That could not be begun.
    NotOpened(Arc<Incoming>),
}

/// What the stream itself declares besides memory.
pub fn declared_states() -> Vec<vmstate::StateShape> {
    configuration::declared()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What they guard is only ever assigned whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Migration {
    /// Of `machine`, with the descriptors that `chardevs` knows.
    pub fn new(machine: Arc<dyn Machine>, chardevs: Arc<ChardevSet>) -> Self {
        let (memory, vcpus) = (machine.memory(), machine.vcpu_writes());
        Self {
            dirty_rate: DirtyRate::new(Arc::clone(memory), vcpus.clone()),
            dirty_limit: DirtyLimit::new(Arc::clone(memory), vcpus),
            machine,
            chardevs,
            settings: Arc::default(),
            turn: Arc::default(),
            outgoing: Mutex::default(),
            incoming: Mutex::new(Expected::No),
        }
    }

    /// `-incoming URI`, `-incoming defer`. Main loop thread, once the machine is built.
    ///
    /// # Errors
    /// QEMU's.
    pub fn expect(&self, uri: &str) -> Result<()> {
        *lock(&self.incoming) = Expected::Deferred;
        if uri == "defer" { Ok(()) } else { self.receive(&Address::parse(uri)?, true) }
    }

    /// The character devices, whose descriptors and whose list of what can be yanked are used.
    pub fn chardevs(&self) -> &Arc<ChardevSet> {
        &self.chardevs
    }

    fn receive(&self, address: &Address, exit_on_error: bool) -> Result<()> {
        lock(&self.settings).capabilities.fit(address)?;
        let (machine, settings) = (Arc::clone(&self.machine), Arc::clone(&self.settings));
        let started = Incoming::start(machine, &self.chardevs, settings, address, exit_on_error);
        let (incoming, result) = match started {
            Ok(incoming) => (Expected::Begun(incoming), Ok(())),
            Err((incoming, error)) => (Expected::NotOpened(incoming), Err(error)),
        };
        *lock(&self.incoming) = incoming;
        result
    }

    /// Ends what runs, as the program ends. Main loop thread.
    pub fn shut_down(&self) {
        self.dirty_rate.end();
        self.dirty_limit.end();
        if let Some(Outcome::Begun(outgoing)) = &*lock(&self.outgoing) {
            outgoing.abandon();
        }
        if let Expected::Begun(incoming) = &*lock(&self.incoming) {
            incoming.shut_down();
        }
    }

    fn begin(&self, address: &Address) -> Result<()> {
        if let Some(Outcome::Begun(last)) = &*lock(&self.outgoing)
            && last.progress.is_running()
        {
            return Err(Error::generic("There's a migration process in progress"));
        }
        if self.machine.run_state() == qapi::types::RunState::Inmigrate {
            return Err(Error::generic("Guest is waiting for an incoming migration"));
        }
        if let Expected::Begun(incoming) = &*lock(&self.incoming)
            && progress::follows(incoming.progress.status())
        {
            // Memory still comes; QEMU says it like this.
            return Err(Error::generic("duplicate yank instance"));
        }
        lock(&self.settings).fit(address)?;
        if let Some(why) = self.machine.sections().blocked.into_iter().next() {
            return Err(Error::generic(why));
        }
        let outlet = match connect::outlet(address, &self.chardevs) {
            Ok(outlet) => outlet,
            Err(error) => {
                *lock(&self.outgoing) = Some(Outcome::NotOpened(error.desc().to_owned()));
                if lock(&self.settings).capabilities.has(Capability::Events) {
                    for status in [Status::Setup, Status::Failed] {
                        self.machine.send(Event::Migration { status });
                    }
                }
                return Err(error);
            }
        };
        let (machine, chardevs) = (Arc::clone(&self.machine), Arc::clone(&self.chardevs));
        let (settings, turn) = (Arc::clone(&self.settings), Arc::clone(&self.turn));
        let started = Outgoing::start(machine, chardevs, settings, turn, outlet)?;
        *lock(&self.outgoing) = Some(Outcome::Begun(started));
        Ok(())
    }
}

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(not(test), allow(dead_code, reason = "tests use more of it"))]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails, and how a fuzz target does")]
mod testing;
#[cfg(test)]
mod tests;

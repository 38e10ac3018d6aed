//! Sections as bytes, before they are in the stream.

use std::sync::{Arc, mpsc};

use qapi::Enum as _;
use qapi::types::RunState;
use vmstate::{Described, Encoder, Priority, Text, VmState as _};

use super::{Stop, Work};
use crate::configuration::GlobalState;
use crate::machine::{Machine, Placed};

/// A section as bytes.
pub(super) struct Saved {
    /// Path and name, instance, version.
    pub(super) head: (String, u32, u32),
    pub(super) bytes: Vec<u8>,
    pub(super) description: Described,
}

impl Saved {
    pub(super) fn of(placed: &Placed) -> Self {
        let mut state = Encoder::new();
        placed.section.save(&mut state);
        let version = placed.section.version();
        Self::new((&placed.id, placed.instance), (placed.section.name(), version), state)
    }

    fn new(id: (&str, u32), name: (&'static str, u32), state: Encoder) -> Self {
        let (bytes, layout) = state.finish();
        let description = Described::device(id, name, layout);
        Self { head: (id.0.to_owned(), id.1, name.1), bytes, description }
    }
}

impl GlobalState {
    fn into_saved(self) -> Saved {
        let mut state = Encoder::new();
        self.put_fields(&mut state);
        Saved::new((Self::NAME, 0), (Self::NAME, Self::VERSION), state)
    }
}

/// Sections that the main loop saves.
pub(super) struct Saving(mpsc::Receiver<Work<Vec<Saved>>>);

impl Saving {
    /// Has a stopped machine saved on its loop, next; `state` is what it was doing. From any thread.
    pub(super) fn begin(machine: &Arc<dyn Machine>, state: RunState) -> Self {
        let (sender, receiver) = mpsc::channel();
        let saved = Arc::clone(machine);
        // Nobody may want it any more.
        machine.mainloop().post(move || drop(sender.send(late(&*saved, state))));
        Self(receiver)
    }

    /// Waits for them.
    pub(super) fn all(self) -> Work<Vec<Saved>> {
        // A loop that is gone takes the machine with it.
        self.0.recv().unwrap_or(Err(Stop::Cancelled))
    }
}

/// Saves all that is not early, of the devices that there are now: the guest may have ejected one meanwhile. Last comes what the machine
/// was doing.
fn late(machine: &dyn Machine, state: RunState) -> Work<Vec<Saved>> {
    machine.begin_save();
    let sections = wanted(machine, |priority| priority != Priority::Early)?;
    // The last first: those that take long, vCPUs, are among the first.
    let mut all = vec![GlobalState { runstate: Text(state.as_str().to_owned()) }.into_saved()];
    all.extend(sections.iter().rev().map(Saved::of));
    all.reverse();
    Ok(all)
}

/// Saves what decides where memory may go.
pub(super) fn early(machine: &dyn Machine) -> Work<Vec<Saved>> {
    Ok(wanted(machine, |priority| priority == Priority::Early)?.iter().map(Saved::of).collect())
}

fn wanted(machine: &dyn Machine, wants: impl Fn(Priority) -> bool) -> Work<Vec<Placed>> {
    let mut sections = machine.sections();
    if let Some(why) = sections.blocked.into_iter().next() {
        return Err(Stop::Failed(why));
    }
    sections.list.retain(|placed| wants(placed.section.priority()));
    Ok(sections.list)
}

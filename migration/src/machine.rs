//! What a migration needs of the machine that it moves.

use std::any::Any;
use std::sync::Arc;

use memory::Memory;
use qapi::events::Event;
use qapi::types::RunState;
use vmstate::Section;

use crate::dirty_rate::VcpuWrites;

/// A section at its place in the stream.
#[derive(Debug)]
pub struct Placed {
    /// Path of the device, if it has one, and name of the state: `0000:00:02.0/virtio-mem`.
    pub id: String,
    /// Which of those with this name.
    pub instance: u32,
    /// The state.
    pub section: Section,
}

/// All state there is.
#[derive(Debug, Default)]
pub struct Sections {
    /// In order.
    pub list: Vec<Placed>,
    /// Why the machine cannot be moved; nothing if it can.
    pub blocked: Vec<String>,
}

/// What a guest is told that can say which of its pages are free: those need not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreePages {
    /// It is to say which are. Their marks are dropped ([`Memory::forget_dirty`]) until [`FreePages::Stop`].
    Ask,
    /// What it says from now on is not heard any more, and what it said has been seen to. Comes before the log is synced: what was free before that may
    /// have been written since.
    Stop,
    /// Nobody asks any more: it may use them again.
    Done,
}

/// The machine. Methods are called on the main loop's thread unless they say otherwise.
pub trait Machine: Send + Sync {
    /// Its memory. Any thread.
    fn memory(&self) -> &Arc<Memory>;

    /// Its loop. Any thread.
    fn mainloop(&self) -> &mainloop::Handle;

    /// Tells clients. Any thread.
    fn send(&self, event: Event);

    /// The machine type, which must be the same on the other side. Any thread.
    fn type_name(&self) -> String;

    /// Its UUID. Any thread.
    fn uuid(&self) -> [u8; 16];

    /// The state of its devices.
    fn sections(&self) -> Sections;

    /// Keeps what is plugged as it is until the guard is dropped. Any thread may drop it.
    fn freeze(&self) -> Box<dyn Any + Send>;

    /// Says whether a machine that arrives finds memory that it shares with its source already here.
    fn keep_shared(&self, keep: bool);

    /// The run state. Any thread.
    fn run_state(&self) -> RunState;

    /// Stops the guest for the last pass, and gives the state that it is to be in on the other side. `None`: the program ends.
    fn stop(&self) -> Option<RunState>;

    /// Its sections are to be saved, while it is stopped: begins with what takes long, and does not wait for that.
    fn begin_save(&self) {}

    /// A guest begins to arrive: what takes time when it goes on is done now, while it runs elsewhere.
    fn prepare(&self) {}

    /// The machine has been moved: it stays stopped.
    fn moved(&self);

    /// It has not: it goes on as it was before [`stop`](Self::stop).
    fn go_on(&self);

    /// Everything has arrived, of a machine that was in the state `source`: runs, if that was wanted on both sides.
    fn arrived(&self, source: RunState);

    /// Ends the program with a failure.
    fn end(&self);

    /// What can be told of vCPUs that write memory; nothing if there are none that could be told of. Any thread.
    fn vcpu_writes(&self) -> Option<Arc<dyn VcpuWrites>> {
        None
    }

    /// Has the guest tell of free pages, or not. Any thread.
    fn free_pages(&self, _step: FreePages) {}

    /// By how much vCPUs are slowed down, in percent. Any thread.
    fn throttle(&self, percent: u8);
}

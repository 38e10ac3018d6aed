//! A machine that only a migration knows, for tests.

use std::any::Any;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use chardev::ChardevSet;
use mainloop::{Handle, MainLoop};
use memory::{DiscardManager, Memory, RamBlock, RamSpec, RegionDesc};
use qapi::commands::MigrationCommands as _;
use qapi::events::Event;
use qapi::types::{MigrationCapability, MigrationCapabilityStatus, MigrationStatus, RunState};
use vmstate::{Priority, Section, vmstate};

use crate::{FreePages, Machine, Migration, Placed, Sections};

/// How long something may take that takes no time.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of each block.
pub(crate) const SIZE: u64 = 1 << 20;
/// Bytes of a part of the block that is not populated everywhere.
pub(crate) const GRANULE: u64 = 64 << 10;

vmstate! {
    /// What a device of the machine holds.
    pub(crate) struct DeviceState: "device", version 1 {
        value: u64,
        list: Vec<u16>,
    }
}

/// A loop on a thread of its own.
pub(crate) struct Loop {
    pub(crate) handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Loop {
    pub(crate) fn start() -> Self {
        let (sender, receiver) = channel();
        let thread = std::thread::spawn(move || {
            let mut main = MainLoop::new().unwrap();
            sender.send(main.handle()).unwrap();
            main.run();
        });
        Self { handle: receiver.recv().unwrap(), thread: Some(thread) }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.handle.quit(0);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// The machine.
pub(crate) struct Fake {
    handle: Handle,
    memory: Arc<Memory>,
    /// All of it is there.
    pub(crate) whole: Arc<RamBlock>,
    /// The second half is not.
    pub(crate) sparse: Arc<RamBlock>,
    pub(crate) device: Arc<Mutex<DeviceState>>,
    pub(crate) state: Mutex<RunState>,
    before: Mutex<RunState>,
    pub(crate) ended: Mutex<bool>,
    /// What was asked of the guest about free pages.
    pub(crate) asked: Mutex<Vec<FreePages>>,
    /// What it does when it is asked.
    pub(crate) answer: Mutex<Option<Box<dyn FnMut() + Send>>>,
    name: &'static str,
    events: Mutex<Sender<String>>,
}

impl Fake {
    fn new(handle: Handle, name: &'static str, events: Sender<String>) -> Arc<Self> {
        let memory = Memory::new();
        let block = |label: &str| {
            let block = memory.create_ram(RamSpec::anonymous(label, SIZE)).unwrap();
            block.register_name(None);
            block
        };
        let (whole, sparse) = (block("whole"), block("sparse"));
        let manager = Arc::new(DiscardManager::new(SIZE, GRANULE));
        manager.populate(0..SIZE / 2).unwrap();
        let mut tx = memory.transaction();
        let region = tx.ram(RegionDesc::new("sparse", SIZE.into()), Arc::clone(&sparse));
        tx.set_discard_manager(region, Some(manager)).unwrap();
        drop(tx);
        let device = Arc::new(Mutex::new(DeviceState { value: 0, list: Vec::new() }));
        Arc::new(Self {
            handle,
            memory,
            whole,
            sparse,
            device,
            state: Mutex::new(RunState::Running),
            before: Mutex::new(RunState::Running),
            ended: Mutex::new(false),
            asked: Mutex::default(),
            answer: Mutex::default(),
            name,
            events: Mutex::new(events),
        })
    }
}

impl Fake {
    /// The memory.
    pub(crate) fn memory_of(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// The run state.
    pub(crate) fn run_state_now(&self) -> RunState {
        *self.state.lock().unwrap()
    }
}

impl Machine for Fake {
    fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }
    fn mainloop(&self) -> &Handle {
        &self.handle
    }
    fn send(&self, event: Event) {
        let text = match event {
            Event::Migration { status } => status_text(status),
            Event::MigrationPass { pass } => format!("pass {pass}"),
            other => format!("{other:?}"),
        };
        // A test that looks at no more events is over.
        let _ = self.events.lock().unwrap().send(text);
    }
    fn type_name(&self) -> String {
        self.name.to_owned()
    }
    fn uuid(&self) -> [u8; 16] {
        [7; 16]
    }
    fn sections(&self) -> Sections {
        let section = |priority| {
            let (from, to) = (Arc::clone(&self.device), Arc::clone(&self.device));
            let load = move |state| {
                *to.lock().unwrap() = state;
                Ok(())
            };
            Section::new::<DeviceState>(move || from.lock().unwrap().clone(), load).at(priority)
        };
        let place =
            |id: &str, instance, priority| Placed { id: id.into(), instance, section: section(priority) };
        let list = vec![
            place("0/device", 0, Priority::Early),
            place("device", 0, Priority::Device),
            place("device", 1, Priority::Device),
        ];
        Sections { list, blocked: Vec::new() }
    }
    fn freeze(&self) -> Box<dyn Any + Send> {
        Box::new(())
    }
    fn keep_shared(&self, _keep: bool) {}
    fn run_state(&self) -> RunState {
        *self.state.lock().unwrap()
    }
    fn stop(&self) -> Option<RunState> {
        let before = std::mem::replace(&mut *self.state.lock().unwrap(), RunState::FinishMigrate);
        *self.before.lock().unwrap() = before;
        self.send(Event::Stop);
        Some(before)
    }
    fn moved(&self) {
        *self.state.lock().unwrap() = RunState::Postmigrate;
    }
    fn go_on(&self) {
        *self.state.lock().unwrap() = *self.before.lock().unwrap();
        self.send(Event::Resume);
    }
    fn arrived(&self, source: RunState) {
        *self.state.lock().unwrap() = source;
        self.send(Event::Resume);
    }
    fn end(&self) {
        *self.ended.lock().unwrap() = true;
    }
    fn throttle(&self, _percent: u8) {}
    fn free_pages(&self, step: FreePages) {
        self.asked.lock().unwrap().push(step);
        if let Some(answer) = self.answer.lock().unwrap().as_mut().filter(|_| step == FreePages::Ask) {
            answer();
        }
    }
}

fn status_text(status: MigrationStatus) -> String {
    qapi::Enum::as_str(status).to_owned()
}

/// A machine with the commands that move it.
pub(crate) struct Rig {
    pub(crate) machine: Arc<Fake>,
    pub(crate) migration: Arc<Migration>,
    events: Receiver<String>,
    handle: Handle,
}

impl Rig {
    /// A machine of the type `name`, with events on.
    pub(crate) fn new(main: &Loop, name: &'static str) -> Self {
        let (sender, events) = channel();
        let machine = Fake::new(main.handle.clone(), name, sender);
        let chardevs = Arc::new(ChardevSet::new(main.handle.clone()));
        let migration = Arc::new(Migration::new(Arc::clone(&machine) as Arc<dyn Machine>, chardevs));
        let rig = Self { machine, migration, events, handle: main.handle.clone() };
        rig.capability(MigrationCapability::Events);
        rig
    }

    pub(crate) fn capability(&self, capability: MigrationCapability) {
        let status = vec![MigrationCapabilityStatus { capability, state: true }];
        self.migration.migrate_set_capabilities(status).unwrap();
    }

    /// Runs a command where commands are run.
    pub(crate) fn command<T: Send + 'static>(&self, run: impl FnOnce(&Migration) -> T + Send + 'static) -> T {
        let migration = Arc::clone(&self.migration);
        self.handle.run_on_loop(move || run(&migration)).unwrap()
    }

    pub(crate) fn migrate(&self, uri: &str) -> qapi::Result<()> {
        let uri = uri.to_owned();
        self.command(move |migration| migration.migrate(Some(uri), None, None, None))
    }

    pub(crate) fn expect(&self, uri: &str) -> qapi::Result<()> {
        let uri = uri.to_owned();
        *self.machine.state.lock().unwrap() = RunState::Inmigrate;
        self.command(move |migration| migration.expect(&uri))
    }

    /// All events up to `last`.
    pub(crate) fn until(&self, last: &str) -> Vec<String> {
        let mut seen = Vec::new();
        while seen.last().is_none_or(|event| event != last) {
            match self.events.recv_timeout(PATIENCE) {
                Ok(event) => seen.push(event),
                Err(_) => panic!("no {last} after {seen:?}: {:?}", self.errors()),
            }
        }
        seen
    }

    /// What went wrong with it, on its way here or away.
    pub(crate) fn errors(&self) -> Vec<String> {
        self.migration.query_migrate().unwrap().error_desc.into_iter().collect()
    }

    /// `completed` or `failed`, whichever comes.
    pub(crate) fn end(&self) -> String {
        self.until_any(&["completed", "failed"])
    }

    /// The first of some events that comes.
    pub(crate) fn until_any(&self, ends: &[&str]) -> String {
        loop {
            let event = self.events.recv_timeout(PATIENCE).expect("it ends");
            if ends.contains(&&*event) {
                return event;
            }
        }
    }
}

/// A machine with something in its memory and in its devices.
pub(crate) fn full(main: &Loop) -> Rig {
    let rig = Rig::new(main, "fake");
    rig.machine.whole.write(5000, b"of the whole").unwrap();
    rig.machine.sparse.write(SIZE / 2 - 4, b"half").unwrap();
    *rig.machine.device.lock().unwrap() = DeviceState { value: 42, list: vec![1, 2, 3] };
    rig
}

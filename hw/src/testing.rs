//! Machines for tests: on the qtest accelerator, where the test plays the guest.

pub(crate) mod carry;

use std::sync::{Arc, Mutex};

use accel::AccelSpec;
use mainloop::MainLoop;
use qapi::Result;
use qapi::events::Event;
use qom::{Input, Registry, Tree};

use crate::core::qdev::device_add;
use crate::core::{Device, Host, Machine, MachineConfig, MemoryConfig};

pub(crate) struct Rig {
    pub(crate) main: MainLoop,
    pub(crate) machine: Arc<Machine>,
    events: Arc<Mutex<Vec<Event>>>,
}

/// What holds the machine in a circle lets go of it: thousands of random cases give their memory and descriptors back.
impl Drop for Rig {
    fn drop(&mut self) {
        self.machine.shut_down();
    }
}

/// A configuration with 1 GiB of RAM and room for 7 GiB more.
pub(crate) fn config(machine: &str) -> MachineConfig {
    let memory = MemoryConfig { size: Some(1 << 30), maxmem: Some(8 << 30), slots: None };
    MachineConfig { machine: Some(machine.into()), memory, ..MachineConfig::default() }
}

impl Rig {
    /// A built machine to which devices can be added cold.
    pub(crate) fn build(config: MachineConfig) -> Result<Self> {
        Self::build_with(config, |_| Ok(()))
    }

    /// The same; `before` runs between `Machine::new` and `Machine::init`.
    pub(crate) fn build_with(
        config: MachineConfig,
        before: impl FnOnce(&Arc<Machine>) -> Result<()>,
    ) -> Result<Self> {
        let main = MainLoop::new().expect("descriptors");
        let memory = memory::Memory::new();
        let mut registry = Registry::new();
        Tree::register(&mut registry);
        memory::register(&mut registry, &memory);
        crate::register(&mut registry);
        let tree = Arc::new(Tree::new(registry));
        let opened = accel::open(&[AccelSpec::option("qtest")]).expect("qtest needs nothing");
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&events);
        let chardevs = Arc::new(chardev::ChardevSet::new(main.handle()));
        let host = Host {
            tree,
            memory,
            accel: opened.accel,
            mainloop: main.handle(),
            net: net::NetSet::new(main.handle(), Arc::clone(chardevs.fds())),
            chardevs,
            events: Arc::new(move |event, _| sink.lock().unwrap().push(event)),
        };
        let machine = Machine::new(config, host)?;
        before(&machine)?;
        machine.init()?;
        Ok(Self { main, machine, events })
    }

    /// A machine of that type that waits to be started.
    pub(crate) fn ready(machine: &str) -> Self {
        let rig = Self::build(config(machine)).unwrap();
        rig.machine.finish().unwrap();
        rig
    }

    /// The machine `none`.
    pub(crate) fn ready_none() -> Self {
        let config = MachineConfig { machine: Some("none".into()), ..MachineConfig::default() };
        let rig = Self::build(config).unwrap();
        rig.machine.finish().unwrap();
        rig
    }

    /// `-device TEXT` or HMP `device_add TEXT`.
    pub(crate) fn add(&self, text: &str) -> Result<Arc<dyn Device>> {
        let options = qom::options::options(text, Some("driver"));
        let list: Vec<_> = options.pairs.iter().map(|(k, v)| (k.as_str(), Input::Option(v))).collect();
        device_add(&self.machine, &list)
    }

    /// Events since the last call, as `NAME {data}`.
    pub(crate) fn events(&self) -> Vec<String> {
        let text = |e: &Event| match e.data() {
            Some(data) => format!("{} {}", e.name(), qapi::json::to_string(&data.into())),
            None => e.name().to_owned(),
        };
        std::mem::take(&mut *self.events.lock().unwrap()).iter().map(text).collect()
    }

    /// The events that come next, as [`Self::events`] has them: those of a device that is gone come later than the command.
    pub(crate) fn next_events(&mut self) -> Vec<String> {
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            let events = self.events();
            if !events.is_empty() {
                return events;
            }
            let left = until.saturating_duration_since(std::time::Instant::now());
            assert!(!left.is_zero(), "no event came");
            self.main.turn(Some(left)).unwrap();
        }
    }

    /// Lets the main loop do what was posted.
    pub(crate) fn turn(&mut self) {
        self.main.turn(Some(std::time::Duration::ZERO)).unwrap();
    }

    pub(crate) fn outl(&self, port: u64, value: u32) {
        let _ = self.machine.io_space().write_uint(port, 4, value.into());
    }

    pub(crate) fn outb(&self, port: u64, value: u8) {
        let _ = self.machine.io_space().write_uint(port, 1, value.into());
    }

    pub(crate) fn read(&self, port: u64, size: u8) -> u64 {
        self.machine.io_space().read_uint(port, size).0
    }

    /// Reads configuration space through the ports.
    pub(crate) fn config_read(&self, slot: u32, function: u32, offset: u32) -> u32 {
        self.outl(0xcf8, 1 << 31 | slot << 11 | function << 8 | offset);
        self.read(0xcfc, 4) as u32
    }

    pub(crate) fn config_write(&self, slot: u32, function: u32, offset: u32, value: u32) {
        self.outl(0xcf8, 1 << 31 | slot << 11 | function << 8 | offset);
        self.outl(0xcfc, value);
    }
}

//! The keyboard controller, as far as it resets the machine: no keyboard or mouse is connected.
//!
//! IBM PC AT Technical Reference. Commands: self test, output port, pulse of the reset line.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use memory::RegionOps;
use qapi::Result;
use qapi::types::ShutdownCause;
use qom::{Class, Registry, TypeInfo};
use vmstate::{Saved, Section, vmstate};

use super::Ports;
use crate::core::device::{Device, DeviceClass, DeviceState, ResetKind};
use crate::core::machine::Machine;

const STATUS_OUTPUT_FULL: u8 = 1 << 0;
const STATUS_SYSTEM: u8 = 1 << 2;
const STATUS_COMMAND: u8 = 1 << 3;
const STATUS_UNLOCKED: u8 = 1 << 4;
const COMMAND_SELF_TEST: u8 = 0xaa;
const COMMAND_READ_OUTPUT_PORT: u8 = 0xd0;
const COMMAND_WRITE_OUTPUT_PORT: u8 = 0xd1;
const SELF_TEST_PASSED: u8 = 0x55;
/// Output port: the processor runs, A20 is on.
const OUTPUT_IDLE: u8 = 0xcf;
const OUTPUT_RUN: u8 = 1 << 0;

/// The device.
pub struct I8042 {
    dev: DeviceState,
    ports: Ports,
    state: Mutex<State>,
}
crate::device_object!(I8042, dev);

#[derive(Default)]
struct State {
    output: Option<u8>,
    /// The command that waits for its data byte.
    pending: u8,
}

vmstate! {
    /// What a migration takes along.
    pub struct KeyboardState: "pckbd", version 1 {
        /// The byte that waits to be read.
        output: Option<u8>,
        /// The command that waits for its data byte; 0 if none does.
        write_cmd: u8,
    }
}

pub(super) fn register(registry: &mut Registry) {
    registry.register(
        TypeInfo::new("i8042")
            .parent("device")
            .extension(DeviceClass::on("ISA"))
            .instance(|class: &Arc<Class>| {
                Arc::new(I8042 {
                    dev: DeviceState::new(class),
                    ports: Ports::default(),
                    state: Mutex::default(),
                })
            })
            .cast::<I8042, dyn Device>(|d| d),
    );
}

impl Device for I8042 {
    fn dev(&self) -> &DeviceState {
        &self.dev
    }

    fn realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        let owner: qom::ObjectRef = Arc::<Self>::clone(&self);
        let port = |command| {
            Arc::new(Port { device: Arc::downgrade(&self), machine: Arc::downgrade(machine), command })
        };
        self.ports.map(machine, &owner, "i8042-data", 0x60, 1, port(false));
        self.ports.map(machine, &owner, "i8042-cmd", 0x64, 1, port(true));
        Ok(())
    }

    fn unrealize(self: Arc<Self>, machine: &Arc<Machine>) {
        self.ports.unmap(machine);
    }

    fn saved(self: Arc<Self>) -> Saved {
        let loaded = Arc::clone(&self);
        let save = move || {
            let State { output, pending } = &*self.lock();
            KeyboardState { output: *output, write_cmd: *pending }
        };
        let load = move |KeyboardState { output, write_cmd }| {
            *loaded.lock() = State { output, pending: write_cmd };
            Ok(())
        };
        Saved::one(Section::new(save, load))
    }

    fn reset(&self, _kind: ResetKind) {
        *self.lock() = State::default();
    }
}

impl I8042 {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Fields are assigned whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, command: bool) -> u8 {
        let mut state = self.lock();
        if command {
            let full = if state.output.is_some() { STATUS_OUTPUT_FULL } else { 0 };
            return full | STATUS_SYSTEM | STATUS_COMMAND | STATUS_UNLOCKED;
        }
        state.output.take().unwrap_or(0)
    }

    /// Takes a byte; tells whether it resets the machine.
    fn write(&self, command: bool, value: u8) -> bool {
        let mut state = self.lock();
        if !command {
            let pending = std::mem::take(&mut state.pending);
            return pending == COMMAND_WRITE_OUTPUT_PORT && value & OUTPUT_RUN == 0;
        }
        state.pending = value;
        match value {
            COMMAND_SELF_TEST => state.output = Some(SELF_TEST_PASSED),
            COMMAND_READ_OUTPUT_PORT => state.output = Some(OUTPUT_IDLE),
            // F0–FF pulse the output bits that are zero; bit 0 is the reset line.
            0xf0.. => return value & OUTPUT_RUN == 0,
            COMMAND_WRITE_OUTPUT_PORT => {}
            _ => trace::unimp!("i8042: command {value:#04x}"),
        }
        false
    }
}

struct Port {
    device: Weak<I8042>,
    machine: Weak<Machine>,
    command: bool,
}

impl RegionOps for Port {
    fn read(&self, _offset: u64, _size: u8) -> u64 {
        self.device.upgrade().map_or(0xff, |d| d.read(self.command).into())
    }
    fn write(&self, _offset: u64, _size: u8, value: u64) {
        if let (Some(device), Some(machine)) = (self.device.upgrade(), self.machine.upgrade())
            && device.write(self.command, value as u8)
        {
            machine.request_reset(ShutdownCause::GuestReset);
        }
    }
}

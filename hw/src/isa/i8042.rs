//! The keyboard controller of a PC, with a keyboard and a mouse.
//!
//! IBM PC AT Technical Reference, "Keyboard Controller"; Intel 8042 as PS/2 has it, with a second line for a mouse. Ports 60h (data) and
//! 64h (commands, status), interrupts 1 and 12. Left out: the switch of A20 (its bit reads back), the test port.
//!
//! One lock covers controller, keyboard and mouse; what is below it is the interrupt controller.

mod controller;

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use memory::RegionOps;
use qapi::types::{QKeyCode, ShutdownCause};
use qapi::{Error, Result};
use qom::{Class, ObjectRef, Property, Registry, TypeInfo};
use vmstate::{Saved, Section};

use super::Ports;
use crate::core::device::{Device, DeviceClass, DeviceState, ResetKind};
use crate::core::irq::IrqLine;
use crate::core::machine::Machine;
use crate::core::qdev::{self, Place};
use crate::input::{Input, Keyboard};
use controller::{Controller, Effect};

const MOUSE: &str = "QEMU PS/2 Mouse";
/// Interrupts that an ISA device can have.
const IRQS: u8 = 16;
/// Interrupts of keyboard and mouse.
const IRQ: [u8; 2] = [1, 12];

/// The device.
pub struct I8042 {
    dev: DeviceState,
    ports: Ports,
    /// Of keyboard and mouse.
    irq: [AtomicU8; 2],
    state: Mutex<Controller>,
    lines: OnceLock<[IrqLine; 2]>,
    /// Its place among what hears of keys.
    listener: Mutex<Option<[usize; 2]>>,
}
crate::device_object!(I8042, dev);

pub(super) fn register(registry: &mut Registry) {
    let irq = |name: &'static str, which: usize| {
        Property::new(name, "uint8")
            .default(u64::from(IRQ[which]))
            .get(move |d: &I8042| Ok(d.irq[which].load(Relaxed).into()))
            .set(move |d: &I8042, value, name| {
                d.irq[which].store(value.to_uint(name, 8)? as u8, Relaxed);
                Ok(())
            })
    };
    registry.register(
        TypeInfo::new("i8042")
            .parent("device")
            .extension(DeviceClass::on("ISA"))
            .property(irq("kbd-irq", 0))
            .property(irq("mouse-irq", 1))
            .instance(|class: &Arc<Class>| {
                Arc::new(I8042 {
                    dev: DeviceState::new(class),
                    ports: Ports::default(),
                    irq: IRQ.map(AtomicU8::new),
                    state: Mutex::default(),
                    lines: OnceLock::new(),
                    listener: Mutex::default(),
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
        for (name, irq) in ["kbd-irq", "mouse-irq"].into_iter().zip(&self.irq) {
            if irq.load(Relaxed) >= IRQS {
                return Err(Error::generic(format!("Maximum value for \"{name}\" is: {}", IRQS - 1)));
            }
        }
        let owner: ObjectRef = Arc::<Self>::clone(&self);
        for (class, name) in [("ps2-kbd", "ps2kbd"), ("ps2-mouse", "ps2mouse")] {
            let place = Place::Child(Arc::clone(&owner), name);
            qdev::build(machine, class, place, Some(&machine.main_bus()), &[])?;
        }
        let line = |irq: &AtomicU8| IrqLine::new(machine.irq(), irq.load(Relaxed).into());
        let lines = [line(&self.irq[0]), line(&self.irq[1])];
        self.lines.get_or_init(|| lines);
        let port = |command| {
            Arc::new(Port { device: Arc::downgrade(&self), machine: Arc::downgrade(machine), command })
        };
        self.ports.map(machine, &owner, "i8042-data", 0x60, 1, port(false));
        self.ports.map(machine, &owner, "i8042-cmd", 0x64, 1, port(true));
        let me = Arc::downgrade(&self);
        *self.listener() = Some(Input::of(machine).add(me, MOUSE));
        Ok(())
    }

    fn unrealize(self: Arc<Self>, machine: &Arc<Machine>) {
        self.ports.unmap(machine);
        if let Some(which) = self.listener().take() {
            Input::of(machine).remove(which);
        }
    }

    fn saved(self: Arc<Self>) -> Saved {
        let loaded = Arc::clone(&self);
        let save = move || self.lock().saved();
        let load = move |state| {
            let mut own = loaded.lock();
            *own = Controller::from_state(state)?;
            loaded.interrupt(&own);
            Ok(())
        };
        Saved::one(Section::new(save, load))
    }

    fn reset(&self, _kind: ResetKind) {
        let mut state = self.lock();
        *state = Controller::default();
        self.interrupt(&state);
    }

    fn qtree_gpios(&self) -> Vec<String> {
        let input = ["ps2-mouse-input-irq", "ps2-kbd-input-irq"].map(|name| format!("gpio-in \"{name}\" 1"));
        let output = ["gpio-out \"\" 2".to_owned(), "gpio-out \"a20\" 1".to_owned()];
        input.into_iter().chain(output).collect()
    }
}

impl Keyboard for I8042 {
    fn key(&self, key: QKeyCode, down: bool) {
        let mut state = self.lock();
        state.key(key, down);
        self.interrupt(&state);
    }
}

impl I8042 {
    fn lock(&self) -> MutexGuard<'_, Controller> {
        // What is done to it ends, whatever the byte.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listener(&self) -> MutexGuard<'_, Option<[usize; 2]>> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what firmware does at every reset.
    pub fn set_up(&self) {
        self.lock().set_up();
    }

    /// Brings the lines up to date.
    fn interrupt(&self, state: &Controller) {
        let Some([keyboard, mouse]) = self.lines.get() else { return };
        let levels = state.interrupts();
        keyboard.set(levels.0);
        mouse.set(levels.1);
    }

    fn read(&self, command: bool) -> u8 {
        let mut state = self.lock();
        if command {
            return state.status();
        }
        let byte = state.read();
        // The next byte is an edge of its own.
        for line in self.lines.get().into_iter().flatten() {
            line.set(false);
        }
        self.interrupt(&state);
        byte
    }

    fn write(&self, command: bool, value: u8) -> Effect {
        let mut state = self.lock();
        let effect = if command { state.command(value) } else { state.data(value) };
        self.interrupt(&state);
        effect
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
            && device.write(self.command, value as u8) == Effect::Reset
        {
            machine.request_reset(ShutdownCause::GuestReset);
        }
    }
}

#[cfg(test)]
mod tests;

//! `isa-serial`: a 16550A at one of the four usual places, connected to a character device.
//!
//! A port of a machine that is to arrive takes nothing from the host before the guest runs, so that nothing is lost to the registers that arrive.
//!
//! Lock order: the port's registers, then the character device and the interrupt controller (neither calls back).

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use ::chardev::{CharEvent, Frontend, Port};
use memory::RegionOps;
use qapi::{Error, Result, Value};
use qom::{Class, Property, Registry, TypeInfo};
use vmstate::{Saved, Section};

use super::uart::Uart;
use crate::core::device::{Category, Device, DeviceClass, DeviceState, ResetKind};
use crate::core::irq::IrqLine;
use crate::core::machine::Machine;
use crate::isa::Ports;

/// Places and interrupts of the four ports of a PC.
const PLACES: [(i64, i64); 4] = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)];
const AUTOMATIC: i64 = 0xffff_ffff;

/// The device.
pub struct IsaSerial {
    dev: DeviceState,
    index: AtomicI64,
    iobase: AtomicI64,
    irq: AtomicI64,
    chardev: Mutex<Option<String>>,
    ports: Ports,
    line: OnceLock<Arc<Line>>,
}
crate::device_object!(IsaSerial, dev);

/// The registers with what they are connected to.
struct Line {
    uart: Mutex<Uart>,
    irq: IrqLine,
    port: Mutex<Option<Port>>,
    machine: Weak<Machine>,
}

pub(super) fn register(registry: &mut Registry) {
    let number = |name: &'static str, field: fn(&IsaSerial) -> &AtomicI64| {
        Property::new(name, "uint32")
            .default(Value::Int(AUTOMATIC))
            .get(move |s: &IsaSerial| Ok(Value::Int(field(s).load(Relaxed))))
            .set(move |s: &IsaSerial, v, name| {
                field(s).store(v.to_uint(name, 32)?.cast_signed(), Relaxed);
                Ok(())
            })
    };
    let chardev = Property::new("chardev", "str")
        .description("ID of a chardev to use as a backend")
        .get(|s: &IsaSerial| Ok(s.chardev_id().unwrap_or_default().into()))
        .set(|s: &IsaSerial, v, name| {
            *s.chardev.lock().unwrap_or_else(PoisonError::into_inner) = Some(v.to_str(name)?.to_owned());
            Ok(())
        });
    registry.register(
        TypeInfo::new("isa-serial")
            .parent("device")
            .extension(DeviceClass::on("ISA").category(Category::Input).hide(&["chardev"]))
            .instance(IsaSerial::new)
            .cast::<IsaSerial, dyn Device>(|d| d)
            .property(number("index", |s| &s.index))
            .property(number("iobase", |s| &s.iobase))
            .property(number("irq", |s| &s.irq))
            .property(chardev),
    );
}

impl IsaSerial {
    fn new(class: &Arc<Class>) -> Arc<Self> {
        Arc::new(Self {
            dev: DeviceState::new(class),
            index: AtomicI64::new(AUTOMATIC),
            iobase: AtomicI64::new(AUTOMATIC),
            irq: AtomicI64::new(AUTOMATIC),
            chardev: Mutex::default(),
            ports: Ports::default(),
            line: OnceLock::new(),
        })
    }

    fn chardev_id(&self) -> Option<String> {
        self.chardev.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The port on the character device; a serial port without one sends to nobody.
    fn connect(&self, machine: &Machine) -> Result<Option<Port>> {
        let Some(id) = self.chardev_id() else { return Ok(None) };
        // QEMU's device is a wrapper of another one, which its messages name.
        super::reserve(machine, "serial.chardev", &id).map(Some)
    }

    /// Fills in what was left to us.
    fn settle(&self, machine: &Machine) -> Result<(u64, u32)> {
        let used = machine.extension(UsedPorts::default);
        let mut used = used.0.lock().unwrap_or_else(PoisonError::into_inner);
        if self.index.load(Relaxed) == AUTOMATIC {
            self.index.store(*used, Relaxed);
        }
        let index = self.index.load(Relaxed);
        let place = usize::try_from(index).ok().and_then(|i| PLACES.get(i));
        let place = place.ok_or_else(|| Error::generic("Max. supported number of ISA serial ports is 4."))?;
        *used = (*used).max(index + 1);
        for (field, value) in [(&self.iobase, place.0), (&self.irq, place.1)] {
            if field.load(Relaxed) == AUTOMATIC {
                field.store(value, Relaxed);
            }
        }
        let (base, irq) = (self.iobase.load(Relaxed), self.irq.load(Relaxed));
        if !(0..=0xfff8).contains(&base) || !(0..16).contains(&irq) {
            return Err(Error::generic(format!("a serial port cannot be at {base:#x} with interrupt {irq}")));
        }
        Ok((base.cast_unsigned(), irq as u32))
    }
}

/// How many serial ports have been placed.
#[derive(Default)]
struct UsedPorts(Mutex<i64>);

impl Device for IsaSerial {
    fn dev(&self) -> &DeviceState {
        &self.dev
    }

    fn realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        let port = self.connect(machine)?;
        let (base, irq) = self.settle(machine)?;
        let line = Arc::new(Line {
            uart: Mutex::default(),
            irq: IrqLine::new(machine.irq(), irq),
            port: Mutex::new(port),
            machine: Arc::downgrade(machine),
        });
        let started = Arc::downgrade(&line);
        machine.on_run_state(move |running, _| {
            if let Some(line) = started.upgrade().filter(|_| running) {
                line.started();
            }
        });
        // With the port in place: the first byte may come at once.
        if let Some(port) = &*line.port() {
            port.set_handler(Box::new(FromHost(Arc::downgrade(&line))));
        }
        let owner: qom::ObjectRef = Arc::<Self>::clone(&self);
        self.ports.map(machine, &owner, "serial", base, 8, Arc::new(Registers(Arc::clone(&line))));
        self.line.get_or_init(|| line);
        Ok(())
    }

    fn unrealize(self: Arc<Self>, machine: &Arc<Machine>) {
        self.ports.unmap(machine);
        if let Some(line) = self.line.get() {
            let port = line.port().take();
            drop(port);
        }
    }

    fn saved(self: Arc<Self>) -> Saved {
        let loaded = Arc::clone(&self);
        let save = move || {
            let uart = self.line.get().map_or_else(Uart::default, |line| line.uart().clone());
            uart.saved_state()
        };
        let load = move |state| {
            let uart = Uart::from_state(state)?;
            if let Some(line) = loaded.line.get() {
                line.irq.set(uart.interrupt());
                *line.uart() = uart;
            }
            Ok(())
        };
        Saved::one(Section::new(save, load))
    }

    fn reset(&self, _kind: ResetKind) {
        if let Some(line) = self.line.get() {
            *line.uart() = Uart::default();
            line.irq.set(false);
            if let Some(port) = &*line.port() {
                port.accept_input();
            }
        }
    }
}

impl Line {
    /// The guest goes on: what came with a migration may wait to be sent, and the host may have something.
    fn started(&self) {
        self.settle(&mut self.uart());
        if let Some(port) = &*self.port() {
            port.accept_input();
        }
    }

    fn uart(&self) -> MutexGuard<'_, Uart> {
        // Registers are assigned whole.
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn port(&self) -> MutexGuard<'_, Option<Port>> {
        self.port.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what waits, as far as the host takes it, and brings the interrupt up to date.
    fn settle(&self, uart: &mut Uart) {
        let queue = uart.transmit_queue();
        if !queue.is_empty() {
            // Without a port nobody listens, and the line takes everything.
            let taken = self.port().as_ref().map_or(queue.len(), |port| port.write(queue));
            uart.sent(taken);
        }
        self.irq.set(uart.interrupt());
    }
}

/// The guest's side.
struct Registers(Arc<Line>);

impl RegionOps for Registers {
    fn read(&self, offset: u64, _size: u8) -> u64 {
        let mut uart = self.0.uart();
        let was_full = uart.room() == 0;
        let value = uart.read(offset as u8);
        trace::emit!(serial_read, offset as u8, value);
        self.0.irq.set(uart.interrupt());
        if was_full && uart.room() > 0 {
            drop(uart);
            if let Some(port) = &*self.0.port() {
                port.accept_input();
            }
        }
        value.into()
    }

    fn write(&self, offset: u64, _size: u8, value: u64) {
        let mut uart = self.0.uart();
        let was_full = uart.room() == 0;
        trace::emit!(serial_write, offset as u8, value as u8);
        uart.write(offset as u8, value as u8);
        self.0.settle(&mut uart);
        if was_full && uart.room() > 0 {
            drop(uart);
            if let Some(port) = &*self.0.port() {
                port.accept_input();
            }
        }
    }

    fn constraints(&self) -> memory::AccessConstraints {
        memory::AccessConstraints::new().valid(1, 4).implemented(1, 1)
    }
}

/// The host's side.
struct FromHost(Weak<Line>);

impl Frontend for FromHost {
    fn can_read(&mut self) -> usize {
        let line = self.0.upgrade();
        let arrived = |line: &Arc<Line>| line.machine.upgrade().is_some_and(|machine| !machine.is_incoming());
        line.filter(arrived).map_or(0, |line| line.uart().room())
    }

    fn read(&mut self, data: &[u8]) {
        let Some(line) = self.0.upgrade() else { return };
        let mut uart = line.uart();
        data.iter().for_each(|byte| uart.receive(*byte));
        line.irq.set(uart.interrupt());
    }

    fn event(&mut self, event: CharEvent) {
        if event == CharEvent::Break
            && let Some(line) = self.0.upgrade()
        {
            let mut uart = line.uart();
            uart.receive_break();
            line.irq.set(uart.interrupt());
        }
    }

    fn supports_change(&self) -> bool {
        true
    }

    fn writable(&mut self) {
        if let Some(line) = self.0.upgrade() {
            let mut uart = line.uart();
            line.settle(&mut uart);
        }
    }
}

#[cfg(test)]
mod tests;

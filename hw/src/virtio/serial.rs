//! `virtio-serial` (virtio 1.3 §5.3, "console device"): a bus of ports, each a pair of queues, with a control channel that says which there are.
//!
//! - [`ports`] is what passes through; [`control`] the messages;
//! - [`port`] are the devices on the bus, `virtconsole` and `virtserialport`.
//!
//! Data of the host is read only when the guest has a buffer for it, and the guest's buffer waits while the host takes nothing (a console
//! loses the data instead, as in QEMU). Left out: the console's size, which QEMU does not tell either.

mod control;
mod migration;
mod port;
mod ports;

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

use qapi::events::Event;
use qapi::{Error, Result};
use qom::{Class, Property, TypeInfo};
use vmstate::Saved;

use self::port::SerialPort;
use self::ports::{CONTROL_IN, CONTROL_OUT, News, Ports, port_of};
use super::migration::Carrier;
use super::pci::{BackendPci, PciBackend, ProxyClass, register_with_modern};
use super::ring::Chain;
use super::{Outcome, Violation, VirtioBackend, VirtioCommon, VirtioDevice, unpoisoned};
use crate::core::bus::attach;
use crate::core::{
    Bus, Category, Device, DeviceClass, DeviceState, HotplugHandler, Machine, PlainBus, bus::plain_bus_class,
};

const DEVICE_ID: u16 = 3;
const QUEUE_SIZE: u16 = 128;
const CONTROL_QUEUE_SIZE: u16 = 32;
/// Ports at most: queues, two a port and two more, are 1024 at most.
const MAX_PORTS: u32 = 511;

#[doc(alias = "VIRTIO_CONSOLE_F_MULTIPORT")]
const F_MULTIPORT: u64 = 1 << 1;
#[doc(alias = "VIRTIO_CONSOLE_F_EMERG_WRITE")]
const F_EMERGENCY_WRITE: u64 = 1 << 2;
/// Offset of the byte for emergencies in the configuration space.
const EMERGENCY_WRITE: usize = 8;
/// Longest message of the guest that is looked at.
const CONTROL_BYTES: usize = 64;

/// PCI classes: a communication controller, a display, others.
const CLASS_COMMUNICATION: u32 = 0x0780;
const CLASS_DISPLAY: u32 = 0x0380;
const CLASS_OTHERS: u32 = 0x00ff;

#[derive(Debug, Clone, Copy)]
struct Config {
    max_ports: u32,
    emergency_write: bool,
}

/// The device, behind `virtio-bus`.
pub(in crate::virtio) struct VirtioSerial {
    common: VirtioCommon,
    config: Mutex<Config>,
    queue_sizes: OnceLock<Vec<u16>>,
    bus: OnceLock<Arc<dyn Bus>>,
    ports: Mutex<Ports>,
    machine: Mutex<Weak<Machine>>,
}
crate::device_object!(VirtioSerial, common.dev);

/// The ports' bus takes devices at any time.
struct AnyTime;
impl HotplugHandler for AnyTime {}

/// Buses of devices without an id, which are numbered.
#[derive(Default)]
struct UnnamedBuses(AtomicU32);

impl VirtioSerial {
    fn new(class: &Arc<Class>) -> Arc<Self> {
        Arc::new(Self {
            common: VirtioCommon::new(class),
            config: Mutex::new(Config { max_ports: 31, emergency_write: true }),
            queue_sizes: OnceLock::new(),
            bus: OnceLock::new(),
            ports: Mutex::default(),
            machine: Mutex::default(),
        })
    }

    fn settings(&self) -> MutexGuard<'_, Config> {
        unpoisoned(&self.config)
    }

    fn ports(&self) -> MutexGuard<'_, Ports> {
        unpoisoned(&self.ports)
    }

    /// Changes the ports, then tells what came of it. Without any lock.
    fn change<T>(&self, change: impl FnOnce(&mut Ports) -> T) -> T {
        let value = change(&mut self.ports());
        self.settle();
        value
    }

    fn make_bus(self: &Arc<Self>, machine: &Machine) -> Result<()> {
        if self.bus.get().is_some() {
            return Ok(());
        }
        let proxy = self.common.dev.parent_bus().and_then(|bus| bus.bus().parent());
        let name = proxy.and_then(|proxy| proxy.dev().id()).map_or_else(
            || {
                let count = machine.extension(UnnamedBuses::default).0.fetch_add(1, Relaxed);
                format!("virtio-serial-bus.{count}")
            },
            |id| format!("{id}.0"),
        );
        let registry = machine.tree().registry();
        let class =
            registry.lookup("virtio-serial-bus").ok_or_else(|| Error::generic("no virtio-serial-bus"))?;
        let bus: Arc<dyn Bus> = PlainBus::new(class, name.clone(), None);
        bus.bus().set_hotplug_handler(Arc::new(AnyTime));
        let device: Arc<dyn Device> = Arc::clone(self) as Arc<dyn Device>;
        attach(&device, &name, Arc::clone(&bus))?;
        self.ports().title = name;
        self.bus.get_or_init(|| bus);
        Ok(())
    }

    /// The device that is port `id`.
    fn device(&self, id: u32) -> Option<Arc<SerialPort>> {
        let children = self.bus.get()?.bus().children();
        let mut ports =
            children.into_iter().filter_map(|child| (child as qom::ObjectRef).downcast::<SerialPort>());
        ports.find(|port| port.id_on_bus() == Some(id))
    }

    fn tell(&self, news: News) {
        match news {
            News::Ready(queue) => self.common.notifier.queue_ready(queue),
            News::Room(id) => {
                let host = self.ports().by_id.get(&id).and_then(|port| port.host.clone());
                if let Some(host) = host {
                    host.accept_input();
                }
            }
            News::Guest(id, open) => {
                let (host, console) = match self.ports().by_id.get(&id) {
                    Some(port) => (port.host.clone(), port.is_console),
                    None => return,
                };
                if let Some(host) = host {
                    if !console {
                        host.set_frontend_open(open);
                    }
                    host.accept_input();
                }
                let machine = unpoisoned(&self.machine).upgrade();
                let name = self.device(id).and_then(|device| device.dev().id());
                if let (Some(machine), Some(id)) = (machine, name) {
                    machine.send(Event::VserportChange { id, open });
                }
            }
        }
    }
}

impl Device for VirtioSerial {
    fn dev(&self) -> &DeviceState {
        &self.common.dev
    }

    fn realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        let max_ports = self.settings().max_ports;
        if max_ports == 0 {
            return Err(Error::generic("Maximum number of serial ports not specified"));
        }
        if max_ports > MAX_PORTS {
            return Err(Error::generic(format!("maximum ports supported: {MAX_PORTS}")));
        }
        self.queue_sizes.get_or_init(|| {
            let control = |queue| (CONTROL_IN..=CONTROL_OUT).contains(&queue);
            let size = |queue| if control(queue) { CONTROL_QUEUE_SIZE } else { QUEUE_SIZE };
            // 1024 at most.
            (0..(max_ports as u16 + 1) * 2).map(size).collect()
        });
        *unpoisoned(&self.machine) = Arc::downgrade(machine);
        self.make_bus(machine)
    }

    fn saved(self: Arc<Self>) -> Saved {
        Saved::Nothing
    }
}

impl VirtioBackend for VirtioSerial {
    fn common(&self) -> &VirtioCommon {
        &self.common
    }

    fn saved_behind(self: Arc<Self>, carrier: Carrier) -> Saved {
        migration::saved(self, carrier)
    }

    fn feature_texts(&self) -> &'static [(u64, &'static str)] {
        &[
            (F_EMERGENCY_WRITE, "VIRTIO_CONSOLE_F_EMERG_WRITE: Emergency write supported"),
            (F_MULTIPORT, "VIRTIO_CONSOLE_F_MULTIPORT: Multiple ports for device supported"),
            (1, "VIRTIO_CONSOLE_F_SIZE: Host providing console size"),
        ]
    }
}

impl VirtioDevice for VirtioSerial {
    fn name(&self) -> &'static str {
        "virtio-serial"
    }

    fn device_id(&self) -> u16 {
        DEVICE_ID
    }

    fn queue_sizes(&self) -> &[u16] {
        self.queue_sizes.get().map_or(&[], Vec::as_slice)
    }

    fn features(&self) -> u64 {
        let Config { max_ports, emergency_write } = *self.settings();
        let bit = |on: bool, bit: u64| if on { bit } else { 0 };
        bit(max_ports > 1, F_MULTIPORT) | bit(emergency_write, F_EMERGENCY_WRITE)
    }

    fn config(&self) -> Vec<u8> {
        let Config { max_ports, emergency_write } = *self.settings();
        // Columns and rows first.
        let mut bytes = vec![0; 4];
        bytes.extend(max_ports.to_le_bytes());
        if emergency_write {
            bytes.extend([0; 4]);
        }
        bytes
    }

    fn write_config(&self, offset: usize, data: &[u8]) {
        let byte = EMERGENCY_WRITE.checked_sub(offset).and_then(|at| data.get(at));
        let Some(byte) = byte.filter(|byte| **byte != 0 && self.settings().emergency_write) else { return };
        let console = {
            let ports = self.ports();
            ports.by_id.values().find(|port| port.is_console).and_then(|port| port.host.clone())
        };
        if let Some(host) = console {
            host.write(&[*byte]);
        }
    }

    fn started(&self, features: u64) {
        self.ports().started(features & F_MULTIPORT != 0);
    }

    fn serve(&self, queue: u16, buffer: &mut Chain<'_>) -> std::result::Result<Outcome, Violation> {
        let mut ports = self.ports();
        Ok(match (queue, port_of(queue)) {
            (CONTROL_IN, _) => ports.send_control(buffer),
            (CONTROL_OUT, _) => {
                let mut bytes = [0; CONTROL_BYTES];
                let count = buffer.read(&mut bytes);
                ports.control(&bytes[..count]);
                Outcome::Done(0)
            }
            (_, (id, true)) => ports.fill(id, buffer),
            (_, (id, false)) => ports.drain(id, buffer),
        })
    }

    fn driver_reset(&self) {
        self.change(Ports::reset);
    }

    fn settle(&self) {
        let news = std::mem::take(&mut self.ports().news);
        news.into_iter().for_each(|news| self.tell(news));
    }
}

impl PciBackend for VirtioSerial {
    type Own = AtomicU32;
    const HAS_LEGACY: bool = true;

    fn create(class: &Arc<Class>) -> Arc<Self> {
        Self::new(class)
    }

    fn pci_class(&self, class: &AtomicU32) -> u16 {
        let wanted = class.load(Relaxed);
        let known = [CLASS_COMMUNICATION, CLASS_DISPLAY, CLASS_OTHERS].contains(&wanted);
        let settled = if known { wanted } else { CLASS_COMMUNICATION };
        class.store(settled, Relaxed);
        // One of the three.
        settled as u16
    }

    fn default_vectors(&self, _machine: &Machine, _class: &AtomicU32) -> u32 {
        2
    }
}

fn properties() -> Vec<Property> {
    vec![
        Property::new("max_ports", "uint32")
            .default(31u64)
            .get(|d: &VirtioSerial| Ok(u64::from(d.settings().max_ports).into()))
            .set(|d: &VirtioSerial, value, name| {
                // In range: the setter refuses more bits.
                let value = value.to_uint(name, 32)? as u32;
                d.settings().max_ports = value;
                Ok(())
            }),
        Property::new("emergency-write", "bool")
            .description("on/off")
            .default(true)
            .get(|d: &VirtioSerial| Ok(d.settings().emergency_write.into()))
            .set(|d: &VirtioSerial, value, name| {
                let value = value.to_bool(name)?;
                d.settings().emergency_write = value;
                Ok(())
            }),
    ]
}

/// Registers the bus, the ports, `virtio-serial-device` and `virtio-serial-pci`.
pub(super) fn register(registry: &mut qom::Registry) {
    registry.register(plain_bus_class("virtio-serial-bus", "bus", None));
    port::register(registry);
    registry.register(
        TypeInfo::new("virtio-serial-device")
            .parent("virtio-device")
            .instance(VirtioSerial::new)
            .properties(properties())
            .cast::<VirtioSerial, dyn Device>(|d| d)
            .cast::<VirtioSerial, dyn VirtioBackend>(|d| d)
            .extension(DeviceClass::on("virtio-bus").category(Category::Input)),
    );
    let names = ["virtio-serial-pci", "virtio-serial-pci-non-transitional"];
    let class = |name, parent, without| ProxyClass {
        name,
        parent,
        backend: "virtio-serial-device",
        child_type: "child<virtio-serial-device>",
        without,
        vectors: Some(2),
        own: vec![(usize::MAX, pci_class_property())],
        device: DeviceClass::on("PCI").category(Category::Input),
    };
    register_with_modern::<VirtioSerial>(registry, "virtio-serial-pci-base", names, class);
}

fn pci_class_property() -> Property {
    Property::new("class", "uint32")
        .default(0u64)
        .get(|d: &BackendPci<VirtioSerial>| Ok(u64::from(d.own().load(Relaxed)).into()))
        .set(|d: &BackendPci<VirtioSerial>, value, name| {
            // In range: the setter refuses more bits.
            d.own().store(value.to_uint(name, 32)? as u32, Relaxed);
            Ok(())
        })
}

#[cfg(test)]
mod tests;

//! `virtserialport` and `virtconsole`: devices on the bus of a virtio-serial device, connected to a character device.

use std::sync::{Arc, Mutex, MutexGuard, Weak};

use chardev::{CharEvent, Frontend};
use qapi::{Error, Result};
use qom::{Class, ObjectRef, Property, Registry, TypeInfo};
use vmstate::Saved;

use super::VirtioSerial;
use super::ports::Port;
use crate::core::{Category, Device, DeviceClass, DeviceState, Machine};
use crate::virtio::unpoisoned;

/// `nr` when the user left it to the bus.
#[doc(alias = "VIRTIO_CONSOLE_BAD_ID")]
const AUTO: u32 = u32::MAX;

#[derive(Debug, Clone)]
struct Config {
    chardev: Option<String>,
    nr: u32,
    name: String,
}

/// A port.
pub(super) struct SerialPort {
    dev: DeviceState,
    is_console: bool,
    config: Mutex<Config>,
    /// The device it is a port of, while it is one.
    serial: Mutex<Option<Arc<VirtioSerial>>>,
}
crate::device_object!(SerialPort, dev);

impl SerialPort {
    fn new(class: &Arc<Class>, is_console: bool) -> Arc<Self> {
        let config = Config { chardev: None, nr: AUTO, name: String::new() };
        let (config, serial) = (Mutex::new(config), Mutex::default());
        Arc::new(Self { dev: DeviceState::new(class), is_console, config, serial })
    }

    fn settings(&self) -> MutexGuard<'_, Config> {
        unpoisoned(&self.config)
    }

    /// Its number, while it is part of a device.
    pub(super) fn id_on_bus(&self) -> Option<u32> {
        unpoisoned(&self.serial).as_ref().map(|_| self.settings().nr)
    }

    fn bus_device(&self) -> Result<Arc<VirtioSerial>> {
        let parent = self.dev.parent_bus().and_then(|bus| bus.bus().parent());
        let object = parent.map(|parent| parent as ObjectRef);
        object.and_then(|object| object.downcast()).ok_or_else(|| Error::generic("the port is on no bus"))
    }

    /// Finds the number of the port, which is checked as QEMU does.
    fn settle_number(&self, serial: &VirtioSerial) -> Result<u32> {
        let error = |text: String| Err(Error::generic(format!("virtio-serial-bus: {text}")));
        let Config { nr, name, .. } = self.settings().clone();
        let ports = serial.ports();
        // The first console is where a driver of one port looks.
        let first_console = self.is_console && !ports.by_id.contains_key(&0);
        if ports.by_id.contains_key(&nr) {
            return error(format!("A port already exists at id {nr}"));
        }
        if !name.is_empty() && ports.by_id.values().any(|port| port.name == name) {
            return error(format!("A port already exists by name {name}"));
        }
        let max = serial.settings().max_ports;
        let id = match nr {
            AUTO if first_console => 0,
            AUTO => {
                // QEMU's map has whole words, and so has its last free place.
                let last = max.next_multiple_of(u32::BITS);
                let Some(id) = (1..last).find(|id| !ports.by_id.contains_key(id)) else {
                    return error("Maximum port limit for this device reached".into());
                };
                id
            }
            nr => nr,
        };
        if id >= max {
            return error(format!("Out-of-range port id specified, max. allowed: {}", max - 1));
        }
        if id == 0 && !self.is_console {
            return Err(Error::generic(
                "Port number 0 on virtio-serial devices reserved for virtconsole devices for backward \
                 compatibility.",
            ));
        }
        Ok(id)
    }
}

impl Device for SerialPort {
    fn dev(&self) -> &DeviceState {
        &self.dev
    }

    fn realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        let serial = self.bus_device()?;
        let chardev = self.settings().chardev.clone();
        let kind = self.dev.type_name();
        let host = chardev.map(|id| crate::char::reserve(machine, &format!("{kind}.chardev"), &id));
        let host = host.transpose()?.map(Arc::new);
        let id = self.settle_number(&serial)?;
        let name = {
            let mut config = self.settings();
            config.nr = id;
            config.name.clone()
        };
        *unpoisoned(&self.serial) = Some(Arc::clone(&serial));
        serial.change(|ports| ports.add(id, Port::new(self.is_console, name, host.clone())));
        if let Some(host) = host {
            host.set_handler(Box::new(FromHost {
                serial: Arc::downgrade(&serial),
                id,
                console: self.is_console,
            }));
            if !self.is_console {
                host.set_frontend_open(false);
            }
        }
        Ok(())
    }

    fn unrealize(self: Arc<Self>, _machine: &Arc<Machine>) {
        let serial = unpoisoned(&self.serial).take();
        let id = self.settings().nr;
        if let Some(serial) = serial {
            let host = serial.change(|ports| ports.remove(id));
            drop(host);
        }
    }

    /// The device has it with its own.
    fn saved(self: Arc<Self>) -> Saved {
        Saved::Nothing
    }

    fn qtree_bus_info(&self) -> Vec<String> {
        let Some(serial) = unpoisoned(&self.serial).clone() else { return Vec::new() };
        let id = self.settings().nr;
        let on = |on: bool| if on { "on" } else { "off" };
        let ports = serial.ports();
        let line = ports.by_id.get(&id).map(|port| {
            format!(
                "port {id}, guest {}, host {}, throttle {}",
                on(port.guest_connected),
                on(port.host_connected),
                on(port.throttled)
            )
        });
        line.into_iter().collect()
    }
}

/// The host's side.
struct FromHost {
    serial: Weak<VirtioSerial>,
    id: u32,
    console: bool,
}

impl Frontend for FromHost {
    fn can_read(&mut self) -> usize {
        self.serial.upgrade().map_or(0, |serial| serial.ports().room(self.id))
    }

    fn read(&mut self, data: &[u8]) {
        if let Some(serial) = self.serial.upgrade() {
            serial.change(|ports| ports.receive(self.id, data));
        }
    }

    fn event(&mut self, event: CharEvent) {
        let Some(serial) = self.serial.upgrade() else { return };
        match event {
            CharEvent::Opened => serial.change(|ports| ports.host_changed(self.id, true)),
            CharEvent::Closed => serial.change(|ports| ports.host_changed(self.id, false)),
            CharEvent::Break | CharEvent::MuxIn | CharEvent::MuxOut => {}
        }
    }

    fn supports_change(&self) -> bool {
        true
    }

    fn writable(&mut self) {
        let Some(serial) = self.serial.upgrade().filter(|_| !self.console) else { return };
        serial.change(|ports| ports.writable(self.id));
    }
}

fn properties() -> Vec<Property> {
    vec![
        Property::new("chardev", "str")
            .description("ID of a chardev to use as a backend")
            .get(|d: &SerialPort| Ok(d.settings().chardev.clone().unwrap_or_default().into()))
            .set(|d: &SerialPort, value, name| {
                let id = value.to_str(name)?.to_owned();
                d.settings().chardev = Some(id);
                Ok(())
            }),
        Property::new("nr", "uint32")
            .default(u64::from(AUTO))
            .get(|d: &SerialPort| Ok(u64::from(d.settings().nr).into()))
            .set(|d: &SerialPort, value, name| {
                // In range: the setter refuses more bits.
                let value = value.to_uint(name, 32)? as u32;
                d.settings().nr = value;
                Ok(())
            }),
        Property::new("name", "str").get(|d: &SerialPort| Ok(d.settings().name.clone().into())).set(
            |d: &SerialPort, value, name| {
                let value = value.to_str(name)?.to_owned();
                d.settings().name = value;
                Ok(())
            },
        ),
    ]
}

/// Registers the classes.
pub(super) fn register(registry: &mut Registry) {
    let device = || DeviceClass::on("virtio-serial-bus").category(Category::Input);
    registry.register(TypeInfo::new("virtio-serial-port").parent("device"));
    registry.register(
        TypeInfo::new("virtserialport")
            .parent("virtio-serial-port")
            .instance(|class| SerialPort::new(class, false))
            .properties(properties())
            .cast::<SerialPort, dyn Device>(|d| d)
            .extension(device()),
    );
    registry.register(
        TypeInfo::new("virtconsole")
            .parent("virtserialport")
            .instance(|class| SerialPort::new(class, true))
            .cast::<SerialPort, dyn Device>(|d| d)
            .extension(device()),
    );
}

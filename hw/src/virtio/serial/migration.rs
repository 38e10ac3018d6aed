//! What a migration takes along of a device and its ports.
//!
//! Who is at the host's end where it comes is another one: the guest is told where that differs from what it knows, and the other end of what
//! the guest opened, once the machine runs. Whether that end takes data is found out anew.

use std::sync::Arc;

use vmstate::{LoadError, Result, Saved, vmstate};

use super::VirtioSerial;
use super::control::PORT_OPEN;
use super::ports::{MAX_MESSAGES, MAX_ROOM, News, Port, Ports};
use crate::virtio::migration::{BackendState, Carrier, section};

/// Longest control message: a name has a few dozen bytes.
const MESSAGE_BYTES: usize = 64 << 10;

vmstate! {
    /// The control channel and the ports.
    pub(in crate::virtio) struct SerialState: "virtio-serial", version 1 {
        multiport: bool,
        /// Control messages that the guest has not taken.
        messages: Vec<Vec<u8>>,
        ports: Vec<PortState>,
    }
}
vmstate! {
    /// A port.
    pub(in crate::virtio) struct PortState: "virtio-serial-port", version 1 {
        id: u32,
        guest_connected: bool,
        host_connected: bool,
        /// What came from the host for the buffer that waits.
        pending: Vec<u8>,
        /// How much of the guest's first buffer the host has taken.
        taken: u64,
    }
}

impl BackendState for SerialState {
    const SECTION: &'static str = "virtio-console";
}

pub(super) fn saved(serial: Arc<VirtioSerial>, carrier: Carrier) -> Saved {
    let loaded = Arc::clone(&serial);
    // What there is to tell is told when the queues are looked at.
    let load = move |state: SerialState| loaded.ports().load_state(state);
    Saved::one(section(carrier, move || serial.ports().saved_state(), load))
}

impl Port {
    fn saved_state(&self, id: u32) -> PortState {
        let Self {
            is_console: _,
            name: _,
            host: _,
            guest_connected,
            host_connected,
            throttled: _,
            pending,
            room: _,
            taken,
        } = self;
        PortState {
            id,
            guest_connected: *guest_connected,
            host_connected: *host_connected,
            pending: pending.iter().copied().collect(),
            taken: *taken,
        }
    }
}

impl Ports {
    fn saved_state(&self) -> SerialState {
        // News are told before anybody asks.
        let Self { by_id, multiport, messages, news: _, title: _ } = self;
        SerialState {
            multiport: *multiport,
            messages: messages.iter().cloned().collect(),
            ports: by_id.iter().map(|(id, port)| port.saved_state(*id)).collect(),
        }
    }

    fn load_state(&mut self, saved: SerialState) -> Result<()> {
        let SerialState { multiport, messages, ports } = saved;
        let invalid = |text: String| Err(LoadError::invalid(format!("virtio-serial-bus: {text}")));
        let ids = |list: &mut dyn Iterator<Item = u32>| -> Vec<u32> { list.collect() };
        let (theirs, own) = (ids(&mut ports.iter().map(|p| p.id)), ids(&mut self.by_id.keys().copied()));
        if theirs != own {
            return invalid(format!("there are ports {theirs:?}, not {own:?}"));
        }
        if messages.len() > MAX_MESSAGES || messages.iter().any(|message| message.len() > MESSAGE_BYTES) {
            return invalid("the control messages are too many or too long".into());
        }
        self.multiport = multiport;
        self.messages = messages.into();
        for PortState { id, guest_connected, host_connected, pending, taken } in ports {
            if pending.len() as u64 > MAX_ROOM {
                return invalid(format!("port {id} has too much data that waits"));
            }
            let Some(port) = self.by_id.get_mut(&id) else { continue };
            (port.guest_connected, port.taken) = (guest_connected, taken);
            port.pending = pending.into();
            (port.room, port.throttled) = (0, false);
            let open = port.host_connected;
            // Of what the guest has closed, too: libvirt takes what it hears first for the state of the channel.
            self.news.push(News::Guest(id, guest_connected));
            if open != host_connected {
                self.tell(id, PORT_OPEN, open.into());
            }
        }
        Ok(())
    }
}

//! The ports of a device and what passes through them: data, control messages, who is there on either end.
//!
//! Plain state under the device's lock. What the guest says is checked here; what follows for the world outside is noted as [`News`],
//! for the device to tell once no lock is held.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use chardev::Port as Host;

use super::control::{
    CONSOLE_PORT, DEVICE_ADD, DEVICE_READY, DEVICE_REMOVE, Message, PORT_NAME, PORT_OPEN, PORT_READY,
};
use crate::virtio::Outcome;
use crate::virtio::ring::Chain;

/// Queue of control messages to the guest; the next one is the guest's.
pub(super) const CONTROL_IN: u16 = 2;
/// Control messages of the guest.
pub(super) const CONTROL_OUT: u16 = 3;
/// Control messages that wait for the guest at most; a guest that takes none loses the ones that follow.
pub(super) const MAX_MESSAGES: usize = 4096;
/// Bytes of the guest that are passed on in one go, so that a long buffer keeps nobody else waiting.
const GO: usize = 64 << 10;
/// Bytes that are copied at once.
const CHUNK: usize = 4096;
/// Bytes that the host may be ahead of a buffer that waits.
pub(super) const MAX_ROOM: u64 = 64 << 10;

/// Queue that carries data to the guest; the next one carries the guest's.
pub(super) fn in_queue(port: u32) -> u16 {
    // There are 511 ports at most.
    if port == 0 { 0 } else { port as u16 * 2 + 2 }
}

/// The port of a queue other than the control queues, and whether it carries data to the guest.
pub(super) fn port_of(queue: u16) -> (u32, bool) {
    let pair = u32::from(queue / 2);
    (if pair == 0 { 0 } else { pair - 1 }, queue.is_multiple_of(2))
}

/// What is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// The guest opened or closed a port.
    Guest(u32, bool),
    /// The host's end of a port may be read again.
    Room(u32),
    /// A queue can be served.
    Ready(u16),
}

/// One port.
pub(super) struct Port {
    pub(super) is_console: bool,
    pub(super) name: String,
    pub(super) host: Option<Arc<Host>>,
    pub(super) guest_connected: bool,
    pub(super) host_connected: bool,
    /// The host takes nothing now: the guest's buffer waits.
    pub(super) throttled: bool,
    /// What came from the host for the buffer that waits.
    pub(super) pending: VecDeque<u8>,
    /// Bytes the guest's buffer that waits has room for.
    pub(super) room: usize,
    /// How much of the guest's first buffer the host has taken.
    pub(super) taken: u64,
}

impl Port {
    pub(super) fn new(is_console: bool, name: String, host: Option<Arc<Host>>) -> Self {
        // A console's other end counts as open: what nobody reads is lost, as on a serial line.
        let host_connected = is_console && host.is_some();
        Self {
            is_console,
            name,
            host,
            guest_connected: false,
            host_connected,
            throttled: false,
            pending: VecDeque::new(),
            room: 0,
            taken: 0,
        }
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Ports {
    pub(super) by_id: BTreeMap<u32, Port>,
    /// Whether the driver that runs speaks of more than one port.
    pub(super) multiport: bool,
    pub(super) messages: VecDeque<Vec<u8>>,
    pub(super) news: Vec<News>,
    /// What people know the device by.
    pub(super) title: String,
}

impl Ports {
    pub(super) fn tell(&mut self, port: u32, event: u16, value: u16) {
        trace::emit!(virtio_serial_send_control_event, port, event, value);
        self.tell_bytes(Message { port, event, value }.to_bytes());
    }

    fn tell_bytes(&mut self, message: Vec<u8>) {
        if self.multiport && self.messages.len() < MAX_MESSAGES {
            self.messages.push_back(message);
            self.news.push(News::Ready(CONTROL_IN));
        }
    }

    /// The driver runs.
    pub(super) fn started(&mut self, multiport: bool) {
        self.multiport = multiport;
        // A driver of one port cannot say that it is open.
        if let Some(port) = self.by_id.get_mut(&0).filter(|_| !multiport) {
            port.guest_connected = true;
        }
    }

    /// The driver is gone.
    pub(super) fn reset(&mut self) {
        self.multiport = false;
        self.messages.clear();
        for (id, port) in &mut self.by_id {
            (port.room, port.taken, port.throttled) = (0, 0, false);
            port.pending.clear();
            if std::mem::take(&mut port.guest_connected) {
                self.news.push(News::Guest(*id, false));
            }
        }
    }

    /// A port came.
    pub(super) fn add(&mut self, id: u32, port: Port) {
        self.by_id.insert(id, port);
        self.tell(id, DEVICE_ADD, 1);
    }

    /// It goes; gives its end on the host.
    pub(super) fn remove(&mut self, id: u32) -> Option<Arc<Host>> {
        let port = self.by_id.remove(&id)?;
        self.tell(id, DEVICE_REMOVE, 1);
        // What the guest sent to it is not waited for any more.
        self.news.push(News::Ready(in_queue(id) + 1));
        port.host
    }

    /// The other end of a port opened or closed.
    pub(super) fn host_changed(&mut self, id: u32, open: bool) {
        let Some(port) = self.by_id.get_mut(&id).filter(|port| !port.is_console) else { return };
        port.host_connected = open;
        port.throttled = false;
        self.news.push(News::Ready(in_queue(id) + 1));
        self.tell(id, PORT_OPEN, open.into());
    }

    /// The host takes data again.
    pub(super) fn writable(&mut self, id: u32) {
        let Some(port) = self.by_id.get_mut(&id) else { return };
        if std::mem::take(&mut port.throttled) {
            trace::emit!(virtio_serial_throttle_port, id, 0);
            self.news.push(News::Ready(in_queue(id) + 1));
        }
    }

    /// Bytes a port can take from the host now.
    pub(super) fn room(&self, id: u32) -> usize {
        let Some(port) = self.by_id.get(&id) else { return 0 };
        if self.multiport && !port.guest_connected {
            return 0;
        }
        port.room.saturating_sub(port.pending.len())
    }

    /// Data from the host, no more than there is [`room`](Self::room).
    pub(super) fn receive(&mut self, id: u32, data: &[u8]) {
        trace::emit!(virtio_console_chr_read, id, data.len());
        if let Some(port) = self.by_id.get_mut(&id) {
            port.pending.extend(data);
            self.news.push(News::Ready(in_queue(id)));
        }
    }

    /// A message of the guest.
    pub(super) fn control(&mut self, bytes: &[u8]) {
        let Some(Message { port: id, event, value }) = Message::parse(bytes) else { return };
        trace::emit!(virtio_serial_handle_control_message, event, value);
        if event == DEVICE_READY {
            if value == 0 {
                tracing::error!("virtio-serial-bus: Guest failure in adding device {}", self.title);
                return;
            }
            let ids: Vec<_> = self.by_id.keys().copied().collect();
            ids.into_iter().for_each(|id| self.tell(id, DEVICE_ADD, 1));
            return;
        }
        let Some(port) = self.by_id.get_mut(&id) else {
            tracing::error!("virtio-serial-bus: Unexpected port id {id} for device {}", self.title);
            return;
        };
        trace::emit!(virtio_serial_handle_control_message_port, id);
        match event {
            PORT_READY if value == 0 => {
                tracing::error!(
                    "virtio-serial-bus: Guest failure in adding port {id} for device {}",
                    self.title
                );
            }
            PORT_READY => {
                let (console, name, open) = (port.is_console, port.name.clone(), port.host_connected);
                if console {
                    self.tell(id, CONSOLE_PORT, 1);
                }
                if !name.is_empty() {
                    let mut message = Message { port: id, event: PORT_NAME, value: 1 }.to_bytes();
                    message.extend(name.as_bytes());
                    message.push(0);
                    self.tell_bytes(message);
                }
                if open {
                    self.tell(id, PORT_OPEN, 1);
                }
            }
            PORT_OPEN => {
                port.guest_connected = value != 0;
                self.news.push(News::Guest(id, value != 0));
            }
            _ => {}
        }
    }

    /// A buffer for a control message.
    pub(super) fn send_control(&mut self, buffer: &mut Chain<'_>) -> Outcome {
        match self.messages.pop_front() {
            Some(message) => Outcome::Done(buffer.write(&message) as u32),
            None => Outcome::Later,
        }
    }

    /// A buffer for data from the host.
    pub(super) fn fill(&mut self, id: u32, buffer: &mut Chain<'_>) -> Outcome {
        let Some(port) = self.by_id.get_mut(&id) else { return Outcome::Later };
        let room = buffer.writable_len().min(MAX_ROOM) as usize;
        if room == 0 {
            // It could wait for ever.
            return Outcome::Done(0);
        }
        if port.pending.is_empty() {
            port.room = room;
            self.news.push(News::Room(id));
            return Outcome::Later;
        }
        let count = room.min(port.pending.len());
        let written = buffer.write(&port.pending.make_contiguous()[..count]);
        port.pending.drain(..count);
        port.room = 0;
        Outcome::Done(written as u32)
    }

    /// A buffer with the guest's data.
    pub(super) fn drain(&mut self, id: u32, buffer: &Chain<'_>) -> Outcome {
        let Some(port) = self.by_id.get_mut(&id) else { return Outcome::Done(0) };
        let Some(host) = port.host.as_ref().filter(|_| port.host_connected) else {
            port.taken = 0;
            return Outcome::Done(0);
        };
        if port.throttled {
            return Outcome::Later;
        }
        let end = port.taken.saturating_add(GO as u64);
        let mut chunk = [0; CHUNK];
        while port.taken < end {
            let count = buffer.read_at(port.taken, &mut chunk);
            if count == 0 {
                port.taken = 0;
                return Outcome::Done(0);
            }
            let taken = host.write(&chunk[..count]);
            trace::emit!(virtio_console_flush_buf, id, count, taken);
            if taken < count && !port.is_console {
                port.taken += taken as u64;
                port.throttled = true;
                trace::emit!(virtio_serial_throttle_port, id, 1);
                return Outcome::Later;
            }
            // A console loses what nobody takes: its driver spins until it is gone.
            port.taken += count as u64;
        }
        self.news.push(News::Ready(in_queue(id) + 1));
        Outcome::Later
    }
}

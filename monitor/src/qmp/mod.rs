//! QMP on a character device.

mod commands;
mod session;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use chardev::{CharEvent, Chardev, Frontend, Port};
use qapi::{Dict, Value, json};

use crate::server::{Server, lock};
pub(crate) use commands::{NoSession, SessionHandler};
use session::{Session, Step, reply};

/// Bytes taken from a client at a time.
const READ_CHUNK: usize = 4096;

/// The far end of a QMP monitor, as far as events need it.
pub(crate) struct Peer {
    port: Port,
    pretty: bool,
    /// Whether the client has negotiated, so that it may see events.
    ready: AtomicBool,
}

impl Peer {
    fn send(&self, value: &Value) {
        let mut text = if self.pretty { json::to_string_pretty(value) } else { json::to_string(value) };
        if self.pretty {
            text = text.replace('\n', "\r\n");
        }
        text.push_str("\r\n");
        // A client that does not read is cut off by the character device, not waited for.
        let _ = self.port.write_all(text.as_bytes());
    }

    pub(crate) fn accept_input(&self) {
        self.port.accept_input();
    }

    pub(crate) fn send_event(&self, event: &Value) {
        if self.ready.load(Ordering::Relaxed) {
            self.send(event);
        }
    }
}

struct Monitor {
    server: Weak<Server>,
    peer: Weak<Peer>,
    session: Mutex<Session>,
}

/// Starts QMP on `chardev`.
pub(crate) fn attach(server: &Arc<Server>, chardev: &Arc<Chardev>, pretty: bool) -> qapi::Result<Arc<Peer>> {
    let peer = Arc::new(Peer { port: chardev.reserve()?, pretty, ready: AtomicBool::new(false) });
    let monitor = Monitor {
        server: Arc::downgrade(server),
        peer: Arc::downgrade(&peer),
        session: Mutex::new(Session::new()),
    };
    peer.port.set_handler(Box::new(monitor));
    Ok(peer)
}

impl Monitor {
    /// Both ends of the conversation, unless it is over.
    fn parties(&self) -> Option<(Arc<Server>, Arc<Peer>)> {
        Some((self.server.upgrade()?, self.peer.upgrade()?))
    }

    fn work(&self) {
        let Some((server, peer)) = self.parties() else { return };
        while server.is_ready() {
            let step = lock(&self.session).next_step();
            match step {
                None => return,
                Some(Step::Reply(value)) => peer.send(&value),
                Some(Step::Run(request)) => {
                    // The session is not locked while the command runs: `qmp_capabilities` changes it.
                    let handler = SessionHandler { server: &server, session: &self.session };
                    let result = server.run(&handler, &request.command, request.arguments);
                    peer.send(&reply(request.id, result));
                    peer.ready.store(lock(&self.session).negotiated(), Ordering::Relaxed);
                }
            }
        }
    }

    fn greet(&self) {
        let Some((server, peer)) = self.parties() else { return };
        let hello =
            Dict::new().with("version", commands::version(&server.version)).with("capabilities", vec!["oob"]);
        peer.send(&Dict::new().with("QMP", hello).into());
    }

    fn set_ready(&self, ready: bool) {
        if let Some(peer) = self.peer.upgrade() {
            peer.ready.store(ready, Ordering::Relaxed);
        }
    }
}

impl Frontend for Monitor {
    fn can_read(&mut self) -> usize {
        // A client that does not read its replies gets no more commands in.
        match self.parties() {
            Some((server, peer)) if server.is_ready() && !peer.port.is_congested() => READ_CHUNK,
            _ => 0,
        }
    }

    fn read(&mut self, data: &[u8]) {
        lock(&self.session).push(data);
        self.work();
    }

    fn event(&mut self, event: CharEvent) {
        match event {
            CharEvent::Opened => {
                *lock(&self.session) = Session::new();
                self.set_ready(false);
                self.greet();
            }
            CharEvent::Closed => self.set_ready(false),
            _ => {}
        }
    }

    fn writable(&mut self) {
        if let Some(peer) = self.peer.upgrade() {
            peer.port.accept_input();
        }
    }

    fn must_drain(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;

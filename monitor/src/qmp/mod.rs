//! QMP on a character device.

mod commands;
mod fds;
mod oob;
mod session;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use chardev::{CharEvent, Chardev, Frontend, Port};
use qapi::{Dict, Value, json};

use crate::descriptors::Descriptors;
use crate::server::{Server, Version, lock};
pub(crate) use commands::SessionHandler;
pub(crate) use oob::OobThread;
use session::Request;
pub(crate) use session::{Session, Step, reply};

/// Bytes taken from a client at a time.
const READ_CHUNK: usize = 4096;

/// What may be done for a client in one turn of the loop; other monitors and devices get theirs in between.
const TURN_BUDGET: usize = 256;
/// What a command takes of it; a complaint about a request takes 1.
const COMMAND_COST: usize = 16;

/// One conversation: the far end, as far as events need it, and where it stands.
pub(crate) struct Peer {
    port: Port,
    pretty: bool,
    /// Whether the client has negotiated, so that it may see events.
    ready: AtomicBool,
    session: Mutex<Session>,
    descriptors: Descriptors,
    /// Where it is read and its out-of-band commands run, if not on the main loop. In band all run on the main loop.
    away: Mutex<Option<oob::Away>>,
    /// A turn for more commands is on its way through the loop.
    posted: AtomicBool,
}

impl Peer {
    /// Sends a greeting or a reply.
    fn respond(&self, value: &Value) {
        self.trace_response(value);
        self.send(value);
    }

    fn trace_response(&self, value: &Value) {
        trace::emit!(monitor_qmp_respond, trace::Id::of(self), &json::to_string(value));
    }

    fn send(&self, value: &Value) {
        self.write(&self.line(value));
    }

    /// A message as it goes over the wire.
    fn line(&self, value: &Value) -> String {
        let mut text = if self.pretty { json::to_string_pretty(value) } else { json::to_string(value) };
        if self.pretty {
            text = text.replace('\n', "\r\n");
        }
        text.push_str("\r\n");
        text
    }

    fn write(&self, text: &str) {
        // A client that does not read is cut off by the character device, not waited for.
        let _ = self.port.write_all(text.as_bytes());
    }

    pub(crate) fn send_event(&self, event: &Value) {
        if self.ready.load(Ordering::Relaxed) {
            self.send(event);
        }
    }

    /// Runs what has come, some of it in each turn, as long as the client reads its replies.
    fn work(self: &Arc<Self>, server: &Arc<Server>) {
        // Garbage causes a complaint every few bytes: those that follow each other are written at once.
        let mut complaints = String::new();
        self.work_through(server, &mut complaints);
        self.write(&complaints);
    }

    fn work_through(self: &Arc<Self>, server: &Arc<Server>, complaints: &mut String) {
        let mut budget = TURN_BUDGET;
        while budget > 0 {
            if !server.is_ready() || self.port.is_congested() {
                return;
            }
            let away = self.is_away();
            let step = if away { self.next_waiting(server) } else { lock(&self.session).next_step() };
            let cost = match step {
                None if away => return,
                None => return self.port.accept_input(),
                Some(Step::Reply(value)) => {
                    self.trace_response(&value);
                    complaints.push_str(&self.line(&value));
                    1
                }
                Some(Step::Run(request)) => {
                    trace::emit!(handle_qmp_command, trace::Id::of(&**self), request_text(&request));
                    trace::emit!(monitor_qmp_cmd_in_band, id_text(&request));
                    // Before any event that the command causes.
                    self.write(&std::mem::take(complaints));
                    // The session is not locked while the command runs: `qmp_capabilities` changes it.
                    let handler = SessionHandler::qmp(server, &self.session, &self.descriptors);
                    let result = server.run(&handler, &request.command, request.arguments);
                    self.respond(&reply(request.id, result));
                    let (negotiated, oob) = {
                        let session = lock(&self.session);
                        (session.negotiated(), session.has_oob())
                    };
                    self.ready.store(negotiated, Ordering::Relaxed);
                    if oob && !away {
                        self.go_out_of_band(server);
                    }
                    COMMAND_COST
                }
            };
            // The last command may cost more than is left.
            budget = budget.saturating_sub(cost);
        }
        self.work_later(server);
    }

    /// The next request that the other thread left to the main loop.
    fn next_waiting(self: &Arc<Self>, server: &Arc<Server>) -> Option<Step> {
        let (waiting, was_full) = lock(&self.session).next_waiting()?;
        if was_full {
            self.sort_later(server);
        }
        self.descriptors.arrive(waiting.fds);
        Some(waiting.step)
    }

    /// [`Frontend::can_read`] may say more than 0 again.
    pub(crate) fn accept_input(&self) {
        self.port.accept_input();
    }

    fn work_later(self: &Arc<Self>, server: &Arc<Server>) {
        if self.posted.swap(true, Ordering::AcqRel) {
            return;
        }
        let (to, peer) = (Arc::downgrade(server), Arc::downgrade(self));
        server.loop_handle.post(move || {
            if let (Some(server), Some(peer)) = (to.upgrade(), peer.upgrade()) {
                // Before it looks: whoever adds something from now on posts again.
                peer.posted.swap(false, Ordering::AcqRel);
                peer.work(&server);
            }
        });
    }
}

/// A request as a trace shows it.
fn request_text(request: &Request) -> String {
    let mut dict = Dict::new().with("execute", request.command.as_str());
    if !request.arguments.is_empty() {
        dict.insert("arguments", request.arguments.clone());
    }
    if let Some(id) = &request.id {
        dict.insert("id", id.clone());
    }
    json::to_string(&dict.into())
}

fn id_text(request: &Request) -> String {
    request.id.as_ref().map(json::to_string).unwrap_or_default()
}

struct Monitor {
    server: Weak<Server>,
    peer: Weak<Peer>,
}

/// What a client is told first.
pub fn greeting(version: &Version) -> Value {
    let hello = Dict::new().with("version", commands::version(version)).with("capabilities", vec!["oob"]);
    Dict::new().with("QMP", hello).into()
}

/// Starts QMP on `chardev`.
pub(crate) fn attach(server: &Arc<Server>, chardev: &Arc<Chardev>, pretty: bool) -> qapi::Result<Arc<Peer>> {
    let peer = Arc::new(Peer {
        port: chardev.reserve()?,
        pretty,
        ready: AtomicBool::new(false),
        session: Mutex::new(Session::new()),
        descriptors: Descriptors::default(),
        away: Mutex::default(),
        posted: AtomicBool::new(false),
    });
    peer.port.set_handler(Box::new(Monitor { server: Arc::downgrade(server), peer: Arc::downgrade(&peer) }));
    Ok(peer)
}

impl Monitor {
    /// Both ends of the conversation, unless it is over.
    fn parties(&self) -> Option<(Arc<Server>, Arc<Peer>)> {
        Some((self.server.upgrade()?, self.peer.upgrade()?))
    }

    fn greet(&self) {
        let Some((server, peer)) = self.parties() else { return };
        peer.respond(&greeting(&server.version));
    }
}

impl Frontend for Monitor {
    fn can_read(&mut self) -> usize {
        // What came is worked off first, and a client that does not read its replies gets no more commands in.
        let Some((server, peer)) = self.parties() else { return 0 };
        let idle = lock(&peer.session).is_idle();
        if idle && server.is_ready() && !peer.port.is_congested() { READ_CHUNK } else { 0 }
    }

    fn read(&mut self, data: &[u8]) {
        let Some((server, peer)) = self.parties() else { return };
        peer.descriptors.arrive(peer.port.take_fds());
        lock(&peer.session).push(data);
        peer.work(&server);
    }

    fn event(&mut self, event: CharEvent) {
        let Some(peer) = self.peer.upgrade() else { return };
        match event {
            CharEvent::Opened => {
                *lock(&peer.away) = None;
                let mut session = lock(&peer.session);
                *session = session.next();
                drop(session);
                peer.ready.store(false, Ordering::Relaxed);
                self.greet();
            }
            CharEvent::Closed => {
                peer.ready.store(false, Ordering::Relaxed);
                peer.descriptors.forget();
            }
            _ => {}
        }
    }

    fn writable(&mut self) {
        if let Some((server, peer)) = self.parties() {
            peer.work(&server);
        }
    }

    fn must_drain(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;

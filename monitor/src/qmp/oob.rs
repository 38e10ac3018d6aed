//! Out-of-band execution: a client that asked for it is read on a thread of its own, so that its `exec-oob` commands run while the main
//! loop is busy with something else.
//!
//! All clients share that thread, which is made for the first of them. In-band commands wait for the main loop in a queue
//! ([`Session::next_out_of_band`]), as many as fit; then nothing more is read, not even what could run at once, as in QEMU. A client
//! behind a mux is served on the main loop in turn: there is no descriptor of its own to read.

use std::io;
use std::sync::{Arc, Weak, mpsc};
use std::thread::JoinHandle;

use chardev::{CharEvent, Frontend};
use mainloop::{Handle, MainLoop};

use super::session::{Step, reply};
use super::{Peer, READ_CHUNK, SessionHandler};
use crate::server::{Server, lock};

/// The thread that reads clients of this kind. Dropping it ends it.
pub(crate) struct OobThread {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl OobThread {
    /// Starts it.
    ///
    /// # Errors
    /// The host has no thread or descriptor left.
    pub(crate) fn start() -> io::Result<Self> {
        let (sender, receiver) = mpsc::sync_channel(1);
        // A loop stays on the thread that made it.
        let run = move || match MainLoop::new() {
            Ok(mut main) => {
                if sender.send(Ok(main.handle())).is_ok() {
                    main.run();
                }
            }
            Err(error) => drop(sender.send(Err(error))),
        };
        let thread = std::thread::Builder::new().name("mon_iothread".to_owned()).spawn(run)?;
        let handle = receiver.recv().map_err(io::Error::other)??;
        Ok(Self { handle, thread: Some(thread) })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for OobThread {
    fn drop(&mut self) {
        self.handle.quit(0);
        // Its last work may have been the last to hold the monitors; it ends by itself then.
        if let Some(thread) = self.thread.take().filter(|t| t.thread().id() != std::thread::current().id()) {
            // A panic in there was reported.
            let _ = thread.join();
        }
    }
}

/// Where a conversation goes on that is read on the other thread.
pub(super) struct Away {
    pub(super) handle: Handle,
    /// The conversation that it was; a new one begins on the main loop.
    pub(super) generation: u64,
}

impl Peer {
    /// Lets the other thread read from now on, if it can be done for this device.
    pub(super) fn go_out_of_band(self: &Arc<Self>, server: &Arc<Server>) {
        let handle = match server.oob_handle() {
            Ok(handle) => handle,
            Err(error) => return tracing::warn!(%error, "no thread for out-of-band commands: they wait"),
        };
        let generation = lock(&self.session).generation();
        let reader = Reader { server: Arc::downgrade(server), peer: Arc::downgrade(self), generation };
        // Before the other thread can ask for it.
        *lock(&self.away) = Some(Away { handle: handle.clone(), generation });
        if !self.port.read_on(&handle, Box::new(reader)) {
            *lock(&self.away) = None;
            return;
        }
        // What came with the negotiation.
        self.sort_later(server);
    }

    /// Whether the other thread reads.
    pub(super) fn is_away(&self) -> bool {
        lock(&self.away).is_some()
    }

    /// Has the other thread go on with what it has read: there is room in the queue.
    pub(super) fn sort_later(self: &Arc<Self>, server: &Arc<Server>) {
        let Some((handle, generation)) = lock(&self.away).as_ref().map(|a| (a.handle.clone(), a.generation))
        else {
            return;
        };
        let (server, peer) = (Arc::downgrade(server), Arc::downgrade(self));
        handle.post(move || {
            if let (Some(server), Some(peer)) = (server.upgrade(), peer.upgrade()) {
                peer.sort(&server, generation);
            }
        });
    }

    /// On the other thread: runs what is out of band, and leaves what is in band to the main loop.
    fn sort(self: &Arc<Self>, server: &Arc<Server>, generation: u64) {
        while server.is_ready() {
            let (step, waiting) = {
                let mut session = lock(&self.session);
                if session.generation() != generation {
                    return;
                }
                (session.next_out_of_band(), session.has_waiting())
            };
            if waiting {
                self.work_later(server);
            }
            match step {
                None => break,
                Some(Step::Reply(value)) => self.respond(&value),
                Some(Step::Run(request)) => {
                    trace::emit!(handle_qmp_command, trace::Id::of(&**self), super::request_text(&request));
                    trace::emit!(monitor_qmp_cmd_out_of_band, super::id_text(&request));
                    let handler = SessionHandler::qmp(server, &self.session, &self.descriptors);
                    let result = server.run(&handler, &request.command, request.arguments);
                    self.respond(&reply(request.id, result));
                }
            }
        }
        self.port.accept_input();
    }
}

/// The reading side of one conversation on the other thread.
struct Reader {
    server: Weak<Server>,
    peer: Weak<Peer>,
    generation: u64,
}

impl Frontend for Reader {
    fn can_read(&mut self) -> usize {
        let (Some(server), Some(peer)) = (self.server.upgrade(), self.peer.upgrade()) else { return 0 };
        let room = {
            let session = lock(&peer.session);
            session.generation() == self.generation && session.has_room()
        };
        if room && server.is_ready() && !peer.port.is_congested() { READ_CHUNK } else { 0 }
    }

    fn read(&mut self, data: &[u8]) {
        let (Some(server), Some(peer)) = (self.server.upgrade(), self.peer.upgrade()) else { return };
        let fds = peer.port.take_fds();
        {
            let mut session = lock(&peer.session);
            if session.generation() != self.generation {
                return;
            }
            session.attach(fds);
            session.push(data);
        }
        peer.sort(&server, self.generation);
    }

    fn event(&mut self, _event: CharEvent) {}

    fn writable(&mut self) {
        if let Some(peer) = self.peer.upgrade() {
            peer.port.accept_input();
        }
    }

    fn must_drain(&self) -> bool {
        true
    }
}

//! Connections of a client: getting to know a back end, taking it into use, and losing it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread;

use ::chardev::{CharEvent, Connection, Frontend, Patience, Port};
use qapi::{Error, Result};

use super::super::backend_channel::{self, BackendChannel};
use super::super::channel::{Channel, Deadline, Fault};
use super::super::frontend::FrontEnd;
use super::super::message::protocol;
use super::super::session::{Link, Session, acked};
use super::{Client, Job, unpoisoned};
use crate::mem::slot_plan::SlotUser;
use crate::virtio::ring_server::RingServerStatus;

/// Connections tried, after the first one, before a device is refused.
#[doc(alias = "REALIZE_CONNECTION_RETRIES")]
const RETRIES: u32 = 3;

/// A back end that can be used.
pub(super) struct Introduced {
    link: Link,
    config: Vec<u8>,
}

/// A back end that cannot be used.
#[derive(Debug)]
pub(super) enum Unfit {
    /// It does not speak the protocol, or not in time.
    Fault(Fault),
    /// It lacks something.
    Lacks(String),
    /// Somebody else says no.
    Error(Error),
}

impl From<Fault> for Unfit {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Unfit {
    /// As the error of a device that is not realized; what QEMU prints besides goes to the log.
    fn into_error(self) -> Error {
        match self {
            Self::Lacks(text) => Error::generic(text),
            Self::Error(error) => error,
            Self::Fault(fault @ Fault::Timeout(_)) => {
                tracing::error!("{fault}");
                Error::generic("vhost_backend_init failed: Connection timed out")
            }
            Self::Fault(fault @ (Fault::Refused(_) | Fault::HungUp)) => {
                trace::emit!(pliant_vhost_user_no_introduction, &fault);
                Error::generic("vhost_backend_init failed: Protocol error")
            }
            Self::Fault(fault) => {
                tracing::error!("{fault}");
                Error::generic("vhost_backend_init failed: Protocol error")
            }
        }
    }
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fault(fault) => fault.fmt(f),
            Self::Lacks(text) => f.write_str(text),
            Self::Error(error) => f.write_str(error.desc()),
        }
    }
}

impl Client {
    /// Waits for the first back end.
    pub(super) fn introduce_first(self: &Arc<Self>, connecting: Patience) -> Result<()> {
        let mut retries = RETRIES;
        loop {
            let error = match self.try_first(connecting) {
                Ok(()) => return Ok(()),
                Err((error, true)) if retries > 0 => error,
                Err((error, _)) => return Err(error),
            };
            retries -= 1;
            tracing::error!("Reconnecting after error: {error}");
        }
    }

    /// One attempt; with the error, whether another one may end better.
    fn try_first(self: &Arc<Self>, connecting: Patience) -> std::result::Result<(), (Error, bool)> {
        let port = unpoisoned(&self.port);
        let port = port.as_ref().ok_or_else(|| (Error::generic("the device is gone"), false))?;
        port.wait_connected(connecting).map_err(|error| (error, connecting == Patience::Endless))?;
        let Some(connection) = port.connection() else {
            tracing::error!("Failed to set msg fds.");
            return Err((Error::generic("vhost_backend_init failed: Protocol error"), true));
        };
        let id = connection.id;
        let introduced = self.introduce(connection);
        let admitted = introduced.and_then(|introduced| {
            self.limit.store(introduced.link.front.max_slots, Ordering::Relaxed);
            self.plan.admit(Arc::clone(self) as Arc<dyn SlotUser>).map_err(Unfit::Error)?;
            Ok(introduced)
        });
        let introduced = admitted.map_err(|unfit| {
            self.limit.store(0, Ordering::Relaxed);
            port.hang_up(id);
            // Nobody waits for a stalled one four times.
            let again = !matches!(unfit, Unfit::Fault(Fault::Timeout(_)));
            (unfit.into_error(), again)
        })?;
        self.install(introduced);
        Ok(())
    }

    /// Gets to know a back end.
    fn introduce(&self, Connection { id, socket }: Connection) -> std::result::Result<Introduced, Unfit> {
        let deadline = self.deadline();
        let front = FrontEnd::negotiate(Channel::new(socket), deadline)?;
        self.check(&front)?;
        let requests = if front.has(protocol::BACKEND_REQ) {
            Some(self.open_backend_channel(id, &front, deadline)?)
        } else {
            None
        };
        let config = front.config(self.needs.config, deadline).map_err(|fault| match fault {
            Fault::Size => Unfit::Lacks(fault.to_string()),
            fault => Unfit::Fault(fault),
        })?;
        Ok(Introduced { link: Link { id, front, requests }, config })
    }

    /// Whether a back end has what the device needs.
    fn check(&self, front: &FrontEnd) -> std::result::Result<(), Unfit> {
        let lacks = |text: String| Err(Unfit::Lacks(text));
        if !front.has(protocol::CONFIG) {
            return lacks(
                "vhost-user device expecting VHOST_USER_PROTOCOL_F_CONFIG but the vhost-user backend does not \
                 support it."
                    .to_owned(),
            );
        }
        if front.max_queues < self.needs.queues.into() {
            let queues = front.max_queues;
            return lacks(format!("The maximum number of queues supported by the backend is {queues}"));
        }
        let promised = self.limit();
        if front.max_slots < promised {
            return lacks(format!(
                "the back end takes {} memory regions, {promised} before",
                front.max_slots
            ));
        }
        let missing = self.features() & !front.features;
        if missing != 0 {
            return lacks(format!("the back end lacks features that the device has: {missing:#x}"));
        }
        Ok(())
    }

    fn open_backend_channel(
        &self,
        id: u64,
        front: &FrontEnd,
        deadline: Deadline,
    ) -> std::result::Result<BackendChannel, Unfit> {
        let failed = |error: std::io::Error| Unfit::Lacks(format!("cannot watch the back end: {error}"));
        let (ours, theirs) = backend_channel::pair().map_err(|errno| failed(errno.into()))?;
        front.set_backend_channel(&theirs, deadline)?;
        let client = self.me.clone();
        BackendChannel::watch(ours, &self.mainloop, move |heard| match (client.upgrade(), heard) {
            (Some(client), Ok(())) => client.ask_for_config(),
            (Some(client), Err(())) => client.post(Job::Lose(id)),
            (None, _) => {}
        })
        .map_err(failed)
    }

    /// Takes a back end into use.
    fn install(&self, Introduced { link, config }: Introduced) {
        *unpoisoned(&self.config) = config;
        let mut session = unpoisoned(&self.session);
        session.connect(link);
        self.note(&session);
    }

    /// The character device says that something changed.
    pub(super) fn connection_changed(&self) {
        let connection = unpoisoned(&self.port).as_ref().and_then(Port::connection);
        let (known, seen) = {
            let session = unpoisoned(&self.session);
            (session.link().map(|link| link.id), session.seen())
        };
        if let Some(known) = known {
            if connection.as_ref().is_some_and(|connection| connection.id == known) {
                // What it said before there was anybody to hear of it.
                return self.own_socket_ended(known);
            }
            self.lose(known, &Fault::HungUp);
        }
        let Some(connection) = connection.filter(|connection| Some(connection.id) != seen) else { return };
        unpoisoned(&self.session).set_seen(connection.id);
        let client = self.me.clone();
        // On a thread of its own, so that nobody who wants something done now waits for a back end that is not there yet.
        let getting_to_know = move || {
            if let Some(client) = client.upgrade() {
                let id = connection.id;
                let introduced = client.introduce(connection);
                client.post(Job::Introduced(id, Box::new(introduced)));
            }
        };
        let name = format!("vhost-user {}", self.name);
        if let Err(error) = thread::Builder::new().name(name).spawn(getting_to_know) {
            tracing::error!("vhost-user: chardev '{}': no thread for a new connection: {error}", self.name);
        }
    }

    /// A back end that came back is known now.
    pub(super) fn introduced(&self, id: u64, introduced: std::result::Result<Introduced, Unfit>) {
        {
            let session = unpoisoned(&self.session);
            if session.seen() != Some(id) || session.link().is_some() {
                // Another one came meanwhile.
                return;
            }
        }
        match introduced {
            Ok(introduced) => {
                let changed = introduced.config != *unpoisoned(&self.config);
                self.install(introduced);
                trace::emit!(pliant_vhost_user_back, &self.title);
                self.settle();
                if changed {
                    self.tell_config();
                }
                self.own_socket_ended(id);
            }
            Err(unfit) => tracing::error!("vhost-user: chardev '{}': {unfit}", self.name),
        }
    }

    /// The back end broke the rules on its own socket.
    pub(super) fn own_socket_ended(&self, id: u64) {
        let fault = {
            let session = unpoisoned(&self.session);
            session.link().filter(|link| link.id == id).and_then(Link::own_fault)
        };
        if let Some(fault) = fault {
            self.lose(id, &fault);
        }
    }

    /// Ends connection `id` if it is still the present one, with one line that says why.
    pub(super) fn lose(&self, id: u64, fault: &Fault) {
        let lost = {
            let mut session = unpoisoned(&self.session);
            if session.link().is_none_or(|link| link.id != id) {
                return;
            }
            let lost = session.lose();
            self.note(&session);
            lost
        };
        drop(lost);
        tracing::error!("vhost-user: chardev '{}': {fault}", self.name);
    }

    /// The same with the session locked already.
    pub(super) fn lose_now(&self, session: &mut Session, fault: &Fault) {
        let lost = session.lose();
        self.note(session);
        drop(lost);
        tracing::error!("vhost-user: chardev '{}': {fault}", self.name);
    }

    /// Keeps for people what they may ask for while somebody waits for the back end.
    pub(super) fn note(&self, session: &Session) {
        let started = session.running().is_some();
        let front = session.link().map(|link| &link.front);
        let accepted = session.running().map_or(0, |running| running.features);
        *unpoisoned(&self.status) = RingServerStatus {
            started,
            max_queues: front.map_or(0, |front| front.max_queues),
            memory_sections: session.regions.given() as u64,
            visible_sections: session.regions.len() as u64,
            features: front.map_or(0, |front| front.features),
            acked_features: front.filter(|_| started).map_or(0, |front| acked(front, accepted)),
            can_log: front.is_some_and(|front| front.offered & protocol::LOG_SHMFD != 0),
            protocol_texts: front.map_or_else(Vec::new, |front| protocol::texts(front.protocol)),
        };
    }
}

/// The client's side of the character device. It reads the socket itself.
pub(super) struct Listener(pub(super) Weak<Client>);

impl Frontend for Listener {
    fn can_read(&mut self) -> usize {
        0
    }

    fn read(&mut self, _data: &[u8]) {}

    fn event(&mut self, event: CharEvent) {
        if let (CharEvent::Opened | CharEvent::Closed, Some(client)) = (event, self.0.upgrade()) {
            client.post(Job::Connection);
        }
    }
}

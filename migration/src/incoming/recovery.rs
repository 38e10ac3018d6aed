//! Connections of a machine that runs here while its memory comes: a second one for what is waited for, and others after one was lost.

use std::io;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

use chardev::{ChardevSet, Listener, SocketAddress};
use qapi::types::MigrationStatus as Status;
use qapi::{Error, Result, strerror};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fd::OwnedFd;
use rustix::net::{SocketFlags, accept_with};

use super::landing::{LOOK, Landing};
use super::{Incoming, Waiting, reported};
use crate::address::Address;
use crate::channel::{Channel, Kind};
use crate::connect;
use crate::ram::load::Loader;
use crate::return_path::Answers;
use crate::wire::Input;

/// What has to do with memory that comes while the guest runs.
#[derive(Default)]
pub(super) struct After {
    /// Where it goes, once it does.
    landing: Option<(Arc<Landing>, Loader)>,
    /// A second channel that came before that.
    urgent: Option<Arc<Channel>>,
    /// Who reads the second channel.
    reader: Option<JoinHandle<()>>,
    /// The connection after one that was lost.
    next: Option<Arc<Channel>>,
    /// Whoever listens for it, until this is dropped.
    listening: Option<Listening>,
    /// The program ends.
    over: bool,
}

/// A thread that listens, and what ends it. Dropping this waits for the thread, which needs the lock of [`Waiting`](super::Waiting).
struct Listening {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        // An event counter takes one.
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take().filter(|t| t.thread().id() != std::thread::current().id()) {
            // Nobody else can listen where it does. A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl After {
    /// Nothing is waited for any more.
    pub(super) fn over() -> Self {
        Self { over: true, ..Self::default() }
    }
}

impl Incoming {
    /// Breaks the connections.
    pub fn disconnect(&self) {
        self.lock().channels.iter().for_each(|channel| channel.shut());
    }

    /// A second channel is there: it is read as soon as memory may come over it.
    pub(super) fn urgent_came(self: &Arc<Self>, channel: Channel) -> Result<()> {
        let channel = Arc::new(channel);
        let mut waiting = self.lock();
        waiting.channels.push(Arc::clone(&channel));
        if waiting.after.landing.is_some() {
            return self.read_second(&mut waiting, channel);
        }
        waiting.after.urgent = Some(channel);
        drop(waiting);
        self.came.notify_all();
        Ok(())
    }

    /// The same of a channel that came where `stop` ends the listening, unless its connections are lost by now.
    fn urgent_came_again(self: &Arc<Self>, channel: Channel, stop: &Arc<OwnedFd>) -> Result<()> {
        let channel = Arc::new(channel);
        let mut waiting = self.lock();
        if !waiting.after.listening.as_ref().is_some_and(|listening| Arc::ptr_eq(&listening.stop, stop)) {
            return Ok(());
        }
        waiting.channels.push(Arc::clone(&channel));
        self.read_second(&mut waiting, channel)
    }

    fn read_second(self: &Arc<Self>, waiting: &mut Waiting, channel: Arc<Channel>) -> Result<()> {
        let Some((landing, loader)) = &waiting.after.landing else { return Ok(()) };
        waiting.after.reader = Some(self.read_urgent(Arc::clone(landing), loader.second(), channel)?);
        Ok(())
    }

    /// Waits until a second channel is there, as long as the main one is.
    pub(super) fn wait_urgent(&self, main: &Channel) -> vmstate::Result<()> {
        let mut waiting = self.lock();
        while waiting.after.urgent.is_none() {
            if main.is_gone() {
                return Err(vmstate::LoadError::new(vmstate::Errno::Io, "the source is gone"));
            }
            waiting = self.came.wait_timeout(waiting, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Memory may come while the guest runs, by `loader` over a second channel.
    pub(super) fn landing(self: &Arc<Self>, landing: &Arc<Landing>, loader: Loader) -> vmstate::Result<()> {
        let mut waiting = self.lock();
        if let Some(channel) = waiting.after.urgent.take() {
            let reader = self.read_urgent(Arc::clone(landing), loader.second(), channel);
            let failed = |error: Error| vmstate::LoadError::new(vmstate::Errno::Io, error.desc());
            waiting.after.reader = Some(reader.map_err(failed)?);
        }
        waiting.after.landing = Some((Arc::clone(landing), loader));
        Ok(())
    }

    fn read_urgent(
        self: &Arc<Self>,
        landing: Arc<Landing>,
        mut loader: Loader,
        channel: Arc<Channel>,
    ) -> Result<JoinHandle<()>> {
        let this = Arc::clone(self);
        let run = move || {
            let result = loader.section(&mut Input::new(channel));
            let broken = result.is_err();
            landing.urgent_ended(result);
            if broken {
                this.disconnect();
            }
        };
        let thread = std::thread::Builder::new().name("mig/dst/urgent".into()).spawn(run);
        thread.map_err(|error| Error::generic(strerror(&error)))
    }

    /// The connection is lost, and the machine is nowhere else: waits for another. Nothing if the program ends.
    pub(super) fn interrupted(&self, landing: &Landing) -> Option<Arc<Channel>> {
        let mut waiting = self.lock();
        waiting.channels.drain(..).for_each(|channel| channel.shut());
        waiting.answers = None;
        let over = waiting.after.over;
        let (reader, listening) = (waiting.after.reader.take(), waiting.after.listening.take());
        waiting.after.urgent = None;
        drop(waiting);
        drop(listening);
        if let Some(reader) = reader {
            // A thread that panicked has said so.
            let _ = reader.join();
        }
        landing.disconnected();
        tracing::error!("Detected IO failure for postcopy. Migration paused.");
        if over || !self.progress.pause(None) {
            return None;
        }
        self.tell(Status::PostcopyPaused);
        if !self.progress.wait_while(Status::PostcopyPaused) {
            return None;
        }
        let mut waiting = self.lock();
        let channel = waiting.after.next.take()?;
        let answers = Arc::new(Answers::new(Arc::clone(&channel)));
        landing.connected(&answers);
        waiting.answers = Some(answers);
        Some(channel)
    }

    /// Takes a migration up again that was interrupted, with a source that comes to `address`. Any thread.
    ///
    /// # Errors
    /// QEMU's: none was interrupted, or the address cannot be used.
    pub fn recover(self: &Arc<Self>, address: &Address, chardevs: &ChardevSet) -> Result<()> {
        if self.progress.status() != Status::PostcopyPaused {
            return Err(Error::generic("Migrate recover can only be run when postcopy is paused."));
        }
        match address {
            Address::Socket(address) => self.listen_again(address, chardevs),
            Address::Fd(_) => match connect::inlet(address, chardevs)? {
                Some(channel) if channel.kind() == Kind::Socket => {
                    self.recovered(channel);
                    Ok(())
                }
                _ => Err(Error::generic("Migration is recovered over a socket")),
            },
            Address::Exec(_) | Address::File { .. } => {
                Err(Error::generic("Migration is recovered over a socket"))
            }
        }
    }

    /// The main loop may be waiting for memory that only comes when somebody is listened to: a thread does that.
    fn listen_again(self: &Arc<Self>, address: &SocketAddress, chardevs: &ChardevSet) -> Result<()> {
        let failed = |error: io::Error| Error::generic(strerror(&error));
        // Whoever listens now may hold the address.
        let before = self.lock().after.listening.take();
        drop(before);
        let listener = chardev::listen(address, chardevs.fds())?;
        if self.preempt {
            listener.widen(u8::MAX)?;
        }
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?);
        let mut waiting = self.lock();
        waiting.addresses = vec![reported(address, &listener)];
        let this = Arc::downgrade(self);
        let ends = Arc::clone(&stop);
        let serve = move || {
            let Some(channel) = accept(&listener, &stop) else { return };
            let Some(this) = this.upgrade() else { return };
            let preempt = this.preempt;
            if !this.recovered(channel) || !preempt {
                return;
            }
            if let Some(channel) = accept(&listener, &stop)
                && let Err(error) = this.urgent_came_again(channel, &stop)
            {
                tracing::error!("{}", error.desc());
                this.disconnect();
            }
        };
        // It waits for this lock before it looks whether it is the one that listens.
        let thread =
            std::thread::Builder::new().name("mig/dst/recover".into()).spawn(serve).map_err(failed)?;
        waiting.after.listening = Some(Listening { stop: ends, thread: Some(thread) });
        Ok(())
    }

    /// A connection is there. Whether it is used.
    fn recovered(&self, channel: Channel) -> bool {
        let mut waiting = self.lock();
        let used = self.progress.step(Status::PostcopyPaused, Status::PostcopyRecover);
        if used {
            let channel = Arc::new(channel);
            waiting.channels.push(Arc::clone(&channel));
            // Whoever takes it waits for this lock.
            waiting.after.next = Some(channel);
            self.tell(Status::PostcopyRecover);
        }
        used
    }
}

/// The next connection, unless `stop` is readable.
fn accept(listener: &Listener, stop: &OwnedFd) -> Option<Channel> {
    loop {
        let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        // Whatever it says, the descriptors are looked at again.
        let _ = poll(&mut fds, None);
        if fds[1].revents().contains(PollFlags::IN) {
            return None;
        }
        if let Ok(fd) = accept_with(listener, SocketFlags::CLOEXEC) {
            // Not a TCP socket, then.
            let _ = rustix::net::sockopt::set_tcp_nodelay(&fd, true);
            return Channel::new(fd).ok();
        }
    }
}

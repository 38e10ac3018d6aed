//! A host end that has an id: who is connected to it, and what it is watched for.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use mainloop::{Handle, Interest, Ready, Watch};
use qapi::{Error, Result, strerror};
use rustix::io::Errno;

use crate::MAX_PACKET;
use crate::host_end::{Header, HostEnd, Offloads};
use crate::nic::{Card, Received, Sent};

/// Packets that are thrown away in one turn of the loop at most.
const DISCARD: usize = 256;

/// See the module.
pub struct Netdev {
    id: String,
    kind: &'static str,
    info: String,
    header: Option<Header>,
    /// Until it is deleted.
    end: Mutex<Option<Arc<dyn HostEnd>>>,
    link_down: AtomicBool,
    connected: Mutex<Option<Weak<Card>>>,
    /// Gone with the end.
    watch: Mutex<Option<Watch>>,
}

impl fmt::Debug for Netdev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Netdev").field("id", &self.id).field("info", &self.info).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Assigned whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Netdev {
    /// A host end that nobody is connected to.
    pub(crate) fn new(
        handle: &Handle,
        id: String,
        kind: &'static str,
        info: String,
        end: Arc<dyn HostEnd>,
    ) -> Result<Arc<Self>> {
        let netdev = Arc::new(Self {
            id,
            kind,
            info,
            header: end.header(),
            end: Mutex::new(Some(Arc::clone(&end))),
            link_down: AtomicBool::new(false),
            connected: Mutex::default(),
            watch: Mutex::default(),
        });
        let me = Arc::downgrade(&netdev);
        let ready = move |ready| {
            if let Some(netdev) = me.upgrade() {
                netdev.ready(ready);
            }
        };
        let watch = handle.watch(end.fd(), Interest::READ, ready).map_err(|error| {
            Error::generic(format!("{}: cannot be watched: {}", netdev.id, strerror(&error)))
        })?;
        *lock(&netdev.watch) = Some(watch);
        Ok(netdev)
    }

    /// What it is called.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its kind, as `tap`.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// What it is connected to, as `fd=30`.
    pub fn info(&self) -> &str {
        &self.info
    }

    /// Whether a device is connected to it.
    pub fn is_taken(&self) -> bool {
        self.card().is_some()
    }

    pub(crate) fn card(&self) -> Option<Arc<Card>> {
        lock(&self.connected).as_ref().and_then(Weak::upgrade)
    }

    pub(crate) fn header(&self) -> Option<Header> {
        self.header
    }

    pub(crate) fn link_is_up(&self) -> bool {
        !self.link_down.load(Ordering::Acquire)
    }

    pub(crate) fn set_link(&self, up: bool) {
        self.link_down.store(!up, Ordering::Release);
    }

    fn end(&self) -> Option<Arc<dyn HostEnd>> {
        lock(&self.end).clone()
    }

    pub(crate) fn connect(&self, card: &Arc<Card>) {
        *lock(&self.connected) = Some(Arc::downgrade(card));
        self.settle();
    }

    pub(crate) fn disconnect(&self, card: &Arc<Card>) {
        {
            let mut connected = lock(&self.connected);
            if !connected.as_ref().is_some_and(|other| std::ptr::eq(other.as_ptr(), Arc::as_ptr(card))) {
                return;
            }
            *connected = None;
        }
        self.set_offloads(Offloads::default());
        self.settle();
    }

    /// Closes it; whoever is connected stays, with nothing at the other end.
    pub(crate) fn delete(&self) {
        let gone = (lock(&self.watch).take(), lock(&self.end).take());
        drop(gone);
    }

    /// The card that packets go to.
    fn wire(&self) -> Option<Arc<Card>> {
        self.card().filter(|card| self.link_is_up() && card.link_is_up())
    }

    /// What is watched for follows from who is connected and what is plugged: nobody's packets are thrown away, and a device asks for its own.
    pub(crate) fn settle(&self) {
        let discards = self.wire().is_none();
        if let Some(watch) = &*lock(&self.watch) {
            watch.set_interest(Interest { read: discards, ..watch.interest() });
        }
    }

    fn want(&self, change: impl FnOnce(&mut Interest)) {
        if let Some(watch) = &*lock(&self.watch) {
            let mut interest = watch.interest();
            change(&mut interest);
            watch.set_interest(interest);
        }
    }

    pub(crate) fn wait_readable(&self) {
        self.want(|interest| interest.read = true);
    }

    pub(crate) fn set_offloads(&self, offloads: Offloads) {
        if let Some(end) = self.end() {
            end.set_offloads(offloads);
        }
    }

    pub(crate) fn send(&self, packet: &[u8]) -> Sent {
        let Some(end) = self.end() else { return Sent::Done };
        loop {
            match end.send(packet) {
                Ok(()) => return Sent::Done,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.want(|interest| interest.write = true);
                    return Sent::Later;
                }
                Err(error) => {
                    trace::emit!(pliant_net_lost, &self.id, packet.len(), error);
                    return Sent::Done;
                }
            }
        }
    }

    pub(crate) fn receive(&self, room: &mut [u8]) -> Received {
        let Some(end) = self.end() else { return Received::Nothing };
        match self.take(&*end, room) {
            Some(length) => Received::Packet(length),
            None => {
                self.wait_readable();
                Received::Nothing
            }
        }
    }

    /// The next packet, if there is one. Errors that were waiting are taken, too.
    fn take(&self, end: &dyn HostEnd, room: &mut [u8]) -> Option<usize> {
        // An error is told once; more of them than that are not waiting.
        for _ in 0..16 {
            match end.receive(room) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(length) => return Some(length),
                Err(Errno::AGAIN) => return None,
                Err(error) => {
                    trace::emit!(pliant_net_read_err, &self.id, error);
                    if end.is_broken(error) {
                        tracing::warn!("netdev {}: {}", self.id, strerror(&error.into()));
                        self.delete();
                        return None;
                    }
                }
            }
        }
        None
    }

    /// The watch fired. On the loop thread.
    fn ready(&self, ready: Ready) {
        // A pending error is taken by reading.
        let read = ready.read || ready.hangup || ready.error;
        let Some(card) = self.wire() else {
            if read {
                self.discard();
            }
            self.told_writable(ready);
            return;
        };
        self.want(|interest| {
            interest.read &= !read;
            interest.write &= !ready.write;
        });
        let Some(handler) = card.handler.upgrade() else { return };
        if ready.write {
            handler.writable();
        }
        if read {
            handler.readable();
        }
    }

    /// Whoever waited for room has lost the packet by now, as the link is down.
    fn told_writable(&self, ready: Ready) {
        if !ready.write {
            return;
        }
        self.want(|interest| interest.write = false);
        if let Some(handler) = self.card().and_then(|card| card.handler.upgrade()) {
            handler.writable();
        }
    }

    fn discard(&self) {
        let Some(end) = self.end() else { return };
        let mut room = vec![0; MAX_PACKET];
        let count = (0..DISCARD).take_while(|_| self.take(&*end, &mut room).is_some()).count();
        if count > 0 {
            trace::emit!(pliant_net_discarded, &self.id, count);
        }
    }
}

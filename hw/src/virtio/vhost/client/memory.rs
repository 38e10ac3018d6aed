//! A client follows guest memory: what goes is gone at the back end before the change is over.
//!
//! Sections come and go with the topology locked. Of a section whose unplugged memory is protected the client is a user of the block's
//! discard manager besides: it is given away before the first block of it is plugged, which a back end that refuses it refuses, and
//! taken back before the pages of the last one are freed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, ThreadId};

use ::memory::{DiscardListener, DiscardListenerId, DiscardManager, Memory, MemoryListener, Section};

use super::super::channel::Fault;
use super::super::message::Request;
use super::super::regions::visible;
use super::{Client, unpoisoned};
use crate::mem::slot_plan::SlotUser;

/// Registrations with discard managers, by guest address of the section.
pub(super) type Follows = BTreeMap<u64, (Arc<DiscardManager>, DiscardListenerId)>;

impl Client {
    pub(super) fn follow_memory(self: &Arc<Self>, memory: &Arc<Memory>) {
        let listener: Arc<dyn MemoryListener> = Arc::new(Follower(self.me.clone()));
        let listener = self.listener.get_or_init(|| listener);
        memory.add_listener(&self.space, Arc::clone(listener));
    }

    /// A section came. Topology locked.
    fn section_came(&self, section: &Section) {
        let Some(shared) = visible(section) else {
            trace::emit!(vhost_reject_section, &section.name, 1);
            return;
        };
        let body = shared.body;
        trace::emit!(vhost_region_add_section, &section.name, body.guest, body.size, body.offset);
        let manager = section.block.as_ref().and_then(|block| block.discard_manager());
        let manager = manager.filter(|manager| manager.is_followed_by_mappings());
        self.sections_changed.store(true, Ordering::Relaxed);
        unpoisoned(&self.session).regions.add(shared, manager.is_some());
        let (Some(manager), Some(range)) = (manager, section.ram()) else { return };
        let listener = Arc::new(SparseSection {
            client: self.me.clone(),
            guest: section.addr,
            registering: Mutex::new(Some(thread::current().id())),
        });
        let range = range.offset()..range.offset() + range.len();
        // Cannot fail: what is plugged already is told to nobody yet.
        if let Ok(id) = manager.register(range, Arc::clone(&listener) as _) {
            unpoisoned(&self.follows).insert(section.addr, (manager, id));
        }
        *unpoisoned(&listener.registering) = None;
    }

    /// A section is going. Topology locked.
    fn section_going(&self, section: &Section) {
        if visible(section).is_none() {
            return;
        }
        self.sections_changed.store(true, Ordering::Relaxed);
        unpoisoned(&self.session).regions.remove(section.addr);
        let follow = unpoisoned(&self.follows).remove(&section.addr);
        if let Some((manager, id)) = follow {
            manager.unregister(id);
        }
    }

    /// The batch of changes is complete. Topology locked.
    fn sections_complete(&self) {
        if self.sections_changed.swap(false, Ordering::Relaxed) {
            self.update_memory();
        }
    }

    /// Tells the back end what changed.
    fn update_memory(&self) {
        let mut session = unpoisoned(&self.session);
        self.sections.store(session.regions.len(), Ordering::Relaxed);
        if let Err(fault) = session.update_memory(self.deadline()) {
            self.lose_now(&mut session, &fault);
        }
        self.note(&session);
    }

    /// More of the sparse section at `guest` is to be plugged.
    ///
    /// # Errors
    /// The back end does not want it; it has what it had, and goes on.
    fn plugging(&self, guest: u64, bytes: i64) -> Result<(), String> {
        let mut session = unpoisoned(&self.session);
        session.regions.replug(guest, bytes);
        let told = session.update_memory(self.deadline());
        let refused = matches!(told, Err(Fault::Refused(request)) if request == Request::AddMemReg as u32);
        match told {
            Ok(()) => {}
            Err(_) if refused => session.regions.replug(guest, -bytes),
            // Nobody has anything any more, so nobody objects.
            Err(fault) => self.lose_now(&mut session, &fault),
        }
        self.note(&session);
        if refused { Err(format!("'{}' refuses the memory", self.title)) } else { Ok(()) }
    }

    /// Less of the sparse section at `guest` is going to be plugged.
    fn unplugging(&self, guest: u64, bytes: i64) {
        unpoisoned(&self.session).regions.replug(guest, -bytes);
        self.update_memory();
    }
}

impl SlotUser for Client {
    fn name(&self) -> String {
        self.title.clone()
    }

    fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Regions that the back end has, or gets as soon as a driver starts or a block is plugged.
    fn used(&self) -> u64 {
        self.sections.load(Ordering::Relaxed) as u64
    }
}

/// The client's side of guest memory.
struct Follower(Weak<Client>);

impl Follower {
    fn client(&self) -> Option<Arc<Client>> {
        self.0.upgrade()
    }
}

impl MemoryListener for Follower {
    fn region_add(&self, section: &Section) {
        if let Some(client) = self.client() {
            client.section_came(section);
        }
    }

    fn region_del(&self, section: &Section) {
        if let Some(client) = self.client() {
            client.section_going(section);
        }
    }

    fn commit(&self) {
        if let Some(client) = self.client() {
            client.sections_complete();
        }
    }
}

/// Told what is plugged of a section, with the discard manager locked.
struct SparseSection {
    client: Weak<Client>,
    guest: u64,
    /// The thread that is registering it and is told what is plugged already: the back end hears when the batch is complete.
    registering: Mutex<Option<ThreadId>>,
}

/// Bytes of a range of a block, which has no more than fit.
fn bytes(range: &Range<u64>) -> i64 {
    (range.end - range.start).cast_signed()
}

impl DiscardListener for SparseSection {
    fn populate(&self, range: Range<u64>) -> Result<(), String> {
        let Some(client) = self.client.upgrade() else { return Ok(()) };
        if *unpoisoned(&self.registering) == Some(thread::current().id()) {
            unpoisoned(&client.session).regions.replug(self.guest, bytes(&range));
            return Ok(());
        }
        client.plugging(self.guest, bytes(&range))
    }

    fn discard(&self, range: Range<u64>) {
        if let Some(client) = self.client.upgrade() {
            client.unplugging(self.guest, bytes(&range));
        }
    }
}

//! A client follows guest memory: what goes is gone at the back end before the change is over.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use ::memory::{Memory, MemoryListener, Section};

use super::super::regions::{Regions, Shared, visible};
use super::{Client, unpoisoned};
use crate::mem::slot_plan::SlotUser;

impl Client {
    pub(super) fn follow_memory(self: &Arc<Self>, memory: &Arc<Memory>) {
        let listener: Arc<dyn MemoryListener> = Arc::new(Follower(self.me.clone()));
        let listener = self.listener.get_or_init(|| listener);
        memory.add_listener(&self.space, Arc::clone(listener));
    }

    /// A section came or is going. Topology locked.
    fn section_changed(&self, section: &Section, change: impl FnOnce(&mut Regions, Shared)) {
        if let Some(shared) = visible(section) {
            self.sections_changed.store(true, Ordering::Relaxed);
            change(&mut unpoisoned(&self.session).regions, shared);
        }
    }

    /// The batch of changes is complete. Topology locked.
    fn update_memory(&self) {
        if !self.sections_changed.swap(false, Ordering::Relaxed) {
            return;
        }
        let mut session = unpoisoned(&self.session);
        self.sections.store(session.regions.len(), Ordering::Relaxed);
        if let Err(fault) = session.update_memory(self.deadline()) {
            self.lose_now(&mut session, &fault);
        }
        self.note(&session);
    }
}

impl SlotUser for Client {
    fn name(&self) -> String {
        self.title.clone()
    }

    fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Regions that the back end has, or gets as soon as a driver starts.
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
            client.section_changed(section, Regions::add);
        }
    }

    fn region_del(&self, section: &Section) {
        if let Some(client) = self.client() {
            client.section_changed(section, |regions, shared| regions.remove(&shared));
        }
    }

    fn commit(&self) {
        if let Some(client) = self.client() {
            client.update_memory();
        }
    }
}

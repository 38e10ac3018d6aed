//! Mappings that are made a moment after the memory was populated.
//!
//! Making a mapping may take much longer than populating (a memory slot of KVM), and whoever asked for the memory need not wait
//! for it: what matters is that the mapping is there before anybody but the guest itself has put something into the memory. A
//! guest that is first runs into the missing mapping and waits there. So the manager keeps what was put off, and each access of this
//! program [settles](DiscardManager::settle) the range that it touches beforehand.
//!
//! Nothing is put off where somebody else is told of the memory: he may stand for another process, whose accesses are not seen here.
//!
//! Lock: inside the manager's, and not held while a mapping is settled. Settling takes no lock of the manager's, so that
//! whoever holds a pin may settle.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{DiscardListener, DiscardManager, intersect};

/// What was put off.
#[derive(Default)]
pub(super) struct PutOff {
    /// Something may be in `entries`.
    any: AtomicBool,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    list: Vec<Entry>,
    next: u64,
}

struct Entry {
    /// An entry that grows gets a new number: who settled the old one has not settled the new one.
    number: u64,
    range: Range<u64>,
    listener: Arc<dyn DiscardListener>,
}

impl PutOff {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `listener` has put off its mapping of `range`.
    pub(super) fn add(&self, range: Range<u64>, listener: &Arc<dyn DiscardListener>) {
        let mut entries = self.entries();
        let number = entries.next;
        entries.next += 1;
        match entries.list.last_mut() {
            Some(last) if Arc::ptr_eq(&last.listener, listener) && last.range.end == range.start => {
                last.range.end = range.end;
                last.number = number;
            }
            _ => entries.list.push(Entry { number, range, listener: Arc::clone(listener) }),
        }
        self.any.store(true, Ordering::SeqCst);
    }

    /// `listener` does not map anything any more.
    pub(super) fn forget(&self, listener: &Arc<dyn DiscardListener>) {
        self.entries().list.retain(|entry| !Arc::ptr_eq(&entry.listener, listener));
    }

    /// Has mappings of `range` made that were put off; returns when they are there.
    pub(super) fn settle(&self, range: &Range<u64>) {
        if !self.any.load(Ordering::SeqCst) {
            return;
        }
        let touched: Vec<_> = {
            let entries = self.entries();
            let touched = entries.list.iter().filter(|entry| intersect(&entry.range, range).is_some());
            touched.map(|entry| (entry.number, entry.range.clone(), Arc::clone(&entry.listener))).collect()
        };
        for (_, range, listener) in &touched {
            listener.settle(range.clone());
        }
        let mut entries = self.entries();
        entries.list.retain(|entry| touched.iter().all(|(number, ..)| *number != entry.number));
        self.any.store(!entries.list.is_empty(), Ordering::SeqCst);
    }
}

impl DiscardManager {
    /// Has mappings of `range` made that were put off ([`DiscardListener::populate_soon`]); returns when they are there. Any thread
    /// may call it, also with the manager locked.
    pub fn settle(&self, range: Range<u64>) {
        self.put_off.settle(&range);
    }
}

#[cfg(test)]
mod tests;

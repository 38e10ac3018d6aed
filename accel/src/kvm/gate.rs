//! The gate in front of `KVM_RUN`: keeps every vCPU out of the guest for the moment in which memory slots are rearranged.
//!
//! A slot can only be deleted and made anew, and a vCPU that runs in between finds a hole: it leaves the guest for an
//! access that should have been memory, or cannot fetch its next instruction. [`Gate::close`] therefore gets all vCPUs
//! out of `KVM_RUN` and lets none in until its guard is dropped. This is not [`crate::control`]'s pause: the run state does
//! not change, nobody is told, and a vCPU that carries out an access meanwhile goes on with it.
//!
//! A vCPU says that it is inside before it looks whether the gate is closed, and whoever closes the gate does so before it
//! looks who is inside; both with sequential consistency, so one of them sees the other. A kick that comes between the look and
//! `KVM_RUN` makes that return at once (see the parent module).

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    closed: AtomicU32,
    passages: Mutex<Vec<Arc<Passage>>>,
    changed: Condvar,
}

/// One vCPU's way through the gate.
#[derive(Debug, Default)]
pub(crate) struct Passage {
    inside: AtomicBool,
    /// Kicks the vCPU's thread; set by that thread.
    kick: std::sync::OnceLock<super::kick::Target>,
}

/// Keeps the gate closed.
pub(crate) struct Closed<'a>(&'a Gate);

impl Gate {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Passage>>> {
        self.passages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A way through for the calling thread.
    pub(crate) fn passage(&self) -> Arc<Passage> {
        let passage = Arc::new(Passage::default());
        // Fresh, so that setting succeeds.
        let _ = passage.kick.set(super::kick::Target::this_thread());
        self.lock().push(Arc::clone(&passage));
        passage
    }

    /// The thread of the passage ends.
    pub(crate) fn forget(&self, passage: &Arc<Passage>) {
        self.lock().retain(|other| !Arc::ptr_eq(other, passage));
        self.changed.notify_all();
    }

    /// Called right before `KVM_RUN`; waits while the gate is closed.
    pub(crate) fn enter(&self, passage: &Passage) {
        loop {
            passage.inside.store(true, Ordering::SeqCst);
            if self.closed.load(Ordering::SeqCst) == 0 {
                return;
            }
            self.leave(passage);
            let mut guard = self.lock();
            while self.closed.load(Ordering::SeqCst) != 0 {
                guard = self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Called right after `KVM_RUN`.
    pub(crate) fn leave(&self, passage: &Passage) {
        passage.inside.store(false, Ordering::SeqCst);
        if self.closed.load(Ordering::SeqCst) != 0 {
            // Under the lock, so that whoever closes does not miss it between its look and its sleep.
            drop(self.lock());
            self.changed.notify_all();
        }
    }

    /// Kicks every vCPU: those inside leave, and those that are about to enter leave at once.
    pub(crate) fn kick(&self) {
        self.lock().iter().filter_map(|passage| passage.kick.get()).for_each(|target| target.kick());
    }

    /// Closes the gate and waits until no vCPU is inside. Not from inside.
    pub(crate) fn close(&self) -> Closed<'_> {
        let start = Instant::now();
        let mut passages = self.lock();
        self.closed.fetch_add(1, Ordering::SeqCst);
        for passage in passages.iter().filter(|p| p.inside.load(Ordering::SeqCst)) {
            if let Some(target) = passage.kick.get() {
                target.kick();
            }
        }
        while passages.iter().any(|p| p.inside.load(Ordering::SeqCst)) {
            passages = self.changed.wait(passages).unwrap_or_else(PoisonError::into_inner);
        }
        trace::emit!(pliant_kvm_gate_close, start.elapsed().as_nanos());
        Closed(self)
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        let guard = self.0.lock();
        self.0.closed.fetch_sub(1, Ordering::SeqCst);
        trace::emit!(pliant_kvm_gate_open);
        drop(guard);
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
impl Gate {
    /// Whether somebody keeps it closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst) != 0
    }
}

#[cfg(test)]
mod tests;

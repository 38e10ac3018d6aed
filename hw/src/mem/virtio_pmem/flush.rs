//! Flushes, one at a time, on a thread of their own: a disk may take seconds, and neither the main loop nor a vCPU waits for it.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use crate::virtio::unpoisoned;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nobody waits for anything; a flush that was forgotten may be under way.
    Idle,
    /// One is to begin.
    Wanted,
    /// It has begun.
    Running,
    /// It ended, well or not.
    Done(bool),
    /// There will be no more.
    Closed,
}

struct Shared {
    phase: Mutex<Phase>,
    changed: Condvar,
}

/// The thread. Dropping this ends it, after the flush that is under way; nobody waits for that.
pub(super) struct Flusher(Arc<Shared>);

impl Flusher {
    /// Starts the thread: `work` does one flush, `ready` is called when an answer can be had.
    ///
    /// # Errors
    /// The host's: there is no thread.
    pub(super) fn start(
        work: impl Fn() -> bool + Send + 'static,
        ready: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared { phase: Mutex::new(Phase::Idle), changed: Condvar::new() });
        let theirs = Arc::clone(&shared);
        thread::Builder::new()
            .name("virtio-pmem".to_owned())
            .spawn(move || while theirs.one(&work, &ready) {})?;
        Ok(Self(shared))
    }

    /// How a flush ended that began after it was first asked for. `None`: it has not ended yet; ask again when `ready` was called.
    pub(super) fn poll(&self) -> Option<bool> {
        let mut phase = unpoisoned(&self.0.phase);
        match *phase {
            Phase::Done(well) => {
                *phase = Phase::Idle;
                Some(well)
            }
            Phase::Idle => {
                *phase = Phase::Wanted;
                self.0.changed.notify_one();
                None
            }
            Phase::Wanted | Phase::Running | Phase::Closed => None,
        }
    }

    /// Whoever asked does not want to know any more: the next one gets a flush that begins after it asked.
    pub(super) fn forget(&self) {
        *unpoisoned(&self.0.phase) = Phase::Idle;
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        *unpoisoned(&self.0.phase) = Phase::Closed;
        self.0.changed.notify_one();
    }
}

impl Shared {
    /// Waits for a flush that is wanted and does it; false at the end.
    fn one(&self, work: &impl Fn() -> bool, ready: &impl Fn()) -> bool {
        let mut phase = unpoisoned(&self.phase);
        while !matches!(*phase, Phase::Wanted | Phase::Closed) {
            phase = self.changed.wait(phase).unwrap_or_else(PoisonError::into_inner);
        }
        if *phase == Phase::Closed {
            return false;
        }
        *phase = Phase::Running;
        drop(phase);
        let well = work();
        let mut phase = unpoisoned(&self.phase);
        // Otherwise this one was forgotten, and the next may be wanted already.
        if *phase == Phase::Running {
            *phase = Phase::Done(well);
            drop(phase);
            ready();
        }
        true
    }
}

#[cfg(test)]
mod tests;

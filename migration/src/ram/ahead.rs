//! Memory is got from the host on a thread of its own, ahead of pages that come in order: a host that has to find and clear a page first
//! takes about as long for that as for copying it.
//!
//! What was got so and is not filled then is zero, and is the host's loss: it is never more than a [part](SHARE) of what came before it.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use memory::RamBlock;

/// Bytes that are got at once, a huge page.
const STEP: u64 = 2 << 20;
/// Bytes that it is ahead at most.
const MOST: u64 = 8 << 20;
/// It is ahead by this part of the bytes that came in order.
const SHARE: u64 = 4;

#[derive(Default)]
struct Work {
    wanted: Option<(Arc<RamBlock>, Range<u64>)>,
    busy: bool,
    ended: bool,
}

#[derive(Default)]
struct Shared {
    work: Mutex<Work>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        // Changed by whole steps that do not panic.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, work: MutexGuard<'a, Work>) -> MutexGuard<'a, Work> {
        self.changed.wait(work).unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut work = self.lock();
        while !work.ended {
            let Some((block, mut range)) = work.wanted.take() else {
                work = self.wait(work);
                continue;
            };
            let end = range.end.min(range.start + STEP);
            let part = range.start..end;
            range.start = end;
            if !range.is_empty() {
                work.wanted = Some((Arc::clone(&block), range));
            }
            work.busy = true;
            drop(work);
            // A host that has none left is found out, and told of, by whoever fills it.
            let _ = block.prealloc(part.start, part.end - part.start, 1);
            work = self.lock();
            work.busy = false;
            self.changed.notify_all();
        }
    }
}

/// Goes ahead of one stream.
#[derive(Default)]
pub(super) struct Ahead {
    shared: Arc<Shared>,
    /// From when there is something to do.
    thread: Option<JoinHandle<()>>,
    /// Where the pages begin that came in order.
    start: u64,
    /// Up to where memory was asked for.
    end: u64,
}

impl Ahead {
    /// Pages begin to come at `offset`, of another block or not behind those before.
    pub(super) fn begin(&mut self, offset: u64) {
        (self.start, self.end) = (offset, offset);
    }

    /// Pages came in order up to `offset`. `may` says of a range whether all of it may be filled.
    pub(super) fn reached(
        &mut self,
        block: &Arc<RamBlock>,
        offset: u64,
        may: impl FnOnce(Range<u64>) -> bool,
    ) {
        let ahead = ((offset - self.start) / SHARE).min(MOST);
        // Whole huge pages, where the host has them.
        let base = block.host_address().addr() as u64;
        let up = |offset: u64| (base + offset).next_multiple_of(STEP) - base;
        let range = up(offset).max(self.end)..((base + offset + ahead) / STEP * STEP).saturating_sub(base);
        if range.is_empty() || range.end > block.size() || !may(range.clone()) || !self.is_there() {
            return;
        }
        self.end = range.end;
        let mut work = self.shared.lock();
        let start = work.wanted.take().filter(|(old, _)| Arc::ptr_eq(old, block));
        let start = start.map_or(range.start, |(_, old)| old.start.max(offset).min(range.start));
        work.wanted = Some((Arc::clone(block), start..range.end));
        drop(work);
        self.shared.changed.notify_all();
    }

    /// Whether there is a thread, which is started if there is none. Without one all goes on as if it were slow.
    fn is_there(&mut self) -> bool {
        if self.thread.is_none() {
            let shared = Arc::clone(&self.shared);
            let thread = thread::Builder::new().name("mig/dst/ahead".into()).spawn(move || shared.run());
            self.thread = thread.ok();
        }
        self.thread.is_some()
    }

    /// From when this returns nothing is got any more that was asked for before.
    pub(super) fn settle(&self) {
        let mut work = self.shared.lock();
        work.wanted = None;
        while work.busy {
            work = self.shared.wait(work);
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        {
            let mut work = self.shared.lock();
            work.wanted = None;
            work.ended = true;
        }
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

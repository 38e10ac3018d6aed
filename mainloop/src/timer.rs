//! One-shot timers, kept by deadline; equal deadlines run in the order they were armed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::clock::{Clock, ClockState, host_now_ns};
use crate::shared::{Shared, Work};

/// Deadline, then order of arming.
type Key = (i64, u64);

#[derive(Default)]
pub(crate) struct Timers {
    realtime: BTreeMap<Key, Work>,
    virtual_: BTreeMap<Key, Work>,
    next_seq: u64,
}

impl Timers {
    fn of(&mut self, clock: Clock) -> &mut BTreeMap<Key, Work> {
        match clock {
            Clock::Realtime => &mut self.realtime,
            Clock::Virtual => &mut self.virtual_,
        }
    }

    /// Nanoseconds until the loop must run a timer by itself; `None` if no timer can become due.
    pub(crate) fn ns_until_next(&self, clock: &ClockState, host_now: i64) -> Option<i64> {
        let first = |timers: &BTreeMap<Key, Work>| timers.keys().next().map(|key| key.0);
        let realtime = first(&self.realtime).map(|deadline| deadline.saturating_sub(host_now).max(0));
        let virtual_ = first(&self.virtual_).and_then(|deadline| clock.ns_until(deadline));
        match (realtime, virtual_) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// The earliest deadline on the virtual clock.
    pub(crate) fn next_virtual(&self) -> Option<i64> {
        self.virtual_.keys().next().map(|key| key.0)
    }

    /// The next timer due at `now` that was armed before `seq_limit`.
    fn pop_due(&mut self, clock: Clock, now: i64, seq_limit: u64) -> Option<Work> {
        let timers = self.of(clock);
        let key = *timers.range(..=(now, u64::MAX)).map(|(key, _)| key).find(|key| key.1 < seq_limit)?;
        timers.remove(&key)
    }
}

impl fmt::Debug for Timers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timers({} realtime, {} virtual)", self.realtime.len(), self.virtual_.len())
    }
}

/// An armed timer. Dropping it cancels it.
#[must_use = "dropping a timer cancels it"]
pub struct Timer {
    shared: Arc<Shared>,
    clock: Clock,
    key: Key,
    armed: bool,
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer").field("clock", &self.clock).field("deadline_ns", &self.key.0).finish()
    }
}

impl Timer {
    /// When it fires, on its clock.
    pub fn deadline_ns(&self) -> i64 {
        self.key.0
    }

    /// Whether it has not fired yet.
    pub fn is_pending(&self) -> bool {
        self.shared.lock().timers.of(self.clock).contains_key(&self.key)
    }

    /// The same as dropping it.
    pub fn cancel(self) {}

    /// Lets it fire without anybody holding it.
    pub fn detach(mut self) {
        self.armed = false;
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if self.armed {
            let callback = self.shared.lock().timers.of(self.clock).remove(&self.key);
            // What the callback captured is dropped with no lock held.
            drop(callback);
        }
    }
}

pub(crate) fn add(shared: &Arc<Shared>, clock: Clock, deadline_ns: i64, callback: Work) -> Timer {
    let mut inner = shared.lock();
    let key = (deadline_ns, inner.timers.next_seq);
    inner.timers.next_seq += 1;
    if inner.closed {
        drop(inner);
        // What it captured is dropped with no lock held.
        drop(callback);
    } else {
        inner.timers.of(clock).insert(key, callback);
        shared.wake(inner);
    }
    Timer { shared: Arc::clone(shared), clock, key, armed: true }
}

/// Runs what is due now on both clocks; timers armed by the callbacks wait for the next turn. Loop thread only.
pub(crate) fn run_due(shared: &Shared) {
    run_due_on(shared, Clock::Realtime);
    run_due_on(shared, Clock::Virtual);
}

/// As [`run_due`] for one clock; tells whether anything ran.
pub(crate) fn run_due_on(shared: &Shared, clock: Clock) -> bool {
    let (now, seq_limit) = {
        let inner = shared.lock();
        let now = match clock {
            Clock::Realtime => host_now_ns(),
            Clock::Virtual if inner.clock.timers_enabled() => inner.clock.now_ns(),
            Clock::Virtual => return false,
        };
        (now, inner.timers.next_seq)
    };
    let mut ran = false;
    loop {
        let next = {
            let mut inner = shared.lock();
            // A callback may have stopped the guest's time.
            if clock == Clock::Virtual && !inner.clock.timers_enabled() {
                return ran;
            }
            inner.timers.pop_due(clock, now, seq_limit)
        };
        let Some(callback) = next else { return ran };
        callback();
        ran = true;
    }
}

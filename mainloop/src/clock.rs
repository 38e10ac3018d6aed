//! The two clocks of a VM: the host's monotonic time, and guest time, which runs only while the VM runs.
//!
//! Guest time starts at zero, stopped. Under qtest it is *manual*: it moves only by [`VirtualClock::advance_to`] and
//! [`VirtualClock::step_to_next`], and starting or stopping the VM does not matter to it.

use std::sync::Arc;

use rustix::time::{ClockId, clock_gettime};

use crate::Handle;
use crate::shared::Shared;
use crate::timer;

/// Rounds of timers that re-arm themselves for the very same instant before `advance_to` leaves them to the loop.
const MAX_ROUNDS_AT_ONE_INSTANT: u32 = 64;

/// Which clock a deadline is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Clock {
    /// The host's `CLOCK_MONOTONIC`: protocol timeouts, reconnects, event throttling.
    Realtime,
    /// Guest time: devices.
    Virtual,
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub(crate) fn host_now_ns() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

#[derive(Debug, Default)]
pub(crate) struct ClockState {
    /// Guest time when it last started, stopped or was set.
    base_ns: i64,
    /// Host time at that instant, while running. Kept in manual mode too, for `is_running`.
    running_since: Option<i64>,
    /// Only the qtest client moves it.
    manual: bool,
}

impl ClockState {
    pub(crate) fn now_ns(&self) -> i64 {
        match self.running_since {
            Some(since) if !self.manual => self.base_ns.saturating_add(host_now_ns() - since),
            _ => self.base_ns,
        }
    }

    /// Whether timers of this clock may run.
    pub(crate) fn timers_enabled(&self) -> bool {
        self.manual || self.running_since.is_some()
    }

    /// Host nanoseconds until guest time reaches `deadline`; `None` if it does not by itself.
    pub(crate) fn ns_until(&self, deadline: i64) -> Option<i64> {
        let left = deadline.saturating_sub(self.now_ns()).max(0);
        let moves = !self.manual && self.running_since.is_some();
        // In manual mode a timer armed for the past is due at once, others wait for the client.
        (moves || (self.manual && left == 0)).then_some(left)
    }

    fn rebase(&mut self, base_ns: i64) {
        self.base_ns = base_ns;
        if self.running_since.is_some() {
            self.running_since = Some(host_now_ns());
        }
    }
}

/// Control of guest time. Cloned freely, used from any thread.
#[derive(Debug, Clone)]
pub struct VirtualClock {
    shared: Arc<Shared>,
}

impl VirtualClock {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Guest time in nanoseconds.
    pub fn now_ns(&self) -> i64 {
        self.shared.lock().clock.now_ns()
    }

    /// Lets guest time run, from where it stopped. Nothing happens if it runs.
    pub fn start(&self) {
        let mut inner = self.shared.lock();
        if inner.clock.running_since.is_none() {
            inner.clock.running_since = Some(host_now_ns());
            self.shared.wake(inner);
        }
    }

    /// Freezes guest time; its timers wait. Nothing happens if it is stopped.
    pub fn stop(&self) {
        let mut inner = self.shared.lock();
        let now = inner.clock.now_ns();
        inner.clock.base_ns = now;
        inner.clock.running_since = None;
    }

    /// Whether the VM's time was started and not stopped since.
    pub fn is_running(&self) -> bool {
        self.shared.lock().clock.running_since.is_some()
    }

    /// From now on only [`Self::advance_to`] and [`Self::step_to_next`] move guest time (`-accel qtest`).
    pub fn set_manual(&self) {
        let mut inner = self.shared.lock();
        let now = inner.clock.now_ns();
        inner.clock.base_ns = now;
        inner.clock.manual = true;
    }

    /// Whether [`Self::set_manual`] was called.
    pub fn is_manual(&self) -> bool {
        self.shared.lock().clock.manual
    }

    /// Sets guest time without running anything, as an incoming migration does. Backwards too.
    pub fn set_now(&self, ns: i64) {
        let mut inner = self.shared.lock();
        inner.clock.rebase(ns);
        self.shared.wake(inner);
    }

    /// The earliest deadline of a timer on this clock, which may lie in the past.
    pub fn next_deadline(&self) -> Option<i64> {
        self.shared.lock().timers.next_virtual()
    }

    /// Moves guest time to the next timer's deadline, runs what is due, and returns the new time. Without a timer
    /// nothing moves. The qtest command `clock_step` without an argument.
    pub fn step_to_next(&self) -> i64 {
        match self.next_deadline() {
            Some(deadline) => self.advance_to(deadline),
            None => self.now_ns(),
        }
    }

    /// Moves guest time forward to `ns`, stopping at each deadline on the way to run its timers in order, and returns
    /// the new time. Never backwards. Runs on the loop thread; other threads wait for it.
    ///
    /// The qtest commands `clock_step N` (`now + N`) and `clock_set N`.
    pub fn advance_to(&self, ns: i64) -> i64 {
        let this = self.clone();
        let advance = move || this.advance_on_loop(ns);
        let handle = Handle::new(Arc::clone(&self.shared));
        handle.run_on_loop(advance).unwrap_or_else(|_| self.now_ns())
    }

    fn advance_on_loop(&self, target: i64) -> i64 {
        let mut rounds = 0;
        loop {
            let (before, now) = {
                let mut inner = self.shared.lock();
                let before = inner.clock.now_ns();
                let Some(deadline) = inner.timers.next_virtual().filter(|deadline| *deadline <= target)
                else {
                    inner.clock.rebase(before.max(target));
                    return inner.clock.now_ns();
                };
                let now = before.max(deadline);
                inner.clock.rebase(now);
                (before, now)
            };
            rounds = if now > before { 0 } else { rounds + 1 };
            let ran = timer::run_due_on(&self.shared, Clock::Virtual);
            if !ran || rounds > MAX_ROUNDS_AT_ONE_INSTANT {
                let mut inner = self.shared.lock();
                let now = inner.clock.now_ns();
                inner.clock.rebase(now.max(target));
                return inner.clock.now_ns();
            }
        }
    }
}

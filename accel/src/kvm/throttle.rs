//! Keeping vCPUs out of the guest for a share of the time, as QEMU's `cpu-throttle` does it: 10 ms in the guest, then a rest that makes the
//! share. A thread that there is while vCPUs are slowed down gives the beat; each vCPU rests on its own thread, in
//! [`crate::control`].

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{Shared, lock};

/// Time in the guest between two rests.
const SLICE: Duration = Duration::from_millis(10);
/// The largest share, percent.
const MAX: u8 = 99;

/// What is wanted, and who sees to it.
#[derive(Default)]
pub(super) struct Throttle {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    percent: u8,
    /// Whether the thread sees to it; one that is about to end does not.
    beats: bool,
    /// The machine ends.
    over: bool,
    thread: Option<JoinHandle<()>>,
}

/// The rest after a slice.
fn rest(percent: u8) -> Duration {
    let percent = u32::from(percent.min(MAX));
    SLICE * percent / (100 - percent)
}

impl Throttle {
    pub(super) fn percent(&self) -> u8 {
        lock(&self.state).percent
    }

    /// Ends the thread.
    pub(super) fn end(&self) {
        let thread = {
            let mut state = lock(&self.state);
            state.over = true;
            state.thread.take()
        };
        self.changed.notify_all();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the throttle's thread panicked");
        }
    }

    /// Waits for `time`, or until something else is wanted than `percent`. Whether it still is.
    fn wait(&self, time: Duration, percent: u8) -> bool {
        let end = Instant::now() + time;
        let mut state = lock(&self.state);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if state.over || state.percent != percent || left.is_zero() {
                return !state.over && state.percent == percent;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What is wanted now; `None` says that the caller's thread ends.
    fn next(&self) -> Option<u8> {
        let mut state = lock(&self.state);
        state.beats = !state.over && state.percent != 0;
        state.beats.then_some(state.percent)
    }
}

/// Slows the vCPUs down from now on; 0 lets them run, at once.
pub(super) fn set(shared: &Arc<Shared>, percent: u8) {
    let percent = percent.min(MAX);
    let throttle = &shared.throttle;
    let mut state = lock(&throttle.state);
    state.percent = percent;
    throttle.changed.notify_all();
    if percent == 0 || state.beats || state.over {
        drop(state);
        if percent == 0 {
            shared.control.wake();
        }
        return;
    }
    let beat = Arc::clone(shared);
    match thread::Builder::new().name("throttle".to_owned()).spawn(move || run(&beat)) {
        // The one before has ended, or is about to.
        Ok(thread) => (state.beats, state.thread) = (true, Some(thread)),
        Err(error) => tracing::warn!(%error, "vCPUs are not slowed down"),
    }
}

/// The thread.
fn run(shared: &Shared) {
    let throttle = &shared.throttle;
    while let Some(percent) = throttle.next() {
        if throttle.wait(SLICE, percent) {
            let rest = rest(percent);
            shared.control.rest(rest);
            shared.gate.kick();
            throttle.wait(rest, percent);
        }
    }
    // A rest that began after they were woken.
    shared.control.wake();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_makes_the_share() {
        let rests = [1, 20, 50, 80, 99, 200].map(|percent| rest(percent).as_micros());
        assert_eq!(rests, [101, 2_500, 10_000, 40_000, 990_000, 990_000]);
    }
}

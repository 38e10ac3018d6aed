//! Turns of the main loop in which queues are to be served: posted already, or held until the machine goes on.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// See the module.
pub(super) struct Turns(Mutex<Inner>);

struct Inner {
    running: bool,
    /// By queue.
    queues: Vec<Turn>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Turn {
    posted: bool,
    held: bool,
}

impl Turns {
    /// Of a device with `queues` queues in a machine that is stopped.
    pub(super) fn new(queues: usize) -> Self {
        Self(Mutex::new(Inner { running: false, queues: vec![Turn::default(); queues] }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Flags are assigned whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T: Default>(&self, queue: u16, change: impl FnOnce(&mut Turn) -> T) -> T {
        self.lock().queues.get_mut(usize::from(queue)).map(change).unwrap_or_default()
    }

    /// Notes that a turn of `queue` is posted; false if one is already, or there is no such queue.
    pub(super) fn begin(&self, queue: u16) -> bool {
        self.with(queue, |turn| !std::mem::replace(&mut turn.posted, true))
    }

    /// The posted turn has come.
    pub(super) fn end(&self, queue: u16) {
        self.with(queue, |turn| turn.posted = false);
    }

    /// Whether a turn is posted.
    pub(super) fn is_posted(&self, queue: u16) -> bool {
        self.with(queue, |turn| turn.posted)
    }

    /// Whether what became ready can be served now; otherwise it is held until the machine runs.
    pub(super) fn may_run(&self, queue: u16) -> bool {
        let mut inner = self.lock();
        let running = inner.running;
        let Some(turn) = inner.queues.get_mut(usize::from(queue)) else { return false };
        turn.held |= !running;
        running
    }

    /// The machine runs, or stopped; gives the queues that were held until now.
    pub(super) fn set_running(&self, running: bool) -> Vec<u16> {
        let mut inner = self.lock();
        inner.running = running;
        let queues = (0..).zip(&mut inner.queues).filter(|(_, turn)| running && turn.held);
        queues
            .map(|(queue, turn)| {
                turn.held = false;
                queue
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_posted_once_and_those_of_a_stopped_machine_are_held() {
        let turns = Turns::new(100);
        assert!(turns.begin(99) && !turns.begin(99) && turns.begin(35), "queues do not share");
        assert!(!turns.begin(100) && turns.is_posted(99));
        turns.end(99);
        assert!(turns.begin(99));
        assert!(!turns.may_run(3) && !turns.may_run(3) && !turns.may_run(100));
        assert_eq!(turns.set_running(true), [3]);
        assert!(turns.may_run(3) && turns.set_running(true).is_empty());
    }
}

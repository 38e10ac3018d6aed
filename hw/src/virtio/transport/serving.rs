//! Serving the rings: where the driver notified, when the main loop hears of it, and what is left to later turns.

use std::time::{Duration, Instant};

use super::Transport;
use super::linger::{LONGEST, Wait};

/// Buffers served before the lock is let go once.
const BUDGET: usize = 64;
/// Buffers served before the rest is left to the main loop's next turn, so that a busy guest starves nobody.
const TURN_BUFFERS: usize = 1024;
/// Time after which the rest is left to the next turn: monitors get theirs in between.
const TURN_TIME: Duration = Duration::from_millis(10);

impl Transport {
    /// Serves a queue until it is empty, or leaves the rest to the main loop's next turns. Called on the main loop for event
    /// descriptors, else where the driver writes.
    pub fn kick(&self, queue: u16) {
        trace::emit!(virtio_queue_notify, trace::Id::of(&*self.parts.backend), queue, self.queue_id(queue));
        match &self.external {
            Some(_) => self.pass_kick(queue),
            None => {
                self.serve(queue, TURN_TIME);
            }
        }
    }

    /// How a trace names a queue; one that is not there has no name.
    fn queue_id(&self, queue: u16) -> trace::Id {
        self.with_state(|state| state.queues().get(usize::from(queue)).map_or(trace::Id::NONE, trace::Id::of))
    }

    /// The event of a queue was signalled. Main loop thread.
    pub(super) fn signalled(&self, queue: u16) {
        trace::emit!(virtio_queue_notify, trace::Id::of(&*self.parts.backend), queue, self.queue_id(queue));
        let start = Instant::now();
        // Buffers that were found by looking were notified of too, and nothing is left when that is heard.
        if !self.serve(queue, TURN_TIME) {
            return;
        }
        self.linger.notified(queue, start);
        while start.elapsed() < LONGEST
            && self.linger.wait(queue, || self.look(queue), Instant::now) == Wait::Found
            && self.serve(queue, TURN_TIME)
        {}
        self.linger.rests(queue, Instant::now());
    }

    /// Whether there are buffers in a queue; nothing if the main loop is wanted elsewhere.
    fn look(&self, queue: u16) -> Option<bool> {
        let found = {
            let inner = self.lock();
            inner.state.has_buffers(queue, self.parts.space.view().guest_memory())
        };
        (found || !self.parts.mainloop.has_work()).then_some(found)
    }

    /// Tells whether all that was there was used.
    fn serve(&self, queue: u16, patience: Duration) -> bool {
        let start = Instant::now();
        let mut used = false;
        // Few at first: one buffer may ask for a lot (memory that is allocated at once), and time is looked at in between.
        let (mut budget, mut left) = (1, TURN_BUFFERS);
        loop {
            let served = {
                let mut inner = self.lock();
                let view = self.parts.space.view();
                inner.state.serve(queue, view.guest_memory(), &*self.parts.backend, budget)
            };
            let (more, again) = (served.more, served.again);
            used |= served.used;
            let empty = served.empty;
            self.finish(served);
            if !more {
                return used && empty;
            }
            // What is being worked on ends by itself; only time counts.
            if !again {
                left = left.saturating_sub(budget);
                budget = (budget * 2).min(BUDGET);
            }
            if left == 0 || start.elapsed() >= patience {
                break;
            }
        }
        self.post_turn(queue);
        false
    }

    /// Has the main loop's next turn serve a queue.
    pub(super) fn post_turn(&self, queue: u16) {
        // One posted turn is enough, however often a guest notifies a queue that never runs empty.
        if !self.turns.begin(queue) {
            return;
        }
        let me = self.me.clone();
        self.parts.mainloop.post(move || {
            if let Some(transport) = me.upgrade() {
                transport.turns.end(queue);
                transport.kick(queue);
            }
        });
    }

    /// Serves what the driver notified of and the main loop has not seen yet, or left to a later turn. Main loop thread,
    /// vCPUs stopped; the longest queue is shorter than what is served at once.
    pub(super) fn finish_notified(&self) {
        if self.external.is_some() {
            return;
        }
        let notified = self.kicks.take_signalled();
        for queue in 0..self.queue_count() {
            if notified.contains(&queue) || self.turns.is_posted(queue) {
                self.serve(queue, Duration::MAX);
            }
        }
    }
}

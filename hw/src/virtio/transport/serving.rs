//! Serving the rings: where the driver notified, when the loop of the queue (the main one, or an `iothread`'s) hears of it, and what is left to
//! later turns.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Transport;
use super::linger::{LONGEST, WINDOW, Wait};
use crate::core::IoThread;

/// Buffers served before the lock is let go once.
const BUDGET: usize = 64;
/// Buffers served before the rest is left to the main loop's next turn, so that a busy guest starves nobody.
const TURN_BUFFERS: usize = 1024;
/// Time after which the rest is left to the next turn: monitors get theirs in between.
const TURN_TIME: Duration = Duration::from_millis(10);

impl Transport {
    /// Serves a queue until it is empty, or leaves the rest to the next turns of its loop. Called there for event descriptors, else where
    /// the driver writes.
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

    /// The event of a queue was signalled. On the thread of its loop.
    pub(super) fn signalled(&self, queue: u16) {
        trace::emit!(virtio_queue_notify, trace::Id::of(&*self.parts.backend), queue, self.queue_id(queue));
        let start = Instant::now();
        // Buffers that were found by looking were notified of too, and nothing is left when that is heard.
        if !self.serve(queue, TURN_TIME) {
            return;
        }
        let window = self.window_of(queue);
        self.linger.notified(queue, start, window);
        while start.elapsed() < LONGEST
            && self.linger.wait(queue, window, || self.look(queue), Instant::now) == Wait::Found
            && self.serve(queue, TURN_TIME)
        {}
        self.linger.rests(queue, Instant::now());
    }

    /// Whether there are buffers in a queue; nothing if its loop is wanted elsewhere.
    fn look(&self, queue: u16) -> Option<bool> {
        let found = {
            let inner = self.lock();
            inner.state.has_buffers(queue, self.parts.space.view().guest_memory())
        };
        (found || !self.loop_of(queue).has_work()).then_some(found)
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

    /// Has the next turn of its loop serve a queue.
    pub(super) fn post_turn(&self, queue: u16) {
        // One posted turn is enough, however often a guest notifies a queue that never runs empty.
        if !self.turns.begin(queue) {
            return;
        }
        let me = self.me.clone();
        self.loop_of(queue).post(move || {
            if let Some(transport) = me.upgrade() {
                transport.turns.end(queue);
                transport.kick(queue);
            }
        });
    }

    /// The loop that serves a queue.
    pub(super) fn loop_of(&self, queue: u16) -> &mainloop::Handle {
        self.iothread(queue).and_then(|thread| thread.handle()).unwrap_or(&self.parts.mainloop)
    }

    fn iothread(&self, queue: u16) -> Option<&Arc<IoThread>> {
        self.iothreads.get(usize::from(queue))?.as_ref()
    }

    /// How long a queue that ran empty may be looked at: no user asks for so much that the loop's other work waits for long.
    fn window_of(&self, queue: u16) -> Duration {
        self.iothread(queue).map_or(WINDOW, |thread| thread.poll_max().min(LONGEST))
    }

    /// Serves what the driver notified of and no loop has seen yet, or left to a later turn. Main loop thread, vCPUs stopped; the longest
    /// queue is shorter than what is served at once. What an iothread is at is waited for.
    pub(super) fn finish_notified(&self) {
        let Some(me) = self.me.upgrade() else { return };
        let notified = self.kicks.take_signalled();
        for queue in 0..self.queue_count() {
            let (me, notified) = (Arc::clone(&me), notified.contains(&queue));
            // The main loop's queues are served right here. A loop that has ended has nothing to be waited for.
            let _ = self.loop_of(queue).run_on_loop(move || {
                if notified || me.turns.is_posted(queue) {
                    me.serve(queue, Duration::MAX);
                }
            });
        }
    }
}

//! Looking at a ring a little longer: a driver that hands over its next buffer as soon as it has the last one back need not wait until
//! the main loop slept and was woken.
//!
//! A queue earns it. Notifications must have come within [`WINDOW`] of the device's last answer, several times in a row; each wait in vain
//! doubles how many times, and each that paid halves it. So a driver that is slower than that, or a host whose processors are wanted by
//! others, soon has what it would have had without, and an idle machine looks at nothing.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

/// How long a ring that ran empty is looked at where nobody says: about what sleeping and being woken costs on a busy host.
pub(super) const WINDOW: Duration = Duration::from_micros(100);
/// One queue keeps its loop from everything else no longer than this.
pub(super) const LONGEST: Duration = Duration::from_millis(1);
/// Between two looks no more time than this passes, unless the processor went to somebody else.
const PREEMPTED: Duration = Duration::from_micros(20);
/// Quick notifications in a row before the first wait; also the fewest.
const FEWEST: u32 = 4;
/// The most, after many waits in vain.
const MOST: u32 = 4096;

/// With one processor the driver cannot go on while we look.
static SHARED_PROCESSOR: LazyLock<bool> =
    LazyLock::new(|| available_parallelism().is_ok_and(|count| count.get() == 1));

/// What a wait came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// There are buffers.
    Found,
    /// There are none; or somebody else wants the processor or the thread.
    Over,
}

/// See the module. One for all queues of a device.
pub(super) struct Linger(Mutex<Vec<Habit>>);

/// What is known of the driver of one queue.
#[derive(Debug, Clone, Copy)]
struct Habit {
    /// When the device last had nothing more to do.
    rests_since: Option<Instant>,
    /// Quick notifications in a row.
    quick: u32,
    /// How many of them a wait takes.
    asked: u32,
}

impl Habit {
    const NEW: Self = Self { rests_since: None, quick: 0, asked: FEWEST };

    fn notified(&mut self, now: Instant, window: Duration) {
        let quick = self.rests_since.take().is_some_and(|since| now.duration_since(since) < window);
        self.quick = if quick { self.quick.saturating_add(1) } else { 0 };
    }

    fn may_wait(&self) -> bool {
        self.quick >= self.asked
    }

    fn paid(&mut self, paid: bool) {
        if paid {
            self.asked = (self.asked / 2).max(FEWEST);
        } else {
            self.asked = (self.asked * 2).min(MOST);
            self.quick = 0;
        }
    }
}

impl Linger {
    /// Of a device with `queues` queues.
    pub(super) fn new(queues: usize) -> Self {
        Self(Mutex::new(vec![Habit::NEW; queues]))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Habit>> {
        // Numbers that are right or lead to a wait too many.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T: Default>(&self, queue: u16, change: impl FnOnce(&mut Habit) -> T) -> T {
        self.lock().get_mut(usize::from(queue)).map(change).unwrap_or_default()
    }

    /// The driver notified `queue`, which may be looked at for `window`.
    pub(super) fn notified(&self, queue: u16, now: Instant, window: Duration) {
        self.with(queue, |habit| habit.notified(now, window));
    }

    /// The device goes to rest, having used all there was.
    pub(super) fn rests(&self, queue: u16, now: Instant) {
        self.with(queue, |habit| habit.rests_since = Some(now));
    }

    /// Waits for the next buffer of `queue`, which is empty, if that is worth while. `look` tells whether there is one, and gives nothing if
    /// the wait has to end; `clock` is `Instant::now`.
    pub(super) fn wait(
        &self,
        queue: u16,
        window: Duration,
        look: impl FnMut() -> Option<bool>,
        clock: impl FnMut() -> Instant,
    ) -> Wait {
        if *SHARED_PROCESSOR || !self.with(queue, |habit| habit.may_wait()) {
            return Wait::Over;
        }
        let (wait, paid) = watch(window, look, clock);
        self.with(queue, |habit| habit.paid(paid));
        wait
    }
}

/// Looks for as long as is sensible; gives also whether that was a good idea.
fn watch(
    window: Duration,
    mut look: impl FnMut() -> Option<bool>,
    mut clock: impl FnMut() -> Instant,
) -> (Wait, bool) {
    let start = clock();
    let mut last = start;
    loop {
        match look() {
            Some(true) => return (Wait::Found, clock().duration_since(last) < PREEMPTED),
            Some(false) => {}
            // Nobody's fault.
            None => return (Wait::Over, true),
        }
        std::hint::spin_loop();
        let now = clock();
        if now.duration_since(start) >= window || now.duration_since(last) >= PREEMPTED {
            return (Wait::Over, false);
        }
        last = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_micros(5);

    /// A clock that goes on by `step` whenever it is read.
    fn ticking(step: Duration) -> impl FnMut() -> Instant {
        let mut now = Instant::now();
        move || {
            now += step;
            now
        }
    }

    /// A driver that notifies `count` times, always `after` the device rested.
    fn notify(linger: &Linger, count: u32, after: Duration) {
        let mut now = Instant::now();
        for _ in 0..count {
            linger.rests(1, now);
            now += after;
            linger.notified(1, now, WINDOW);
        }
    }

    fn looks(linger: &Linger, found_at: u32, step: Duration) -> (Wait, u32) {
        let mut looks = 0;
        let look = || {
            looks += 1;
            Some(looks == found_at)
        };
        let wait = linger.wait(1, WINDOW, look, ticking(step));
        (wait, looks)
    }

    #[test]
    fn only_a_driver_that_was_quick_several_times_in_a_row_is_waited_for() {
        let linger = Linger::new(2);
        assert_eq!(looks(&linger, 1, STEP), (Wait::Over, 0), "nothing is known of it");
        notify(&linger, FEWEST - 1, STEP);
        assert_eq!(looks(&linger, 1, STEP), (Wait::Over, 0));
        notify(&linger, 1, STEP);
        assert_eq!(looks(&linger, 3, STEP), (Wait::Found, 3));
        assert_eq!(
            linger.wait(0, WINDOW, || Some(true), ticking(STEP)),
            Wait::Over,
            "of the other queue nothing is known"
        );
        assert_eq!(linger.wait(2, WINDOW, || Some(true), ticking(STEP)), Wait::Over, "no such queue");
        notify(&linger, 1, WINDOW);
        assert_eq!(looks(&linger, 1, STEP), (Wait::Over, 0), "it was slow once");
    }

    #[test]
    fn waiting_in_vain_ends_with_the_window_and_doubles_what_is_asked() {
        let linger = Linger::new(2);
        notify(&linger, FEWEST, STEP);
        let (wait, count) = looks(&linger, 0, STEP);
        assert_eq!((wait, count), (Wait::Over, 20), "a window of looks");
        notify(&linger, 2 * FEWEST - 1, STEP);
        assert_eq!(looks(&linger, 1, STEP).0, Wait::Over);
        notify(&linger, 1, STEP);
        assert_eq!(looks(&linger, 1, STEP).0, Wait::Found);
        for _ in 0..20 {
            notify(&linger, MOST, STEP);
            assert_eq!(looks(&linger, 0, STEP).0, Wait::Over);
        }
        notify(&linger, MOST, STEP);
        assert_eq!(looks(&linger, 1, STEP).0, Wait::Found, "there is an end to it");
    }

    #[test]
    fn a_processor_that_others_want_is_left_to_them() {
        let linger = Linger::new(2);
        notify(&linger, FEWEST, STEP);
        assert_eq!(looks(&linger, 0, PREEMPTED), (Wait::Over, 1));
        notify(&linger, 2 * FEWEST, STEP);
        assert_eq!(looks(&linger, 1, PREEMPTED), (Wait::Found, 1), "what is there is served");
        notify(&linger, 3 * FEWEST, STEP);
        assert_eq!(looks(&linger, 1, STEP), (Wait::Over, 0), "but it counts as in vain");
    }

    #[test]
    fn a_wait_that_is_called_off_is_nobodys_fault() {
        let linger = Linger::new(2);
        notify(&linger, FEWEST, STEP);
        assert_eq!(linger.wait(1, WINDOW, || None, ticking(STEP)), Wait::Over);
        assert_eq!(looks(&linger, 1, STEP).0, Wait::Found);
    }
}

//! What other threads and callbacks hold of a loop.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;

use crate::Signal;
use crate::answer;
use crate::clock::{Clock, VirtualClock, host_now_ns};
use crate::shared::Shared;
use crate::signals::{self, SignalInfo, SignalWatch};
use crate::timer::{self, Timer};
use crate::watch::{self, Interest, Ready, Watch};

/// A cheap, thread-safe reference to a [`MainLoop`](crate::MainLoop).
#[derive(Debug, Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

/// The loop was dropped or its `run` has returned, so the work was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoopGone;

impl fmt::Display for LoopGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the main loop has ended")
    }
}

impl std::error::Error for LoopGone {}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Runs `work` on the loop thread in the next turn, after everything posted before. From any thread, the loop
    /// thread included (it does not run at once). Dropped unrun if the loop has ended.
    pub fn post(&self, work: impl FnOnce() + Send + 'static) {
        let mut inner = self.shared.lock();
        if inner.finished {
            // `work` may own anything: dropped by the caller, after the lock.
            drop(inner);
            return;
        }
        inner.posted.push_back(Box::new(work));
        self.shared.wake(inner);
    }

    /// Runs `work` on the loop thread and waits for its value; called directly when already there.
    ///
    /// Never call it holding a lock that a callback of the loop may want.
    ///
    /// # Errors
    ///
    /// [`LoopGone`] if the loop ended before the work ran.
    pub fn run_on_loop<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, LoopGone> {
        if self.on_loop_thread() {
            return Ok(work());
        }
        let (sender, receiver) = answer::channel();
        self.post(move || sender.send(work()));
        receiver.receive().ok_or(LoopGone)
    }

    /// Whether posted work waits for the next turn, or the loop is asked to end: whoever keeps it busy without need had better stop.
    pub fn has_work(&self) -> bool {
        let inner = self.shared.lock();
        !inner.posted.is_empty() || inner.quit.is_some()
    }

    /// Whether the calling thread is the one that runs (or created and will run) the loop.
    pub fn on_loop_thread(&self) -> bool {
        self.shared.lock().loop_thread == thread::current().id()
    }

    /// Ends [`MainLoop::run`](crate::MainLoop::run) with `code` after the current turn. The first code wins.
    pub fn quit(&self, code: i32) {
        let mut inner = self.shared.lock();
        inner.quit.get_or_insert(code);
        self.shared.wake(inner);
    }

    /// Whether [`Handle::quit`] was called and the loop has not been run again since: whoever works through a queue of
    /// requests had better stop.
    pub fn is_quitting(&self) -> bool {
        let inner = self.shared.lock();
        inner.quit.is_some() || inner.finished
    }

    /// Calls `callback` on the loop thread whenever `fd` is ready for something in `interest`, or hung up.
    ///
    /// The descriptor is duplicated: the caller may close its own. Regular files count as always ready.
    ///
    /// # Errors
    ///
    /// Out of descriptors or of epoll watches; the loop was dropped.
    pub fn watch(
        &self,
        fd: impl AsFd,
        interest: Interest,
        callback: impl FnMut(Ready) + Send + 'static,
    ) -> io::Result<Watch> {
        watch::add(&self.shared, fd.as_fd(), interest, Box::new(callback))
    }

    /// Calls `callback` once when `clock` reaches `deadline_ns`, at once (in the next turn) if that has passed.
    /// A timer on [`Clock::Virtual`] does not run while that clock is stopped.
    pub fn timer(&self, clock: Clock, deadline_ns: i64, callback: impl FnOnce() + Send + 'static) -> Timer {
        timer::add(&self.shared, clock, deadline_ns, Box::new(callback))
    }

    /// The time of `clock` in nanoseconds.
    pub fn now_ns(&self, clock: Clock) -> i64 {
        match clock {
            Clock::Realtime => host_now_ns(),
            Clock::Virtual => self.shared.lock().clock.now_ns(),
        }
    }

    /// The control of the guest's clock.
    pub fn virtual_clock(&self) -> VirtualClock {
        VirtualClock::new(Arc::clone(&self.shared))
    }

    /// Blocks `signals` in the calling thread and delivers them to `callback` on the loop thread instead.
    ///
    /// Call it before other threads start: they inherit the block. A thread that does not block a signal would
    /// take it the default way.
    ///
    /// # Errors
    ///
    /// Those of `pthread_sigmask` and `signalfd`, and those of [`Handle::watch`].
    pub fn watch_signals(
        &self,
        signals: &[Signal],
        callback: impl FnMut(SignalInfo) + Send + 'static,
    ) -> io::Result<SignalWatch> {
        signals::add(&self.shared, signals, callback)
    }

    /// Descriptors that become readable when a watched signal is pending: for start-up code that must block (a socket
    /// server with `wait=on`) and has to give up when the user wants to end the program.
    ///
    /// # Errors
    ///
    /// The process is out of descriptors.
    pub fn signal_fds(&self) -> io::Result<Vec<OwnedFd>> {
        self.shared.lock().signal_fds.values().map(OwnedFd::try_clone).collect()
    }
}

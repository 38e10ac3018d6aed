//! The event loop of one VM: descriptors, timers on two clocks, signals, and work posted from other threads.
//!
//! One thread owns a [`MainLoop`] and calls [`MainLoop::run`]; everybody else holds a cheap [`Handle`]. There is no
//! process-wide state: two loops live side by side in one process, which is how the tests of migration run two VMs.
//!
//! # Rules of the road
//!
//! - Every callback runs on the loop thread with no lock of this crate held, so it may call anything here: add or
//!   drop watches and timers (its own too), post, quit, move the virtual clock.
//! - Once a [`Watch`] or [`Timer`] was dropped *on the loop thread*, its callback never runs again, even if its event
//!   was already collected. Dropped on another thread, a callback that has started may still be finishing.
//! - Order inside one turn: posted work (first in, first out), then due timers by deadline, then descriptors. Work
//!   posted or timers armed by a callback wait for the next turn, so nobody starves descriptors.
//! - Watches are level triggered. Who does not consume is called again; who cannot consume lowers his [`Interest`].
//! - Dropping the [`MainLoop`] drops every callback and everything still queued. Handles outlive it harmlessly.
//!
//! # Example
//!
//! ```
//! use mainloop::{Interest, MainLoop};
//!
//! let mut main = MainLoop::new()?;
//! let (reader, writer) = rustix::pipe::pipe()?;
//! let handle = main.handle();
//! let quitter = handle.clone();
//! let watch = handle.watch(&reader, Interest::READ, move |ready| {
//!     assert!(ready.read);
//!     quitter.quit(0);
//! })?;
//! handle.post(move || drop(writer)); // closing the writing end makes the reading end ready
//! # drop(watch);
//! # handle.quit(0);
//! assert_eq!(main.run(), 0);
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! Left out on purpose: priorities, idle callbacks, child processes, and any notion of what an event means.

mod answer;
mod clock;
mod handle;
mod shared;
mod signals;
mod timer;
mod watch;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::event::epoll;

pub use clock::{Clock, VirtualClock};
pub use handle::{Handle, LoopGone};
pub use rustix::process::Signal;
pub use signals::{SignalInfo, SignalWatch};
pub use timer::Timer;
pub use watch::{Interest, Ready, Watch};

use shared::{Shared, WAKE_TOKEN};

/// Events collected by one call of `epoll_wait`; more simply arrive in the next turn.
const EVENTS_PER_TURN: usize = 64;

/// The loop itself. Owned by the thread that runs it; see the module documentation.
pub struct MainLoop {
    shared: Arc<Shared>,
    /// Kept from turn to turn, empty in between.
    events: Vec<epoll::Event>,
}

impl fmt::Debug for MainLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MainLoop").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl MainLoop {
    /// A loop without watches, its virtual clock stopped at zero. The creating thread counts as the loop thread
    /// until another one calls [`MainLoop::run`] or [`MainLoop::turn`].
    ///
    /// # Errors
    ///
    /// The process is out of descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self { shared: Arc::new(Shared::new()?), events: Vec::with_capacity(EVENTS_PER_TURN) })
    }

    /// A handle for other threads and for callbacks.
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.shared))
    }

    /// Runs until [`Handle::quit`] and returns its code (1 if the kernel refuses to wait on the loop's own
    /// descriptor, which is logged).
    ///
    /// On return, work still posted is dropped and later posts are dropped as well, so that a thread waiting in
    /// [`Handle::run_on_loop`] gets [`LoopGone`] instead of waiting for ever. Running again revives the loop.
    pub fn run(&mut self) -> i32 {
        self.shared.lock().finished = false;
        let code = loop {
            if let Some(code) = self.shared.lock().quit.take() {
                break code;
            }
            if let Err(error) = self.turn(None) {
                tracing::error!(%error, "the main loop cannot wait for events");
                break 1;
            }
        };
        let dropped = {
            let mut inner = self.shared.lock();
            inner.finished = true;
            std::mem::take(&mut inner.posted)
        };
        drop(dropped);
        code
    }

    /// One turn: waits at most `timeout` (`None`: until something happens) and runs what is ready. For tests, for
    /// start-up that waits for a peer, and for draining after [`MainLoop::run`] returned.
    ///
    /// # Errors
    ///
    /// Those of `epoll_wait`; an interruption by a signal is no error.
    pub fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let wait = {
            let mut inner = self.shared.lock();
            inner.loop_thread = thread::current().id();
            inner.wait_time(timeout)
        };
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        match epoll::wait(&self.shared.epoll, rustix::buffer::spare_capacity(&mut events), wait.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => {
                self.events = events;
                return Err(errno.into());
            }
        }
        if events.iter().any(|event| event.data.u64() == WAKE_TOKEN) {
            self.shared.drain_wake();
        }
        self.run_posted();
        timer::run_due(&self.shared);
        for event in &events {
            let (token, flags) = (event.data.u64(), event.flags);
            if token != WAKE_TOKEN {
                self.shared.dispatch(token, Ready::from_epoll(flags));
            }
        }
        self.events = events;
        self.dispatch_always_ready();
        Ok(())
    }

    fn run_posted(&self) {
        let batch = std::mem::take(&mut self.shared.lock().posted);
        for work in batch {
            work();
        }
    }

    /// Regular files and `/dev/null` cannot be polled: they are always ready, as `poll(2)` would say.
    fn dispatch_always_ready(&self) {
        let tokens = self.shared.lock().always_ready.clone();
        for token in tokens {
            self.shared.dispatch(token, Ready { read: true, write: true, hangup: false, error: false });
        }
    }
}

impl Drop for MainLoop {
    /// Breaks the cycles between callbacks and the handles they captured.
    fn drop(&mut self) {
        let (watches, timers, posted) = {
            let mut inner = self.shared.lock();
            inner.finished = true;
            inner.closed = true;
            inner.always_ready.clear();
            (
                std::mem::take(&mut inner.watches),
                std::mem::take(&mut inner.timers),
                std::mem::take(&mut inner.posted),
            )
        };
        drop((watches, timers, posted));
    }
}

#[cfg(test)]
mod tests;

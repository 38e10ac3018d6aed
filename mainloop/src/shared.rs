//! What the loop and its handles share, behind one lock that is never held while a callback runs.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};

use crate::clock::{ClockState, host_now_ns};
use crate::timer::Timers;
use crate::watch::Entry;

/// Work posted to the loop.
pub(crate) type Work = Box<dyn FnOnce() + Send>;

/// The token of the loop's own eventfd; watches count from 1.
pub(crate) const WAKE_TOKEN: u64 = 0;

const NS_PER_S: i64 = 1_000_000_000;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) epoll: OwnedFd,
    wake: OwnedFd,
    inner: Mutex<Inner>,
}

pub(crate) struct Inner {
    pub(crate) loop_thread: ThreadId,
    pub(crate) posted: VecDeque<Work>,
    /// The eventfd was written and not drained yet: no need to write again.
    wake_pending: bool,
    pub(crate) watches: HashMap<u64, Arc<Entry>>,
    pub(crate) next_token: u64,
    /// The watches the kernel cannot poll.
    pub(crate) always_ready: Vec<u64>,
    /// The signalfds of the living `SignalWatch`es, by number.
    pub(crate) signal_fds: HashMap<u64, OwnedFd>,
    pub(crate) timers: Timers,
    pub(crate) clock: ClockState,
    pub(crate) quit: Option<i32>,
    /// `run` returned: posted work would never run.
    pub(crate) finished: bool,
    /// The loop was dropped.
    pub(crate) closed: bool,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("posted", &self.posted.len())
            .field("watches", &self.watches.len())
            .field("quit", &self.quit)
            .field("finished", &self.finished)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE_TOKEN), epoll::EventFlags::IN)?;
        let inner = Inner {
            loop_thread: thread::current().id(),
            posted: VecDeque::new(),
            wake_pending: false,
            watches: HashMap::new(),
            next_token: WAKE_TOKEN + 1,
            always_ready: Vec::new(),
            signal_fds: HashMap::new(),
            timers: Timers::default(),
            clock: ClockState::default(),
            quit: None,
            finished: false,
            closed: false,
        };
        Ok(Self { epoll, wake, inner: Mutex::new(inner) })
    }

    /// The state. A panicking callback cannot poison it half-changed (none runs under the lock), so poison is ignored.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a sleeping loop look again, at what was changed under the lock. On the loop thread it is awake and looks before it sleeps.
    pub(crate) fn wake(&self, mut inner: MutexGuard<'_, Inner>) {
        if inner.wake_pending || inner.loop_thread == thread::current().id() {
            return;
        }
        inner.wake_pending = true;
        // Else the loop wakes up to wait for the lock.
        drop(inner);
        // Cannot block, and fails only when the counter is full, that is, when the loop is being woken already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    pub(crate) fn drain_wake(&self) {
        let mut inner = self.lock();
        inner.wake_pending = false;
        let mut count = [0u8; 8];
        // Empty is fine: the counter is reset either way.
        let _ = rustix::io::read(&self.wake, &mut count);
    }
}

impl Inner {
    /// How long the loop may sleep: not at all with work at hand, else until the next timer or `limit`.
    pub(crate) fn wait_time(&mut self, limit: Option<Duration>) -> Option<Timespec> {
        let busy = !self.posted.is_empty()
            || self.quit.is_some()
            || self
                .always_ready
                .iter()
                .any(|token| self.watches.get(token).is_some_and(|entry| entry.wants_anything()));
        if busy {
            return Some(Timespec { tv_sec: 0, tv_nsec: 0 });
        }
        let timers = self.timers.ns_until_next(&self.clock, host_now_ns());
        let limit = limit.map(|limit| i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX));
        let ns = match (timers, limit) {
            (Some(a), Some(b)) => a.min(b),
            (Some(a), None) | (None, Some(a)) => a,
            (None, None) => return None,
        };
        Some(Timespec { tv_sec: ns / NS_PER_S, tv_nsec: ns % NS_PER_S })
    }
}

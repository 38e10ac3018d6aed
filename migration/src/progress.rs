//! How far a migration is: its status, and what is counted. Threads that do the work write, commands read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use qapi::types::{MigrationInfo, MigrationStats, MigrationStatus as Status};

use crate::wire::PAGE;

/// Counted without a lock.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes on the main channel.
    pub sent: Arc<AtomicU64>,
    /// Bytes on others than the main channel.
    pub multifd: Arc<AtomicU64>,
    /// Of all, before the guest was stopped.
    pub precopy: AtomicU64,
    /// Of all, memory after the guest was stopped.
    pub downtime: AtomicU64,
    /// Pages of zeroes.
    pub zero_pages: AtomicU64,
    /// Pages with their bytes.
    pub pages: AtomicU64,
    /// Bytes yet to be sent of the present pass.
    pub remaining: AtomicU64,
    /// Bytes of all memory.
    pub total: AtomicU64,
    /// Passes begun.
    pub passes: AtomicU64,
    /// Pages that the guest wrote in a second.
    pub dirty_rate: AtomicU64,
    /// Pages sent in a second.
    pub page_rate: AtomicU64,
    /// Of all, when memory began to follow a guest that runs elsewhere; 0 before.
    pub before_postcopy: AtomicU64,
    /// Pages that the other side asked for.
    pub requests: AtomicU64,
}

/// Reads a counter.
pub fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Sets a counter.
pub fn set(counter: &AtomicU64, value: u64) {
    counter.store(value, Ordering::Relaxed);
}

#[derive(Debug)]
struct Inner {
    status: Status,
    error: Option<String>,
    /// Somebody wants it to end.
    cancelled: bool,
    /// Nobody was told of that yet.
    telling: bool,
    /// It is too late for that.
    committed: bool,
    /// Somebody lets it go on from `pre-switchover`.
    go_on: bool,
    /// Somebody wants the guest to go on there before its memory is.
    postcopy: bool,
    begun: Instant,
    setup: Option<Duration>,
    stopped: Option<Instant>,
    downtime: Option<Duration>,
    ended: Option<Duration>,
    expected_downtime: u64,
    throttle: u8,
}

impl Inner {
    fn enter(&mut self, status: Status) -> bool {
        if self.cancelled && !matches!(status, Status::Cancelled | Status::Completed) {
            return false;
        }
        if status == Status::Active {
            self.setup = Some(self.begun.elapsed());
        }
        if matches!(status, Status::Completed | Status::Failed | Status::Cancelled) {
            self.ended = Some(self.begun.elapsed());
            // It ended before that when the guest went on elsewhere.
            self.downtime = self.downtime.or_else(|| self.stopped.map(|at| at.elapsed()));
        }
        self.status = status;
        true
    }
}

/// One migration.
#[derive(Debug)]
pub struct Progress {
    inner: Mutex<Inner>,
    changed: Condvar,
    /// What is counted.
    pub counters: Arc<Counters>,
}

impl Progress {
    /// One that begins. `downtime_limit` is in milliseconds.
    pub fn new(downtime_limit: u64) -> Self {
        let inner = Inner {
            status: Status::None,
            error: None,
            cancelled: false,
            telling: false,
            committed: false,
            go_on: false,
            postcopy: false,
            begun: Instant::now(),
            setup: None,
            stopped: None,
            downtime: None,
            ended: None,
            expected_downtime: downtime_limit,
            throttle: 0,
        };
        Self { inner: Mutex::new(inner), changed: Condvar::new(), counters: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Fields are independent and assigned whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The status.
    pub fn status(&self) -> Status {
        self.lock().status
    }

    /// Whether it has begun and not ended.
    pub fn is_running(&self) -> bool {
        !is_over(self.status())
    }

    /// Takes it to another status, unless it is being ended and `status` is no end. Says whether it did.
    pub fn enter(&self, status: Status) -> bool {
        let entered = self.lock().enter(status);
        self.changed.notify_all();
        entered
    }

    /// It failed, unless it is being ended. Says whether it did.
    pub fn fail(&self, error: String) -> bool {
        let mut inner = self.lock();
        let failed = inner.enter(Status::Failed);
        if failed {
            inner.error = Some(error);
        }
        drop(inner);
        self.changed.notify_all();
        failed
    }

    /// Why it failed.
    pub fn error(&self) -> Option<String> {
        self.lock().error.clone()
    }

    /// Wants it to end, and has it `cancelling`, if that is new and there is still something to end. `tell` tells of it before it has ended.
    pub fn cancel(&self, tell: impl FnOnce()) -> bool {
        let mut inner = self.lock();
        if is_over(inner.status) || inner.cancelled || inner.committed || follows(inner.status) {
            return false;
        }
        (inner.cancelled, inner.telling, inner.status) = (true, true, Status::Cancelling);
        drop(inner);
        self.changed.notify_all();
        tell();
        self.lock().telling = false;
        self.changed.notify_all();
        true
    }

    /// It has ended because somebody wanted that, and has told of it.
    pub fn cancelled(&self) {
        let wait = self.changed.wait_while(self.lock(), |inner| inner.telling);
        wait.unwrap_or_else(PoisonError::into_inner).enter(Status::Cancelled);
        self.changed.notify_all();
    }

    /// The machine is as good as elsewhere: nobody can end it any more, unless somebody did, which gives `false`.
    pub fn commit(&self) -> bool {
        let mut inner = self.lock();
        inner.committed = !inner.cancelled;
        inner.committed
    }

    /// Wants it to end whatever becomes of it: the program ends.
    pub fn abandon(&self) {
        self.lock().cancelled = true;
        self.changed.notify_all();
    }

    /// Wants the guest to go on there as soon as possible.
    pub fn start_postcopy(&self) {
        self.lock().postcopy = true;
    }

    /// Whether somebody wants that.
    pub fn wants_postcopy(&self) -> bool {
        self.lock().postcopy
    }

    /// The guest goes on there, and cannot go on here any more: takes it to `postcopy-active`, unless it is being ended.
    pub fn hand_over(&self) -> bool {
        let mut inner = self.lock();
        if inner.cancelled {
            return false;
        }
        inner.downtime = inner.stopped.map(|at| at.elapsed());
        inner.status = Status::PostcopyActive;
        true
    }

    /// Takes it from one status to another, if it is in that and not being ended. Says whether it did. Of an error that there was, nothing
    /// is told any more.
    pub fn step(&self, from: Status, to: Status) -> bool {
        let mut inner = self.lock();
        if inner.status != from || inner.cancelled {
            return false;
        }
        (inner.status, inner.error) = (to, None);
        drop(inner);
        self.changed.notify_all();
        true
    }

    /// The connection is lost, for this reason, while memory follows: `postcopy-paused`. `false` if it is being ended.
    pub fn pause(&self, error: Option<String>) -> bool {
        let mut inner = self.lock();
        if inner.cancelled {
            return false;
        }
        (inner.status, inner.error) = (Status::PostcopyPaused, error);
        drop(inner);
        self.changed.notify_all();
        true
    }

    /// Waits for another status than `status`, or until it is ended, which gives `false`.
    pub fn wait_while(&self, status: Status) -> bool {
        let inner = self.lock();
        let wait = self.changed.wait_while(inner, |inner| inner.status == status && !inner.cancelled);
        !wait.unwrap_or_else(PoisonError::into_inner).cancelled
    }

    /// Whether somebody wants it to end.
    pub fn is_cancelled(&self) -> bool {
        self.lock().cancelled
    }

    /// Lets it go on from `pre-switchover`.
    pub fn let_go_on(&self) {
        self.lock().go_on = true;
        self.changed.notify_all();
    }

    /// Waits until it may go on; whether it may, and was not ended.
    pub fn wait_to_go_on(&self) -> bool {
        let inner = self.lock();
        let wait = self.changed.wait_while(inner, |inner| !inner.go_on && !inner.cancelled);
        let mut inner = wait.unwrap_or_else(PoisonError::into_inner);
        inner.go_on = false;
        !inner.cancelled
    }

    /// Waits for `time`, or until it is ended.
    pub fn rest(&self, time: Duration) {
        let inner = self.lock();
        // Either way the caller looks.
        drop(self.changed.wait_timeout_while(inner, time, |inner| !inner.cancelled));
    }

    /// The guest stands still from now on.
    pub fn stopped(&self) {
        self.lock().stopped = Some(Instant::now());
        set(&self.counters.precopy, self.counters.bytes());
    }

    /// For how long it would stand still if it were stopped now, in milliseconds.
    pub fn expect_downtime(&self, ms: u64) {
        self.lock().expected_downtime = ms;
    }

    /// By how much vCPUs are slowed down, in percent.
    pub fn set_throttle(&self, percent: u8) {
        self.lock().throttle = percent;
    }

    /// Since it began.
    pub fn elapsed(&self) -> Duration {
        self.lock().begun.elapsed()
    }

    /// The answer of `query-migrate`.
    pub fn info(&self) -> MigrationInfo {
        let inner = self.lock();
        let status = inner.status;
        let mut info = MigrationInfo::default();
        if status == Status::None {
            return info;
        }
        info.status = Some(status);
        info.error_desc = inner.error.clone();
        if matches!(status, Status::Setup | Status::Failed | Status::Cancelled) {
            return info;
        }
        let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let total = inner.ended.unwrap_or_else(|| inner.begun.elapsed());
        info.total_time = Some(ms(total));
        info.setup_time = Some(ms(inner.setup.unwrap_or_default()));
        match inner.downtime {
            Some(time) => info.downtime = Some(ms(time)),
            None => info.expected_downtime = Some(signed(inner.expected_downtime)),
        }
        info.cpu_throttle_percentage = (inner.throttle != 0).then_some(inner.throttle.into());
        info.ram = Some(self.counters.stats(total));
        info
    }
}

impl Counters {
    /// Bytes on all channels.
    pub fn bytes(&self) -> u64 {
        get(&self.sent) + get(&self.multifd)
    }

    fn stats(&self, time: Duration) -> MigrationStats {
        let sent = self.bytes();
        let precopy = match get(&self.precopy) {
            0 => sent,
            before => before,
        };
        let postcopy = match get(&self.before_postcopy) {
            0 => 0,
            // It may have grown since.
            before => sent.saturating_sub(before),
        };
        let seconds = time.as_secs_f64();
        MigrationStats {
            transferred: signed(sent),
            remaining: signed(get(&self.remaining)),
            total: signed(get(&self.total)),
            duplicate: signed(get(&self.zero_pages)),
            normal: signed(get(&self.pages)),
            normal_bytes: signed(get(&self.pages) * PAGE),
            dirty_pages_rate: signed(get(&self.dirty_rate)),
            mbps: if seconds > 0.0 { sent as f64 * 8.0 / seconds / 1e6 } else { 0.0 },
            dirty_sync_count: signed(get(&self.passes)),
            postcopy_requests: signed(get(&self.requests)),
            page_size: PAGE as i64,
            multifd_bytes: get(&self.multifd),
            pages_per_second: get(&self.page_rate),
            precopy_bytes: precopy,
            downtime_bytes: get(&self.downtime),
            postcopy_bytes: postcopy,
            dirty_sync_missed_zero_copy: 0,
        }
    }
}

/// Whether the guest may run on the other side, and memory follows it.
pub fn follows(status: Status) -> bool {
    matches!(
        status,
        Status::PostcopyActive
            | Status::PostcopyPaused
            | Status::PostcopyRecoverSetup
            | Status::PostcopyRecover
    )
}

/// Whether there is nothing, or nothing more, to end.
fn is_over(status: Status) -> bool {
    matches!(status, Status::None | Status::Completed | Status::Failed | Status::Cancelled)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A migration that ends at once when it is cancelled, while whoever cancels it still tells of that.
    #[test]
    fn what_is_cancelled_has_ended_however_fast_it_ends() {
        let progress = Progress::new(300);
        progress.enter(Status::Active);
        let told = Mutex::new(Vec::new());
        let tell = |status| told.lock().unwrap().push(status);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                progress.wait_while(Status::Active);
                assert!(!progress.fail("its channel was shut".to_owned()));
                progress.cancelled();
                tell(progress.status());
            });
            let slowly = || {
                std::thread::yield_now();
                tell(progress.status());
            };
            assert!(progress.cancel(slowly));
        });
        assert_eq!(*told.lock().unwrap(), [Status::Cancelling, Status::Cancelled]);
        assert!(!progress.is_running() && progress.error().is_none());
        assert!(!progress.cancel(|| panic!("there is nothing to end")));
    }
}

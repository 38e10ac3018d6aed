//! How fast: the limit on what is sent, what is reached, and when the guest is to be slowed down. No clock is waited for here.

use std::time::{Duration, Instant};

use qapi::types::MigrationParameters;

use crate::progress::{Counters, get, set};

/// The limit is kept, and rates are measured, over this long.
#[doc(alias = "BUFFER_DELAY")]
const WINDOW: Duration = Duration::from_millis(100);

/// Keeps to a limit.
#[derive(Debug)]
pub(crate) struct Pace {
    since: Instant,
    sent: u64,
}

impl Pace {
    /// Nothing was sent yet.
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), sent: 0 }
    }

    /// How long to rest when `sent` bytes are out and `limit` bytes a second may be; no limit if that is 0.
    pub(crate) fn rest(&mut self, sent: u64, limit: u64) -> Option<Duration> {
        let elapsed = self.since.elapsed();
        if elapsed >= WINDOW {
            (self.since, self.sent) = (Instant::now(), sent);
            return None;
        }
        let budget = u128::from(limit) * WINDOW.as_millis() / 1000;
        let over = limit != 0 && u128::from(sent - self.sent) >= budget;
        over.then(|| WINDOW - elapsed)
    }
}

/// Keeps what is sent unasked to a limit, while what is asked for goes all the same.
#[derive(Debug)]
pub(crate) struct Share {
    since: Instant,
    took: u64,
}

impl Share {
    /// Nothing was sent yet.
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), took: 0 }
    }

    /// So many bytes were sent.
    pub(crate) fn took(&mut self, bytes: u64) {
        self.took += bytes;
    }

    /// How long to rest, for a window at most, if `limit` bytes a second may be sent; no limit if that is 0.
    pub(crate) fn rest(&mut self, limit: u64) -> Option<Duration> {
        let over = (limit != 0).then(|| {
            let micros = u128::from(self.took) * 1_000_000 / u128::from(limit);
            Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)).checked_sub(self.since.elapsed())
        });
        match over.flatten() {
            Some(rest) if !rest.is_zero() => Some(rest.min(WINDOW)),
            _ => {
                // Time in which nothing was sent is not made up for.
                (self.since, self.took) = (Instant::now(), 0);
                None
            }
        }
    }
}

/// What was reached.
#[derive(Debug)]
pub(crate) struct Bandwidth {
    window: Instant,
    sent: u64,
    pages: u64,
    /// Bytes a second in the last whole window, or, as long as there was none, since the beginning.
    rate: u64,
    measured: bool,
    pass: Instant,
    pass_sent: u64,
}

impl Bandwidth {
    /// Nothing was sent yet.
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self { window: now, sent: 0, pages: 0, rate: 0, measured: false, pass: now, pass_sent: 0 }
    }

    /// Looks at the counters.
    pub(crate) fn update(&mut self, counters: &Counters) {
        let time = self.window.elapsed();
        let whole = time >= WINDOW;
        if !whole && self.measured {
            return;
        }
        let per_second = |count: u64| {
            u64::try_from(u128::from(count) * 1_000_000 / time.as_micros().max(1)).unwrap_or(u64::MAX)
        };
        let sent = counters.bytes();
        self.rate = per_second(sent - self.sent);
        if whole {
            let pages = get(&counters.pages) + get(&counters.zero_pages);
            set(&counters.page_rate, per_second(pages - self.pages));
            (self.window, self.sent, self.pages, self.measured) = (Instant::now(), sent, pages, true);
        }
    }

    /// Bytes a second.
    pub(crate) fn rate(&self) -> u64 {
        self.rate
    }

    /// The guest wrote `pages` pages since the last time.
    pub(crate) fn dirtied(&mut self, counters: &Counters, pages: u64) {
        let time = self.pass.elapsed().as_millis().max(1);
        let rate = u128::from(pages) * 1000 / time;
        set(&counters.dirty_rate, u64::try_from(rate).unwrap_or(u64::MAX));
        self.pass = Instant::now();
    }

    /// Bytes that were sent since the last time.
    pub(crate) fn pass_bytes(&mut self, counters: &Counters) -> u64 {
        let sent = counters.bytes();
        sent - std::mem::replace(&mut self.pass_sent, sent)
    }
}

/// Slows a guest down that writes faster than its memory is sent.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    /// Passes in which too much was written.
    high: u8,
    percent: u8,
}

impl Throttle {
    /// After a pass in which `dirtied` bytes were written and `sent` were sent: the new share, in percent, if it changes.
    #[doc(alias = "migration_trigger_throttle")]
    pub(crate) fn after_pass(
        &mut self,
        parameters: &MigrationParameters,
        dirtied: u64,
        sent: u64,
    ) -> Option<u8> {
        let threshold = u64::from(parameters.throttle_trigger_threshold.unwrap_or(50));
        if u128::from(dirtied) <= u128::from(sent) * u128::from(threshold) / 100 {
            return None;
        }
        self.high += 1;
        if self.high < 2 {
            return None;
        }
        self.high = 0;
        let initial = parameters.cpu_throttle_initial.unwrap_or(20);
        let increment = parameters.cpu_throttle_increment.unwrap_or(10);
        let max = parameters.max_cpu_throttle.unwrap_or(99);
        let next = match (self.percent, parameters.cpu_throttle_tailslow.unwrap_or(false)) {
            (0, _) => initial,
            (now, false) => now.saturating_add(increment),
            // Only so much more as the guest must do less.
            (now, true) => {
                let ratio = (u128::from(sent) * u128::from(threshold) / 100 * 100
                    / u128::from(dirtied).max(1))
                .min(100);
                let idle = 100 - u128::from(100 - now) * ratio / 100;
                let more = u8::try_from(idle).unwrap_or(99).saturating_sub(now).min(increment).max(1);
                now.saturating_add(more)
            }
        };
        let next = next.min(max);
        let changed = next != self.percent;
        self.percent = next;
        changed.then_some(next)
    }
}

#[cfg(test)]
mod tests;

//! Limits on how fast single vCPUs write memory. Dirty rings tell how much each wrote; one that wrote more than its limit allows for the
//! time since then rests until it would have been allowed. That is looked at whenever its ring is nearly full, and in
//! between by whoever set the limit ([`crate::Accel::pace_dirty`]). Time in which a vCPU writes less is not saved up.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::{PAGE_SIZE, Shared, lock};

/// The longest rest at once.
const MAX_REST: f64 = 3600.0;

/// Of vCPUs by index.
#[derive(Default)]
pub(super) struct Limits(Mutex<BTreeMap<u32, Pace>>);

struct Pace {
    /// Bytes a second.
    limit: u64,
    /// What counts is written after this.
    since: Instant,
    /// Pages written until then.
    pages: u64,
}

impl Pace {
    /// How long to rest after `pages` were written until `now`.
    fn rest(&mut self, pages: u64, now: Instant) -> Duration {
        let written = pages.saturating_sub(self.pages).saturating_mul(PAGE_SIZE);
        let due = Duration::from_secs_f64((written as f64 / self.limit.max(1) as f64).min(MAX_REST));
        let elapsed = now.saturating_duration_since(self.since);
        if due <= elapsed {
            (self.since, self.pages) = (now, pages);
        }
        due.saturating_sub(elapsed)
    }
}

/// Sets or takes the limit of a vCPU, bytes a second.
pub(super) fn set(shared: &Shared, cpu: u32, limit: Option<u64>) {
    let pages = shared.slots.ring_pages(cpu).unwrap_or(0);
    let mut limits = lock(&shared.limits.0);
    match limit {
        Some(limit) => _ = limits.insert(cpu, Pace { limit, since: Instant::now(), pages }),
        None => _ = limits.remove(&cpu),
    }
    drop(limits);
    if limit.is_none() {
        shared.control.wake();
    }
}

/// How long a vCPU is to rest, whose ring was just read.
pub(super) fn rest(shared: &Shared, cpu: u32) -> Duration {
    let Some(pages) = shared.slots.ring_pages(cpu) else { return Duration::ZERO };
    let mut limits = lock(&shared.limits.0);
    limits.get_mut(&cpu).map_or(Duration::ZERO, |pace| pace.rest(pages, Instant::now()))
}

/// vCPUs with a limit.
pub(super) fn limited(shared: &Shared) -> Vec<u32> {
    lock(&shared.limits.0).keys().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_makes_the_rate_and_time_is_not_saved_up() {
        let start = Instant::now();
        let after = |ms: u64| start + Duration::from_millis(ms);
        let mut pace = Pace { limit: 1 << 20, since: start, pages: 100 };
        // 256 pages are a mebibyte.
        assert_eq!(pace.rest(100 + 256, after(250)), Duration::from_millis(750));
        assert_eq!(pace.rest(100 + 512, after(1000)), Duration::from_millis(1000));
        assert_eq!(pace.rest(100 + 512, after(2000)), Duration::ZERO);
        assert_eq!(pace.rest(100 + 512, after(9000)), Duration::ZERO);
        assert_eq!(pace.rest(100 + 768, after(9500)), Duration::from_millis(500));
        let mut least = Pace { limit: 0, since: start, pages: 0 };
        assert_eq!(least.rest(u64::MAX, start), Duration::from_secs(3600));
        assert_eq!(least.rest(0, after(1)), Duration::ZERO, "a ring that began anew");
    }
}

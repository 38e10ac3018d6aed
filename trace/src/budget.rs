//! How many lines a guest may cause: a burst at once, then one in a while, and what was left out is counted.

use std::time::{Duration, Instant};

/// How many messages may still be shown.
#[derive(Debug)]
pub struct Budget {
    burst: u32,
    pace: Duration,
    left: u32,
    /// When `left` was last brought up to date; `None` before the first message.
    since: Option<Instant>,
    /// Messages not shown since the last one that was.
    suppressed: u64,
}

impl Budget {
    /// `burst` messages may come at once, afterwards one in `pace`.
    pub const fn new(burst: u32, pace: Duration) -> Self {
        Self { burst, pace, left: burst, since: None, suppressed: 0 }
    }

    /// Whether a message may be shown at `now`, and how many were not before it.
    pub fn take(&mut self, now: Instant) -> Option<u64> {
        let since = *self.since.get_or_insert(now);
        let paces = now.saturating_duration_since(since).as_nanos() / self.pace.as_nanos().max(1);
        if paces > 0 {
            let paces = u32::try_from(paces).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(paces).min(self.burst);
            self.since = Some(now);
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Some(self.take_suppressed())
            }
            None => {
                self.suppressed += 1;
                None
            }
        }
    }

    /// How many messages were left out that nobody was told of yet.
    pub fn take_suppressed(&mut self) -> u64 {
        std::mem::take(&mut self.suppressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BURST: u32 = 256;
    const PACE: Duration = Duration::from_millis(100);

    #[test]
    fn a_flood_of_messages_becomes_a_trickle_and_is_counted() {
        let start = Instant::now();
        let mut budget = Budget::new(BURST, PACE);
        let shown = (0..10_000).filter(|_| budget.take(start).is_some()).count();
        assert_eq!(shown, BURST as usize);
        assert_eq!(budget.take(start + PACE), Some(10_000 - u64::from(BURST)));
        assert_eq!(budget.take(start + PACE), None);
        assert_eq!(budget.take(start + PACE * 1000), Some(1));
        assert_eq!(budget.left, BURST - 1);
    }
}

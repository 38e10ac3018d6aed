//! A line that says how far something is, how fast it goes and how long it will still take.
//!
//! [`Meter`] is told how much is done and when, and makes the text; it reads no clock and writes nowhere. The rate is that of the last
//! [`WINDOW`], so that it follows what is going on; the line is worth drawing after [`PATIENCE`].

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use crate::hmp::size;

/// How long something takes before anybody is told of it.
pub const PATIENCE: Duration = Duration::from_millis(300);
/// How often the line is drawn.
pub const PACE: Duration = Duration::from_millis(100);
/// What the rate is measured over.
const WINDOW: Duration = Duration::from_secs(5);
/// Cells of the bar: as many as there is room for beside the text.
const BAR: RangeInclusive<usize> = 4..=20;

/// How far something is.
#[derive(Debug)]
pub struct Meter {
    title: String,
    /// When there was how much, the oldest at most a window ago.
    samples: VecDeque<(Instant, u64)>,
    start: Instant,
    done: u64,
    total: u64,
}

impl Meter {
    /// Nothing is done at `now`.
    pub fn new(title: impl Into<String>, now: Instant) -> Self {
        Self { title: title.into(), samples: VecDeque::from([(now, 0)]), start: now, done: 0, total: 0 }
    }

    /// At `now`, `done` bytes of `total` are done.
    pub fn update(&mut self, now: Instant, done: u64, total: u64) {
        (self.done, self.total) = (done, total);
        self.samples.push_back((now, done));
        // The one before the window stays, so that there is always something to compare with.
        while self.samples.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Whether it takes long enough to be told.
    pub fn is_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.start) >= PATIENCE
    }

    /// Bytes a second.
    fn rate(&self) -> u64 {
        let (Some((first, before)), Some((last, after))) = (self.samples.front(), self.samples.back()) else {
            return 0;
        };
        let nanos = last.saturating_duration_since(*first).as_nanos();
        let bytes = u128::from(after.saturating_sub(*before));
        u64::try_from((bytes * 1_000_000_000).checked_div(nanos).unwrap_or(0)).unwrap_or(u64::MAX)
    }

    /// The line, of at most `columns` columns; without a line end.
    pub fn line(&self, columns: usize, unicode: bool) -> String {
        let part = |of: u128| u128::from(self.done.min(self.total)) * of / u128::from(self.total.max(1));
        let rate = self.rate();
        let left = self.total.saturating_sub(self.done).div_ceil(rate.max(1));
        let left = if rate == 0 { "-:--".to_owned() } else { time(left) };
        let amount = format!("{:3}%  {} of {}", part(100), size(self.done), size(self.total));
        let text = format!("] {amount}, {}/s, {left} left", size(rate));
        let room = columns.saturating_sub(self.title.chars().count() + 2 + text.len() + 1);
        let cells = room.clamp(*BAR.start(), *BAR.end());
        let filled = part(cells as u128) as usize;
        let (full, empty) = if unicode { ("\u{2588}", "\u{b7}") } else { ("#", ".") };
        let line = format!("{} [{}{}{text}", self.title, full.repeat(filled), empty.repeat(cells - filled));
        // What does not fit would stay on the screen when the line is erased.
        line.chars().take(columns.saturating_sub(1)).collect()
    }
}

/// `m:ss` or `h:mm:ss`.
fn time(seconds: u64) -> String {
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if h > 0 { format!("{h}:{m:02}:{s:02}") } else { format!("{m}:{s:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_share_amount_rate_and_time_left() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut meter = Meter::new("dump", start);
        assert!(!meter.is_due(at(299)) && meter.is_due(at(300)));
        meter.update(at(0), 0, 0);
        assert_eq!(meter.line(80, false), "dump [....................]   0%  0 B of 0 B, 0 B/s, -:-- left");
        meter.update(at(1000), 256 << 20, 1 << 30);
        let line = "dump [#####...............]  25%  256 MiB of 1 GiB, 256 MiB/s, 0:03 left";
        assert_eq!(meter.line(80, false), line);
        assert_eq!(meter.line(60, false), "dump [#......]  25%  256 MiB of 1 GiB, 256 MiB/s, 0:03 left");
        assert_eq!(meter.line(30, false), "dump [#...]  25%  256 MiB of ", "it never wraps");
        assert!(meter.line(80, true).starts_with("dump [\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{b7}"));
        meter.update(at(9000), 256 << 20, 1 << 30);
        meter.update(at(14_000), 256 << 20, 1 << 30);
        assert!(
            meter.line(80, false).ends_with(", 0 B/s, -:-- left"),
            "the rate is that of the last seconds"
        );
        meter.update(at(15_000), 1 << 30, 1 << 30);
        assert!(meter.line(80, false).contains("100%  1 GiB of 1 GiB"));
    }

    #[test]
    fn hours_are_told_as_hours() {
        assert_eq!([time(0), time(61), time(3661)], ["0:00", "1:01", "1:01:01"]);
    }
}

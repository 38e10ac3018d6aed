//! What the guest tells of its memory (virtio 1.3 §5.5.6.4), and the property `guest-stats`.

use qapi::{Dict, Value};
use vmstate::vmstate;

/// Names by tag.
const NAMES: [&str; 16] = [
    "stat-swap-in",
    "stat-swap-out",
    "stat-major-faults",
    "stat-minor-faults",
    "stat-free-memory",
    "stat-total-memory",
    "stat-available-memory",
    "stat-disk-caches",
    "stat-htlb-pgalloc",
    "stat-htlb-pgfail",
    "stat-oom-kills",
    "stat-alloc-stalls",
    "stat-async-scans",
    "stat-direct-scans",
    "stat-async-reclaims",
    "stat-direct-reclaims",
];
/// Bytes of a tag and its number.
const ENTRY: usize = 10;
/// Bytes of a report that are looked at; a guest has no more to say.
pub(super) const REPORT: usize = ENTRY * 64;

/// The last report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stats {
    /// All ones for what was not told.
    values: [u64; NAMES.len()],
    /// Seconds since 1970, 0 before the first.
    updated: u64,
}

vmstate! {
    /// What a migration takes along of it.
    pub(in crate::virtio) struct StatsState: "virtio-balloon-stats", version 1 {
        values: [u64; NAMES.len()],
        last_update: u64,
    }
}

impl Default for Stats {
    fn default() -> Self {
        Self { values: [u64::MAX; NAMES.len()], updated: 0 }
    }
}

impl Stats {
    /// What a report says.
    pub(super) fn parse(bytes: &[u8], now: u64) -> Self {
        let mut stats = Self { updated: now, ..Self::default() };
        for entry in bytes.chunks_exact(ENTRY) {
            let tag = u16::from_le_bytes([entry[0], entry[1]]);
            let value = entry[2..].try_into().map_or(u64::MAX, u64::from_le_bytes);
            if let Some(place) = stats.values.get_mut(usize::from(tag)) {
                *place = value;
            }
        }
        stats
    }

    pub(super) fn saved_state(&self) -> StatsState {
        let Self { values, updated } = self;
        StatsState { values: *values, last_update: *updated }
    }

    pub(super) fn load_state(&mut self, saved: &StatsState) {
        let StatsState { values, last_update } = saved;
        *self = Self { values: *values, updated: *last_update };
    }

    /// As the property has it.
    pub(super) fn to_value(self) -> Value {
        let stats =
            NAMES.iter().zip(self.values).fold(Dict::new(), |dict, (name, value)| dict.with(*name, value));
        Dict::new().with("stats", stats).with("last-update", self.updated).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_fills_what_it_names_and_forgets_the_rest() {
        let mut bytes = vec![4, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 1, 1, 1, 1, 1, 1, 1];
        bytes.extend([5, 0, 1]);
        let text = qapi::json::to_string(&Stats::parse(&bytes, 77).to_value());
        assert!(text.contains(r#""stat-free-memory": 16,"#), "{text}");
        assert!(text.contains(r#""stat-total-memory": 18446744073709551615,"#), "cut short: {text}");
        assert!(text.ends_with(r#""last-update": 77}"#), "{text}");
        assert_eq!(Stats::parse(&[], 0), Stats::default());
    }
}

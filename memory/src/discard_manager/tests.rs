//! The bitmap against a vector of booleans; vetoes, roll-back and replay.

use proptest::prelude::*;

use super::*;

#[derive(Default)]
struct Recorder {
    name: &'static str,
    log: Arc<Mutex<Vec<String>>>,
    refuse: Option<u64>,
}

impl DiscardListener for Recorder {
    fn populate(&self, range: Range<u64>) -> Result<(), String> {
        if self.refuse.is_some_and(|at| range.contains(&at)) {
            return Err(format!("{} refuses", self.name));
        }
        self.log.lock().unwrap().push(format!("{} +{}..{}", self.name, range.start, range.end));
        Ok(())
    }

    fn discard(&self, range: Range<u64>) {
        self.log.lock().unwrap().push(format!("{} -{}..{}", self.name, range.start, range.end));
    }
}

fn listener(name: &'static str, log: &Arc<Mutex<Vec<String>>>, refuse: Option<u64>) -> Arc<Recorder> {
    Arc::new(Recorder { name, log: log.clone(), refuse })
}

#[test]
fn what_is_populated_is_counted_range_by_range() {
    let manager = DiscardManager::new(1000, 4);
    manager.populate(8..300).unwrap();
    manager.populate(996..1000).unwrap();
    let ranges = [0..8, 0..12, 8..300, 280..320, 300..996, 0..1000, 40..40];
    assert_eq!(manager.populated_in(ranges), [0, 4, 292, 20, 0, 296, 0]);
}

#[test]
fn a_veto_is_rolled_back_in_reverse_order_and_changes_nothing() {
    let manager = DiscardManager::new(64, 4);
    let log = Arc::new(Mutex::new(vec![]));
    manager.populate(8..12).unwrap();
    manager.register(0..64, listener("a", &log, None)).unwrap();
    manager.register(0..20, listener("b", &log, None)).unwrap();
    manager.register(0..64, listener("c", &log, Some(13))).unwrap();
    log.lock().unwrap().clear();
    let error = manager.populate(4..24).unwrap_err();
    assert_eq!(error.to_string(), "c refuses");
    let log = log.lock().unwrap().clone();
    assert_eq!(
        log,
        [
            "a +4..8",
            "a +12..24",
            "b +4..8",
            "b +12..20",
            "c +4..8", // c refuses 12..24
            "c -4..8",
            "b -12..20",
            "b -4..8",
            "a -12..24",
            "a -4..8"
        ]
    );
    assert!(manager.is_discarded(4..8) && manager.is_populated(8..12) && manager.is_discarded(12..24));
}

#[test]
fn late_registration_replays_coalesced_runs_and_leaving_discards_them() {
    let manager = DiscardManager::new(30, 4);
    manager.populate(4..8).unwrap();
    manager.populate(8..16).unwrap();
    manager.populate(24..30).unwrap();
    let log = Arc::new(Mutex::new(vec![]));
    let id = manager.register(6..28, listener("l", &log, None)).unwrap();
    manager.unregister(id);
    manager.unregister(id);
    manager.populate(0..30).unwrap();
    assert_eq!(*log.lock().unwrap(), ["l +6..16", "l +24..28", "l -6..16", "l -24..28"]);
    assert!(manager.register(0..30, listener("r", &log, Some(29))).is_err());
    let mut seen = vec![];
    manager.discard(16..24).unwrap();
    manager.replay_discarded(0..30, |r| seen.push(r));
    manager.replay_populated(0..20, |r| seen.push(r));
    assert_eq!(seen, [16..24, 0..16]);
}

#[test]
fn ranges_must_be_granules_inside_the_block() {
    let manager = DiscardManager::new(30, 4);
    #[expect(clippy::reversed_empty_ranges, reason = "that is what is tested")]
    for bad in [1..4, 0..5, 0..32, 8..4, 28..31] {
        assert!(manager.populate(bad.clone()).is_err(), "{bad:?}");
        assert!(!manager.is_populated(bad));
    }
    manager.populate(28..30).unwrap();
}

proptest! {
    #[test]
    fn the_bitmap_agrees_with_a_vector_of_booleans(
        bits in 1u64..400, steps in proptest::collection::vec((0u64..420, 0u64..200, any::<bool>()), 0..30)
    ) {
        let mut map = PopulatedBitmap::new(bits);
        let mut model = vec![false; bits as usize];
        for (start, len, value) in steps {
            let range = start..start + len;
            map.set(range.clone(), value);
            for bit in range.clone().filter(|&b| b < bits) {
                model[bit as usize] = value;
            }
            prop_assert_eq!(map.count(), model.iter().filter(|&&b| b).count() as u64);
            for value in [false, true] {
                let covered: Vec<u64> = map.runs(range.clone(), value).flatten().collect();
                let expected: Vec<u64> =
                    range.clone().filter(|&b| b < bits && model[b as usize] == value).collect();
                prop_assert_eq!(&covered, &expected);
                let all = range.clone().filter(|&b| b < bits).all(|b| model[b as usize] == value);
                prop_assert_eq!(map.all(range.clone(), value), all);
            }
            let runs: Vec<_> = map.runs(0..bits, true).collect();
            prop_assert!(runs.windows(2).all(|w| w[0].end < w[1].start), "runs are maximal");
        }
    }
}

//! Measuring, by a processor that is not always let run.

use std::vec::Vec;

use proptest::prelude::*;

use super::*;

const RELOAD: u16 = 59_659;
/// Nanoseconds that a read of the time stamp counter and an access to a port take.
const STAMP: u64 = 20;
const PORT: u64 = 2_500;

/// A machine: a time stamp counter of `hz`, a timer, and pauses in which the processor does not run, by how much it has run before
/// each.
struct Machine {
    hz: u64,
    /// Of all time, and of what the processor ran.
    now: u64,
    ran: u64,
    pauses: Vec<(u64, u64)>,
}

impl Machine {
    fn new(hz: u64, mut pauses: Vec<(u64, u64)>) -> Self {
        pauses.reverse();
        Self { hz, now: 0, ran: 0, pauses }
    }

    fn run(&mut self, ns: u64) {
        (self.now, self.ran) = (self.now + ns, self.ran + ns);
        while let Some(&(after, pause)) = self.pauses.last()
            && self.ran >= after
        {
            self.pauses.pop();
            (self.now, self.ran) = (self.now + pause, 0);
        }
    }

    fn stamp(&mut self) -> u64 {
        self.run(STAMP);
        (u128::from(self.now) * u128::from(self.hz) / 1_000_000_000) as u64
    }

    fn look(&mut self) -> Look {
        let before = self.stamp();
        self.run(PORT);
        let counted = u128::from(self.now) * u128::from(PIT_HZ) / 1_000_000_000;
        let count = RELOAD - (counted % u128::from(RELOAD)) as u16;
        let after = self.stamp();
        // The latched count is read.
        self.run(2 * PORT);
        Look { before, count, after }
    }

    fn calibrated(&mut self) -> f64 {
        let hz = calibrate(RELOAD, || self.look()).expect("the timer counts");
        hz as f64 / self.hz as f64
    }
}

#[test]
fn a_processor_that_runs_takes_four_milliseconds() {
    for hz in [1_000_000_000, 2_445_403_000, 5_700_000_000] {
        let mut machine = Machine::new(hz, Vec::new());
        let ratio = machine.calibrated();
        assert!((0.999..1.01).contains(&ratio), "{hz}: {ratio}");
        assert!((3_900_000..4_500_000).contains(&machine.now), "{}", machine.now);
    }
}

#[test]
fn a_pause_between_a_stamp_and_the_count_is_not_taken_for_the_processor_s_speed() {
    // Each place in the first look and somewhat further, for a pause that is longer than the timer's period.
    for after in (0..40_000).step_by(10) {
        let ratio = Machine::new(2_445_403_000, std::vec![(after, 60_000_000)]).calibrated();
        assert!((0.999..1.01).contains(&ratio), "after {after}: {ratio}");
    }
}

#[test]
fn a_timer_that_does_not_count_is_told() {
    let mut stamp = 0;
    let stopped = || {
        stamp += 1;
        Look { before: stamp, count: 7, after: stamp }
    };
    assert_eq!(calibrate(RELOAD, stopped), None);
}

proptest! {
    /// As on a machine with ten others for each processor: slices of a few milliseconds, and pauses of up to 0.7 seconds in between.
    #[test]
    fn a_busy_host_does_not_change_the_clock(
        pauses in prop::collection::vec((2_500_000u64..6_000_000, 20_000_000u64..700_000_000), 64),
        first in 0u64..6_000_000,
    ) {
        let mut pauses = pauses;
        pauses[0].0 = first;
        let ratio = Machine::new(2_445_403_000, pauses).calibrated();
        prop_assert!((0.999..1.01).contains(&ratio), "{}", ratio);
    }
}

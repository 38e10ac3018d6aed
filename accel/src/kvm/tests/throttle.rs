//! vCPUs that are kept out of the guest for a share of the time.

use std::time::{Duration, Instant};

use super::rig::Rig;
use crate::Accel;

/// `jmp $`.
const SPIN: [u8; 2] = [0xeb, 0xfe];

/// Processor time of a vCPU's thread.
fn time_used(rig: &Rig, cpu: usize) -> Duration {
    let thread = rig.accel.vcpus()[cpu].thread_id;
    let line = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).unwrap();
    Duration::from_nanos(line.split(' ').next().unwrap().parse().unwrap())
}

/// The least share of the processor that the vCPU has in one of a few rounds. Whatever else the host does makes it smaller.
fn share(rig: &Rig, cpu: usize, round: Duration) -> f64 {
    let (used, start) = (time_used(rig, cpu), Instant::now());
    std::thread::sleep(round);
    (time_used(rig, cpu) - used).as_secs_f64() / start.elapsed().as_secs_f64()
}

#[test]
fn a_vcpu_runs_for_the_rest_of_the_time_and_all_of_it_afterwards() {
    let Some(rig) = Rig::new(&SPIN, 1, false) else { return };
    rig.accel.resume();
    assert_eq!(rig.accel.throttle(), 0);
    let round = Duration::from_millis(500);
    rig.accel.set_throttle(90);
    assert_eq!(rig.accel.throttle(), 90);
    let slow = share(&rig, 0, round);
    assert!(slow > 0.0 && slow < 0.3, "{slow}");
    rig.accel.set_throttle(0);
    assert_eq!(rig.accel.throttle(), 0);
    let end = Instant::now() + Duration::from_secs(20);
    while share(&rig, 0, round) < 0.35 {
        assert!(Instant::now() < end, "it stays slow");
    }
}

#[test]
fn nobody_waits_for_a_vcpu_that_rests() {
    let Some(rig) = Rig::new(&SPIN, 2, false) else { return };
    rig.accel.resume();
    // Rests of 990 ms.
    rig.accel.set_throttle(200);
    assert_eq!(rig.accel.throttle(), 99);
    let resting = || {
        let end = Instant::now() + Duration::from_secs(20);
        while share(&rig, 0, Duration::from_millis(50)) > 0.0 {
            assert!(Instant::now() < end, "it never rests");
        }
    };
    let quickly = |what: &str, action: &dyn Fn()| {
        let start = Instant::now();
        action();
        assert!(start.elapsed() < Duration::from_millis(600), "{what}: {:?}", start.elapsed());
    };
    resting();
    quickly("registers", &|| assert_eq!(rig.accel.registers(0).unwrap().cs.base, 0xffff_0000));
    quickly("pause", &|| rig.accel.pause());
    quickly("reset", &|| rig.accel.reset());
    rig.accel.resume();
    resting();
    // At once, not when the rest is over.
    quickly("off", &|| {
        rig.accel.set_throttle(0);
        while share(&rig, 0, Duration::from_millis(20)) == 0.0 {}
    });
    rig.accel.set_throttle(99);
    resting();
    quickly("shutdown", &|| rig.accel.shutdown());
}

//! vCPUs that are kept out of the guest for a share of the time.

use std::time::{Duration, Instant};

use super::rig::Rig;
use crate::Accel;
use crate::testing::until;

/// `jmp $`.
const SPIN: [u8; 2] = [0xeb, 0xfe];

/// Whether a vCPU's thread waits for something, not for a processor: one that spins never does, however busy the host is.
fn rests(rig: &Rig, cpu: usize) -> bool {
    let thread = rig.accel.vcpus()[cpu].thread_id;
    let line = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
    line.rsplit_once(") ").unwrap().1.starts_with('S')
}

/// In how many of a hundred looks, a few milliseconds apart, the first vCPU rests.
fn share(rig: &Rig) -> usize {
    (0..100)
        .filter(|_| {
            std::thread::sleep(Duration::from_millis(3));
            rests(rig, 0)
        })
        .count()
}

#[test]
fn a_vcpu_rests_for_its_share_of_the_time_and_never_afterwards() {
    let Some(rig) = Rig::new(&SPIN, 1, false) else { return };
    rig.accel.resume();
    assert_eq!(rig.accel.throttle(), 0);
    until("spinning", || share(&rig) == 0);
    rig.accel.set_throttle(90);
    assert_eq!(rig.accel.throttle(), 90);
    // A host that is busy lets it get to its rests late.
    until("resting for a share of the time", || (30..100).contains(&share(&rig)));
    rig.accel.set_throttle(0);
    assert_eq!(rig.accel.throttle(), 0);
    until("spinning again", || share(&rig) == 0);
}

#[test]
fn nobody_waits_for_a_vcpu_that_rests() {
    let Some(rig) = Rig::new(&SPIN, 2, false) else { return };
    rig.accel.resume();
    // Rests of 990 ms.
    rig.accel.set_throttle(200);
    assert_eq!(rig.accel.throttle(), 99);
    let quickly = |what: &str, action: &dyn Fn()| {
        let start = Instant::now();
        action();
        assert!(start.elapsed() < Duration::from_millis(600), "{what}: {:?}", start.elapsed());
    };
    until("resting", || rests(&rig, 0));
    quickly("registers", &|| assert_eq!(rig.accel.registers(0).unwrap().cs.base, 0xffff_0000));
    quickly("pause", &|| rig.accel.pause());
    quickly("reset", &|| rig.accel.reset());
    rig.accel.resume();
    until("resting", || rests(&rig, 0));
    // At once, not when the rest is over.
    quickly("off", &|| {
        rig.accel.set_throttle(0);
        until("running", || !rests(&rig, 0));
    });
    rig.accel.set_throttle(99);
    until("resting", || rests(&rig, 0));
    quickly("shutdown", &|| rig.accel.shutdown());
}

//! What a device is refused for, in QEMU's words, and how often a back end is tried.

use vmstate::Saved;

use super::super::message::{Request, protocol};
use super::super::testing::reply;
use super::*;

fn refusal(script: Script, more: &str) -> (String, usize) {
    let world = World::without_disk(script, "");
    let error = world.try_add(more).err().unwrap();
    assert!(!world.rig.machine.chardevs().get("c0").unwrap().is_busy(), "the character device is free again");
    let connections = world.back_end.state().connections;
    (error.desc().to_owned(), connections)
}

#[test]
fn properties_are_checked_before_anybody_is_asked() {
    for (more, text) in [
        (",num-queues=0", "invalid number of IO queues"),
        (",num-queues=1025", "invalid number of IO queues"),
        (",queue-size=0", "queue size must be non-zero"),
        (",queue-size=2048", "queue size must not exceed 1024"),
        (",queue-size=100", "queue size must be a power of two"),
        (",x-pliant-timeout-ms=0", "x-pliant-timeout-ms must be non-zero"),
        (",iommu_platform=on", "iommu_platform=true is not supported by the device"),
        (",chardev=nope", "Property 'vhost-user-blk.chardev' can't find value 'nope'"),
        (",chardev=", "chardev is mandatory"),
    ] {
        let world = World::without_disk(Script::default(), "");
        assert_eq!(world.try_add(more).err().unwrap().desc(), text, "{more}");
        assert_eq!(world.back_end.take_log(), [""; 0], "{more}");
    }
}

#[test]
fn a_character_device_serves_one_disk() {
    let world = World::without_disk(Script::default(), "");
    world.try_add("").unwrap();
    let error = world.rig.add("vhost-user-blk-pci,chardev=c0").err().unwrap();
    assert_eq!(
        error.desc(),
        "Property 'vhost-user-blk.chardev' can't take value 'c0': chardev 'c0' is already in use"
    );
}

#[test]
fn a_back_end_that_lacks_something_is_tried_four_times_and_refused() {
    let lacks = |change: fn(&mut Script)| {
        let mut script = Script::default();
        change(&mut script);
        script
    };
    let no_config = "vhost-user device expecting VHOST_USER_PROTOCOL_F_CONFIG but the vhost-user backend does not \
                     support it.";
    let one_queue = "The maximum number of queues supported by the backend is 1";
    let no_slots = "vhost backend memory slots limit (0) is less than current number of used (1) and reserved (0) memory \
                    slots for memory devices.";
    for (script, text) in [
        (lacks(|s| s.protocol &= !protocol::CONFIG), no_config),
        (lacks(|s| s.features = 1 << 32), no_config),
        (lacks(|s| s.protocol &= !protocol::MQ), one_queue),
        (lacks(|s| s.queues = 1), one_queue),
        (lacks(|s| s.slots = 0), no_slots),
    ] {
        assert_eq!(refusal(script, ""), (text.to_owned(), 4));
    }
}

#[test]
fn a_back_end_that_answers_nonsense_is_tried_four_times_and_refused() {
    let protocol_error = "vhost_backend_init failed: Protocol error";
    for (request, misdeed, text) in [
        (Request::GetFeatures, Misdeed::HangUp, protocol_error),
        (Request::GetFeatures, Misdeed::Say(reply(2, &[0; 8])), protocol_error),
        (Request::SetBackendReqFd, Misdeed::Refuse, protocol_error),
        (Request::GetProtocolFeatures, Misdeed::Descriptors(1), protocol_error),
        (Request::GetConfig, Misdeed::Say(reply(24, &[])), "Received bad msg size."),
        (Request::GetConfig, Misdeed::Say(reply(24, &[0; 133])), "Received bad msg size."),
    ] {
        let script = Script { misdeeds: vec![(request, misdeed.clone()); 4], ..Script::default() };
        assert_eq!(refusal(script, ""), (text.to_owned(), 4), "{request:?} {misdeed:?}");
    }
}

#[test]
fn a_back_end_that_makes_sense_the_second_time_is_taken() {
    let misdeeds = vec![(Request::GetFeatures, Misdeed::HangUp)];
    let world = World::without_disk(Script { misdeeds, ..Script::default() }, "");
    world.try_add("").unwrap();
    assert_eq!(world.back_end.state().connections, 2);
}

#[test]
fn a_stalled_back_end_is_waited_for_once() {
    let script = Script { misdeeds: vec![(Request::GetQueueNum, Misdeed::Stall)], ..Script::default() };
    assert_eq!(refusal(script, IMPATIENT), ("vhost_backend_init failed: Connection timed out".to_owned(), 1));
}

#[test]
fn the_configuration_space_ends_with_the_last_feature() {
    for (more, size) in
        [("", 57), (",write-zeroes=off", 48), (",write-zeroes=off,discard=off", 36), (",discard=off", 57)]
    {
        let world = World::without_disk(Script::default(), "");
        world.try_add(more).unwrap();
        world.rig.machine.finish().unwrap();
        world.rig.machine.start();
        world.map();
        let bytes: Vec<_> = (0..64).map(|at| world.read(CONFIG + at, 1)).collect();
        let content = (0..size).map(|at| match at {
            // The number of queues is the device's.
            34 => 2,
            35 => 0,
            at => at,
        });
        assert_eq!(bytes[..size as usize], content.collect::<Vec<_>>());
        assert!(bytes[size as usize..].iter().all(|byte| *byte == 0xff), "{more}: {bytes:?}");
    }
}

#[test]
fn features_are_what_both_the_user_and_the_back_end_want() {
    let offered = |more: &str, script: Script| {
        let world = World::without_disk(script, "");
        world.try_add(more).unwrap();
        world.rig.machine.finish().unwrap();
        world.rig.machine.start();
        world.map();
        let half = |select| {
            world.write(COMMON, 4, select);
            world.read(COMMON + 4, 4)
        };
        half(0) | half(1) << 32
    };
    let usual = 0x7e76 | 1 << 28 | 1 << 29 | 1 << 32;
    assert_eq!(offered("", Script::default()), usual);
    assert_eq!(offered(",num-queues=1", Script::default()), usual & !(1 << 12));
    assert_eq!(offered(",config-wce=off,discard=off,write-zeroes=off", Script::default()), usual & !0x6800);
    assert_eq!(offered(",indirect_desc=off,event_idx=off", Script::default()), usual & !(3 << 28));
    let everything = Script { features: u64::MAX, ..Script::default() };
    assert_eq!(offered("", everything), usual, "in-order is off; a queue cannot be reset alone");
    let little = Script { features: 1 << 30 | 1 << 32 | 1 << 9, ..Script::default() };
    assert_eq!(offered("", little), 1 << 32 | 1 << 9);
}

#[test]
fn there_is_a_queue_for_each_vcpu_and_a_vector_for_each_queue() {
    let world = World::without_disk(Script::default(), "");
    let device = world.rig.add("vhost-user-blk-pci,id=d0,chardev=c0").unwrap() as qom::ObjectRef;
    let number = |name: &str| device.get(name).unwrap().as_u64().unwrap();
    assert_eq!((number("num-queues"), number("vectors")), (1, 2));
}

#[test]
fn a_machine_with_such_a_disk_stays_where_it_is() {
    let blocked = |script| {
        let world = World::without_disk(script, "");
        match world.try_add("").unwrap().saved() {
            Saved::Blocked(why) => why,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        blocked(Script::default()),
        "Migration disabled: vhost-user backend lacks VHOST_USER_PROTOCOL_F_LOG_SHMFD feature."
    );
    let script = Script { protocol: Script::default().protocol | protocol::LOG_SHMFD, ..Script::default() };
    assert_eq!(blocked(script), "Migration disabled: what a vhost-user backend writes is not logged");
}

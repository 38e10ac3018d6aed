//! What people are told of queues that the back end serves, and a configuration space that is asked for again.

use qapi::types::VirtVhostQueueStatus;

use super::super::message::Request;
use super::*;
use crate::core::Machine;
use crate::virtio::query::{self, queues};

const PATH: &str = "/machine/peripheral/d0/virtio-backend";

fn desc<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.unwrap_err().desc().to_owned()
}

/// The queue, once it is known here that it is served: a moment after the back end knows it.
fn started(machine: &Machine) -> VirtVhostQueueStatus {
    let begin = Instant::now();
    loop {
        match queues::vhost_status(machine, PATH, 0) {
            Ok(status) => return status,
            Err(error) => assert!(begin.elapsed() < LONG, "{error:?}"),
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_queue_that_is_served_elsewhere_is_shown_as_the_back_end_was_told() {
    let world = World::new();
    let machine = &world.rig.machine;
    let not_started = "Error: vhost device has not started yet";
    assert_eq!(desc(queues::vhost_status(machine, PATH, 0)), not_started);
    world.start();
    let [table, avail, used] = World::ring(0);
    let status = started(machine);
    assert_eq!((status.desc_phys, status.avail_phys, status.used_phys), (table, avail, used));
    assert_eq!((status.num, status.desc_size, status.avail_size, status.used_size), (128, 2048, 260, 1028));
    assert!(status.kick > 2 && status.call > 2 && status.kick != status.call);
    assert_eq!(desc(queues::vhost_status(machine, PATH, 2)), "Invalid vhost virtqueue number 2");
    assert_eq!(desc(queues::vhost_status(machine, "d0", 0)), "Path d0 is not a VirtIODevice");
    // How far it is only the back end knows, and asking would stop it.
    world.back_end.take_log();
    let status = queues::status(machine, PATH, 0).unwrap();
    assert_eq!((status.last_avail_idx, status.shadow_avail_idx), (None, None));
    assert_eq!((status.vring_desc, status.vring_used), (table, used));
    assert_eq!(world.back_end.take_log(), [""; 0]);
    machine.stop();
    assert_eq!(desc(queues::vhost_status(machine, PATH, 0)), not_started);
}

#[test]
fn a_configuration_space_that_is_asked_for_again_is_the_back_ends() {
    let world = World::new();
    world.start();
    let before = world.read(COMMON + 21, 1);
    world.back_end.state().script.config[0] = 201;
    query::sync_config(&world.rig.machine, "d0").unwrap();
    assert_eq!(world.read(CONFIG, 1), 201, "without waiting");
    assert_ne!(world.read(COMMON + 21, 1), before, "the driver reads anew");
    assert_eq!(desc(query::sync_config(&world.rig.machine, "nope")), "Device 'nope' not found");
    assert_eq!(desc(query::sync_config(&world.rig.machine, "/machine")), "/machine is not a device");
}

#[test]
fn a_back_end_that_does_not_tell_its_configuration_space_is_sent_away() {
    let world = World::impatient();
    world.back_end.misbehave(Request::GetConfig, Misdeed::Stall);
    let error = desc(query::sync_config(&world.rig.machine, "d0"));
    assert!(error.contains("the configuration space cannot be read"), "{error}");
    let error = desc(query::sync_config(&world.rig.machine, "d0"));
    assert!(error.ends_with("the back end is not connected"), "{error}");
}

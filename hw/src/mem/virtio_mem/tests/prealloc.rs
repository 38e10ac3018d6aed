//! A request whose pages take a while to allocate, through the transport: answered once, or gone without a trace.

use super::rig::{G, M, Raw, Rig, request};

/// More than the main loop allocates in one turn.
const BYTES: u64 = 256 * M;
const BLOCKS: u16 = (BYTES / (2 * M)) as u16;

fn guest() -> Raw {
    let rig = Rig::new("pc");
    rig.backend("memory-backend-memfd", "mem0", "512M", &[("prealloc-threads", "1")]).unwrap();
    let options = [("id", "vm0"), ("memdev", "mem0"), ("requested-size", "512M"), ("prealloc", "on")];
    rig.device(&options).unwrap();
    rig.machine.finish().unwrap();
    Raw::new(rig, 1 << 32 | 3)
}

/// Bytes that the backend takes.
fn resident(d: &Raw) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let object = d.rig.machine.tree().absolute("/objects/mem0").unwrap();
    let block = memory::MemoryBackend::from_object(&object).unwrap().block().unwrap();
    block.file().unwrap().0.metadata().unwrap().blocks() * 512
}

fn turn_until_used(d: &mut Raw, count: u16) {
    for _ in 0..10_000 {
        if d.used() == count {
            return;
        }
        d.rig.turn();
    }
    panic!("no answer");
}

#[test]
fn a_request_that_takes_many_turns_is_answered_once_and_told_once() {
    let mut d = guest();
    d.put(&request(0, 4 * G, BLOCKS), 10);
    turn_until_used(&mut d, 1);
    assert_eq!((d.sizes().1, resident(&d)), (BYTES, BYTES));
    d.rig.turn();
    assert_eq!((d.used(), d.rig.sizes()), (1, vec![BYTES]), "one answer, one event");
    assert_eq!(d.state(4 * G, BLOCKS), (0, 0));
    assert_eq!(d.unplug(4 * G, BLOCKS), 0);
    assert_eq!(resident(&d), 0);
}

#[test]
fn a_request_that_is_overwritten_meanwhile_is_the_new_one() {
    let mut d = guest();
    d.put(&request(0, 4 * G, BLOCKS), 10);
    d.rig.turn();
    if d.used() == 1 {
        // All of it in three turns: nothing to overwrite on such a host.
        return;
    }
    d.put(&request(0, 4 * G + BYTES, 1), 10);
    turn_until_used(&mut d, 2);
    assert_eq!((d.sizes().1, resident(&d)), (2 * M, 2 * M), "plugged once, then an error");
}

#[test]
fn a_driver_that_resets_the_device_meanwhile_leaves_what_is_plugged_and_nothing_else() {
    let mut d = guest();
    assert_eq!(d.plug(4 * G + BYTES, 1), 0);
    for _ in 0..2 {
        d.put(&request(0, 4 * G, BLOCKS), 10);
        d.rig.turn();
        d.start(1 << 32 | 3);
        let size = d.sizes().1;
        assert_eq!(resident(&d), size);
        assert_eq!(d.unplug_all(), 0);
        assert_eq!(resident(&d), 0);
    }
}

#[test]
fn nothing_is_allocated_while_plugging_is_forbidden() {
    let mut d = guest();
    let frozen = d.rig.devices().freeze();
    // Far more than a few turns allocate: it would be found waiting.
    d.put(&request(0, 4 * G, BLOCKS), 10);
    d.rig.turn();
    assert_eq!(d.answer(0).expect("an answer at once")[..2], [2, 0], "BUSY");
    assert_eq!((d.sizes().1, resident(&d)), (0, 0));
    drop(frozen);
    assert_eq!(d.plug(4 * G, 1), 0);
}

#[test]
fn a_machine_that_stops_has_the_answer() {
    let mut d = guest();
    d.rig.machine.start();
    d.put(&request(0, 4 * G, BLOCKS), 10);
    d.rig.turn();
    d.rig.machine.stop();
    assert_eq!((d.used(), d.sizes().1, resident(&d)), (1, BYTES, BYTES));
}

#[test]
fn a_device_that_is_removed_meanwhile_gives_its_pages_back() {
    let mut d = guest();
    d.put(&request(0, 4 * G, BLOCKS), 10);
    d.rig.turn();
    let plugged = d.sizes().1;
    let vm0 = qom::cast::<dyn crate::core::Device>(&d.rig.vm0()).unwrap();
    crate::core::qdev::complete_unplug(&d.rig.machine, &vm0);
    assert_eq!(resident(&d), plugged);
    d.rig.turn();
    assert_eq!(resident(&d), plugged, "and nobody goes on allocating");
}

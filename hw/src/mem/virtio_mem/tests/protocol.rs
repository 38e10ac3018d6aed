//! The oracle's `4-device` transcripts: same steps, same answers.

use guest::arena::Arena;
use guest::bus::Bus as _;
use guest::mem::{Driver, Request as GuestRequest, Response as GuestResponse, Run, Step, Touch};

use super::rig::{G, M, Raw, Rig, request};

const ACK: u16 = 0;
const NACK: u16 = 1;
const BUSY: u16 = 2;
const ERROR: u16 = 3;
const BASE: u64 = 4 * G;
const BLOCK: u64 = 2 * M;
/// VERSION_1, UNPLUGGED_INACCESSIBLE, ACPI_PXM.
const FEATURES: u64 = 1 << 32 | 3;

fn device() -> Raw {
    Raw::new(Rig::with_device("pc", "64M"), FEATURES)
}

#[test]
fn configuration_and_state_are_as_the_oracle_shows() {
    let mut d = device();
    assert_eq!(d.rig.transport().device_features(&mut d.rig), 0x101_3000_0007);
    assert_eq!([0, 8, 16, 24].map(|at| d.config(at)), [BLOCK, 0, BASE, G]);
    assert_eq!(d.sizes(), (0x1400_0000, 0, 64 * M));
    assert_eq!([d.config(56), d.config(64)], [u64::MAX; 2], "past the end");
    assert_eq!(d.state(BASE, 1), (ACK, 1));
    assert_eq!(d.state(BASE, 160), (ACK, 1));
    for (addr, blocks) in [
        (BASE, 161),
        (BASE + 0x1400_0000, 1),
        (BASE, 0),
        (BASE + 0x1000, 1),
        (BASE - BLOCK, 1),
        (BASE, 65535),
    ] {
        assert_eq!(d.state(addr, blocks).0, ERROR);
    }
}

#[test]
fn plugging_and_unplugging_follow_the_transcript() {
    let mut d = device();
    for (addr, blocks, answer) in [
        (BASE, 0, ERROR),
        (BASE - BLOCK, 2, ERROR),
        (0, 1, ERROR),
        (0xffff_ffff_ffe0_0000, 1, ERROR),
        (BASE, 33, NACK),
        (BASE, 161, ERROR),
        (BASE, 1, ACK),
        (BASE, 1, ERROR),
        (BASE, 2, ERROR),
        (BASE + BLOCK, 31, ACK),
        (BASE, 1, NACK),
        (BASE + 64 * M, 1, NACK),
    ] {
        assert_eq!(d.plug(addr, blocks), answer, "{addr:#x} {blocks}");
    }
    assert_eq!(d.sizes(), (0x1400_0000, 64 * M, 64 * M));
    assert_eq!(d.rig.sizes(), [2 * M, 64 * M]);
    for (addr, blocks, answer) in [
        (BASE + 64 * M, 1, ERROR),
        (BASE + 62 * M, 2, ERROR),
        (BASE, 0, ERROR),
        (BASE + 1, 1, ERROR),
        (BASE + 8 * M, 4, ACK),
    ] {
        assert_eq!(d.unplug(addr, blocks), answer, "{addr:#x} {blocks}");
    }
    assert_eq!(d.state(BASE, 32), (ACK, 2));
    assert_eq!(d.sizes().1, 56 * M);
    d.rig.ram_write(BASE, b"hello world.....");
    assert_eq!(d.unplug(BASE, 1), ACK);
    let mut bytes = [1; 16];
    d.rig.ram_read(BASE, &mut bytes);
    assert_eq!(bytes, [0; 16], "still mapped, and empty");
    assert_eq!(d.plug(BASE, 1), ACK);
    assert_eq!(d.devices_plugged(), 56 * M);
}

impl Raw {
    fn devices_plugged(&self) -> u64 {
        self.rig.devices().plugged_size()
    }
}

#[test]
fn shrinking_never_unplugs_what_the_guest_still_uses() {
    let mut d = device();
    assert_eq!(d.plug(BASE, 32), ACK);
    d.rig.set("requested-size", "2M").unwrap();
    assert_eq!(d.sizes(), (0x1400_0000, 64 * M, 2 * M));
    assert_eq!(d.plug(BASE + 80 * M, 1), NACK);
    assert_eq!(d.unplug(BASE + BLOCK, 31), ACK);
    assert_eq!(d.plug(BASE + 80 * M, 1), NACK);
    d.rig.set("requested-size", "0").unwrap();
    assert_eq!(d.unplug(BASE, 1), ACK);
    assert_eq!(d.sizes(), (0x1400_0000, 0, 0));
    assert_eq!(d.unplug_all(), ACK);
    assert_eq!(d.sizes(), (0, 0, 0));
    assert_eq!((d.state(BASE, 1).0, d.plug(BASE, 1)), (ERROR, ERROR));
    d.rig.set("requested-size", "1G").unwrap();
    assert_eq!(d.plug(BASE, 512), ACK);
    assert_eq!(d.sizes(), (G, G, G));
    assert_eq!(d.unplug_all(), ACK);
    assert_eq!(d.sizes(), (G, 0, G));
    d.rig.set("requested-size", "128M").unwrap();
    assert_eq!(d.sizes().0, G, "not shrunk by the request");
    assert_eq!(d.unplug_all(), ACK);
    assert_eq!(d.sizes().0, 0x1800_0000);
}

#[test]
fn every_request_for_a_size_is_announced_even_the_same_one() {
    let mut d = device();
    d.isr();
    let first = d.generation();
    for size in ["128M", "128M", "256M"] {
        d.rig.set("requested-size", size).unwrap();
        assert_eq!(d.isr(), 3);
    }
    assert_eq!(d.generation(), first.wrapping_add(3));
    assert_eq!(d.isr(), 0, "reading clears");
    assert_eq!(d.plug(BASE, 1), ACK);
    assert_eq!((d.generation(), d.isr()), (first.wrapping_add(3), 1));
    assert_eq!(
        d.rig.set("requested-size", "1M").unwrap_err().desc(),
        "'requested-size' has to be multiples of 'block-size' (0x200000)"
    );
    assert_eq!(d.isr(), 0, "a refused value is not announced");
}

#[test]
fn a_guests_writes_to_the_configuration_change_nothing() {
    let mut d = device();
    let before = d.sizes();
    for offset in (0..56).step_by(4) {
        let at = d.common + 0x2000 + offset;
        d.rig.mmio_write32(at, 0xffff_ffff);
    }
    assert_eq!((d.config(0), d.config(16), d.sizes()), (BLOCK, BASE, before));
}

#[test]
fn a_virtio_reset_keeps_memory_and_a_system_reset_takes_it() {
    let mut d = device();
    assert_eq!(d.plug(BASE, 1), ACK);
    d.start(FEATURES);
    assert_eq!(d.state(BASE, 1), (ACK, 0));
    d.rig.sizes();
    d.rig.system_reset();
    assert_eq!(d.rig.sizes(), [0]);
    assert_eq!((d.rig.size(), d.rig.get("requested-size").as_u64()), (0, Some(64 * M)));
    d.rig.system_reset();
    assert!(d.rig.sizes().is_empty(), "nothing changed the second time");
}

#[test]
fn features_ok_needs_unplugged_inaccessible() {
    let mut d = device();
    assert_eq!(d.negotiate(1 << 32 | 1), 3);
    assert_eq!(d.negotiate(FEATURES), 0xb);
}

#[test]
fn a_driver_without_the_feature_works_where_it_is_off() {
    let rig = Rig::new("pc");
    rig.backend("memory-backend-ram", "mem0", "1G", &[]).unwrap();
    rig.device(&[
        ("id", "vm0"),
        ("memdev", "mem0"),
        ("requested-size", "64M"),
        ("unplugged-inaccessible", "off"),
    ])
    .unwrap();
    rig.machine.finish().unwrap();
    let mut d = Raw::new(rig, 1 << 32);
    assert_eq!(d.rig.transport().device_features(&mut d.rig), 0x101_3000_0005);
    assert_eq!(d.plug(BASE, 1), ACK);
}

#[test]
fn protocol_violations_stop_the_device_until_a_reset() {
    let mut d = device();
    let mut unknown = [0; 24];
    unknown[0] = 4;
    for (request, room) in [(&unknown[..], 10), (&[0; 23][..], 10), (&[0; 24][..], 9), (&[0; 24][..], 0)] {
        assert_eq!(d.send(request, room), None);
        assert_eq!(d.status(), 0x4f);
        assert_eq!(d.send(&[0; 24], 10), None, "it stopped");
        d.start(FEATURES);
    }
    let mut state = [0; 32];
    state[0] = 3;
    state[8..16].copy_from_slice(&BASE.to_le_bytes());
    state[16] = 1;
    assert_eq!(
        d.send(&state, 32).map(|answer| (answer.len(), answer[8])),
        Some((10, 1)),
        "larger buffers are fine"
    );
}

#[test]
fn a_migration_makes_requests_wait_and_a_reset_keep_the_memory() {
    let mut d = device();
    assert_eq!(d.plug(BASE, 16), ACK);
    let frozen = d.rig.devices().freeze();
    let free = BASE + 32 * M;
    assert_eq!(d.state(BASE, 16), (ACK, 0));
    assert_eq!((d.plug(free, 1), d.plug(free, 17), d.plug(BASE, 1)), (BUSY, NACK, ERROR));
    assert_eq!((d.unplug(BASE, 1), d.unplug(free, 1), d.unplug_all()), (BUSY, ERROR, BUSY));
    d.rig.set("requested-size", "128M").unwrap();
    assert_eq!(d.sizes(), (0x1800_0000, 32 * M, 128 * M));
    d.rig.system_reset();
    assert_eq!(d.rig.size(), 32 * M);
    drop(frozen);
    d.rig.system_reset();
    assert_eq!(d.rig.size(), 0);
}

#[test]
fn interrupts_go_to_the_vectors_that_the_driver_chose() {
    let mut d = device();
    let function = d.rig.function();
    let msix = function.msix(&mut d.rig).unwrap();
    msix.enable(&mut d.rig, true);
    let table = function.bar(&mut d.rig, 1).unwrap();
    assert_eq!([12, 28].map(|at| d.rig.mmio_read32(table + at)), [1, 1], "masked at first");
    for (register, vector) in [(16, 0), (26, 1)] {
        let at = d.common + register;
        d.rig.mmio_write16(at, vector);
        assert_eq!(d.rig.mmio_read16(at), vector);
    }
    // Masked vectors stay pending, where they can be seen.
    let pending = |d: &mut Raw| d.rig.mmio_read32(table + 0x800);
    assert_eq!(pending(&mut d), 0);
    assert_eq!(d.plug(BASE, 1), ACK);
    assert_eq!(pending(&mut d), 2);
    d.rig.set("requested-size", "32M").unwrap();
    assert_eq!(pending(&mut d), 3);
    assert_eq!(d.isr(), 3);
    let at = d.common + 16;
    d.rig.mmio_write16(at, 2);
    assert_eq!(d.rig.mmio_read16(at), 0xffff, "out of range");
}

#[test]
fn the_configuration_window_reaches_the_registers_without_a_bar() {
    let mut d = device();
    let function = d.rig.function();
    let cap = 0x84;
    let read = |d: &mut Raw, offset: u32, len: u32| {
        function.write32(&mut d.rig, cap + 8, offset);
        function.write32(&mut d.rig, cap + 12, len);
        function.read32(&mut d.rig, cap + 16)
    };
    assert_eq!(read(&mut d, 20, 1), 0xf, "device_status");
    assert_eq!(read(&mut d, 0x2000, 4), BLOCK as u32);
    assert_eq!(read(&mut d, 0x2010, 4), BASE as u32);
    function.write32(&mut d.rig, cap + 8, 16);
    function.write32(&mut d.rig, cap + 12, 2);
    function.write32(&mut d.rig, cap + 16, 7);
    assert_eq!(read(&mut d, 16, 2), 0xffff, "a vector that does not exist");
    for (offset, len) in [(0x4000, 4), (0xffff_fffc, 4), (0, 3), (0, 0)] {
        function.write32(&mut d.rig, cap + 8, offset);
        function.write32(&mut d.rig, cap + 12, len);
        function.write32(&mut d.rig, cap + 16, 0);
        function.read32(&mut d.rig, cap + 16);
    }
}

#[test]
fn the_built_in_guests_driver_follows_the_requested_size() {
    let mut rig = Rig::with_device("q35", "64M");
    let function = rig.assign_bars();
    let mut arena = Arena::new(0x100_0000, 0x200_0000);
    let mut driver = Driver::open(&mut rig, function, &mut arena, Touch::Page).unwrap();
    let settle = |rig: &mut Rig, driver: &mut Driver| {
        for _ in 0..10_000 {
            match driver.step(rig).unwrap() {
                Step::Idle => return,
                _ => rig.turn(),
            }
        }
        panic!("the guest does not settle");
    };
    settle(&mut rig, &mut driver);
    assert_eq!(rig.size(), 64 * M);
    for (size, bytes) in [("500M", 500 * M), ("200M", 200 * M), ("0", 0), ("1G", G)] {
        rig.set("requested-size", size).unwrap();
        settle(&mut rig, &mut driver);
        assert_eq!(rig.size(), bytes, "{size}");
    }
    let run = Run { first: 0, count: 1 };
    assert!(matches!(driver.request(&mut rig, GuestRequest::Plug(run)).unwrap(), GuestResponse::Nack));
}

#[test]
fn what_was_announced_before_a_stop_is_done_before_clients_hear_of_the_stop() {
    let mut d = device();
    d.rig.machine.start();
    d.rig.turn();
    d.rig.event_names();
    d.put(&request(0, BASE, 1), 10);
    assert_eq!(d.rig.size(), 0, "the main loop has not seen it yet");
    d.rig.machine.stop();
    assert_eq!(d.rig.event_names(), ["MEMORY_DEVICE_SIZE_CHANGE", "STOP"]);
    assert_eq!(d.rig.size(), BLOCK);
    d.rig.turn();
    assert_eq!((d.rig.size(), d.rig.event_names()), (BLOCK, vec![]));
}

#[test]
fn a_notification_from_before_a_reset_means_nothing_after_it() {
    let mut d = device();
    d.put(&request(0, BASE, 1), 10);
    let status = d.common + 20;
    d.rig.mmio_write8(status, 0);
    d.rig.turn();
    assert_eq!(d.rig.size(), 0);
    d.start(FEATURES);
    assert_eq!(d.plug(BASE, 2), ACK);
    assert_eq!(d.rig.size(), 2 * BLOCK);
}

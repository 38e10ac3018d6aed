//! Pages go back to the host, targets reach the guest, statistics come, and nonsense does nothing.

use memory::DiscardClaim;
use qom::{Input, ObjectRef};

use super::*;
use crate::core::qdev;
use crate::testing::{Rig, carry, config};
use crate::virtio::testing::driver::{Driver, Piece};

const M: u64 = 1 << 20;
/// The queue that follows the ones which are always there.
const FIRST: u16 = 3;
/// A page of RAM that the tests give away.
const PLACE: u64 = 64 * M;

fn pages(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| (*number as u32).to_le_bytes()).collect()
}

fn holds(driver: &Driver, addr: u64) -> bool {
    driver.ram(addr, 1) == [7]
}

fn object(driver: &Driver) -> ObjectRef {
    driver.rig.machine.tree().absolute("/machine/peripheral/b").unwrap()
}

#[test]
fn what_is_inflated_is_gone_and_the_rest_stays() {
    let mut driver = Driver::new(&["virtio-balloon-pci,id=b"]);
    assert_eq!(driver.rig.config_read(1, 0, 0), 0x1045_1af4);
    assert_eq!(driver.offered() & 0x3f, feature::STATS_VQ | feature::PAGE_POISON);
    driver.start(0, 3);
    for page in 0..4 {
        driver.set_ram(PLACE + page * PAGE, &[7]);
    }
    let first = PLACE / PAGE;
    // Nonsense around it: a register window, nothing, beyond RAM, half a number.
    let mut list = pages(&[0xfee00, first + 2, 0x8_0000, u64::from(u32::MAX), first]);
    list.extend([1, 2]);
    assert!(driver.send(INFLATE, &[Piece::Out(&list)]).is_empty());
    assert_eq!([0, 1, 2, 3].map(|page| holds(&driver, PLACE + page * PAGE)), [false, true, false, true]);
    driver.set_ram(PLACE, &[7]);
    assert!(driver.send(DEFLATE, &[Piece::Out(&pages(&[first]))]).is_empty());
    assert!(holds(&driver, PLACE));
    assert_eq!(driver.status(), 0xf);
}

#[test]
fn while_something_pins_memory_pages_stay() {
    let mut driver = Driver::new(&["virtio-balloon-pci,id=b,free-page-reporting=on"]);
    driver.start(feature::REPORTING, 4);
    driver.set_ram(PLACE, &[7]);
    let policy = Arc::clone(driver.rig.machine.memory().discard_policy());
    let pinned = policy.claim(DiscardClaim::Disabled).unwrap();
    driver.send(INFLATE, &[Piece::Out(&pages(&[PLACE / PAGE]))]);
    assert!(holds(&driver, PLACE));
    drop(pinned);
    driver.send(INFLATE, &[Piece::Out(&pages(&[PLACE / PAGE]))]);
    assert!(!holds(&driver, PLACE));
}

#[test]
fn a_target_changes_the_configuration_and_the_guests_answer_is_an_event() {
    let mut driver = Driver::new(&["virtio-balloon-pci,id=b"]);
    driver.start(0, 3);
    let machine = Arc::clone(&driver.rig.machine);
    let balloon = of(&machine).unwrap();
    balloon.set_target(&machine, 1000 * M);
    assert_eq!((driver.config(0, 4), driver.isr()), (24 * M / PAGE, 3));
    assert_eq!(balloon.actual(&machine), 1024 * M, "the guest has done nothing yet");
    driver.set_config(4, 4, 20 * M / PAGE);
    driver.set_config(4, 4, 20 * M / PAGE);
    assert_eq!(driver.rig.events(), [r#"BALLOON_CHANGE {"actual": 1052770304}"#]);
    assert_eq!(balloon.actual(&machine), 1004 * M);
    balloon.set_target(&machine, u64::MAX);
    assert_eq!(driver.config(0, 4), 0);
    // A guest may say anything.
    driver.set_config(4, 4, u32::MAX.into());
    assert_eq!(balloon.actual(&machine), 0);
    driver.set_config(14, 8, u64::MAX);
    driver.set_config(4000, 8, u64::MAX);
    assert_eq!(driver.status(), 0xf);
}

#[test]
fn statistics_are_asked_for_in_each_period_and_only_then() {
    let mut driver = Driver::new(&["virtio-balloon-pci,id=b,guest-stats-polling-interval=2"]);
    let clock = driver.rig.main.handle().virtual_clock();
    clock.set_manual();
    let object = object(&driver);
    object.set("guest-stats-polling-interval", Input::Text("2")).unwrap();
    driver.start(0, 3);
    let mut report = 4u16.to_le_bytes().to_vec();
    report.extend(12345u64.to_le_bytes());
    driver.put(STATS, &[Piece::Out(&report)]);
    assert_eq!(driver.take(STATS), None, "the device keeps it");
    let stats = qapi::json::to_string(&object.get("guest-stats").unwrap());
    assert!(stats.contains(r#""stat-free-memory": 12345,"#), "{stats}");
    clock.advance_to(clock.now_ns() + 2_000_000_000);
    driver.turn();
    assert_eq!(driver.take(STATS), Some(Vec::new()), "the guest shall say it again");
    clock.advance_to(clock.now_ns() + 10_000_000_000);
    driver.turn();
    driver.put(STATS, &[Piece::Out(&report)]);
    assert_eq!(driver.take(STATS), None, "a period that found nothing asks for nothing");
    for (value, error) in
        [("-1", "timer value must be greater than zero"), ("4294967296", "timer value is too big")]
    {
        let failed = object.set("guest-stats-polling-interval", Input::Text(value)).unwrap_err();
        assert_eq!(failed.desc(), error);
    }
    assert_eq!(object.get("guest-stats-polling-interval").unwrap(), 2i64.into());
}

#[test]
fn reported_pages_go_unless_the_guest_expects_something_in_them() {
    let mut driver = Driver::new(&["virtio-balloon-pci,id=b,free-page-reporting=on"]);
    driver.start(feature::REPORTING | feature::PAGE_POISON, 4);
    let data = Driver::data(FIRST, 2).next_multiple_of(PAGE);
    let report = |driver: &mut Driver| {
        driver.set_ram(data, &[7]);
        // Whole pages within it only.
        driver.offer(FIRST, &[Piece::In(0x4000)]);
        driver.notify(FIRST);
        assert_eq!(driver.take(FIRST), Some(Vec::new()));
        !holds(driver, data)
    };
    driver.set_config(12, 4, 0xaa);
    assert_eq!(driver.config(12, 4), 0xaa);
    assert!(!report(&mut driver));
    driver.set_config(12, 4, 0);
    assert!(report(&mut driver));
    driver.start(feature::REPORTING, 4);
    driver.set_config(12, 4, 0xaa);
    assert_eq!(driver.config(12, 4), 0, "not negotiated");
}

#[test]
fn a_long_list_is_looked_at_in_pieces_to_its_end() {
    let mut driver = Driver::new(&["virtio-balloon-pci,id=b"]);
    driver.start(0, 3);
    driver.set_ram(PLACE, &[7]);
    let base = 80 * M;
    let len = 64 * 1024;
    driver.set_ram(base, &vec![0xff; len]);
    driver.set_ram(base + len as u64 - 4, &pages(&[PLACE / PAGE]));
    driver.offer(INFLATE, &[Piece::Out(&[1])]);
    // The descriptor names another place than the bench's.
    let mut descriptor = base.to_le_bytes().to_vec();
    descriptor.extend((len as u32).to_le_bytes());
    driver.set_ram(0x40_0000, &descriptor);
    driver.notify(INFLATE);
    assert_eq!(driver.until(|d| d.take(INFLATE)), Vec::<u8>::new());
    assert!(!holds(&driver, PLACE));
}

#[test]
fn errors_are_qemus_and_there_is_one_balloon() {
    let rig = Rig::build(config("q35")).unwrap();
    assert_eq!(
        Driver::error(rig.add("virtio-balloon-pci,free-page-hint=on")),
        "'free-page-hint' requires 'iothread' to be set"
    );
    assert_eq!(Driver::error(rig.add("virtio-balloon-pci,iothread=io")), "Device 'io' not found");
    rig.machine.tree().create_user_object("rng-builtin", "rng", []).unwrap();
    assert_eq!(
        Driver::error(rig.add("virtio-balloon-pci,iothread=rng")),
        "Invalid parameter type for 'iothread', expected: iothread"
    );
    assert!(of(&rig.machine).is_none());
    rig.add("virtio-balloon-pci,page-poison=off").unwrap();
    assert_eq!(Driver::error(rig.add("virtio-balloon-pci")), "Only one balloon device is supported");
    assert!(of(&rig.machine).is_some());
}

/// A machine with a balloon whose hints go to a thread of their own.
pub(super) fn rig_with_hints(more: &str) -> (Rig, Arc<IoThread>) {
    let rig = Rig::build(config("q35")).unwrap();
    let thread = rig.machine.tree().create_user_object("iothread", "io1", []).unwrap();
    rig.add(&format!("virtio-balloon-pci,id=b,free-page-hint=on,iothread=io1{more}")).unwrap();
    (rig, IoThread::from_object(&thread).unwrap())
}

fn with_hints(more: &str) -> (Driver, Arc<IoThread>) {
    let (rig, thread) = rig_with_hints(more);
    (Driver::with(rig), thread)
}

/// Waits until the thread has done what it could hear of before: what is posted comes before events of the same turn.
pub(super) fn wait_for(thread: &IoThread) {
    for _ in 0..2 {
        thread.handle().unwrap().run_on_loop(|| ()).unwrap();
    }
}

#[test]
fn hints_that_nobody_asked_for_go_back_on_a_thread_of_their_own() {
    let (mut driver, thread) = with_hints(",free-page-reporting=on");
    let features = feature::FREE_PAGE_HINT | feature::REPORTING;
    assert_eq!(driver.offered() & features, features);
    driver.start(features, 5);
    assert_eq!(driver.config(8, 4), 0, "no command");
    driver.set_ram(PLACE, &[7]);
    // The main loop has no part in it.
    driver.offer(FIRST, &[Piece::Out(&0u32.to_le_bytes())]);
    driver.offer(FIRST, &[Piece::In(0x800)]);
    driver.ring(FIRST);
    wait_for(&thread);
    assert_eq!([driver.take(FIRST), driver.take(FIRST)], [Some(Vec::new()), Some(Vec::new())]);
    assert_eq!(driver.isr(), 1);
    assert!(driver.send(INFLATE, &[Piece::Out(&pages(&[PLACE / PAGE]))]).is_empty());
    assert!(!holds(&driver, PLACE), "what is not hinted at is as ever");
    // Reports come behind hints.
    assert_eq!(driver.send(FIRST + 1, &[Piece::In(0x800)]), Vec::<u8>::new());

    let object = object(&driver);
    assert_eq!(object.get("iothread").unwrap(), "/objects/io1".into());
    driver.rig.machine.tree().delete_user_object("io1").unwrap();
    assert_eq!(object.get("iothread").unwrap(), "".into());
    driver.offer(FIRST, &[Piece::Out(b"who")]);
    driver.ring(FIRST);
    wait_for(&thread);
    assert_eq!((driver.take(FIRST), driver.status() & 0x40), (None, 0x40), "three bytes are no command");
}

#[test]
fn the_configuration_is_as_long_as_what_is_offered() {
    for (more, lengths) in [("", [0, 0]), (",page-poison=off", [0, 0xffff_ffff])] {
        let (driver, _) = with_hints(more);
        assert_eq!([driver.config(8, 4), driver.config(12, 4)], lengths, "{more}");
    }
    let driver = Driver::new(&["virtio-balloon-pci,page-poison=off"]);
    assert_eq!(driver.config(8, 4), 0xffff_ffff);
}

#[test]
fn what_was_announced_before_a_stop_is_served_before_it_and_nothing_after() {
    let (mut driver, thread) = with_hints("");
    driver.start(feature::FREE_PAGE_HINT, 4);
    for round in 0..500 {
        driver.offer(FIRST, &[Piece::In(16)]);
        driver.ring(FIRST);
        if round % 3 == 0 {
            std::thread::yield_now();
        }
        driver.rig.machine.stop();
        assert!(driver.take(FIRST).is_some(), "round {round}");
        driver.offer(FIRST, &[Piece::In(16)]);
        wait_for(&thread);
        assert_eq!(driver.take(FIRST), None, "round {round}: the machine is stopped");
        driver.rig.machine.start();
        driver.ring(FIRST);
        driver.until(|driver| driver.take(FIRST));
    }
}

#[test]
fn a_driver_that_starts_again_and_again_and_a_device_that_goes_leave_the_thread_in_peace() {
    let (mut driver, thread) = with_hints("");
    for round in 0..300 {
        driver.start(feature::FREE_PAGE_HINT, 4);
        for _ in 0..round % 5 {
            driver.offer(FIRST, &[Piece::In(16)]);
            driver.ring(FIRST);
        }
        if round % 2 == 0 {
            driver.reset();
        }
    }
    driver.start(feature::FREE_PAGE_HINT, 4);
    driver.offer(FIRST, &[Piece::In(16)]);
    driver.ring(FIRST);
    let (watched, handle) = (Arc::downgrade(&thread), thread.handle().unwrap().clone());
    drop(thread);
    let machine = Arc::clone(&driver.rig.machine);
    machine.tree().delete_user_object("io1").unwrap();
    let device: Arc<dyn Device> = qom::cast(&object(&driver)).unwrap();
    qdev::complete_unplug(&machine, &device);
    drop(device);
    // What it was doing ends, and it with that.
    while handle.run_on_loop(|| ()).is_ok() {
        driver.turn();
    }
    assert!(watched.upgrade().is_none());
}

#[test]
fn wishes_and_statistics_go_along_and_the_buffer_that_is_held_goes_back_from_there() {
    let text = "virtio-balloon-pci,id=b";
    let mut driver = Driver::new(&[text]);
    driver.start(feature::PAGE_POISON | feature::STATS_VQ, 3);
    let machine = Arc::clone(&driver.rig.machine);
    of(&machine).unwrap().set_target(&machine, 1000 * M);
    driver.set_config(4, 4, 20 * M / PAGE);
    driver.set_config(12, 4, 0xaa);
    let mut report = 4u16.to_le_bytes().to_vec();
    report.extend(12345u64.to_le_bytes());
    driver.put(STATS, &[Piece::Out(&report)]);
    let stats = object(&driver).get("guest-stats").unwrap();
    let look = |driver: &Driver| [0, 4, 12].map(|at| driver.config(at, 4));
    let before = look(&driver);
    assert_eq!(before, [24 * M / PAGE, 20 * M / PAGE, 0xaa]);
    let to = Rig::build(config("q35")).unwrap();
    to.add(text).unwrap();
    let mut driver = driver.carried(to);
    let machine = Arc::clone(&driver.rig.machine);
    assert_eq!(look(&driver), before);
    assert_eq!(of(&machine).unwrap().actual(&machine), 1004 * M);
    assert_eq!(object(&driver).get("guest-stats").unwrap(), stats);
    assert_eq!(driver.take(STATS), None, "nobody asked yet");
    object(&driver).set("guest-stats-polling-interval", Input::Text("2")).unwrap();
    let clock = driver.rig.main.handle().virtual_clock();
    clock.advance_to(clock.now_ns() + 2_000_000_000);
    driver.turn();
    assert_eq!(driver.take(STATS), Some(Vec::new()));
    driver.set_config(12, 4, 0xbb);
    assert_eq!(driver.config(12, 4), 0xbb, "what was negotiated holds");
    driver.rig.machine.stop();
    carry::spoil(&driver.rig.machine, "virtio-balloon");
}

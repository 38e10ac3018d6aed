//! Placing, flushing, and what is refused.

use std::os::unix::fs::FileExt as _;
use std::path::Path;

use qom::Input;

use crate::core::qdev;
use crate::mem::MemoryDevices;
use crate::testing::{Rig, carry, config};
use crate::virtio::testing::driver::{Driver, Piece};

const BASE: u64 = 4 << 30;
const SIZE: u64 = 4 << 20;
const FLUSH: Piece<'_> = Piece::Out(&[0; 4]);
const ROOM: Piece<'_> = Piece::In(4);
const NEEDS_RESET: u8 = 0x40;

fn backend(rig: &Rig, class: &str, id: &str, options: &[(&str, &str)]) {
    let options = options.iter().map(|(name, value)| (*name, Input::Keyval(value)));
    rig.machine.tree().create_user_object(class, id, options).unwrap();
}

/// A machine with the device on `m0`, of this class and with these options.
fn driver(class: &str, options: &[(&str, &str)]) -> Driver {
    let rig = Rig::build(config("q35")).unwrap();
    backend(&rig, class, "m0", &[&[("size", "4M")], options].concat());
    rig.add("virtio-pmem-pci,id=p0,memdev=m0").unwrap();
    Driver::with(rig)
}

fn on_file(path: &Path, share: &str) -> Driver {
    driver("memory-backend-file", &[("mem-path", path.to_str().unwrap()), ("share", share)])
}

/// Offers a request with room for an answer of so many bytes; where the answer will be.
fn offer(driver: &mut Driver, request: &[u8], room: u32) -> u64 {
    let head = driver.offer(0, &[Piece::Out(request), Piece::In(room)]);
    let answer = Driver::data(0, (head + 1) % 16);
    driver.set_ram(answer, &[0xee; 16]);
    answer
}

/// The answer to the next request, which is at `at`.
fn answer(driver: &mut Driver, at: u64) -> Vec<u8> {
    let len = driver.until(|driver| driver.take(0)).len();
    driver.ram(at, len)
}

fn flush(driver: &mut Driver) -> Vec<u8> {
    let at = offer(driver, &[0; 4], 4);
    driver.notify(0);
    answer(driver, at)
}

/// KiB of the mapping of `path` that were written and are not on the disk.
fn dirty(path: &Path) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let ours = maps.split_once(path.to_str().unwrap()).expect("it is mapped").1;
    let amount = |name| {
        let text = ours.split_once(name).unwrap().1.split_once("kB").unwrap().0;
        text.trim().parse::<u64>().unwrap()
    };
    amount("Shared_Dirty:") + amount("Private_Dirty:")
}

#[test]
fn the_driver_learns_where_the_memory_is_and_what_it_writes_there_is_on_the_disk_after_a_flush() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("memory");
    let mut driver = on_file(&path, "on");
    assert_eq!(driver.rig.config_read(1, 0, 0), 0x105b_1af4);
    assert_eq!(driver.rig.config_read(1, 0, 8) >> 16, 0x00ff);
    assert_eq!(driver.offered(), 0x101_3000_0000, "nothing of its own");
    assert_eq!([0, 8, 16].map(|at| driver.config(at, 8)), [BASE, SIZE, u64::MAX]);
    driver.start(0, 1);
    driver.set_ram(BASE + 0x1000, b"to be kept");
    let lives_on_disk = rustix::fs::statfs(&path).unwrap().f_type != 0x0102_1994;
    if lives_on_disk {
        assert_ne!(dirty(&path), 0);
    }
    assert_eq!(flush(&mut driver), [0; 4]);
    assert_eq!(driver.isr(), 1);
    if lives_on_disk {
        assert_eq!(dirty(&path), 0);
    }
    let mut kept = [0; 10];
    std::fs::File::open(&path).unwrap().read_exact_at(&mut kept, 0x1000).unwrap();
    assert_eq!(&kept, b"to be kept");
    // Several at once are all answered, whatever kind they say they are.
    let requests: [(&[u8], u32, usize); 4] =
        [(&[0; 4], 4, 4), (&[7, 0, 0, 0], 9, 4), (&[0xff; 8], 4, 4), (b"?", 2, 2)];
    let places = requests.map(|(request, room, _)| offer(&mut driver, request, room));
    driver.notify(0);
    for ((_, _, len), at) in requests.into_iter().zip(places) {
        assert_eq!(answer(&mut driver, at), vec![0; len]);
        assert_eq!(driver.ram(at + len as u64, 1), [0xee], "no more than that is written");
    }
}

#[test]
fn only_memory_of_a_file_can_be_flushed() {
    let folder = tempfile::tempdir().unwrap();
    let mut private = on_file(&folder.path().join("memory"), "off");
    private.start(0, 1);
    assert_eq!(flush(&mut private), [0; 4], "nothing gets to the file, and QEMU says so all the same");
    for (class, options, answer) in [
        ("memory-backend-ram", &[][..], 1),
        ("memory-backend-ram", &[("share", "on")], 0),
        ("memory-backend-memfd", &[], 0),
        ("memory-backend-shm", &[], 0),
    ] {
        let mut driver = driver(class, options);
        driver.start(0, 1);
        assert_eq!(flush(&mut driver), [answer, 0, 0, 0], "{class} {options:?}");
    }
}

#[test]
fn a_request_without_either_half_breaks_the_device_until_it_is_reset() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = on_file(&folder.path().join("memory"), "on");
    for half in [FLUSH, ROOM] {
        driver.start(0, 1);
        driver.put(0, &[half]);
        assert_eq!(driver.take(0), None);
        assert_eq!(driver.status() & NEEDS_RESET, NEEDS_RESET);
    }
    driver.start(0, 1);
    assert_eq!(flush(&mut driver), [0; 4]);
}

#[test]
fn a_reset_forgets_requests_and_a_machine_that_stands_answers_when_it_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = on_file(&folder.path().join("memory"), "on");
    driver.start(0, 1);
    for _ in 0..8 {
        driver.offer(0, &[FLUSH, ROOM]);
        driver.write(0x3000, 2, 0);
        driver.start(0, 1);
        driver.turn();
        assert_eq!(driver.take(0), None, "nothing was asked since");
        assert_eq!(flush(&mut driver), [0; 4]);
    }
    // The queue alone.
    driver.offer(0, &[FLUSH, ROOM]);
    driver.write(0x3000, 2, 0);
    driver.write(58, 2, 1);
    assert_eq!(driver.read(28, 2), 0);
    driver.turn();
    assert_eq!(driver.take(0), None);
    driver.start(0, 1);
    assert_eq!(flush(&mut driver), [0; 4]);
    driver.rig.machine.stop();
    let at = offer(&mut driver, &[0; 4], 4);
    driver.notify(0);
    assert_eq!(driver.take(0), None);
    driver.rig.machine.start();
    assert_eq!(answer(&mut driver, at), [0; 4]);
}

#[test]
fn it_is_a_memory_device_that_stays() {
    let rig = Rig::build(config("pc")).unwrap();
    for id in ["m0", "m1"] {
        backend(&rig, "memory-backend-ram", id, &[("size", "512M")]);
    }
    backend(&rig, "memory-backend-ram", "odd", &[("size", "3M")]);
    let error = |text: &str| Driver::error(rig.add(&format!("virtio-pmem-pci,{text}")));
    assert_eq!(error("id=x"), "'memdev' property must be set");
    assert_eq!(error("memdev=odd"), "backend memory size must be multiple of 0x200000");
    assert_eq!(error("memdev=m0,memaddr=0x1000"), "address must be aligned to 0x200000 bytes");
    assert_eq!(error("memdev=nope"), "Device 'nope' not found");
    assert_eq!(error("memdev=/machine"), "Invalid parameter type for 'memdev', expected: memory-backend");
    assert_eq!(error("memdev=m0,vectors=2"), "Property 'virtio-pmem-pci.vectors' not found");
    assert_eq!(error("memdev=m0,ioeventfd=on"), "Property 'virtio-pmem-pci.ioeventfd' not found");
    rig.add("virtio-pmem-pci,id=p0,memdev=m0").unwrap();
    assert_eq!(error("memdev=m0"), "can't use already busy memdev: m0");
    assert_eq!(error("memdev=m1,memaddr=0x110000000"), "address range conflicts with memory device id='p0'");
    rig.machine.finish().unwrap();
    rig.add("virtio-pmem-pci,id=p1,memdev=m1,memaddr=0x180000000").unwrap();
    let devices = MemoryDevices::of(&rig.machine);
    assert_eq!((devices.plugged_size(), devices.plugged_on(0)), (1 << 30, 1 << 30));
    let refused = qdev::device_del(&rig.machine, "p1").unwrap_err();
    assert_eq!(refused.desc(), "this virtio based memory devices cannot be unplugged");
    let places: Vec<_> = devices.placed().iter().map(|placed| (placed.addr, placed.size)).collect();
    assert_eq!(places, [(BASE, 512 << 20), (6 << 30, 512 << 20)]);
    let bare =
        Rig::build(crate::core::MachineConfig { memory: Default::default(), ..config("q35") }).unwrap();
    backend(&bare, "memory-backend-ram", "m0", &[("size", "4M")]);
    let unprepared = "the configuration is not prepared for memory devices (e.g., for memory hotplug), consider specifying \
                      the maxmem option";
    assert_eq!(Driver::error(bare.add("virtio-pmem-pci,memdev=m0")), unprepared);
}

/// A machine that was not finished with the device on a file, at `memaddr` if it is not 0.
fn unfinished(path: &Path, memaddr: u64) -> Rig {
    let rig = Rig::build(config("q35")).unwrap();
    let path = path.to_str().unwrap();
    backend(&rig, "memory-backend-file", "m0", &[("size", "4M"), ("mem-path", path), ("share", "on")]);
    rig.add(&format!("virtio-pmem-pci,id=p0,memdev=m0,memaddr={memaddr:#x}")).unwrap();
    rig
}

#[test]
fn who_waits_for_a_flush_is_answered_where_the_machine_goes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("memory");
    let mut driver = on_file(&path, "on");
    driver.start(0, 1);
    assert_eq!(flush(&mut driver), [0; 4]);
    let places = [4, 4, 4].map(|room| offer(&mut driver, &[0; 4], room));
    driver.ring(0);
    let mut driver = driver.carried(unfinished(&path, 0));
    for place in places {
        assert_eq!(answer(&mut driver, place), [0; 4]);
    }
    assert_eq!(flush(&mut driver), [0; 4]);
    driver.rig.machine.stop();
    carry::spoil(&driver.rig.machine, "virtio-pmem");
}

#[test]
fn memory_elsewhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("memory");
    let (from, to) = (unfinished(&path, 0), unfinished(&path, BASE + (2 << 20)));
    let error = carry::load(&to.machine, &carry::save(&from.machine)).unwrap_err();
    let changed = "Property 'memaddr' changed from 0x100000000 to 0x100200000";
    assert_eq!(error.lines, [changed, "Failed to load virtio-pmem:virtio"]);
}

//! `x-query-virtio-queue-status`, `-queue-element` and their texts: what a driver set up, well or badly, is shown and not touched.

use serde_json::{Value, json};
use tests::pci::Function;
use tests::virtio_mem::{
    BAR4, IDS, Kind, RING_EVENT_IDX, RING_PACKED, UNPLUGGED_INACCESSIBLE, VERSION_1, VirtioMem,
};
use tests::{Peer, Vm, program};

const PATH: &str = "/machine/peripheral/vm0/virtio-backend";
/// Where the test's driver has its ring.
const DESC: u64 = 0x10_0000;
const AVAIL: u64 = DESC + 0x1000;
const NEXT: u64 = 1;
const WRITE: u64 = 2;
const INDIRECT: u64 = 4;

/// A machine with a virtio-mem device of these options, and a driver that has not started it.
fn machine_with(options: &str) -> (Vm, VirtioMem) {
    let line = format!(
        "-machine pc -m 256M,maxmem=2G -object memory-backend-ram,id=mem0,size=1G \
         -device virtio-mem-pci,id=vm0,memdev=mem0,requested-size=512M{options}"
    );
    let mut vm = Vm::new().line(&line).qmp().hmp().qtest().start();
    let function = Function::find(vm.qtest(), 0, IDS.0, IDS.1)[0];
    let driver = VirtioMem::map(vm.qtest(), function, 0);
    (vm, driver)
}

/// A machine with a virtio-mem device that answered one request.
fn machine() -> (Vm, VirtioMem) {
    let (mut vm, mut driver) = machine_with("");
    assert!(driver.init_usual(vm.qtest()));
    assert_eq!(driver.request(vm.qtest(), Kind::UnplugAll, 0, 0), "ACK");
    (vm, driver)
}

fn put_descriptor(vm: &mut Vm, at: u64, addr: u64, len: u64, flags: u64, next: u64) {
    vm.qtest().write(at, 8, addr);
    vm.qtest().write(at + 8, 4, len);
    vm.qtest().write(at + 12, 2, flags);
    vm.qtest().write(at + 14, 2, next);
}

/// The element at entry 5, or the error.
fn element(vm: &mut Vm) -> Result<Value, String> {
    let arguments = json!({"path": PATH, "queue": 0, "index": 5});
    let request = json!({"execute": "x-query-virtio-queue-element", "arguments": arguments});
    let reply = vm.qmp().request(&request).unwrap();
    match reply.get("return") {
        Some(element) => Ok(element["descs"].clone()),
        None => Err(reply["error"]["desc"].as_str().unwrap().to_owned()),
    }
}

fn desc(addr: u64, len: u64, flags: &[&str]) -> Value {
    json!({"addr": addr, "len": len, "flags": flags})
}

#[test]
fn a_queue_is_shown_as_with_qemu() {
    let (mut vm, driver) = machine();
    let status = "/machine/peripheral/vm0/virtio-backend:\n  device_name:          virtio-mem\n  queue_index:          0\n  \
                  inuse:                0\n  used_idx:             1\n  signalled_used:       0\n  \
                  signalled_used_valid: false\n  last_avail_idx:       1\n  shadow_avail_idx:     1\n  VRing:\n    \
                  num:          128\n    num_default:  128\n    align:        4096\n    desc:         \
                  0x0000000000100000\n    avail:        0x0000000000101000\n    used:         0x0000000000102000\n";
    assert_eq!(vm.hmp().run(&format!("info virtio-queue-status {PATH} 0")), status);
    let element = "/machine/peripheral/vm0/virtio-backend:\n  device_name: virtio-mem\n  index:   0\n  desc:\n    descs:\n        \
                   addr 0x104000 len 10 (write),\n        addr 0x103000 len 24 (next)\n  avail:\n    flags: 0\n    \
                   idx:   1\n    ring:  0\n  used:\n    flags: 0\n    idx:   1\n";
    // The second index is that of the same entry, once around.
    for index in ["0", "128"] {
        assert_eq!(vm.hmp().run(&format!("info virtio-queue-element {PATH} 0 {index}")), element);
    }
    driver.set_status(vm.qtest(), 0);
    let status = vm.qmp().ok("x-query-virtio-queue-status", json!({"path": PATH, "queue": 0}));
    assert_eq!(
        (&status["vring-desc"], &status["last-avail-idx"], &status["vring-num"]),
        (&json!(0), &json!(0), &json!(128))
    );
    let (_, error) = vm.qmp().err("x-query-virtio-queue-element", json!({"path": PATH, "queue": 0}));
    assert_eq!(error, "Region caches not initialized");
}

#[test]
fn what_is_no_queue_is_refused_as_by_qemu() {
    let (mut vm, _) = machine();
    let (status, element) = ("x-query-virtio-queue-status", "x-query-virtio-queue-element");
    let vhost = "x-query-virtio-vhost-queue-status";
    for (command, arguments, error) in [
        (status, json!({"path": "vm0", "queue": 0}), "Path vm0 is not a VirtIODevice"),
        (vhost, json!({"path": "vm0", "queue": 0}), "Path vm0 is not a VirtIODevice"),
        (element, json!({"path": "vm0", "queue": 0}), "Path vm0 is not a VirtIO device"),
        (status, json!({"path": PATH, "queue": 1}), "Invalid virtqueue number 1"),
        (element, json!({"path": PATH, "queue": 1024}), "Invalid virtqueue number 1024"),
        (element, json!({"path": PATH, "queue": 65535, "index": 0}), "Invalid virtqueue number 65535"),
        (vhost, json!({"path": PATH, "queue": 0}), "Error: vhost device has not started yet"),
        (vhost, json!({"path": PATH, "queue": 5}), "Error: vhost device has not started yet"),
        (status, json!({"path": PATH, "queue": -1}), "Parameter 'queue' expects uint16_t"),
        (element, json!({"path": PATH, "queue": 0, "index": 65536}), "Parameter 'index' expects uint16_t"),
        (status, json!({"path": PATH}), "Parameter 'queue' is missing"),
    ] {
        let (class, desc) = vm.qmp().err(command, arguments.clone());
        assert_eq!((class.as_str(), desc.as_str()), ("GenericError", error), "{command} {arguments}");
    }
    for (line, said) in [
        (
            format!("virtio-queue-status {PATH}"),
            "unexpected end of expression\nTry \"help info virtio-queue-status\" for more information\n",
        ),
        (format!("virtio-queue-status {PATH} 5"), "Error: Invalid virtqueue number 5\n"),
        (format!("virtio-vhost-queue-status {PATH} 0"), "Error: Error: vhost device has not started yet\n"),
    ] {
        assert_eq!(vm.hmp().run(&format!("info {line}")), said, "{line}");
    }
    assert_eq!(
        vm.hmp().run("help info virtio-queue-element"),
        "info virtio-queue-element path queue [index] -- Display element of a given virtio queue\n"
    );
}

#[test]
fn chains_that_make_no_sense_end() {
    let (mut vm, _) = machine();
    vm.qtest().write(AVAIL + 4 + 2 * 5, 2, 3);
    let at = |n: u64| DESC + 16 * n;
    // Every flag, and a chain that ends.
    put_descriptor(&mut vm, at(3), 0x1000, 7, 0xfffb, 4);
    put_descriptor(&mut vm, at(4), 0x2000, 9, 0x8000, 5);
    let all = desc(0x1000, 7, &["used", "avail", "write", "next"]);
    assert_eq!(element(&mut vm), Ok(json!([desc(0x2000, 9, &["used"]), all])));
    // A loop is as long as the queue.
    put_descriptor(&mut vm, at(4), 0x2000, 9, NEXT, 3);
    assert_eq!(element(&mut vm).unwrap().as_array().unwrap().len(), 128);
    // An indirect table.
    let table = 0x60_0000;
    put_descriptor(&mut vm, at(3), table, 48, INDIRECT, 0);
    put_descriptor(&mut vm, table, 0xa, 1, NEXT, 1);
    put_descriptor(&mut vm, table + 16, 0xb, 2, WRITE, 0);
    assert_eq!(element(&mut vm), Ok(json!([desc(0xb, 2, &["write"]), desc(0xa, 1, &["next"])])));
    if program::peer() == Peer::Qemu {
        // It ends with the rest, or marks the device broken.
        return;
    }
    // Out of the table, which is not followed, nor punished.
    put_descriptor(&mut vm, at(3), 0x1000, 7, NEXT, 200);
    assert_eq!(element(&mut vm), Ok(json!([desc(0x1000, 7, &["next"])])));
    for (addr, len, error) in [
        (table, 5, "Invalid size for indirect buffer table"),
        (0xffff_ffff_ffff_fff8, 32, "Cannot map indirect buffer"),
        (0xf_0000_0000, 32, "Cannot map indirect buffer"),
        // What the device has not plugged.
        (0x1_4000_0000, 32, "Cannot map indirect buffer"),
        // The device's registers are no memory.
        (BAR4, 32, "Cannot map indirect buffer"),
    ] {
        put_descriptor(&mut vm, at(3), addr, len, INDIRECT, 0);
        assert_eq!(element(&mut vm), Err(error.into()), "{addr:#x}");
    }
    // A table that claims to be huge, and goes in circles.
    put_descriptor(&mut vm, at(3), table, 0xffff_ffff, INDIRECT, 0);
    put_descriptor(&mut vm, table + 16, 0xb, 2, NEXT | INDIRECT, 0);
    assert_eq!(element(&mut vm).unwrap().as_array().unwrap().len(), 1024);
    vm.qtest().write(AVAIL + 4 + 2 * 5, 2, 300);
    assert_eq!(element(&mut vm), Err("Guest says index 300 is available".into()));
}

#[test]
fn a_ring_that_is_nowhere_is_an_error_and_the_device_is_left_alone() {
    if program::peer() == Peer::Qemu {
        return;
    }
    let (mut vm, mut driver) = machine();
    driver.place_ring(0xf_0000_0000);
    assert!(driver.init_usual(vm.qtest()));
    let (_, error) = vm.qmp().err("x-query-virtio-queue-element", json!({"path": PATH, "queue": 0}));
    assert_eq!(error, "Cannot map available ring");
    vm.qmp().ok("x-query-virtio-queue-status", json!({"path": PATH, "queue": 0}));
    driver.place_ring(DESC);
    assert!(driver.init_usual(vm.qtest()));
    assert_eq!(driver.request(vm.qtest(), Kind::UnplugAll, 0, 0), "ACK");
}

/// Plugs and unplugs block after block, far enough for a ring of 128 to go round some times.
fn plug_and_unplug(vm: &mut Vm, driver: &mut VirtioMem, rounds: u64) {
    let config = driver.config(vm.qtest());
    for round in 0..rounds {
        let at = config.addr + round % 200 * config.block_size;
        for (kind, size) in [(Kind::Plug, config.block_size), (Kind::Unplug, 0)] {
            assert_eq!(driver.request(vm.qtest(), kind, at, 1), "ACK", "round {round}");
            assert_eq!(driver.used_len, 10);
            assert_eq!(driver.config(vm.qtest()).plugged_size, size);
        }
    }
}

#[test]
fn a_packed_ring_plugs_memory_for_many_rounds() {
    let (mut vm, mut driver) = machine_with(",packed=on");
    for more in [0, RING_EVENT_IDX] {
        let features = VERSION_1 | UNPLUGGED_INACCESSIBLE | RING_PACKED | more;
        assert_eq!(driver.features(vm.qtest()) & features, features);
        assert!(driver.init(vm.qtest(), features));
        plug_and_unplug(&mut vm, &mut driver, 100);
        // The wish to be notified: of everything, or of the descriptor that comes next.
        let wish = vm.qtest().read(DESC + 0x2000, 4);
        let next = if more == 0 { 0 } else { 2 << 16 | (400 % 128) | u64::from((400 / 128) % 2 == 0) << 15 };
        assert_eq!(wish, next, "{wish:#x}");
        let status = vm.qmp().ok("x-query-virtio-queue-status", json!({"path": PATH, "queue": 0}));
        let indices = ["last-avail-idx", "shadow-avail-idx", "used-idx"].map(|name| status[name].clone());
        assert_eq!(indices, [16, 16, 16].map(|index| json!(index)));
        let (_, error) = vm.qmp().err("x-query-virtio-queue-element", json!({"path": PATH, "queue": 0}));
        assert_eq!(error, "Packed ring not supported");
    }
    // Nothing is available once the device was reset, whatever lies in the ring.
    assert!(driver.init(vm.qtest(), VERSION_1 | UNPLUGGED_INACCESSIBLE));
    plug_and_unplug(&mut vm, &mut driver, 2);
}

#[test]
fn a_packed_ring_that_makes_no_sense_breaks_the_device() {
    const NEEDS_RESET: u64 = 0x40;
    let (mut vm, mut driver) = machine_with(",packed=on");
    let features = VERSION_1 | UNPLUGGED_INACCESSIBLE | RING_PACKED;
    assert!(driver.init(vm.qtest(), features));
    for entry in 0..128 {
        put_descriptor(&mut vm, DESC + 16 * entry, 0x1000, 8, entry, NEXT | 1 << 7);
    }
    vm.qtest().write(BAR4 + 0x3000, 2, 0);
    // Served in the main loop's next turn; each read is a turn at least.
    assert!((0..100).any(|_| driver.status(vm.qtest()) & NEEDS_RESET != 0));
    assert!(vm.stderr().contains("Looped descriptor\n"), "{}", vm.stderr());
    assert!(driver.init(vm.qtest(), features));
    plug_and_unplug(&mut vm, &mut driver, 1);
}

#[test]
fn a_queue_that_is_reset_alone_starts_anew() {
    let features = VERSION_1 | UNPLUGGED_INACCESSIBLE | 1 << 40;
    for (options, ring) in [("", 0), (",packed=on", RING_PACKED)] {
        let (mut vm, mut driver) = machine_with(options);
        assert!(driver.init(vm.qtest(), features | ring));
        plug_and_unplug(&mut vm, &mut driver, 1);
        driver.reset_queue(vm.qtest());
        plug_and_unplug(&mut vm, &mut driver, 1);
    }
}

#[test]
fn each_queue_may_have_a_page_for_its_notification_and_all_a_port() {
    const PORT: u16 = 0xc000;
    let (mut vm, mut driver) = machine_with(",page-per-vq=on,modern-pio-notify=on");
    let function = driver.function;
    assert_eq!(function.bar(vm.qtest(), 4), (BAR4 | 0xc, 0xff80_000c), "8 MiB, wide, prefetchable");
    assert_eq!(function.bar(vm.qtest(), 2), (1, 0xffff_fffd), "four ports");
    let mut notifications = Vec::new();
    for (at, id) in function.capabilities(vm.qtest()) {
        if id == 9 && function.read(vm.qtest(), at + 3, 1) == 2 {
            let [bar, offset, len, multiplier] = [4, 8, 12, 16].map(|o| function.read(vm.qtest(), at + o, 4));
            notifications.push((bar & 0xff, offset, len, multiplier));
        }
    }
    notifications.sort_unstable();
    assert_eq!(notifications, [(2, 0, 4, 0), (4, 0x3000, 0x40_0000, 0x1000)]);
    assert!(driver.init_usual(vm.qtest()));
    plug_and_unplug(&mut vm, &mut driver, 1);
    function.write(vm.qtest(), 0x18, 4, PORT.into());
    function.write(vm.qtest(), 4, 2, 7);
    driver.notify_through(PORT);
    plug_and_unplug(&mut vm, &mut driver, 3);
    // A queue that is not there, and a width that means nothing else.
    vm.qtest().out(PORT, 2, 9);
    vm.qtest().out(PORT, 4, 0xffff_ffff);
    plug_and_unplug(&mut vm, &mut driver, 1);
}

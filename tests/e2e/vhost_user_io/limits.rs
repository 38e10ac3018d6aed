//! How many regions a back end takes is a limit for memory devices; disks come and go, have several queues, and change their size.

use serde_json::Value;
use tests::vhost_user::Rule;

use super::*;

const DISK: &str =
    "-chardev socket,id=vhost,path=$RUN/vhost -device vhost-user-blk-pci,id=disk,chardev=vhost,num-queues=1";

/// A back end that says it takes so many regions, on a machine with these devices. The error is what the program said.
fn limited(slots: u64, devices: &str) -> Result<Rig, String> {
    let builder = Vm::new().accel("sim");
    let backend = Backend::start(&builder.scratch().join("backend"), Options::default());
    let relay = Relay::start(&builder.scratch().join("vhost"), backend.path());
    relay.rule(Rule::Answer(Request::GET_MAX_MEM_SLOTS, slots));
    let started = with_memory(builder).line(devices).qmp().hmp().serial().try_start();
    let vm = started.map_err(|exited| exited.stderr)?;
    Ok(Rig { vm, relay, server: Server::Own(backend), protects: protects(devices) })
}

fn memory(options: &str) -> String {
    format!("-device virtio-mem-pci,id=vm0,memdev=mem0,requested-size=2G,{options}")
}

/// The numbers in a line of `info memslots`.
fn row(rig: &mut Rig, name: &str) -> Vec<u64> {
    let text = rig.vm.hmp().run("info memslots");
    let line =
        text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    line.split(' ').filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn what_a_back_end_takes_is_in_the_plan() {
    let Some(_) = accel("sim") else { return };
    // Limit, and parts of a device that decides by it: QEMU's rule is that fewer than 509 are too few to share.
    for (says, limit, parts) in [(8, 8, 1), (32, 32, 1), (508, 508, 1), (509, 509, 4), (1 << 40, 509, 4)] {
        let mut rig = limited(says, &format!("{DISK} {}", memory("dynamic-memslots=on"))).unwrap();
        guest_reached(&mut rig.vm, &[2 * G]);
        let [is, used, reserved, free] = row(&mut rig, "disk ")[..] else { panic!("four numbers") };
        assert_eq!((is, used + reserved + free), (limit, limit));
        assert_eq!(row(&mut rig, "vm0 ")[0], parts);
        assert_eq!(used, rig.agree().len() as u64);
    }
}

#[test]
fn a_memory_device_that_a_back_end_has_no_room_for_is_refused_and_the_other_way_round() {
    let Some(_) = accel("sim") else { return };
    let refused = limited(8, &format!("{DISK} {}", memory("memslots=16"))).err().unwrap();
    assert!(
        refused.contains(
            "a used vhost backend has not enough free memory slots left: 'disk' has 8, of which 1 are used and 0 reserved for \
             memory devices, 16 more are required"
        ),
        "{refused}"
    );
    let refused = limited(32, &format!("{} {DISK}", memory("memslots=32"))).err().unwrap();
    assert!(
        refused.contains(
            "vhost backend memory slots limit (32) is less than current number of used (19) and reserved (14)"
        ),
        "{refused}"
    );
    // With room for all of them.
    let mut rig = limited(34, &format!("{} {DISK}", memory("memslots=32"))).unwrap();
    guest_reached(&mut rig.vm, &[2 * G]);
    rig.resize(4 * G);
    assert_eq!(rig.agree().len(), 33);
    job(&mut rig.vm, "disk load 4 at plugged");
}

#[test]
fn a_back_end_that_comes_back_with_less_room_is_not_taken_back() {
    let Some(_) = accel("sim") else { return };
    let devices = format!(
        "{} {}",
        DISK.replace("path=$RUN/vhost", "path=$RUN/vhost,reconnect-ms=10"),
        memory("memslots=16")
    );
    let mut rig = limited(32, &devices).unwrap();
    guest_reached(&mut rig.vm, &[2 * G]);
    guest_says(&mut rig.vm, "disk run 0 2048 1", "started", &[]);
    rig.moves();
    rig.relay.obey();
    rig.relay.rule(Rule::Answer(Request::GET_MAX_MEM_SLOTS, 16));
    let n = rig.relay.connections();
    rig.backend().die(|| rig.relay.hang_up());
    rig.relay.wait_for_connection(n + 2);
    rig.resize(4 * G);
    rig.relay.obey();
    rig.moves();
    rig.agree();
    job(&mut rig.vm, "disk stop");
}

fn comes_and_goes(accel: &str) {
    let builder = with_guest(Vm::new().accel(accel));
    let line = "-chardev socket,id=vhost,path=$RUN/vhost -device virtio-mem-pci,id=vm0,memdev=mem0,dynamic-memslots=on,\
                requested-size=64M -machine pc";
    let mut rig = Rig::own(builder, Options { queues: 4, ..Options::default() }, line);
    guest_reached(&mut rig.vm, &[64 * M]);
    let disk = json!({ "driver": "vhost-user-blk-pci", "id": "disk", "chardev": "vhost", "num-queues": 4 });
    for size in [2 * G, 64 * M] {
        rig.vm.qmp().ok("device_add", disk.clone());
        let found = guest_line(&mut rig.vm, "scan", "disk 0: pci ");
        assert!(found.ends_with(", 131072 sectors, 4 queues of 128"), "{found}");
        job(&mut rig.vm, "disk load 8 at plugged");
        rig.resize(size);
        rig.agree();
        guest_says(&mut rig.vm, "disk run 0 2048 1 at plugged", "started", &[]);
        rig.moves();
        rig.vm.qmp().ok("device_del", json!({ "id": "disk" }));
        // The guest ends its job first.
        let said = guest_line(&mut rig.vm, "", "disk 0: run: ");
        assert!(said.starts_with("ok: "), "{said}");
        rig.vm.qmp().wait_event("DEVICE_DELETED", |event: &Value| event["data"]["device"] == "disk");
        rig.relay.wait_for_hang_up();
        rig.backend().wait_for_regions(&[]);
    }
    rig.resize(G);
}

#[test]
fn a_disk_of_several_queues_is_plugged_used_and_unplugged_on_kvm() {
    // QEMU leaves it to an operating system to give addresses to a function that is hot-plugged.
    if let Some(accel) = accel("kvm").filter(|_| have(&[Need::Pliant])) {
        comes_and_goes(accel);
    }
}

#[test]
fn a_disk_of_several_queues_is_plugged_used_and_unplugged_on_sim() {
    if let Some(accel) = accel("sim") {
        comes_and_goes(accel);
    }
}

#[test]
fn the_guest_sees_the_size_that_the_storage_daemon_gives_its_disk() {
    let Some(accel) = accel("kvm").filter(|_| have(&[Need::StorageDaemon])) else { return };
    let mut rig = Rig::daemon(with_guest(Vm::new().accel(accel)), DISK);
    let sectors =
        |rig: &mut Rig| guest_line(&mut rig.vm, "disk", "disk 0: pci ").split(' ').nth(1).map(str::to_owned);
    assert_eq!(sectors(&mut rig).as_deref(), Some("131072"));
    let Server::Daemon(daemon) = &mut rig.server else { unreachable!("started above") };
    daemon.qmp().ok("block_resize", json!({ "node-name": "disk", "size": 128 * M }));
    let until = Instant::now() + patience();
    while sectors(&mut rig).as_deref() != Some("262144") {
        assert!(Instant::now() < until, "the guest does not hear of it");
    }
    job(&mut rig.vm, "disk write 262136 8 1");
    job(&mut rig.vm, "disk verify 262136 8 1");
}

//! What users and guests do while a machine is on its way: held before the switch-over, or slow.

use serde_json::json;
use tests::oracle::transcript::Step;
use tests::virtio_mem::Kind;
use tests::{Need, Vm, have};

use super::{
    M, MEMORY, capabilities, destination, has_data, info, listen, machine, migrate, moves_on, plug, reached,
    run_state, story,
};
use crate::replay::{Player, first_start, lines};

const TO_NOBODY: &str = "exec:cat > /dev/null";

/// A source with plugged memory that is held before the switch-over.
fn held(uri: &str) -> (Vm, tests::VirtioMem) {
    let mut vm = machine().start();
    capabilities(&mut vm, &["events", "pause-before-switchover"]);
    let driver = plug(&mut vm);
    migrate(&mut vm, uri);
    reached(&mut vm, "pre-switchover");
    (vm, driver)
}

/// A held source and its destination.
fn pair() -> (Vm, Vm, tests::VirtioMem) {
    let mut there = destination().start();
    capabilities(&mut there, &["events"]);
    let uri = listen(&mut there);
    let (source, driver) = held(&uri);
    reached(&mut there, "active");
    (source, there, driver)
}

/// Lets a held source go on, to its end.
fn let_go(source: &mut Vm) {
    source.qmp().ok("migrate-continue", json!({ "state": "pre-switchover" }));
    reached(source, "completed");
    let off = json!([{ "capability": "pause-before-switchover", "state": false }]);
    source.qmp().ok("migrate-set-capabilities", json!({ "capabilities": off }));
}

#[test]
fn requests_of_the_guest_as_the_oracles() {
    if !have(&[Need::Oracle, Need::QtestAccel]) {
        return;
    }
    let file = "4-device/busy-migration.txt";
    let steps = lines(file, &["qemu-system"]);
    let vm = Vm::new().args(first_start(&steps)).qmp().hmp().qtest().start();
    let mut player = Player::new(file, vm);
    for line in &steps {
        let id = player.id(line);
        match &line.step {
            Step::Heading(heading) if heading == "stderr" => break,
            // How many passes there are is a matter of time.
            Step::Event(event) if event["event"] == "MIGRATION_PASS" && event["data"]["pass"] != 1 => {}
            Step::Qmp(request, expected) if request["execute"] == "query-migrate" => {
                // What QEMU's own cancel does to its channel is no error of ours.
                let expected = &expected.last().unwrap()["return"]["status"];
                player.report.json(&id, "status", expected, &info(&mut player.vm)["status"]);
            }
            _ => assert!(player.play(line), "{id}: {:?}", line.step),
        }
    }
    player.finish();
}

#[test]
fn commands_at_a_source_that_is_held() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let (mut vm, _) = held(TO_NOBODY);
    let busy = "There's a migration process in progress";
    for (command, arguments, expected) in [
        ("cont", json!({}), "Migration is not finalized yet"),
        ("migrate-continue", json!({ "state": "device" }), "Migration not in expected state: pre-switchover"),
        ("migrate", json!({ "uri": TO_NOBODY }), busy),
        ("migrate-set-capabilities", json!({ "capabilities": [] }), busy),
        (
            "device_add",
            json!({ "driver": "virtio-rng-pci", "id": "r" }),
            "device_add not allowed while migrating",
        ),
        ("device_del", json!({ "id": "vm0" }), "device_del not allowed while migrating"),
    ] {
        assert_eq!(vm.qmp().err(command, arguments).1, expected, "{command}");
    }
    vm.qmp().ok("object-add", json!({ "qom-type": "memory-backend-ram", "id": "m1", "size": 4096 }));
    vm.qmp().ok("object-del", json!({ "id": "m1" }));
    vm.qmp().ok("migrate-set-parameters", json!({ "max-bandwidth": 5 }));
    vm.qmp().ok("stop", json!({}));
    vm.qmp().ok("system_reset", json!({}));
    vm.qmp().wait_event("RESET", |_| true);
    assert_eq!(run_state(&mut vm), "finish-migrate");
    vm.qmp().events();
    vm.qmp().ok("migrate_cancel", json!({}));
    let events = story(&mut vm);
    let names: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["MIGRATION", "RESUME", "MIGRATION"]);
    assert_eq!([&events[0]["data"]["status"], &events[2]["data"]["status"]], ["cancelling", "cancelled"]);
    let off = json!([{ "capability": "pause-before-switchover", "state": false }]);
    vm.qmp().ok("migrate-set-capabilities", json!({ "capabilities": off }));
    vm.qmp().ok("migrate-set-parameters", json!({ "max-bandwidth": 0 }));
    // What the guest had stays through a reset on the way.
    moves_on(&mut vm, true);
}

#[test]
fn a_held_source_quits() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let (source, there, _) = pair();
    let exited = source.quit();
    assert_eq!((exited.code, exited.signal), (Some(0), None), "{}", exited.stderr);
    let exited = there.wait();
    assert_eq!((exited.code, exited.signal), (Some(1), None), "{}", exited.stderr);
}

#[test]
fn a_destination_quits_while_the_source_is_held() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let (mut source, there, _) = pair();
    let exited = there.quit();
    assert_eq!((exited.code, exited.signal), (Some(0), None), "{}", exited.stderr);
    source.qmp().ok("migrate-continue", json!({ "state": "pre-switchover" }));
    assert_eq!(story(&mut source).last().unwrap()["data"]["status"], "failed");
    assert_eq!(
        info(&mut source),
        json!({ "status": "failed", "error-desc": "Unable to write to socket: Broken pipe" })
    );
    let off = json!([{ "capability": "pause-before-switchover", "state": false }]);
    source.qmp().ok("migrate-set-capabilities", json!({ "capabilities": off }));
    moves_on(&mut source, true);
}

#[test]
fn commands_at_a_destination_that_waits() {
    if !have(&[Need::Pliant]) {
        return;
    }
    for (command, end) in [("cont", "running"), ("stop", "paused"), ("system_reset", "running")] {
        let (mut source, mut there, _) = pair();
        there.qmp().ok(command, json!({}));
        assert_eq!(run_state(&mut there), "inmigrate");
        assert_eq!(
            there.qmp().err("migrate-continue", json!({ "state": "pre-switchover" })).1,
            "Migration not in expected state: none"
        );
        there.qmp().ok("migrate_cancel", json!({}));
        let_go(&mut source);
        reached(&mut there, "completed");
        assert_eq!([run_state(&mut source), run_state(&mut there)], ["postmigrate", end], "{command}");
        assert!(has_data(&mut there), "{command}");
    }
}

#[test]
fn a_request_for_another_size_on_the_way_counts_afterwards() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let (mut source, mut there, mut driver) = pair();
    source.qmp().qom_set("vm0", "requested-size", json!(128 * M));
    let plug_more = |driver: &mut tests::VirtioMem, vm: &mut Vm| {
        driver.request(vm.qtest(), Kind::Plug, MEMORY + 2 * M * 20, 12)
    };
    assert_eq!(plug_more(&mut driver, &mut source), "BUSY");
    let_go(&mut source);
    reached(&mut there, "completed");
    assert_eq!(driver.config(there.qtest()).requested_size, 128 * M);
    assert_eq!(there.qmp().qom_get("vm0", "requested-size"), 128 * M);
    assert_eq!(plug_more(&mut driver, &mut there), "ACK");
    assert!(has_data(&mut there));
    assert_eq!(there.qmp().qom_get("vm0", "size"), 48 * M);
    // And at a destination before the state comes it does not.
    let (mut source, mut there, driver) = pair();
    there.qmp().qom_set("vm0", "requested-size", json!(256 * M));
    let_go(&mut source);
    reached(&mut there, "completed");
    assert_eq!(driver.config(there.qtest()).requested_size, 64 * M);
}

#[test]
fn a_slow_migration_leaves_the_guest_alone_until_it_is_cancelled() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut vm = machine().start();
    capabilities(&mut vm, &["events"]);
    let mut driver = plug(&mut vm);
    vm.qtest().memset(0x200_0000, 64 * M, 0x5a);
    vm.qmp().ok("migrate-set-parameters", json!({ "max-bandwidth": M }));
    migrate(&mut vm, TO_NOBODY);
    reached(&mut vm, "active");
    assert_eq!(run_state(&mut vm), "running");
    assert_eq!(driver.request(vm.qtest(), Kind::Plug, MEMORY + 2 * M * 24, 1), "BUSY");
    assert_eq!(driver.request(vm.qtest(), Kind::Unplug, MEMORY, 1), "BUSY");
    assert_eq!(
        vm.qmp().err("device_del", json!({ "id": "vm0" })).1,
        "device_del not allowed while migrating"
    );
    for (command, state) in [("stop", "paused"), ("cont", "running")] {
        vm.qmp().ok(command, json!({}));
        assert_eq!(run_state(&mut vm), state);
    }
    vm.qmp().ok("migrate_cancel", json!({}));
    reached(&mut vm, "cancelled");
    assert_eq!(driver.request(vm.qtest(), Kind::Plug, MEMORY + 2 * M * 24, 1), "ACK");
    assert_eq!(driver.request(vm.qtest(), Kind::Unplug, MEMORY + 2 * M * 24, 1), "ACK");
    vm.qmp().ok("migrate-set-parameters", json!({ "max-bandwidth": 0 }));
    moves_on(&mut vm, true);
}

#[test]
fn a_machine_that_was_stopped_arrives_stopped() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut vm = machine().start();
    capabilities(&mut vm, &["events"]);
    plug(&mut vm);
    vm.qmp().ok("stop", json!({}));
    let mut there = destination().start();
    capabilities(&mut there, &["events"]);
    let uri = listen(&mut there);
    migrate(&mut vm, &uri);
    reached(&mut vm, "completed");
    reached(&mut there, "completed");
    assert_eq!([run_state(&mut vm), run_state(&mut there)], ["postmigrate", "paused"]);
    there.qmp().ok("cont", json!({}));
    assert!(has_data(&mut there));
}

#[test]
fn what_must_be_the_same_besides_the_recordings() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let fixed = "-machine pc -m 512M,maxmem=4G -object memory-backend-ram,id=mem0,size=1G -device virtio-mem-pci,id=vm0,memdev=mem0";
    for (from, to, expected) in [
        (",memslots=4", ",memslots=8", "Property 'memslots' changed from 4 to 8"),
        ("", ",memslots=8", "Property 'memslots' changed from 0 to 8"),
    ] {
        let mut source = Vm::new().line(&format!("{fixed}{from}")).qmp().qtest().start();
        let mut there = Vm::new().line(&format!("{fixed}{to} -incoming defer")).qmp().start();
        capabilities(&mut source, &["events", "validate-uuid"]);
        source.qtest().memset(0x200_0000, 16 * M, 0x5a);
        let uri = listen(&mut there);
        migrate(&mut source, &uri);
        assert_eq!(story(&mut source).last().unwrap()["data"]["status"], "failed");
        assert_eq!(run_state(&mut source), "running");
        let exited = there.wait();
        assert_eq!(exited.code, Some(1));
        assert_eq!(super::sentences(&exited.stderr)[0], expected);
    }
    // Another machine by its number.
    let one = "00000000-0000-0000-0000-000000000001";
    let mut source = Vm::new().line(fixed).line(&format!("-uuid {one}")).qmp().qtest().start();
    let mut there = Vm::new().line(fixed).line("-incoming defer").qmp().start();
    capabilities(&mut source, &["events", "validate-uuid"]);
    capabilities(&mut there, &["validate-uuid"]);
    source.qtest().memset(0x200_0000, 16 * M, 0x5a);
    let uri = listen(&mut there);
    migrate(&mut source, &uri);
    assert_eq!(story(&mut source).last().unwrap()["data"]["status"], "failed");
    let exited = there.wait();
    assert_eq!(exited.code, Some(1));
    let none = "00000000-0000-0000-0000-000000000000";
    assert_eq!(super::sentences(&exited.stderr)[0], format!("UUID received is {one} and local is {none}"));
}

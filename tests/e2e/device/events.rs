//! `MEMORY_DEVICE_SIZE_CHANGE`: one event a device at once, and then no more than one a second of the virtual clock, which under
//! qtest moves when the test moves it.

use serde_json::{Value, json};
use tests::oracle::transcript::{Step, event_data};
use tests::pci::Function;
use tests::virtio_mem::{IDS, Kind};
use tests::{Need, VirtioMem, Vm, have};

use super::start;
use crate::replay::{Player, lines};

const BLOCK: u64 = 2 << 20;
const BASE: [u64; 2] = [0x1_0000_0000, 0x1_4000_0000];

#[test]
fn size_changes_are_throttled_on_the_virtual_clock_as_the_oracle() {
    if !have(&[Need::Oracle, Need::QtestAccel]) {
        return;
    }
    let file = "4-device/event-throttle-qtest.txt";
    let steps = lines(file, &[]);
    let recorded: Vec<Value> = steps
        .iter()
        .filter_map(|line| match &line.step {
            Step::Note(note) => note.split_once("<- arrives: "),
            _ => None,
        })
        .map(|(_, event)| event_data(&serde_json::from_str(event).unwrap()).1)
        .collect();
    let mut player = Player::new(file, start(&steps));
    let mut came = Vec::new();

    plug(&mut player, 0, 0);
    came.extend(events(&mut player));
    assert_eq!(came.len(), 1, "the first change is told at once");
    (1..4).for_each(|block| plug(&mut player, 0, block));
    assert_eq!(events(&mut player), [json!(null); 0], "the next ones are not");
    plug(&mut player, 1, 0);
    came.extend(events(&mut player));
    assert_eq!(came.len(), 2, "each device has a limit of its own");
    (1..3).for_each(|block| plug(&mut player, 1, block));
    (4..30).for_each(|block| plug(&mut player, 0, block));
    step(&mut player, 500);
    assert_eq!(events(&mut player), [json!(null); 0], "half a second later nothing is told");
    step(&mut player, 500);
    came.extend(events(&mut player));
    step(&mut player, 500);
    step(&mut player, 500);
    assert_eq!(events(&mut player), [json!(null); 0], "a second without a change ends the limit");
    request(&mut player, Kind::Unplug, 0, 29);
    came.extend(events(&mut player));
    plug(&mut player, 0, 29);
    request(&mut player, Kind::UnplugAll, 0, 0);
    assert_eq!(events(&mut player), [json!(null); 0], "what comes within the second replaces what waits");
    step(&mut player, 1000);
    came.extend(events(&mut player));

    // Two that became due at the same time may come in either order.
    let sorted = |mut events: Vec<Value>| {
        events[2..4].sort_by_key(|event| event["qom-path"].to_string());
        events
    };
    assert_eq!(came.len(), recorded.len(), "{came:#?}");
    player.report.json("event-throttle-qtest", "events", &json!(sorted(recorded)), &json!(sorted(came)));
    player.finish();
}

#[test]
fn a_size_that_was_asked_for_is_told_at_once() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut vm = Vm::new()
        .line("-machine pc -accel qtest -m 1G,maxmem=4G -object memory-backend-ram,id=mem0,size=1G")
        .line("-device virtio-mem-pci,id=vm0,memdev=mem0,requested-size=8M")
        .qtest()
        .qmp()
        .start();
    let function = Function::find(vm.qtest(), 0, IDS.0, IDS.1)[0];
    let mut device = VirtioMem::map(vm.qtest(), function, 0);
    assert!(device.init_usual(vm.qtest()));
    let sizes = |vm: &mut Vm| -> Vec<u64> {
        vm.qmp().ok("query-status", json!({}));
        let events = vm.qmp().events();
        let sizes = events.iter().filter(|event| event["event"] == "MEMORY_DEVICE_SIZE_CHANGE");
        sizes.map(|event| event["data"]["size"].as_u64().unwrap() >> 20).collect()
    };
    let mut ask = |vm: &mut Vm, kind, block: u64| {
        assert_eq!(device.request(vm.qtest(), kind, BASE[0] + block * BLOCK, 1), "ACK");
        sizes(vm)
    };
    let told: Vec<_> = (0..4).map(|block| ask(&mut vm, Kind::Plug, block)).collect();
    assert_eq!(told, [vec![2], vec![], vec![], vec![8]], "the first, and the one that was asked for");
    // A guest that goes and comes again is limited.
    assert_eq!(ask(&mut vm, Kind::Unplug, 3), [0; 0]);
    assert_eq!(ask(&mut vm, Kind::Plug, 3), [0; 0]);
    vm.qmp().ok("qom-set", json!({ "path": "vm0", "property": "requested-size", "value": 6 << 20 }));
    assert_eq!(ask(&mut vm, Kind::Unplug, 3), [6]);
}

fn plug(player: &mut Player, device: u64, block: u64) {
    request(player, Kind::Plug, device, block);
}

fn request(player: &mut Player, kind: Kind, device: u64, block: u64) {
    let addr = BASE[device as usize] + block * BLOCK;
    let blocks = if kind == Kind::UnplugAll { 0 } else { 1 };
    assert_eq!(player.drive(device, |driver, qtest| driver.request(qtest, kind, addr, blocks)), "ACK");
}

fn step(player: &mut Player, ms: i64) {
    player.vm.qtest().clock_step(Some(ms * 1_000_000));
}

/// The events so far; the reply to a command is the fence behind them.
fn events(player: &mut Player) -> Vec<Value> {
    player.vm.qmp().ok("query-status", json!({}));
    let events = player.vm.qmp().events();
    events
        .iter()
        .filter(|event| event["event"] == "MEMORY_DEVICE_SIZE_CHANGE")
        .map(|e| e["data"].clone())
        .collect()
}

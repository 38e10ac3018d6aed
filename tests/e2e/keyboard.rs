//! Keys that a client types, as a guest reads them of the keyboard controller; and what QMP and the console say about keys and mice. The
//! texts are those of QEMU 10.0.2.

use serde_json::{Value, json};
use tests::{Need, Qtest, Vm, have};

const DATA: u16 = 0x60;
const COMMAND: u16 = 0x64;
/// A byte waits; it is the mouse's.
const FULL: u32 = 1;
const MOUSE: u32 = 0x20;
const MS: i64 = 1_000_000;

/// A machine that runs, by a clock that the test moves.
fn start() -> Vm {
    let line = "-machine q35 -m 64M";
    let mut vm = Vm::new().line(line).accel("qtest").qtest().qmp().hmp().start();
    // As firmware leaves it: translated, with interrupts of the keyboard.
    set_mode(vm.qtest(), 0x41);
    vm
}

fn set_mode(qtest: &mut Qtest, mode: u32) {
    qtest.out(COMMAND, 1, 0x60);
    qtest.out(DATA, 1, mode);
}

/// Bytes that wait.
fn read(qtest: &mut Qtest) -> Vec<u32> {
    let mut out = Vec::new();
    while qtest.inp(COMMAND, 1) & FULL != 0 {
        out.push(qtest.inp(DATA, 1));
    }
    out
}

fn keys(names: &[&str]) -> Value {
    names.iter().map(|name| json!({ "type": "qcode", "data": name })).collect()
}

#[test]
fn keys_are_held_one_after_the_other_and_released_in_the_opposite_order() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut vm = start();
    let typed = json!({ "keys": keys(&["ctrl", "alt", "delete"]), "hold-time": 100 });
    assert_eq!(vm.qmp().ok("send-key", typed), json!({}));
    let later = json!({ "keys": [{ "type": "number", "data": 0x1e }] });
    assert_eq!(vm.qmp().ok("send-key", later), json!({}));
    assert_eq!(read(vm.qtest()), [0x1d]);
    for (ms, bytes) in [
        (99, &[][..]),
        (1, &[0x38]),
        (100, &[0xe0, 0x53]),
        (100, &[0xe0, 0xd3]),
        (100, &[0xb8]),
        (100, &[0x9d]),
        (100, &[0x1e]),
        (9, &[]),
        (1, &[0x9e]),
        (1000, &[]),
    ] {
        vm.qtest().clock_step(Some(ms * MS));
        assert_eq!(read(vm.qtest()), bytes);
    }
    assert_eq!(vm.hmp().run("sendkey shift-a 30"), "");
    assert_eq!(read(vm.qtest()), [0x2a]);
    vm.qtest().clock_step(Some(90 * MS));
    assert_eq!(read(vm.qtest()), [0x1e, 0x9e, 0xaa]);
}

#[test]
fn each_byte_of_a_key_is_an_interrupt_of_its_own() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut vm = start();
    vm.qtest().irq_intercept_in("ioapic");
    vm.qmp().ok("send-key", json!({ "keys": keys(&["up"]), "hold-time": 1 }));
    assert_eq!(vm.qtest().inp(DATA, 1), 0xe0);
    assert_eq!(vm.qtest().inp(DATA, 1), 0x48);
    let edges = vec![(true, 1), (false, 1), (true, 1), (false, 1)];
    assert_eq!(vm.qtest().irqs(), edges);
    // The mouse has another one, if it is wanted.
    set_mode(vm.qtest(), 0x43);
    vm.qtest().out(COMMAND, 1, 0xd4);
    vm.qtest().out(DATA, 1, 0xf2);
    assert_eq!(vm.qtest().inp(COMMAND, 1) & (FULL | MOUSE), FULL | MOUSE);
    assert_eq!((vm.qtest().inp(DATA, 1), vm.qtest().inp(DATA, 1)), (0xfa, 0));
    assert_eq!(vm.qtest().irqs(), [(true, 12), (false, 12), (true, 12), (false, 12)]);
}

#[test]
fn bytes_that_nobody_has_read_yet_are_read_on_the_other_side() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut source = start();
    source.qmp().ok("send-key", json!({ "keys": keys(&["pause", "a"]), "hold-time": 1 }));
    source.qtest().clock_step(Some(10 * MS));
    assert_eq!(source.qtest().inp(DATA, 1), 0xe1);
    let line = "-machine q35 -m 64M -incoming unix:$RUN/moving";
    let mut destination = Vm::new().line(line).accel("qtest").qtest().qmp().start();
    let uri = format!("unix:{}", destination.scratch().join("moving").display());
    source.qmp().ok("migrate", json!({ "uri": uri }));
    destination.qmp().wait_event("RESUME", |_| true);
    assert_eq!(read(destination.qtest()), [0x1d, 0x45, 0xe1, 0x9d, 0xc5, 0x1e, 0x9e]);
    destination.qmp().ok("send-key", json!({ "keys": keys(&["b"]) }));
    assert_eq!(read(destination.qtest()), [0x30]);
}

#[test]
fn mistakes_are_answered_as_by_qemu() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut vm = start();
    for (arguments, error) in [
        (json!({}), "Parameter 'keys' is missing"),
        (json!({ "keys": keys(&["foo"]) }), "Parameter 'data' does not accept value 'foo'"),
        (json!({ "keys": [{ "type": "x", "data": 1 }] }), "Parameter 'type' does not accept value 'x'"),
        (json!({ "keys": [{ "type": "number" }] }), "Parameter 'keys[0].data' is missing"),
        (
            json!({ "keys": [{ "type": "number", "data": "a" }] }),
            "Invalid parameter type for 'keys[0].data', expected: integer",
        ),
        // QEMU waits for 49 days, and types nothing else meanwhile.
        (
            json!({ "keys": keys(&["a"]), "hold-time": -1 }),
            "Parameter 'hold-time' expects a value between 0 and 4294967295",
        ),
    ] {
        assert_eq!(vm.qmp().err("send-key", arguments), ("GenericError".to_owned(), error.to_owned()));
    }
    for (line, said) in [
        ("sendkey", "sendkey: string expected\nTry \"help sendkey\" for more information\n"),
        ("sendkey foo", "invalid parameter: foo\n"),
        ("sendkey a-foo", "invalid parameter: foo\n"),
        ("sendkey a-", "invalid parameter: \n"),
        ("sendkey 0x", "invalid parameter: 0x\n"),
        ("sendkey 12", "invalid parameter: 12\n"),
        (
            "sendkey a -5",
            "'sendkey' has failed: integer is for 32-bit values\nTry \"help sendkey\" for more information\n",
        ),
        ("sendkey a b", "invalid char 'b' in expression\nTry \"help sendkey\" for more information\n"),
        ("info mice", "* Mouse #2: QEMU PS/2 Mouse\n"),
        ("info tpm", ""),
        ("info blockstats", ""),
        ("info block-jobs", "No active jobs\n"),
    ] {
        assert_eq!(vm.hmp().run(line), said, "{line}");
    }
    assert_eq!(read(vm.qtest()), [0; 0], "nothing of that was typed");
    // No key is no key.
    let nothing =
        json!({ "keys": [{ "type": "number", "data": -1 }, { "type": "qcode", "data": "unmapped" }] });
    assert_eq!(vm.qmp().ok("send-key", nothing), json!({}));
    vm.qtest().clock_step(Some(1000 * MS));
    assert_eq!(vm.hmp().run("sendkey <-0x1e 1"), "");
    vm.qtest().clock_step(Some(1000 * MS));
    assert_eq!(read(vm.qtest()), [0x56, 0x1e, 0x9e, 0xd6]);
}

#[test]
fn without_the_controller_there_is_nobody_who_hears() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let line = "-machine q35,i8042=off -m 64M";
    let mut vm = Vm::new().line(line).accel("qtest").qtest().qmp().hmp().start();
    assert_eq!(vm.qmp().ok("qom-get", json!({ "path": "/machine", "property": "i8042" })), false);
    assert_eq!(vm.qmp().ok("query-mice", json!({})), json!([]));
    assert_eq!(vm.hmp().run("info mice"), "No mouse devices connected\n");
    assert_eq!(vm.qmp().ok("send-key", json!({ "keys": keys(&["a"]) })), json!({}));
    assert_eq!((vm.qtest().inp(DATA, 1), vm.qtest().inp(COMMAND, 1)), (0xff, 0xff));
    let unattached = vm.qmp().ok("qom-list", json!({ "path": "/machine/unattached" }));
    assert!(unattached.as_array().unwrap().iter().all(|child| child["type"] != "child<i8042>"));
}

#[test]
fn what_there_is_none_of_is_listed_as_nothing() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut vm = start();
    for query in ["query-tpm", "query-tpm-models", "query-tpm-types", "query-blockstats", "query-block-jobs"]
    {
        assert_eq!(vm.qmp().ok(query, json!({})), json!([]), "{query}");
    }
    assert_eq!(vm.qmp().ok("query-blockstats", json!({ "query-nodes": true })), json!([]));
}

//! What management asks of every machine, about things that this one has not; and settings of a migration that is yet to come.

use serde_json::{Value, json};
use tests::{Peer, Vm, VmBuilder, program};

fn none() -> VmBuilder {
    let vm = Vm::new().line("-machine none");
    // Without KVM's or qtest's help QEMU runs this everywhere.
    if program::peer() == Peer::Qemu { vm.accel("tcg") } else { vm }
}

fn generic(desc: &str) -> (String, String) {
    ("GenericError".to_owned(), desc.to_owned())
}

#[test]
fn lists_of_what_is_not_there_are_empty() {
    let mut vm = none().qmp().hmp().start();
    for command in ["query-block", "query-named-block-nodes", "query-jobs", "query-iothreads"] {
        assert_eq!(vm.qmp().ok(command, json!({})), json!([]), "{command}");
    }
    assert_eq!(vm.qmp().ok("query-named-block-nodes", json!({ "flat": true })), json!([]));
    assert_eq!(vm.hmp().run("info iothreads"), "");
}

#[test]
fn without_a_balloon_there_is_an_error_of_its_own_class() {
    let mut vm = none().qmp().hmp().start();
    let none = ("DeviceNotActive".to_owned(), "No balloon device has been activated".to_owned());
    assert_eq!(vm.qmp().err("query-balloon", json!({})), none);
    for value in [1 << 30, 0, -1] {
        assert_eq!(vm.qmp().err("balloon", json!({ "value": value })), none);
    }
    assert_eq!(
        vm.qmp().err("balloon", json!({ "value": "1G" })),
        generic("Invalid parameter type for 'value', expected: integer")
    );
    for line in ["info balloon", "balloon 100"] {
        assert_eq!(vm.hmp().run(line), format!("Error: {}\n", none.1));
    }
}

#[test]
fn iothreads_are_listed_with_threads_of_the_host_and_can_be_tuned() {
    let mut vm = none().line("-object iothread,id=io1,poll-grow=3,aio-max-batch=7").qmp().hmp().start();
    let comm = |vm: &Vm, thread: &Value| {
        std::fs::read_to_string(format!("/proc/{}/task/{thread}/comm", vm.pid().as_raw_nonzero()))
    };
    let list = vm.qmp().ok("query-iothreads", json!({}));
    let thread = list[0]["thread-id"].clone();
    let mut expected = json!([{ "id": "io1", "thread-id": thread, "poll-max-ns": 32768, "poll-grow": 3,
        "poll-shrink": 0, "aio-max-batch": 7 }]);
    assert_eq!(list, expected);
    comm(&vm, &thread).expect("a thread of the program");
    let object = "/objects/io1";
    vm.qmp().qom_set(object, "poll-max-ns", json!(0));
    let set = |value: Value| json!({ "path": object, "property": "poll-shrink", "value": value });
    assert_eq!(
        vm.qmp().err("qom-set", set(json!(-1))),
        generic("poll-shrink value must be in range [0, 9223372036854775807]")
    );
    expected[0]["poll-max-ns"] = json!(0);
    assert_eq!(vm.qmp().ok("query-iothreads", json!({})), expected);
    assert_eq!(
        vm.hmp().run("info iothreads"),
        format!(
            "io1:\n  thread_id={thread}\n  poll-max-ns=0\n  poll-grow=3\n  poll-shrink=0\n  aio-max-batch=7\n"
        )
    );
    let pool = json!({ "qom-type": "iothread", "id": "io2", "thread-pool-min": 65 });
    assert_eq!(vm.qmp().err("object-add", pool), generic("bad thread-pool-min/thread-pool-max values"));
    vm.qmp().ok("object-add", json!({ "qom-type": "iothread", "id": "io2" }));
    vm.qmp().ok("object-del", json!({ "id": "io1" }));
    vm.qmp().ok("object-del", json!({ "id": "io2" }));
    assert_eq!(vm.qmp().ok("query-iothreads", json!({})), json!([]));
    assert!(comm(&vm, &thread).is_err(), "the thread ended");
}

/// One parameter as it is now.
fn parameter(vm: &mut Vm, name: &str) -> Value {
    vm.qmp().ok("query-migrate-parameters", json!({}))[name].clone()
}

#[test]
fn parameters_of_a_migration_are_kept_and_mistakes_change_nothing() {
    let mut vm = none().qmp().hmp().start();
    assert_eq!(vm.qmp().ok("query-migrate", json!({})), json!({}));
    assert_eq!(parameter(&mut vm, "max-bandwidth"), 128 << 20);
    vm.qmp().ok("migrate-set-parameters", json!({ "max-bandwidth": 9_223_372_036_853_727_232u64 }));
    assert_eq!(parameter(&mut vm, "max-bandwidth"), 9_223_372_036_853_727_232u64);
    for (wrong, desc) in [
        (
            json!({ "max-bandwidth": 1, "downtime-limit": 2_000_001 }),
            "Parameter 'downtime_limit' expects an integer in the range of 0 to (2000 * 1000) ms",
        ),
        (json!({ "multifd-channels": 300 }), "Parameter 'multifd-channels' expects uint8_t"),
        (json!({ "multifd-channels": "2" }), "Parameter 'multifd-channels' expects uint64"),
        (
            json!({ "multifd-compression": "lzo" }),
            "Parameter 'multifd-compression' does not accept value 'lzo'",
        ),
        (json!({ "max-bandwidth": 1, "foo": 1 }), "Parameter 'foo' is unexpected"),
    ] {
        assert_eq!(vm.qmp().err("migrate-set-parameters", wrong), generic(desc));
    }
    assert_eq!(parameter(&mut vm, "max-bandwidth"), 9_223_372_036_853_727_232u64);
    // On the console bandwidths are in mebibytes, and texts have complaints of their own.
    assert_eq!(vm.hmp().run("migrate_set_parameter max-bandwidth 1.5"), "");
    assert_eq!(parameter(&mut vm, "max-bandwidth"), 3 << 19);
    assert_eq!(vm.hmp().run("migrate_set_parameter max-bandwidth 8E"), "Error: Invalid size 8E\n");
    assert_eq!(
        vm.hmp().run("migrate_set_parameter downtime-limit foo"),
        "Error: Parameter 'downtime-limit' expects a non-negative number below 2^64\n\
         Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n\
         and exabytes, respectively.\n"
    );
    assert_eq!(vm.hmp().run("migrate_set_parameter foo 1"), "Error: invalid parameter value: foo\n");
    let shown = vm.hmp().run("info migrate_parameters");
    for line in
        ["max-bandwidth: 1572864 bytes/second", "downtime-limit: 300 ms", "cpu-throttle-tailslow: off"]
    {
        assert!(shown.lines().any(|l| l == line), "{shown}");
    }
}

#[test]
fn events_of_a_migration_can_be_asked_for_beforehand() {
    let mut vm = none().qmp().hmp().start();
    let events = |vm: &mut Vm| {
        let list = vm.qmp().ok("query-migrate-capabilities", json!({}));
        let mut found = list.as_array().unwrap().iter().filter(|c| c["capability"] == "events");
        found.next().unwrap()["state"].clone()
    };
    let on = json!([{ "capability": "events", "state": true }]);
    vm.qmp().ok("migrate-set-capabilities", json!({ "capabilities": on }));
    assert_eq!(events(&mut vm), true);
    let wrong = json!([{ "capability": "events", "state": false }, { "capability": "foo", "state": true }]);
    assert_eq!(
        vm.qmp().err("migrate-set-capabilities", json!({ "capabilities": wrong })),
        generic("Parameter 'capability' does not accept value 'foo'")
    );
    let wrong = json!([{ "capability": "events" }]);
    assert_eq!(
        vm.qmp().err("migrate-set-capabilities", json!({ "capabilities": wrong })),
        generic("Parameter 'capabilities[0].state' is missing")
    );
    assert_eq!(events(&mut vm), true);
    assert_eq!(vm.hmp().run("migrate_set_capability events off"), "");
    assert_eq!(events(&mut vm), false);
    assert_eq!(vm.hmp().run("migrate_set_capability foo on"), "Error: invalid parameter value: foo\n");
}

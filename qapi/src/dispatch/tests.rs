//! Commands from name and arguments to handler and back.

use super::*;
use crate::types::*;
use crate::{ToValue, json};

/// Handlers that fail with the arguments that they got, made by the generator: a new command needs no line here.
mod echo {
    include!(concat!(env!("OUT_DIR"), "/echo.rs"));
}

/// The error's sentence: that of the reader, or else what the handler got.
fn run(command: &str, arguments: &str) -> String {
    let Value::Dict(arguments) = json::parse(arguments).unwrap() else { panic!("arguments are an object") };
    dispatch(&echo::handlers(), command, arguments).unwrap_err().desc().to_owned()
}

#[test]
fn answers_are_written_as_the_oracle_writes_them() {
    let text = |answer: &dyn ToValue| json::to_string(&answer.to_value());
    assert_eq!(
        text(&StatusInfo { running: true, status: RunState::Running }),
        r#"{"status": "running", "running": true}"#
    );
    assert_eq!(text(&NameInfo::default()), "{}");
    let version =
        VersionInfo { qemu: VersionTriple { major: 10, minor: 0, micro: 2 }, package: "p".to_owned() };
    assert_eq!(text(&version), r#"{"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": "p"}"#);
    let data = VirtioMEMDeviceInfo {
        id: Some("vm0".to_owned()),
        memaddr: 5_368_709_120,
        requested_size: 524_288_000,
        size: 524_288_000,
        max_size: 8_589_934_592,
        block_size: 2_097_152,
        node: 0,
        memdev: "/objects/mem0".to_owned(),
    };
    assert_eq!(
        text(&vec![MemoryDeviceInfo::VirtioMem(VirtioMEMDeviceInfoWrapper { data })]),
        "[{\"type\": \"virtio-mem\", \"data\": {\"memdev\": \"/objects/mem0\", \"memaddr\": 5368709120, \
         \"block-size\": 2097152, \"size\": 524288000, \"node\": 0, \"max-size\": 8589934592, \
         \"requested-size\": 524288000, \"id\": \"vm0\"}}]"
    );
}

#[test]
fn arguments_are_refused_as_the_oracle_refuses_them() {
    assert_eq!(run("query-status", "{'foo': 1}"), "Parameter 'foo' is unexpected");
    assert_eq!(run("qom-set", "{}"), "Parameter 'path' is missing");
    assert_eq!(run("qom-set", "{'path': 'vm0', 'property': 'size'}"), "Parameter 'value' is missing");
    assert_eq!(
        run("qom-get", "{'path': 1, 'property': 's'}"),
        "Invalid parameter type for 'path', expected: string"
    );
    assert_eq!(
        run("qmp_capabilities", "{'enable': ['foo']}"),
        "Parameter 'null' does not accept value 'foo'"
    );
    assert_eq!(
        run("qmp_capabilities", "{'enable': 'oob'}"),
        "Invalid parameter type for 'enable', expected: array"
    );
    assert_eq!(run("object-add", "{}"), "Parameter 'qom-type' is missing");
    assert_eq!(
        run("object-add", "{'qom-type': 'foo', 'id': 'x'}"),
        "Parameter 'qom-type' does not accept value 'foo'"
    );
    let backend = |rest: &str| run("object-add", &format!("{{'qom-type': 'memory-backend-ram', {rest}}}"));
    assert_eq!(backend("'size': 1"), "Parameter 'id' is missing");
    assert_eq!(backend("'id': 'x'"), "Parameter 'size' is missing");
    assert_eq!(backend("'id': 'x', 'size': '16M'"), "Parameter 'size' expects uint64");
    assert_eq!(backend("'id': 'x', 'size': 1, 'foo': 1"), "Parameter 'foo' is unexpected");
    assert_eq!(
        run("object-add", "{'qom-type': 'memory-backend-file', 'id': 'x', 'size': 1}"),
        "Parameter 'mem-path' is missing"
    );
    assert_eq!(run("query-foo", "{}"), "The command query-foo has not been found");
    assert_eq!(not_found("x").class(), ErrorClass::CommandNotFound);
}

#[test]
fn handlers_get_what_was_sent() {
    assert_eq!(run("qmp_capabilities", "{'enable': ['oob', 'oob']}"), "(Some([Oob, Oob]),)");
    assert_eq!(run("qom-set", "{'value': null, 'property': 'b', 'path': 'a'}"), r#"("a", "b", Null)"#);
    assert_eq!(run("qom-list-types", "{'abstract': true}"), "(None, Some(true))");
    // Raw arguments are not looked at, checked ones come as they were.
    assert_eq!(run("device_add", "{'driver': 1}"), r#"(Dict([("driver", Int(1))]),)"#);
    assert_eq!(
        run("object-add", "{'size': 16, 'id': 'x', 'qom-type': 'memory-backend-ram'}"),
        r#"(Dict([("size", Int(16)), ("id", String("x")), ("qom-type", String("memory-backend-ram"))]),)"#
    );
}

#[test]
fn the_table_is_sorted_and_every_command_in_it_is_found() {
    assert!(commands().windows(2).all(|pair| pair[0].name < pair[1].name));
    assert!(commands().iter().all(|c| lookup(c.name).is_some_and(|found| found.name == c.name)));
}

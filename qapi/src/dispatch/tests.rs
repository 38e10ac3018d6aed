//! Commands from name and arguments to handler and back.

use super::*;
use crate::commands::*;
use crate::json;
use crate::types::{CommandInfo, *};

/// Handles every command: remembers nothing, fails with what it was given, or answers something small.
struct Echo;

fn called<T>(what: impl std::fmt::Debug) -> Result<T> {
    Err(Error::generic(format!("{what:?}")))
}

impl SessionCommands for Echo {
    fn qmp_capabilities(&self, enable: Option<Vec<QMPCapability>>) -> Result<()> {
        called(enable)
    }
    fn query_version(&self) -> Result<VersionInfo> {
        Ok(VersionInfo { qemu: VersionTriple { major: 10, minor: 0, micro: 2 }, package: "p".to_owned() })
    }
    fn query_commands(&self) -> Result<Vec<CommandInfo>> {
        Ok(commands().iter().map(|c| CommandInfo { name: c.name.to_owned() }).collect())
    }
    fn human_monitor_command(&self, command_line: String, cpu_index: Option<i64>) -> Result<String> {
        called((command_line, cpu_index))
    }
    fn query_qmp_schema(&self, arguments: Dict) -> Result<Value> {
        Ok(Value::Dict(arguments))
    }
}
impl RunStateCommands for Echo {
    fn query_status(&self) -> Result<StatusInfo> {
        Ok(StatusInfo { running: true, status: RunState::Running })
    }
    fn stop(&self) -> Result<()> {
        Ok(())
    }
    fn cont(&self) -> Result<()> {
        called("cont")
    }
    fn system_reset(&self) -> Result<()> {
        called("system_reset")
    }
    fn system_powerdown(&self) -> Result<()> {
        called("system_powerdown")
    }
    fn quit(&self) -> Result<()> {
        called("quit")
    }
}
impl QomCommands for Echo {
    fn qom_list(&self, path: String) -> Result<Vec<ObjectPropertyInfo>> {
        called(path)
    }
    fn qom_get(&self, path: String, property: String) -> Result<Value> {
        called((path, property))
    }
    fn qom_set(&self, path: String, property: String, value: Value) -> Result<()> {
        called((path, property, value))
    }
    fn qom_list_types(
        &self,
        implements: Option<String>,
        abstract_: Option<bool>,
    ) -> Result<Vec<ObjectTypeInfo>> {
        called((implements, abstract_))
    }
    fn qom_list_properties(&self, typename: String) -> Result<Vec<ObjectPropertyInfo>> {
        called(typename)
    }
    fn device_list_properties(&self, typename: String) -> Result<Vec<ObjectPropertyInfo>> {
        called(typename)
    }
    fn object_add(&self, arguments: Dict) -> Result<()> {
        called(json::to_string(&arguments.into()))
    }
    fn object_del(&self, id: String) -> Result<()> {
        called(id)
    }
}
impl QdevCommands for Echo {
    fn device_add(&self, arguments: Dict) -> Result<()> {
        called(json::to_string(&arguments.into()))
    }
    fn device_del(&self, id: String) -> Result<()> {
        called(id)
    }
    fn x_pliant_query_qtree(&self, brief: Option<bool>) -> Result<HumanReadableText> {
        called(brief)
    }
}

/// Handlers of which only those above are called by these tests.
struct Unused;

impl MachineCommands for Unused {
    fn query_name(&self) -> Result<NameInfo> {
        Ok(NameInfo::default())
    }
    fn query_uuid(&self) -> Result<UuidInfo> {
        called(())
    }
    fn query_kvm(&self) -> Result<KvmInfo> {
        called(())
    }
    fn query_memdev(&self) -> Result<Vec<Memdev>> {
        called(())
    }
    fn query_memory_size_summary(&self) -> Result<MemoryInfo> {
        called(())
    }
    fn query_memory_devices(&self) -> Result<Vec<MemoryDeviceInfo>> {
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
        Ok(vec![MemoryDeviceInfo::VirtioMem(VirtioMEMDeviceInfoWrapper { data })])
    }
    fn query_cpus_fast(&self) -> Result<Vec<CpuInfoFast>> {
        called(())
    }
    fn query_hotpluggable_cpus(&self) -> Result<Vec<HotpluggableCPU>> {
        called(())
    }
    fn query_machines(&self, compat_props: Option<bool>) -> Result<Vec<MachineInfo>> {
        called(compat_props)
    }
    fn query_current_machine(&self) -> Result<CurrentMachineParams> {
        called(())
    }
    fn x_query_ramblock(&self) -> Result<HumanReadableText> {
        called(())
    }
    fn x_query_numa(&self) -> Result<HumanReadableText> {
        called(())
    }
    fn x_pliant_query_mtree(
        &self,
        flatview: Option<bool>,
        dispatch_tree: Option<bool>,
        owner: Option<bool>,
        disabled: Option<bool>,
    ) -> Result<HumanReadableText> {
        called((flatview, dispatch_tree, owner, disabled))
    }
}
impl ChardevCommands for Unused {
    fn query_chardev(&self) -> Result<Vec<ChardevInfo>> {
        called(())
    }
    fn query_chardev_backends(&self) -> Result<Vec<ChardevBackendInfo>> {
        called(())
    }
    fn ringbuf_write(&self, device: String, data: String, format: Option<DataFormat>) -> Result<()> {
        called((device, data, format))
    }
    fn ringbuf_read(&self, device: String, size: i64, format: Option<DataFormat>) -> Result<String> {
        called((device, size, format))
    }
}
impl PciCommands for Unused {
    fn query_pci(&self) -> Result<Vec<PciInfo>> {
        called(())
    }
}
impl VirtioCommands for Unused {
    fn x_query_virtio(&self) -> Result<Vec<VirtioInfo>> {
        called(())
    }
    fn x_query_virtio_status(&self, path: String) -> Result<VirtioStatus> {
        called(path)
    }
}

/// The answer as JSON text, or the error's sentence.
fn run(command: &str, arguments: &str) -> String {
    let handlers = Handlers {
        session: &Echo,
        run_state: &Echo,
        machine: &Unused,
        qom: &Echo,
        qdev: &Echo,
        chardev: &Unused,
        pci: &Unused,
        virtio: &Unused,
    };
    let Value::Dict(arguments) = json::parse(arguments).unwrap() else { panic!("arguments are an object") };
    match dispatch(&handlers, command, arguments) {
        Ok(value) => json::to_string(&value),
        Err(error) => error.desc().to_owned(),
    }
}

#[test]
fn answers_are_written_as_the_oracle_writes_them() {
    assert_eq!(run("query-status", "{}"), r#"{"status": "running", "running": true}"#);
    assert_eq!(run("stop", "{}"), "{}");
    assert_eq!(run("query-name", "{}"), "{}");
    assert_eq!(
        run("query-version", "{}"),
        r#"{"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": "p"}"#
    );
    assert_eq!(
        run("query-memory-devices", "{}"),
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
    assert_eq!(run("qmp_capabilities", "{'enable': ['oob', 'oob']}"), "Some([Oob, Oob])");
    assert_eq!(run("qom-set", "{'value': null, 'property': 'b', 'path': 'a'}"), r#"("a", "b", Null)"#);
    assert_eq!(run("qom-list-types", "{'abstract': true}"), "(None, Some(true))");
    let given = "{'driver': 1, 'anything': [{}]}";
    assert_eq!(run("device_add", given), format!("{:?}", r#"{"driver": 1, "anything": [{}]}"#));
    let object = r#"{"id": "x", "qom-type": "memory-backend-ram", "size": 16}"#;
    let got = run("object-add", object);
    assert!(
        ["\\\"qom-type\\\": \\\"memory-backend-ram\\\"", "\\\"size\\\": 16"].iter().all(|m| got.contains(m)),
        "{got}"
    );
}

#[test]
fn the_table_is_sorted_and_every_command_in_it_is_found() {
    assert!(commands().windows(2).all(|pair| pair[0].name < pair[1].name));
    assert!(commands().iter().all(|c| lookup(c.name).is_some_and(|found| found.name == c.name)));
}

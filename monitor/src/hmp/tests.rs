//! The console against a recorded machine: replies as QEMU 10.0.2 gave them, text as it printed it.

use qapi::{Dict, Error, Result, Value, json};

use super::complete::candidates;
use super::run_line;

/// Answers the few commands the tests use, from the oracle's q35 session.
fn machine(command: &str, arguments: Dict) -> Result<Value> {
    let path = arguments.get("path").and_then(Value::as_str).unwrap_or("");
    let reply = match command {
        "query-status" => r#"{"status": "prelaunch", "running": false}"#,
        "query-memory-devices" => {
            r#"[{"type": "virtio-mem", "data": {"memdev": "/objects/mem0", "memaddr": 6442450944,
                "block-size": 2097152, "size": 0, "node": 0, "max-size": 8589934592, "requested-size": 0,
                "id": "vm0"}}]"#
        }
        "query-memdev" => {
            r#"[{"id": "mem1", "size": 8589934592, "merge": true, "dump": true, "prealloc": false,
                "share": false, "reserve": true, "policy": "default", "host-nodes": []}]"#
        }
        "query-memory-size-summary" => r#"{"base-memory": 4294967296, "plugged-memory": 1073741824}"#,
        "x-pliant-query-memslots" => {
            r#"{"limit": 2048, "used": 4, "reserved": 498, "free": 1546,
                "users": [{"name": "kvm", "limit": 32764, "used": 9, "reserved": 498, "free": 32257},
                          {"name": "disk0", "limit": 509, "used": 9, "reserved": 498, "free": 2}],
                "devices": [{"id": "vm0", "qom-path": "/machine/peripheral/vm0", "parts": 500, "used": 3,
                             "reserved": 497, "part-size": 1073741824},
                            {"qom-path": "/machine/peripheral-anon/device[0]", "parts": 2, "used": 1,
                             "reserved": 1, "part-size": 1207959552}]}"#
        }
        "query-pci" => {
            r#"[{"bus": 0, "devices": [{"bus": 0, "slot": 1, "function": 0, "irq": 10, "irq_pin": 1,
                "class_info": {"class": 255}, "qdev_id": "vm0",
                "id": {"vendor": 6900, "device": 4184, "subsystem-vendor": 6900, "subsystem": 4352},
                "regions": [
                  {"bar": 1, "type": "memory", "address": 4273983488, "size": 4096, "prefetch": false,
                   "mem_type_64": false},
                  {"bar": 4, "type": "memory", "address": 824633720832, "size": 16384, "prefetch": true,
                   "mem_type_64": true}]}]}]"#
        }
        "qom-list" => match path {
            "/machine/peripheral" => {
                r#"[{"name": "type", "type": "string"},
                {"name": "vm0", "type": "child<virtio-mem-pci>"}]"#
            }
            "/objects" => r#"[{"name": "mem0", "type": "child<memory-backend-ram>"}]"#,
            "/" => r#"[{"name": "machine", "type": "child<pc-q35-10.0-machine>"}]"#,
            "/machine" => r#"[{"name": "peripheral", "type": "child<container>"}]"#,
            "vm0" => r#"[{"name": "requested-size", "type": "size"}, {"name": "size", "type": "size"}]"#,
            _ => "[]",
        },
        "qom-get" if path == "nope" => return Err(Error::device_not_found(path)),
        "qom-get" => "67108864",
        "x-pliant-qom-set-text" => {
            return Err(Error::generic("Parameter 'requested-size' expects a number").with_hint("A hint."));
        }
        "qom-list-types" => r#"[{"name": "virtio-mem"}, {"name": "virtio-mem-pci"}]"#,
        _ => return Err(Error::generic(format!("no {command}"))),
    };
    json::parse(reply)
}

fn run(line: &str) -> String {
    run_line(&machine, line, &[])
}

#[test]
fn memory_slots_are_two_tables() {
    assert_eq!(
        run("info memslots"),
        "user            limit  used  reserved   free\n\
         memory devices   2048     4       498   1546\n\
         kvm             32764     9       498  32257\n\
         disk0             509     9       498      2\n\
         \n\
         device                              parts  used  reserved  part size\n\
         vm0                                   500     3       497      1 GiB\n\
         /machine/peripheral-anon/device[0]      2     1         1   1152 MiB\n"
    );
    let none = r#"{"limit": 2048, "used": 0, "reserved": 0, "free": 2048, "users": [], "devices": []}"#;
    let machine = |_: &str, _: Dict| json::parse(none);
    assert_eq!(
        run_line(&machine, "info memslots", &[]),
        "user            limit  used  reserved  free\nmemory devices   2048     0         0  2048\n"
    );
}

#[test]
fn info_commands_print_what_qemu_prints() {
    assert_eq!(run("info status"), "VM status: paused (prelaunch)\n");
    assert_eq!(
        run("  info memory-devices "),
        "Memory device [virtio-mem]: \"vm0\"\n  memaddr: 0x180000000\n  node: 0\n  requested-size: 0\n  \
         size: 0\n  max-size: 8589934592\n  block-size: 2097152\n  memdev: /objects/mem0\n"
    );
    assert_eq!(
        run("info memdev"),
        "memory backend: mem1\n  size:  8589934592\n  merge: true\n  dump: true\n  prealloc: false\n  \
         share: false\n  reserve: true\n  policy: default\n  host nodes: \n\n"
    );
    assert_eq!(run("info memory_size_summary"), "base memory: 4294967296\nplugged memory: 1073741824\n");
    assert_eq!(
        run("info pci"),
        "  Bus  0, device   1, function 0:\n    Class 0255: PCI device 1af4:1058\n      \
         PCI subsystem 1af4:1100\n      IRQ 10, pin A\n      \
         BAR1: 32 bit memory at 0xfebfd000 [0xfebfdfff]\n      \
         BAR4: 64 bit prefetchable memory at 0xc000000000 [0xc000003fff]\n      id \"vm0\"\n"
    );
}

#[test]
fn mistakes_are_answered_in_qemus_words() {
    assert_eq!(run(""), "");
    assert_eq!(run("# comment"), "unknown command: '#'\n");
    assert_eq!(run("INFO STATUS"), "unknown command: 'INFO'\n");
    assert_eq!(run("info stat"), "unknown command: 'info stat'\n");
    assert_eq!(run("help foo"), "unknown command: 'foo'\n");
    assert_eq!(run("qom-set"), "qom-set: string expected\nTry \"help qom-set\" for more information\n");
    assert_eq!(
        run("info mtree -x"),
        "mtree: unsupported option -x\nTry \"help info mtree\" for more information\n"
    );
    assert_eq!(run("qom-get nope size"), "Error: Device 'nope' not found\n");
    assert_eq!(
        run("qom-set vm0 requested-size 64MiB"),
        "Error: Parameter 'requested-size' expects a number\nA hint.\n"
    );
    assert_eq!(run("info qom-tree nope"), "Path 'nope' could not be resolved.\n");
    assert_eq!(run("qom-get vm0 size"), "67108864\n");
}

#[test]
fn help_shows_every_command_once() {
    let all = run("help");
    assert!(all.contains("cont|c  -- "));
    assert!(all.contains("qom-set [-j] path property value -- "));
    assert_eq!(run("help info status"), "info status  -- show the current VM status (running|paused)\n");
    assert_eq!(run("info"), run("help info"));
}

#[test]
fn tab_knows_commands_paths_properties_and_ids() {
    let offers = |line: &str| candidates(&machine, line);
    assert_eq!(offers("inf"), (vec!["info".into()], 3));
    assert_eq!(offers("info memd"), (vec!["memdev".into()], 4));
    assert_eq!(offers("device_del "), (vec!["vm0".into()], 0));
    assert_eq!(offers("qom-set /mach"), (vec!["/machine/".into()], 5));
    assert_eq!(offers("qom-set /machine/p"), (vec!["/machine/peripheral/".into()], 10));
    assert_eq!(offers("qom-set vm0 req"), (vec!["requested-size".into()], 3));
    assert_eq!(offers("device_add virtio-mem-"), (vec!["virtio-mem-pci".into()], 11));
    assert_eq!(offers("qom-set vm0 size 5").0, Vec::<String>::new());
    assert_eq!(offers("xyz").0, Vec::<String>::new());
}

#[test]
fn lines_are_taken_apart_as_qemu_does() {
    // A name ends at the slash of a format; complaints quote what was typed, and name the command by all its names.
    assert_eq!(run("x/4xb 0"), "unknown command: 'x'\n");
    assert_eq!(run("info  \"status\""), "unknown command: 'info  \"status\"'\n");
    let extraneous = |command: &str, typed: &str| {
        format!(
            "{command}: extraneous characters at the end of line\nTry \"help {typed}\" for more information\n"
        )
    };
    assert_eq!(run("stop x"), extraneous("stop|s", "stop"));
    assert_eq!(run("c/1"), extraneous("cont|c", "c"));
    assert_eq!(run("info status/x"), extraneous("status", "info status"));
    assert_eq!(run("device_add foo bar"), extraneous("device_add", "device_add"));
    assert_eq!(
        run("ringbuf_read a -1"),
        "'ringbuf_read' has failed: integer is for 32-bit values\nTry \"help ringbuf_read\" for more information\n"
    );
    assert_eq!(run("help stop"), run("? s x"));
    assert_eq!(run("info history"), "");
    assert_eq!(run_line(&machine, "info history", &["stop".into(), "c".into()]), "0: 'stop'\n1: 'c'\n");
}

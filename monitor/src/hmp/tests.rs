//! The console against a recorded machine: replies as QEMU 10.0.2 gave them, text as it printed it.

use std::cell::Cell;
use std::sync::Mutex;

use qapi::{Dict, Error, Result, Value, json};

use super::complete::candidates;
use super::{LastFormat, Session};

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
            "vm0" => {
                r#"[{"name": "requested-size", "type": "size"}, {"name": "size", "type": "size"},
                    {"name": "realized", "type": "bool"}, {"name": "unplugged-access", "type": "UnpluggedAccess"}]"#
            }
            _ => "[]",
        },
        "qom-get" if path == "nope" => return Err(Error::device_not_found(path)),
        "qom-get" if arguments.get("property").and_then(Value::as_str) == Some("type") => {
            r#""virtio-mem-pci""#
        }
        "qom-get" => "67108864",
        "x-pliant-qom-set-text" => {
            return Err(Error::generic("Parameter 'requested-size' expects a number").with_hint("A hint."));
        }
        "query-cpus-fast" => r#"[{"cpu-index": 0, "thread-id": 1}, {"cpu-index": 1, "thread-id": 2}]"#,
        "x-pliant-query-registers" => return registers(&arguments),
        "x-pliant-read-memory" => return memory(&arguments),
        "query-dump" => r#"{"status": "active", "completed": 1585152, "total": 67371008}"#,
        "memsave" | "pmemsave" | "dump-guest-memory" => {
            return Err(Error::generic(format!("{command} {}", json::to_string(&arguments.into()))));
        }
        "query-balloon" => r#"{"actual": 134217728}"#,
        "query-iothreads" => {
            r#"[{"id": "io0", "thread-id": 26138, "poll-max-ns": 32768, "poll-grow": 0, "poll-shrink": 0,
                "aio-max-batch": 0}]"#
        }
        "query-migrate" => r#"{"status": "completed", "total-time": 11}"#,
        "query-migrate-capabilities" => r#"[{"capability": "events", "state": true}]"#,
        "query-migrate-parameters" => {
            r#"{"max-bandwidth": 134217728, "cpu-throttle-tailslow": false, "downtime-limit": 300,
                "max-cpu-throttle": 99, "multifd-compression": "none", "multifd-zlib-level": 1}"#
        }
        "balloon"
        | "migrate-set-capabilities"
        | "x-pliant-migrate-set-parameter-text"
        | "watchdog-set-action" => {
            return Err(Error::generic(format!("{command} {}", json::to_string(&arguments.into()))));
        }
        "device-list-properties" | "qom-list-properties"
            if !arguments
                .get("typename")
                .and_then(Value::as_str)
                .is_some_and(|t| t.starts_with("virtio-mem")) =>
        {
            return Err(Error::device_not_found("nonsense"));
        }
        "device-list-properties" => {
            r#"[{"name": "memdev", "type": "link<memory-backend>"}, {"name": "prealloc", "type": "bool"}, {"name": "x-ats", "type": "bool"},
                {"name": "unplugged-access", "type": "UnpluggedAccess"}]"#
        }
        "qom-list-properties" => {
            r#"[{"name": "type", "type": "string"}, {"name": "policy", "type": "HostMemPolicy"}]"#
        }
        "x-pliant-list-property-values" => match arguments.get("property").and_then(Value::as_str) {
            Some("unplugged-access") => r#"["report", "kill"]"#,
            _ => "[]",
        },
        "qom-list-types" if arguments.get("implements").and_then(Value::as_str) == Some("memory-backend") => {
            r#"[{"name": "memory-backend-ram"}]"#
        }
        "qom-list-types" => r#"[{"name": "virtio-mem"}, {"name": "virtio-mem-pci"}]"#,
        _ => return Err(Error::generic(format!("no {command}"))),
    };
    json::parse(reply)
}

/// The second CPU has other registers.
fn registers(arguments: &Dict) -> Result<Value> {
    json::parse(match arguments.get("cpu-index").and_then(Value::as_i64) {
        None | Some(0) => {
            r#"{"rax": 5, "rip": 65520, "rsp": 18446744073709551608, "r9": 9, "rflags": 2,
                "cs": {"selector": 61440, "base": 4294901760, "limit": 65535, "flags": 39680}}"#
        }
        Some(1) => {
            r#"{"rax": 6, "rip": 0, "cs": {"selector": 8, "base": 0, "limit": 4294967295, "flags": 0}}"#
        }
        Some(_) => return Err(Error::generic("no such CPU")),
    })
}

/// 32 bytes at 0; at linear addresses they are one more.
fn memory(arguments: &Dict) -> Result<Value> {
    let number = |name: &str| arguments.get(name).and_then(Value::as_u64).unwrap();
    let (address, size) = (number("address"), number("size"));
    if size > 64 {
        return Err(Error::generic("too much"));
    }
    let more = u64::from(arguments.get("physical").and_then(Value::as_bool) == Some(false));
    let bytes =
        (address.min(32)..(address.saturating_add(size)).min(32)).map(|byte| format!("{:02x}", byte + more));
    Ok(Dict::new().with("data", bytes.collect::<String>()).into())
}

fn run_with(line: &str, history: &[String], format: &Mutex<LastFormat>) -> String {
    super::run_line(&machine, line, &Session { history, format, cpu: &Cell::default() })
}

fn run(line: &str) -> String {
    run_with(line, &[], &Mutex::default())
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
    let session = Session { history: &[], format: &Mutex::default(), cpu: &Cell::default() };
    assert_eq!(
        super::run_line(&machine, "info memslots", &session),
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

/// Candidates for the end of a line, as they would be listed, and how much of them is typed.
fn offers(line: &str) -> (Vec<String>, usize) {
    let offered = candidates(&machine, line);
    (offered.found, offered.typed)
}

#[test]
fn tab_knows_commands_paths_properties_and_ids() {
    assert_eq!(offers("inf"), (vec!["info".into()], 3));
    assert_eq!(offers("info memd"), (vec!["memdev".into()], 4));
    assert_eq!(offers("device_del "), (vec!["vm0".into()], 0));
    assert_eq!(offers("qom-set /mach"), (vec!["/machine/".into()], 5));
    assert_eq!(offers("qom-set /machine/p"), (vec!["/machine/peripheral/".into()], 10));
    assert_eq!(offers("qom-set vm0 req"), (vec!["requested-size".into()], 3));
    assert_eq!(offers("device_add virtio-mem-"), (vec!["virtio-mem-pci".into()], 11));
    assert_eq!(offers("qom-set vm0 size 5").0, Vec::<String>::new());
    assert_eq!(offers("xyz").0, Vec::<String>::new());
    assert_eq!(offers("watchdog_action p").0, ["poweroff", "pause"]);
}

#[test]
fn tab_knows_properties_to_give_a_new_device_and_their_values() {
    assert_eq!(offers("device_add virtio-mem-pci,me"), (vec!["memdev=".into()], 2));
    assert_eq!(offers("device_add virtio-mem-pci,memdev="), (vec!["mem0".into()], 0));
    assert_eq!(
        offers("device_add driver=virtio-mem-pci,id=x,").0,
        ["memdev=", "prealloc=", "unplugged-access=", "bus="]
    );
    assert_eq!(offers("device_add virtio-mem-pci,prealloc=o"), (vec!["on".into(), "off".into()], 1));
    assert_eq!(offers("device_add virtio-mem-pci,unplugged-access=k"), (vec!["kill".into()], 1));
    assert_eq!(offers("device_add virtio-mem-pci,x"), (vec!["x-ats=".into()], 1));
    assert!(candidates(&machine, "device_add virtio-mem-pci,me").goes_on);
    assert!(!candidates(&machine, "device_add virtio-mem-").goes_on);
    assert_eq!(offers("device_add nonsense,").0, Vec::<String>::new());
    assert_eq!(offers("object_add virtio-mem,pol"), (vec!["policy=".into()], 3));
    assert_eq!(offers("object_add virtio-mem,id=x,i").0, Vec::<String>::new());
}

#[test]
fn tab_knows_what_a_property_may_be_set_to() {
    assert_eq!(offers("qom-set vm0 unplugged-access ").0, ["report", "kill"]);
    assert_eq!(offers("qom-set -j vm0 unplugged-access \"k").0, ["\"kill\""]);
    assert!(candidates(&machine, "qom-set vm0 realized o").goes_on, "a blank would be part of the value");
    assert_eq!(offers("qom-set vm0 realized o").0, ["on", "off"]);
    assert_eq!(offers("qom-set -j vm0 realized t").0, ["true"]);
    assert_eq!(offers("qom-set vm0 nonsense ").0, Vec::<String>::new());
}

#[test]
fn tab_knows_the_files_of_the_host() {
    let folder = std::env::temp_dir().join(format!("pliant-files-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("sub")).unwrap();
    for name in ["core.1", "core 2", ".core", "other"] {
        std::fs::write(folder.join(name), "").unwrap();
    }
    let path = folder.to_str().unwrap();
    let mut all = offers(&format!("dump-guest-memory -p {path}/")).0;
    all.sort();
    assert_eq!(all, ["core.1", "other", "sub/"].map(|name| format!("{path}/{name}")));
    assert_eq!(offers(&format!("pmemsave 0 4096 {path}/.c")).0, [format!("{path}/.core")]);
    assert_eq!(offers(&format!("pmemsave 0 {path}/.c")).0, Vec::<String>::new());
    assert_eq!(offers("pmemsave 0 1 /nonexistent/").0, Vec::<String>::new());
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn lines_are_taken_apart_as_qemu_does() {
    // A name ends at the slash of a format; complaints quote what was typed, and name the command by all its names.
    assert_eq!(run("foo/4xb 0"), "unknown command: 'foo'\n");
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
    let history = run_with("info history", &["stop".into(), "c".into()], &Mutex::default());
    assert_eq!(history, "0: 'stop'\n1: 'c'\n");
}

#[test]
fn memory_is_shown_by_linear_and_by_physical_address() {
    assert_eq!(run("xp /4xb 0x10"), "0000000000000010: 0x10 0x11 0x12 0x13\n");
    assert_eq!(run("x/4xb 0x10"), "0000000000000010: 0x11 0x12 0x13 0x14\n");
    assert_eq!(
        run("xp /6xw 0x10"),
        "0000000000000010: 0x13121110 0x17161514 0x1b1a1918 0x1f1e1d1c\n\
         0000000000000020: Cannot access memory\n"
    );
    assert_eq!(run("xp 0x1000"), "0000000000001000: Cannot access memory\n");
    assert_eq!(run("xp /4xb $rsp"), "unknown register\nTry \"help xp\" for more information\n");
    assert_eq!(run("xp /0xb 0"), "");
    assert_eq!(run("xp /65xb 0"), "Error: too much\n");
    assert_eq!(run("xp /2i 0"), "Instructions cannot be shown: there is no disassembler\n");
    assert_eq!(run("x"), "unexpected end of expression\nTry \"help x\" for more information\n");
    assert_eq!(run("x /4z 0"), "invalid char in format: 'z'\nTry \"help x\" for more information\n");
    let extraneous = "x: extraneous characters at the end of line\nTry \"help x\" for more information\n";
    assert_eq!(run("x /4xb 0 0"), extraneous);
    let nobody = |command: &str, _: Dict| match command {
        "query-cpus-fast" => json::parse("[]"),
        _ => Err(Error::generic("no CPU")),
    };
    let on_nobody = |line| {
        let session = Session { history: &[], format: &Mutex::default(), cpu: &Cell::default() };
        super::run_line(&nobody, line, &session)
    };
    assert_eq!(on_nobody("x 0"), "Can not dump without CPU\n");
    assert_eq!(on_nobody("memsave 0 4 f"), "No CPU available\n");
    assert_eq!(on_nobody("p $eax"), "unknown register\nTry \"help p\" for more information\n");
}

#[test]
fn expressions_know_the_registers_of_the_chosen_cpu() {
    for (expression, expected) in [
        ("$eax", "0x5"),
        ("$pc", "0xfffffff0"),
        ("$cs.base+$eip", "0xfffffff0"),
        ("$cs", "0xf000"),
        ("$cs.limit", "0xffff"),
        ("$sp", "0xfffffffffffffff8"),
        ("$esp + 9", "0x1"),
        ("$r9", "0x9"),
        ("$eflags", "0x2"),
    ] {
        assert_eq!(run(&format!("print {expression}")), format!("{expected}\n"), "{expression}");
    }
    for unknown in ["$rax", "$cr0", "$r16", "$cs.selector", "$cs.flags", "$ldt", "$ldt.base", "$xmm0", "$"] {
        let expected = "unknown register\nTry \"help print\" for more information\n";
        assert_eq!(run(&format!("print {unknown}")), expected, "{unknown}");
    }
    let session = Session { history: &[], format: &Mutex::default(), cpu: &Cell::new(Some(1)) };
    assert_eq!(super::run_line(&machine, "p/d $eax", &session), "6\n");
    assert_eq!(super::run_line(&machine, "x/1xb $pc", &session), "0000000000000000: 0x01\n");
}

#[test]
fn a_cpu_that_was_chosen_and_went_is_chosen_no_more() {
    let session = Session { history: &[], format: &Mutex::default(), cpu: &Cell::new(Some(2)) };
    assert_eq!(super::run_line(&machine, "p/d $eax", &session), "5\n");
    assert_eq!(session.cpu.get(), None);
}

#[test]
fn the_format_is_remembered_from_one_command_to_the_next() {
    let format = Mutex::default();
    let run = |line: &str| run_with(line, &[], &format);
    assert_eq!(run("print 255"), "0xff\n");
    assert_eq!(run("xp /2oh 0"), "0000000000000000:   0400  01402\n");
    assert_eq!(run("print 8"), "010\n");
    assert_eq!(run("xp 2"), "0000000000000002:  01402\n");
    assert_eq!(run("p/c 65"), "'A'\n");
}

#[test]
fn memory_is_saved_with_quoted_file_names() {
    let sent = |line: &str| run(line);
    assert_eq!(
        sent("memsave 0 1+3 \"a b\""),
        r#"Error: memsave {"filename": "a b", "size": 4, "val": 0}"#.to_owned() + "\n"
    );
    assert_eq!(
        sent("pmemsave $eax 4 f"),
        r#"Error: pmemsave {"filename": "f", "size": 4, "val": 5}"#.to_owned() + "\n"
    );
    let why = |line: &str| sent(line).lines().next().unwrap_or_default().to_owned();
    assert_eq!(why("memsave 0 10 /nonexistent/x"), "invalid char 'n' in expression");
    assert_eq!(why("memsave 0 -1 \"f\""), "invalid char '\"' in expression");
    assert_eq!(why("memsave 0 4"), "memsave: string expected");
    assert_eq!(why("memsave 0"), "unexpected end of expression");
    assert_eq!(why("pmemsave 0 0x100000000 f"), "'pmemsave' has failed: integer is for 32-bit values");
}

#[test]
fn dumps_are_asked_for_with_qemus_flags() {
    let sent = |line: &str| run(line).lines().next().unwrap_or_default().to_owned();
    let asked = |paging, detach, format, rest: &str| {
        let mut expected =
            Dict::new().with("paging", paging).with("protocol", "file:f").with("detach", detach);
        expected.insert("format", format);
        for part in rest.split_whitespace() {
            let (name, value) = part.split_once('=').unwrap();
            expected.insert(name, value.parse::<i64>().unwrap());
        }
        format!("Error: dump-guest-memory {}", json::to_string(&expected.into()))
    };
    assert_eq!(sent("dump-guest-memory f"), asked(false, false, "elf", ""));
    assert_eq!(sent("dump-guest-memory -p -d f 0 2*4096"), asked(true, true, "elf", "begin=0 length=8192"));
    assert_eq!(sent("dump-guest-memory f 5"), asked(false, false, "elf", "begin=5"));
    assert_eq!(sent("dump-guest-memory f 0 -1"), asked(false, false, "elf", "begin=-1"));
    assert_eq!(sent("dump-guest-memory -R f"), asked(false, false, "elf", ""));
    assert_eq!(sent("dump-guest-memory -z f"), asked(false, false, "kdump-zlib", ""));
    assert_eq!(sent("dump-guest-memory -s -R f"), asked(false, false, "kdump-raw-snappy", ""));
    assert_eq!(sent("dump-guest-memory -w -R f"), asked(false, false, "win-dmp", ""));
    for (line, expected) in [
        ("", "dump-guest-memory: filename expected"),
        ("-p", "dump-guest-memory: filename expected"),
        ("-x a", "dump-guest-memory: unsupported option -x"),
        ("-z -l f", "Error: only one of '-z|-l|-s|-w' can be set"),
        ("-z -w f", "dump-guest-memory: unsupported option -w"),
        ("-d -p f", "dump-guest-memory: unsupported option -p"),
        ("-pd /f", "invalid char '/' in expression"),
        ("f 0 4096 x", "dump-guest-memory: extraneous characters at the end of line"),
        ("f foo bar", "invalid char 'f' in expression"),
    ] {
        assert_eq!(sent(&format!("dump-guest-memory {line}")), expected, "{line}");
    }
    assert_eq!(run("info dump"), "Status: active\nFinished: 2.35 %\n");
}

#[test]
fn the_balloon_is_asked_for_in_mebibytes() {
    assert_eq!(run("info balloon"), "balloon: actual=128\n");
    assert_eq!(run("balloon 1+1"), "Error: balloon {\"value\": 2097152}\n");
    let help = "Try \"help balloon\" for more information\n";
    assert_eq!(run("balloon -5"), format!("enter a positive value\n{help}"));
    assert_eq!(run("balloon 1G"), format!("balloon: extraneous characters at the end of line\n{help}"));
}

#[test]
fn migration_settings_are_shown_and_set() {
    let globals = "globals:\nstore-global-state: on\nonly-migratable: off\nsend-configuration: on\nsend-section-footer: on\n\
                   send-switchover-start: on\nclear-bitmap-shift: 18\n";
    assert_eq!(run("info migrate"), format!("{globals}Migration status: completed\ntotal time: 11 ms\n"));
    assert_eq!(run("info migrate_capabilities"), "events: on\n");
    assert_eq!(
        run("info migrate_parameters"),
        "cpu-throttle-tailslow: off\nmax-cpu-throttle: 99\nmax-bandwidth: 134217728 bytes/second\n\
         downtime-limit: 300 ms\nmultifd-compression: none\n"
    );
    let (json, off) = ("{\"capabilities\": [{\"state\": ", ", \"capability\": \"events\"}]}");
    for (word, state) in [("on", "true"), ("off", "false")] {
        assert_eq!(
            run(&format!("migrate_set_capability events {word}")),
            format!("Error: migrate-set-capabilities {json}{state}{off}\n")
        );
    }
    assert_eq!(run("migrate_set_capability foo on"), "Error: invalid parameter value: foo\n");
    for line in ["migrate_set_capability events", "migrate_set_capability events maybe"] {
        assert_eq!(
            run(line),
            "Expected 'on' or 'off'\nTry \"help migrate_set_capability\" for more information\n"
        );
    }
    assert!(run("migrate_set_parameter max-bandwidth 1 2").starts_with("migrate_set_parameter: extraneous"));
    let offers = |line: &str| candidates(&machine, line).found;
    assert_eq!(offers("migrate_set_capability "), ["events"]);
    let mut names = offers("migrate_set_parameter max");
    names.sort();
    assert_eq!(names, ["max-bandwidth", "max-cpu-throttle"]);
    assert!(offers("watchdog_action ").contains(&"inject-nmi".to_owned()));
}

#[test]
fn threads_for_devices_are_shown_as_qemu_does() {
    assert_eq!(
        run("info iothreads"),
        "io0:\n  thread_id=26138\n  poll-max-ns=32768\n  poll-grow=0\n  poll-shrink=0\n  aio-max-batch=0\n"
    );
}

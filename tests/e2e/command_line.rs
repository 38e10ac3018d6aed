//! Command lines that the oracle's catalogue does not have, with what QEMU 10.0.2 says of them (`PLIANT_BIN` shows it).
//!
//! Each is refused: exit status 1, and the standard error byte for byte.

use serde_json::{Value, json};
use tests::{Need, Vm, have};

/// Runs command lines with the harness's options around and compares what they say, the program's name left out.
fn refused(cases: &[(&str, &str)]) {
    let mut wrong = String::new();
    for (line, text) in cases {
        let exited = Vm::new().line(line).run();
        let got = exited.stderr.replace("qemu-system-x86_64: ", "");
        // Loaders of QEMU say so.
        let got = got.strip_prefix("qemu: ").unwrap_or(&got);
        if exited.code != Some(1) || got.trim_end() != *text {
            wrong += &format!("{line}\n  - {text}\n  + {} {:?}\n", got.trim_end(), exited.code);
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn kernels_that_cannot_be_loaded_are_refused() {
    refused(&[
        (
            "-machine q35 -kernel /nonexistent",
            "could not open kernel file '/nonexistent': No such file or directory",
        ),
        ("-machine q35,kernel=/a -kernel ''", "could not open kernel file '': No such file or directory"),
        ("-machine q35 -kernel /", "could not load kernel '/': Is a directory"),
        ("-machine pc -kernel /proc/self/comm", "invalid kernel header"),
        ("-machine q35 -initrd x", "-initrd only allowed with -kernel option"),
        ("-machine q35 -bios /nonexistent", "could not load PC BIOS '/nonexistent'"),
        ("-machine q35,firmware=/nonexistent", "could not load PC BIOS '/nonexistent'"),
        (
            "-machine none -kernel x",
            "The -kernel parameter is not supported (use the generic 'loader' device instead).",
        ),
    ]);
}

#[test]
fn sizes_and_topologies_are_refused_in_qemus_words() {
    refused(&[
        ("-machine pc -m 0x100", "Parameter 'memory.size' expects size"),
        (
            "-machine pc -m ,",
            "-m ,: Parameter 'size' expects a non-negative number below 2^64\n\
             Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.",
        ),
        ("-machine pc -m 1G,slots=257,maxmem=2G", "unsupported amount of memory slots: 257"),
        (
            "-machine pc -m 1G,maxmem=1500000001",
            "maximum memory size must by aligned to multiple of 4096 bytes",
        ),
        (
            "-machine pc -smp 256",
            "Invalid SMP CPUs 256. The max CPUs supported by machine 'pc-i440fx-10.0' is 255",
        ),
        (
            "-machine q35 -smp 4097",
            "Invalid SMP CPUs 4097. The max CPUs supported by machine 'pc-q35-10.0' is 4096",
        ),
        ("-machine none -smp 2", "Invalid SMP CPUs 2. The max CPUs supported by machine 'none' is 1"),
        (
            "-machine pc,smp.cpus=2 -smp maxcpus=1",
            "Invalid CPU topology: maxcpus must be equal to or greater than smp: sockets (1) * dies (1) * modules (1) \
             * cores (1) * threads (1) == maxcpus (1) < smp_cpus (2)",
        ),
        ("-machine pc,max-ram-below-4g=foo", "Parameter 'max-ram-below-4g' expects size"),
        ("-machine pc,a.b=1", "Property 'pc-i440fx-10.0-machine.a' not found"),
        ("-machine ,", "-machine ,: Invalid parameter ''"),
    ]);
}

#[test]
fn a_bus_takes_no_more_devices_than_it_has_room_for() {
    refused(&[(
        "-machine pc -m 1G,maxmem=8G -object memory-backend-ram,id=m0,size=1G -object memory-backend-ram,id=m1,size=1G \
         -device virtio-mem-pci,id=a,memdev=m0 -device virtio-mem,memdev=m1,bus=virtio-bus",
        "-device virtio-mem,memdev=m1,bus=virtio-bus: Bus 'virtio-bus' is full",
    )]);
}

#[test]
fn nodes_are_refused_in_qemus_words() {
    const NODE: &str = "-machine pc -m 1G -object memory-backend-ram,id=r0,size=1G -numa node,memdev=r0";
    let with = |rest: &str| format!("{NODE}{rest}");
    refused(&[
        (&with(",nodeid=65536"), "-numa node,memdev=r0,nodeid=65536: Parameter 'nodeid' expects uint16_t"),
        (&with(",cpus="), "-numa node,memdev=r0,cpus=: Parameter 'cpus' expects a uint64 value or range"),
        (&with(" -numa dist,src=0"), "-numa dist,src=0: Parameter 'dst' is missing"),
        (
            &with(" -numa dist,src=0,dst=0,val=256"),
            "-numa dist,src=0,dst=0,val=256: Parameter 'val' expects uint8_t",
        ),
        (&with(" -numa node,help"), "-numa node,help: Invalid parameter 'help'"),
    ]);
}

#[test]
fn character_devices_and_monitors_are_refused_in_qemus_words() {
    refused(&[
        (
            "-machine none -chardev null,id=a,mux=on -mon a -mon a -mon a -mon a -mon a",
            "-mon a: too many uses of multiplexed chardev 'a' (maximum is 4)",
        ),
        ("-machine none -monitor chardev:nope", "-monitor chardev:nope: chardev \"nope\" not found"),
        (
            "-machine none -qmp none",
            "-qmp none: 'none' is not a valid char driver\n-qmp none: parse error: none",
        ),
        (
            "-machine none -monitor unix:/nonexistent/x",
            "-monitor unix:/nonexistent/x: Failed to connect to '/nonexistent/x': No such file or directory",
        ),
        (
            "-machine pc -serial chardev:nope",
            "-serial chardev:nope: could not connect serial device to character backend 'chardev:nope'",
        ),
        (
            "-machine pc -serial foo",
            "-serial foo: 'foo' is not a valid char driver\n\
             -serial foo: could not connect serial device to character backend 'foo'",
        ),
        (
            "-machine none -daemonize -serial stdio",
            "-serial stdio: cannot use stdio with -daemonize\n\
             -serial stdio: could not connect serial device to character backend 'stdio'",
        ),
        (
            "-machine pc -device isa-serial,chardev=nope",
            "-device isa-serial,chardev=nope: Property 'serial.chardev' can't find value 'nope'",
        ),
    ]);
}

#[test]
fn the_rest_is_refused_in_qemus_words() {
    refused(&[
        ("-", "-: invalid option"),
        ("-m foo -help -nonsense", "-nonsense: invalid option"),
        ("-nodefconfig", "-nodefconfig: invalid option"),
        ("-machine none -display none,foo=1", "-display none,foo=1: Parameter 'foo' is unexpected"),
        ("-machine none -audio none,foo=1", "-audio none,foo=1: Parameter 'foo' is unexpected"),
        ("-machine none -audio foo", "-audio foo: Parameter 'driver' does not accept value 'foo'"),
        ("-machine none -audio id=x", "-audio id=x: Parameter 'driver' is missing"),
        (
            "-machine none -D /nonexistent/x",
            "Error opening logfile /nonexistent/x: No such file or directory",
        ),
        (
            "-machine none -overcommit mem-lock=maybe",
            "-overcommit mem-lock=maybe: parameter 'mem-lock' expects one of 'on', 'off', 'on-fault'",
        ),
        (
            "-machine pc -global driver=virtio-mem-pci",
            "-global driver=virtio-mem-pci: options 'driver', 'property', and 'value' are required",
        ),
        ("-machine none -global .b=1", "-global .b=1: Invalid parameter '.b'"),
        (
            "-machine pc -object memory-backend-ram,id=a,size=4K,prealloc-threads=-1",
            "-object memory-backend-ram,id=a,size=4K,prealloc-threads=-1: Parameter 'prealloc-threads' expects a \
             uint64 value",
        ),
        (
            "-machine pc -device virtio-mem-pci,prealloc=on",
            "-device virtio-mem-pci,prealloc=on: the configuration is not prepared for memory devices (e.g., for \
             memory hotplug), consider specifying the maxmem option",
        ),
    ]);
}

#[test]
fn what_there_is_nothing_for_is_refused_with_the_reason() {
    if !have(&[Need::Pliant]) {
        return;
    }
    refused(&[
        (
            "-machine none -blockdev driver=file,filename=x,node-name=n",
            "-blockdev is not supported: there are no disks but those that vhost-user back ends serve",
        ),
        ("-machine none -usb", "-usb is not supported: there is no USB"),
        ("-machine none --vnc :0", "--vnc is not supported: there is no display"),
        (
            "-machine q35 -cpu qemu64,hv-relaxed=on",
            "can't apply global qemu64-x86_64-cpu.hv-relaxed=on: Property 'qemu64-x86_64-cpu.hv-relaxed' not found: \
             Hyper-V enlightenments are not supported",
        ),
        // An object is looked at before the character device that names it.
        (
            r#"-machine none -object '{"qom-type":"tls-creds-x509","id":"t"}' -chardev socket,id=c,path=s,server=on,wait=off,tls-creds=t"#,
            r#"-object {"qom-type":"tls-creds-x509","id":"t"}: Parameter 'qom-type' does not accept value 'tls-creds-x509'"#,
        ),
    ]);
}

#[test]
fn help_about_keys_is_the_answer_to_a_wrong_command_line() {
    for (line, text) in [
        ("-global help", "global options:\n  driver=<str>\n  property=<str>\n  value=<str>\n"),
        ("-overcommit help", "overcommit options:\n  cpu-pm=<bool (on/off)>\n  mem-lock=<str>\n"),
        ("-m 1G,help", "memory options:\n  maxmem=<size>\n  size=<size>\n  slots=<num>\n"),
        ("-mon x,help", "mon options:\n  chardev=<str>\n  mode=<str>\n  pretty=<bool (on/off)>\n"),
    ] {
        let exited = Vm::new().line(line).run();
        assert_eq!(
            (exited.code, exited.stdout.as_str(), exited.stderr.as_str()),
            (Some(1), text, ""),
            "{line}"
        );
    }
}

#[test]
fn old_usage_is_warned_of_unless_a_test_drives_the_machine() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let numa = "-machine pc-i440fx-5.0 -m 64M -smp 8,dies=2,modules=2,cores=2 -numa node,mem=64M,cpus=0-6 -S";
    let mut vm = Vm::new().accel("sim").line(numa).qmp().start();
    vm.qmp().ok("query-status", serde_json::json!({}));
    let warning = "qemu-system-x86_64: warning: ";
    let expected = [
        format!(
            "{warning}Machine type 'pc-i440fx-5.0' is deprecated: machines more than 3 years old are subject to \
             deletion after 6 years"
        ),
        "qemu-system-x86_64: -numa node,mem=64M,cpus=0-6: warning: Parameter -numa node,mem is deprecated, use -numa \
         node,memdev instead"
            .to_owned(),
        format!(
            "{warning}CPU(s) not present in any NUMA nodes: CPU 7 [socket-id: 0, die-id: 1, module-id: 1, core-id: 1, \
             thread-id: 0]"
        ),
        format!(
            "{warning}All CPU(s) up to maxcpus should be described in NUMA config, ability to start up with partial \
             NUMA mappings is obsoleted and will be removed in future"
        ),
    ];
    assert_eq!(vm.stderr().lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_signal_ends_the_program_whatever_a_shutdown_does() {
    let mut vm = Vm::new().line("-machine none -no-shutdown").qmp().start();
    vm.qmp().ok("query-status", serde_json::json!({}));
    vm.signal(rustix::process::Signal::TERM);
    assert_eq!(vm.wait().code, Some(0));
}

#[test]
fn globals_of_no_class_are_warned_of() {
    let mut vm = Vm::new().line("-machine none -global foo.bar=1").qmp().start();
    vm.qmp().ok("query-status", serde_json::json!({}));
    assert_eq!(vm.stderr(), "qemu-system-x86_64: warning: global foo.bar has invalid class name\n");
}

#[test]
fn clients_are_told_what_the_command_line_takes() {
    let mut vm = Vm::new().line("-machine none").qmp().start();
    let mut of = |option: &str| {
        let list = vm.qmp().ok("query-command-line-options", json!({ "option": option }));
        assert_eq!((list.as_array().unwrap().len(), &list[0]["option"]), (1, &json!(option)));
        list[0]["parameters"].as_array().unwrap().clone()
    };
    let typed =
        |list: &[Value], name: &str| list.iter().find(|p| p["name"] == name).map(|p| p["type"].clone());
    let memory = of("memory");
    let types = ["size", "maxmem", "slots"].map(|name| typed(&memory, name));
    assert_eq!(types, [Some(json!("size")), Some(json!("size")), Some(json!("number"))]);
    assert_eq!(typed(&of("machine"), "hpet"), Some(json!("boolean")));
    assert_eq!(typed(&of("name"), "debug-threads"), Some(json!("boolean")));
    assert_eq!(typed(&of("chardev"), "logfile"), Some(json!("string")));
    assert_eq!(typed(&of("smp-opts"), "maxcpus"), Some(json!("number")));
    assert!(of("device").is_empty());
    let error = vm.qmp().err("query-command-line-options", json!({ "option": "x" }));
    assert_eq!(error, ("GenericError".into(), "invalid option name: x".into()));
}

#[test]
fn states_that_move_are_written_down() {
    refused(&[
        (
            "-dump-vmstate /nonexistent/x",
            "-dump-vmstate /nonexistent/x: open /nonexistent/x: No such file or directory",
        ),
        ("-dump-vmstate /", "-dump-vmstate /: open /: Is a directory"),
        (
            "-dump-vmstate /dev/null -dump-vmstate b",
            "-dump-vmstate b: only one '-dump-vmstate' option may be given",
        ),
        (
            "-machine foo -dump-vmstate /dev/null",
            "unsupported machine type: \"foo\"\nUse -machine help to list supported machines",
        ),
    ]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("states").display().to_string();
    // What is not needed for it is not looked at.
    let exited = Vm::new()
        .line(&format!("-machine q35 -device nonesuch -kernel /nonexistent -dump-vmstate {file}"))
        .run();
    assert_eq!((exited.code, &*exited.stderr), (Some(0), ""));
    let states: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(states["vmschkmachine"]["Name"], "pc-q35-10.0");
    // QEMU lists classes of devices, we the states.
    let versions = [&states["serial"]["version"], &states["isa-serial"]["version_id"]];
    assert!(versions.iter().any(|version| version.is_u64()));
}

/// KiB that `/proc/PID/status` tells of a machine.
fn kib(vm: &Vm, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", vm.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn memory_is_locked_at_once_or_when_it_is_used() {
    const RAM: u64 = 300 << 10;
    let start = |options: &str| {
        let mut vm = Vm::new().line("-machine q35 -m 300M").line(options).qmp().start();
        vm.qmp().ok("query-status", serde_json::json!({}));
        let found = (kib(&vm, "VmLck"), kib(&vm, "VmRSS"));
        assert_eq!(vm.quit().code, Some(0));
        found
    };
    let (locked, resident) = start("-overcommit mem-lock=on");
    assert!(locked > RAM && resident > RAM, "{locked} {resident}");
    let (locked, resident) = start("-overcommit mem-lock=on -overcommit mem-lock=on-fault,cpu-pm=off");
    assert!(locked > RAM && resident < RAM, "{locked} {resident}");
    let (locked, resident) = start("-overcommit mem-lock=on -overcommit mem-lock=off");
    assert!(locked == 0 && resident < RAM, "{locked} {resident}");
}

#[test]
fn options_about_messages_say_all_of_it_each() {
    let told =
        |options: &str| Vm::new().line(options).line("-name n1 -machine none -chardev foo,id=x").run().stderr;
    let rest = "qemu-system-x86_64: -chardev foo,id=x: 'foo' is not a valid char driver name\n";
    assert_eq!(told("-msg timestamp=on -msg guest-name=on"), format!("n1 {rest}"));
    assert_eq!(told("-msg guest-name=on -msg timestamp=off"), rest);
    let both = told("-msg timestamp=on,guest-name=on");
    let (time, line) = both.split_once(' ').unwrap();
    assert_eq!(line, format!("n1 {rest}"));
    assert!(time.ends_with('Z') && time.len() == "2026-11-21T00:51:22.792136Z".len(), "{time}");
    let short = Vm::new().line("-machine none -overcommit realtime").run().stderr;
    let warned = "qemu-system-x86_64: -overcommit realtime: warning: short-form boolean option 'realtime' deprecated\n\
        Please use realtime=on instead\n\
        qemu-system-x86_64: -overcommit realtime: Invalid parameter 'realtime'\n";
    assert_eq!(short, warned);
}

//! Trace events and the log: lines as QEMU writes them, switched by command line, QMP and console; files that fail; that every declared
//! event is emitted somewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tests::program::qemu;
use tests::virtio_mem::Kind;
use tests::{Need, VirtioMem, Vm, VmBuilder, have, pci};

const M: u64 = 1 << 20;
const BLOCK: u64 = 2 * M;
/// Where device memory begins on this machine.
const BASE: u64 = 4 << 30;

fn machine() -> VmBuilder {
    Vm::new().line(
        "-machine q35 -m 64M,maxmem=1G -object memory-backend-ram,id=mem0,size=128M \
         -device virtio-mem-pci,id=vm0,memdev=mem0,requested-size=64M",
    )
}

fn log(vm: &Vm) -> String {
    fs::read_to_string(vm.scratch().join("log")).unwrap()
}

fn set(vm: &mut Vm, name: &str, enable: bool) {
    vm.qmp().ok("trace-event-set-state", json!({"name": name, "enable": enable}));
}

/// The names of the events that are on, the last one first.
fn on(vm: &mut Vm, name: &str) -> Vec<String> {
    let all = vm.qmp().ok("trace-event-get-state", json!({ "name": name }));
    let on = all.as_array().unwrap().iter().filter(|event| event["state"] == "enabled");
    on.map(|event| event["name"].as_str().unwrap().to_owned()).collect()
}

/// A driver plugs and unplugs blocks.
fn plug_and_unplug(vm: &mut Vm) {
    let function = pci::Function::at(1);
    let mut driver = VirtioMem::map(vm.qtest(), function, 0);
    assert!(driver.init_usual(vm.qtest()));
    assert_eq!(driver.request(vm.qtest(), Kind::Plug, BASE, 3), "ACK");
    assert_eq!(driver.request(vm.qtest(), Kind::State, BASE, 4), "ACK/MIXED");
    assert_eq!(driver.request(vm.qtest(), Kind::Unplug, BASE + BLOCK, 1), "ACK");
    assert_eq!(driver.request(vm.qtest(), Kind::Plug, BASE + BLOCK / 2, 1), "ERROR");
    assert_eq!(driver.request(vm.qtest(), Kind::UnplugAll, 0, 0), "ACK");
}

/// What [`plug_and_unplug`] traces of the device.
const REQUESTS: &str = "\
    virtio_mem_plug_request addr=0x100000000 nb_blocks=3\n\
    virtio_mem_send_response type=0\n\
    virtio_mem_state_request addr=0x100000000 nb_blocks=4\n\
    virtio_mem_state_response state=2\n\
    virtio_mem_send_response type=0\n\
    virtio_mem_unplug_request addr=0x100200000 nb_blocks=1\n\
    virtio_mem_send_response type=0\n\
    virtio_mem_plug_request addr=0x100100000 nb_blocks=1\n\
    virtio_mem_send_response type=3\n\
    virtio_mem_unplug_all_request \n";

#[test]
fn what_is_plugged_is_traced_in_qemus_lines_while_it_is_wanted() {
    if !have(&[Need::QtestAccel]) {
        return;
    }
    let programs = [None, qemu()];
    for program in programs.iter().enumerate().filter(|(n, p)| *n == 0 || p.is_some()).map(|(_, p)| p) {
        let builder = machine().line("-D $RUN/log").qmp().qtest();
        let mut vm = match program {
            Some(path) => builder.program(path).accel("tcg").line("-S").start(),
            None => builder.start(),
        };
        set(&mut vm, "virtio_mem_*", true);
        set(&mut vm, "virtio_mem_resized_usable_region", false);
        plug_and_unplug(&mut vm);
        let text = log(&vm);
        let end = text.strip_prefix(REQUESTS).unwrap_or_else(|| panic!("{text}"));
        assert_eq!(end, "virtio_mem_unplugged_all \nvirtio_mem_send_response type=0\n");
        set(&mut vm, "virtio_mem_*", false);
        plug_and_unplug(&mut vm);
        assert_eq!(log(&vm), text, "nothing more");
        assert_eq!(on(&mut vm, "virtio_mem_*"), [""; 0]);
    }
}

#[test]
fn events_are_listed_and_switched_by_name_and_pattern() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut vm = machine().line("-trace virtio_mem_* -trace -virtio_mem_s*").qmp().hmp().start();
    let wanted = [
        "virtio_mem_resized_usable_region",
        "virtio_mem_unplug_all_request",
        "virtio_mem_unplugged_all",
        "virtio_mem_unplug_request",
        "virtio_mem_plug_request",
    ];
    assert_eq!(on(&mut vm, "*"), wanted);
    for command in ["trace-event-get-state", "trace-event-set-state"] {
        let mut arguments = json!({"name": "foo"});
        if command.ends_with("set-state") {
            arguments["enable"] = true.into();
        }
        let (class, text) = vm.qmp().err(command, arguments);
        assert_eq!((class.as_str(), text.as_str()), ("GenericError", "unknown event \"foo\""));
    }
    assert_eq!(vm.qmp().ok("trace-event-get-state", json!({"name": "foo*"})), json!([]));
    set(&mut vm, "foo*", true);
    vm.qmp().ok(
        "trace-event-set-state",
        json!({"name": "runstate_set", "enable": true, "ignore-unavailable": true}),
    );
    assert_eq!(on(&mut vm, "r*"), ["runstate_set"]);
    let run = |vm: &mut Vm, line: &str| vm.hmp().run(line);
    assert_eq!(run(&mut vm, "info trace-events runstate_set"), "runstate_set : state 1\n");
    assert_eq!(run(&mut vm, "trace-event runstate_set off"), "");
    assert_eq!(run(&mut vm, "info trace-events runstate_set 0"), "runstate_set : state 0\n");
    assert_eq!(
        run(&mut vm, "info trace-events virtio_mem_state*"),
        "virtio_mem_state_response : state 0\nvirtio_mem_state_request : state 0\n"
    );
    let more = "Try \"help trace-event\" for more information\n";
    for (line, text) in [
        ("trace-event foo on", "unknown event \"foo\"\n".to_owned()),
        ("trace-event -runstate_set on", "unknown event \"-runstate_set\"\n".to_owned()),
        ("info trace-events foo", "unknown event \"foo\"\n".to_owned()),
        ("info trace-events foo*", String::new()),
        ("trace-event", format!("trace-event: string expected\n{more}")),
        ("trace-event runstate_set", format!("Expected 'on' or 'off'\n{more}")),
        ("trace-event runstate_set onn", format!("Expected 'on' or 'off'\n{more}")),
        ("trace-event runstate_set on x", format!("invalid char 'x' in expression\n{more}")),
    ] {
        assert_eq!(run(&mut vm, line), text, "{line}");
    }
}

#[test]
fn the_log_file_changes_while_the_machine_runs_and_failures_leave_the_old_one() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut vm = machine().line("-S -D $RUN/log -trace runstate_set").qmp().hmp().start();
    let to = |vm: &mut Vm, name: &str| {
        let path = vm.scratch().join(name).to_str().unwrap().to_owned();
        vm.hmp().run(&format!("logfile {path}"))
    };
    let (start, stop) = (
        "runstate_set current_run_state 6 (prelaunch) new_state 9 (running)\n",
        "runstate_set current_run_state 9 (running) new_state 4 (paused)\n",
    );
    vm.qmp().ok("cont", json!({}));
    assert_eq!(log(&vm), start);
    let missing = vm.scratch().join("none/x").to_str().unwrap().to_owned();
    let complaint = format!("Error opening logfile {missing}: No such file or directory\n");
    assert_eq!(to(&mut vm, "none/x"), complaint);
    assert_eq!(vm.hmp().run("logfile /tmp/x%s"), "Bad logfile template: /tmp/x%s\n");
    vm.qmp().ok("stop", json!({}));
    assert_eq!(log(&vm), format!("{start}{stop}"));
    assert_eq!(to(&mut vm, "second-%d"), "");
    vm.qmp().ok("cont", json!({}));
    let second = vm.scratch().join(format!("second-{}", vm.pid().as_raw_nonzero()));
    assert_eq!(fs::read_to_string(&second).unwrap(), stop_to_running());
    // A disk without room stops nothing, and says so once there is room.
    assert_eq!(vm.hmp().run("logfile /dev/full"), "");
    for _ in 0..3 {
        vm.qmp().ok("stop", json!({}));
        vm.qmp().ok("cont", json!({}));
    }
    assert_eq!(vm.qmp().ok("query-status", json!({}))["running"], true);
    assert_eq!(to(&mut vm, "log"), "");
    vm.qmp().ok("stop", json!({}));
    assert_eq!(log(&vm), stop);
}

fn stop_to_running() -> &'static str {
    "runstate_set current_run_state 4 (paused) new_state 9 (running)\n"
}

#[test]
fn a_file_of_events_and_a_file_for_the_log_are_options_of_trace() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let builder = machine();
    fs::write(
        builder.scratch().join("events"),
        "# run state\nrunstate_*\n\nnone_such\n-runstate_set\nvm_state_notify\n",
    )
    .unwrap();
    let mut vm = builder.line("-S -trace events=$RUN/events,file=$RUN/log -D $RUN/other").qmp().start();
    vm.qmp().ok("cont", json!({}));
    assert_eq!(log(&vm), "vm_state_notify running 1 reason 9 (running)\n");
    let warning =
        format!("{}/events:4: warning: trace event 'none_such' does not exist\n", vm.scratch().display());
    assert!(vm.stderr().contains(&warning), "{}", vm.stderr());
    assert!(!vm.scratch().join("other").exists());
}

#[test]
fn with_time_stamps_lines_begin_with_thread_and_time() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut vm = machine().line("-S -D $RUN/log -msg timestamp=on -trace runstate_set").qmp().start();
    vm.qmp().ok("cont", json!({}));
    let text = log(&vm);
    let (begin, line) = text.split_once(':').unwrap();
    assert_eq!(line, "runstate_set current_run_state 6 (prelaunch) new_state 9 (running)\n");
    let (thread, time) = begin.split_once('@').unwrap();
    assert_eq!(thread, vm.pid().as_raw_nonzero().to_string());
    let (seconds, micros) = time.split_once('.').unwrap();
    assert!(seconds.parse::<u64>().unwrap() > 1_000_000_000);
    assert_eq!((micros.len(), micros.parse::<u32>().is_ok()), (6, true));
}

#[test]
fn mistakes_on_the_command_line_are_named() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let run = |line: &str| machine().line(line).run();
    let unknown =
        machine().line("-trace enable=none_such -d trace:none_either -trace none_such*").qmp().start();
    let stderr = unknown.stderr();
    assert!(
        stderr.contains("-trace enable=none_such: warning: trace event 'none_such' does not exist\n"),
        "{stderr}"
    );
    assert!(stderr.contains(": warning: trace event 'none_either' does not exist\n"), "{stderr}");
    assert!(!stderr.contains("none_such*"), "{stderr}");
    for (line, text) in [
        ("-trace foo=bar", "-trace foo=bar: Invalid parameter 'foo'"),
        ("-trace events=/none/such", "/none/such: No such file or directory"),
        ("-trace file=/none/such", "Error opening logfile /none/such: No such file or directory"),
        ("-D x%s", "Bad logfile template: x%s"),
    ] {
        let exited = run(line);
        assert!(exited.code == Some(1) && exited.stderr.contains(text), "{line}: {exited:?}");
    }
    let help = run("-d help");
    assert_eq!(help.code, Some(1));
    assert!(help.stdout.starts_with("Log items (comma separated):\nunimp           "), "{}", help.stdout);
    assert!(help.stdout.ends_with("\n\nUse \"-d trace:help\" to get a list of trace events.\n\n"));
    for wrong in ["-d nosuch", "-d unimp,tid", "-d none"] {
        assert_eq!(run(wrong), help, "{wrong}");
    }
    let list = run("-trace help");
    assert_eq!((list.code, &run("-d trace:help").stdout), (Some(0), &list.stdout));
    assert!(list.stdout.lines().count() >= 60 && list.stdout.lines().any(|name| name == "virtio_set_status"));
}

#[test]
fn accesses_to_nothing_and_mistakes_of_a_driver_are_logged_if_that_is_wanted() {
    if !have(&[Need::QtestAccel]) {
        return;
    }
    let mut vm = machine().line("-D $RUN/log -d invalid_mem").qmp().hmp().qtest().start();
    vm.qtest().read(0x9000_0000, 4);
    vm.qtest().write(0x9000_0000, 4, 1);
    vm.qtest().read(0xb000_0001, 4);
    // Ports answer with ones, which is no mistake.
    vm.qtest().inp(0x1234, 1);
    let holes = "Invalid read at addr 0x90000000, size 4, region '(null)', reason: rejected\n\
                 Invalid write at addr 0x90000000, size 4, region '(null)', reason: rejected\n\
                 Invalid read at addr 0xB0000001, size 1, region '(null)', reason: rejected\n\
                 Invalid read at addr 0xB0000002, size 2, region '(null)', reason: rejected\n\
                 Invalid read at addr 0xB0000004, size 1, region '(null)', reason: rejected\n";
    assert_eq!(log(&vm), holes);
    assert_eq!(vm.hmp().run("log guest_errors,trace:virtio_mem_send_response"), "");
    plug_and_unplug(&mut vm);
    vm.qtest().read(0x9000_0000, 4);
    let more = log(&vm)[holes.len()..].to_owned();
    let wrong = "virtio-mem: blocks that cannot be meant: Plug(Span { addr: 4296015872, blocks: 1 })\n";
    assert_eq!(more.matches(wrong).count(), 1, "{more}");
    assert!(!more.contains("Invalid"), "{more}");
    assert_eq!(vm.hmp().run("log none"), "");
    plug_and_unplug(&mut vm);
    assert_eq!(log(&vm).matches(wrong).count(), 1);
    assert_eq!(on(&mut vm, "*"), ["virtio_mem_send_response"], "these stay");
    let items = vm.qmp().ok("x-pliant-query-log", json!({}));
    assert!(items.as_array().unwrap().iter().all(|item| item["enabled"] == Value::Bool(false)), "{items}");
    let (_, text) = vm.qmp().err("x-pliant-set-log", json!({"items": ["unimp", "tid"]}));
    assert_eq!(text, "Parameter 'items' does not accept value 'tid'");
    assert!(vm.hmp().run("log unimp,tid").starts_with("Log items (comma separated):\nnone            "));
    assert_eq!(vm.hmp().run("log trace:none_such"), "warning: trace event 'none_such' does not exist\n");
}

#[test]
fn a_guest_that_errs_for_ever_does_not_fill_the_disk_and_is_counted() {
    if !have(&[Need::QtestAccel]) {
        return;
    }
    let mut vm = machine().line("-D $RUN/log -d invalid_mem").qmp().qtest().start();
    for _ in 0..6000 {
        vm.qtest().read(0x9000_0000, 4);
    }
    vm.qmp().ok("x-pliant-set-log", json!({"items": []}));
    let text = log(&vm);
    let (shown, notes): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.starts_with("Invalid"));
    let suppressed =
        notes.iter().map(|note| note.strip_suffix(" messages suppressed").unwrap().parse::<usize>().unwrap());
    assert_eq!(shown.len() + suppressed.sum::<usize>(), 6000);
    assert!(shown.len() < 6000 && !notes.is_empty());
}

/// Names behind `mark` in all sources of a crate, up to what ends a name.
fn names(crates: &[PathBuf], mark: &str) -> BTreeSet<String> {
    let mut folders = crates.to_vec();
    let mut found = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = fs::read_to_string(path).unwrap();
                let name = |rest: &str| {
                    let rest = rest.trim_start();
                    rest[..rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len())]
                        .to_owned()
                };
                found.extend(text.split(mark).skip(1).map(name));
            }
        }
    }
    found
}

#[test]
fn every_event_that_is_declared_is_emitted_and_the_other_way_round() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let sources =
        ["memory", "chardev", "net", "accel", "hw", "monitor"].map(|name| root.join(name).join("src"));
    let emitted = names(&sources, "trace::emit!(");
    let list = machine().line("-trace help").run().stdout;
    let declared: BTreeSet<_> = list.lines().map(str::to_owned).collect();
    assert_eq!(list.lines().count(), declared.len(), "names are unique");
    assert_eq!(declared, emitted);
}

/// Every event that is not only ours is one of QEMU's.
#[test]
fn names_that_are_not_marked_as_ours_are_qemus() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let Some(qemu) = qemu() else { return };
    let list = |builder: VmBuilder| builder.bare().line("-trace help").run().stdout;
    let theirs = list(Vm::new().program(&qemu));
    let theirs: BTreeSet<_> = theirs.lines().collect();
    let ours = list(Vm::new());
    let strangers: Vec<_> =
        ours.lines().filter(|name| !name.starts_with("pliant_") && !theirs.contains(name)).collect();
    assert_eq!(strangers, [""; 0]);
}

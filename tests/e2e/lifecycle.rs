//! The life of a machine as management sees it: start, stop, reset, shutdown, signals, daemon, files.

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};
use tests::{Exited, Need, Peer, Qmp, Vm, VmBuilder, have, program};

/// A machine without a vCPU, which runs even where the qtest accelerator is not there.
fn none() -> VmBuilder {
    running(Vm::new().line("-machine none"))
}

/// For machines without vCPUs QEMU needs no stopping.
fn running(builder: VmBuilder) -> VmBuilder {
    if program::peer() == Peer::Qemu { builder.accel("tcg") } else { builder }
}

#[test]
fn signals_end_the_program_with_an_event_and_a_line_that_names_the_sender() {
    for (signal, number) in [(Signal::TERM, 15), (Signal::INT, 2), (Signal::HUP, 1)] {
        let mut vm = none().qmp().start();
        vm.signal(signal);
        let event = vm.qmp().wait_event("SHUTDOWN", |_| true);
        assert_eq!(event["data"], json!({ "guest": false, "reason": "host-signal" }));
        let exited = vm.wait();
        let name = fs::read("/proc/self/cmdline").unwrap();
        let name = String::from_utf8_lossy(name.split(|&byte| byte == 0).next().unwrap()).into_owned();
        let sender = format!("from pid {} ({name})", std::process::id());
        assert_eq!(exited.stderr, format!("qemu-system-x86_64: terminating on signal {number} {sender}\n"));
        assert_eq!((exited.code, exited.signal), (Some(0), None));
    }
}

#[test]
fn stop_and_cont_are_events_before_their_replies() {
    let mut vm = none().qmp().qmp().start();
    vm.qmp().ok("stop", json!({}));
    assert_eq!(names(&vm.qmp().events()), ["STOP"]);
    assert_eq!(vm.qmp().ok("query-status", json!({})), json!({ "status": "paused", "running": false }));
    vm.qmp().ok("cont", json!({}));
    assert_eq!(names(&vm.qmp().events()), ["RESUME"]);
    vm.qmp_at(1).ok("query-status", json!({}));
    assert_eq!(names(&vm.qmp_at(1).events()), ["STOP", "RESUME"], "every session is told");
}

#[test]
fn a_machine_started_with_s_is_in_prelaunch_until_cont() {
    let mut vm = none().line("-S").qmp().start();
    assert_eq!(vm.qmp().ok("query-status", json!({})), json!({ "status": "prelaunch", "running": false }));
    vm.qmp().ok("cont", json!({}));
    assert_eq!(vm.qmp().ok("query-status", json!({}))["status"], "running");
}

#[test]
fn reset_and_powerdown_are_told_with_their_reasons() {
    let mut vm = Vm::new().line("-machine q35 -m 64M").qmp().start();
    vm.qmp().ok("system_reset", json!({}));
    let reset = vm.qmp().wait_event("RESET", |_| true);
    assert_eq!(reset["data"], json!({ "guest": false, "reason": "host-qmp-system-reset" }));
    vm.qmp().ok("system_powerdown", json!({}));
    vm.qmp().wait_event("POWERDOWN", |_| true);
    vm.qmp().ok("query-status", json!({}));
}

#[test]
fn no_reboot_turns_a_reset_into_a_shutdown_and_no_shutdown_into_a_stop() {
    let exited = {
        let mut vm = none().line("-no-reboot").qmp().start();
        vm.qmp().ok("system_reset", json!({}));
        let event = vm.qmp().wait_event("SHUTDOWN", |_| true);
        assert_eq!(event["data"], json!({ "guest": false, "reason": "host-qmp-system-reset" }));
        vm.wait()
    };
    assert_eq!(exited.code, Some(0));
    let mut vm = none().line("-no-reboot -no-shutdown").qmp().start();
    vm.qmp().ok("system_reset", json!({}));
    vm.qmp().wait_event("STOP", |_| true);
    assert_eq!(vm.qmp().ok("query-status", json!({}))["status"], "shutdown");
    assert_eq!(vm.quit().code, Some(0));
}

#[test]
fn actions_change_while_the_machine_lives_and_mistakes_change_nothing() {
    let mut vm = none().line("-no-reboot -action reboot=reset").qmp().hmp().start();
    vm.qmp().ok("system_reset", json!({}));
    vm.qmp().wait_event("RESET", |_| true);
    let generic = |desc: &str| ("GenericError".to_owned(), desc.to_owned());
    let wrong = vm.qmp().err("set-action", json!({ "reboot": "shutdown", "panic": "flee" }));
    assert_eq!(wrong, generic("Parameter 'panic' does not accept value 'flee'"));
    vm.qmp().ok("system_reset", json!({}));
    vm.qmp().wait_event("RESET", |_| true);
    vm.qmp().ok("set-action", json!({ "reboot": "shutdown", "shutdown": "pause", "panic": "none" }));
    vm.qmp().ok("cont", json!({}));
    vm.qmp().ok("system_reset", json!({}));
    vm.qmp().wait_event("STOP", |_| true);
    assert_eq!(vm.qmp().ok("query-status", json!({}))["status"], "shutdown");
    assert_eq!(vm.qmp().err("watchdog-set-action", json!({})), generic("Parameter 'action' is missing"));
    vm.qmp().ok("watchdog-set-action", json!({ "action": "pause" }));
    assert_eq!(vm.hmp().run("watchdog_action flee"), "Error: invalid parameter value: flee\n");
    assert_eq!(vm.hmp().run("watchdog_action none"), "");
    let asleep = "wake-up from suspend is not supported by this guest";
    assert_eq!(vm.qmp().err("system_wakeup", json!({})), generic(asleep));
    assert_eq!(vm.hmp().run("system_wakeup"), format!("Error: {asleep}\n"));
    vm.qmp().ok("set-action", json!({ "shutdown": "poweroff" }));
    vm.qmp().ok("system_reset", json!({}));
    assert_eq!(vm.wait().code, Some(0));
}

#[test]
fn a_daemon_leaves_its_pid_its_sockets_and_a_silent_parent() {
    let builder = none().line("-daemonize -pidfile $RUN/pid -qmp unix:$RUN/qmp,server=on,wait=off");
    let mut parent = builder.spawn_only();
    let (pid, socket) = (parent.scratch().join("pid"), parent.scratch().join("qmp"));
    let Exited { code, stdout, stderr, .. } = parent.wait_mut();
    // The parent returns when the daemon is ready, so that nothing has to be waited for.
    let mut qmp = connect(&socket);
    let daemon: i32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    qmp.negotiate().unwrap();
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (Some(0), "", ""));
    assert!(Path::new(&format!("/proc/{daemon}")).exists());
    assert_eq!(fs::read_link(format!("/proc/{daemon}/fd/0")).unwrap(), Path::new("/dev/null"));
    qmp.ok("quit", json!({}));
    qmp.wire().rest().unwrap();
}

#[test]
fn what_a_daemon_says_is_in_its_log() {
    for moved in [false, true] {
        let builder =
            none().line("-daemonize -D $RUN/log -pidfile $RUN/pid -qmp unix:$RUN/qmp,server=on,wait=off");
        let mut parent = builder.spawn_only();
        let file = |name: &str| parent.scratch().join(name);
        let [log, pid, socket, other] = ["log", "pid", "qmp", "other"].map(file);
        assert_eq!(parent.wait_mut().code, Some(0));
        let mut qmp = connect(&socket);
        qmp.negotiate().unwrap();
        if moved {
            let line = format!("logfile {}", other.display());
            qmp.ok("human-monitor-command", json!({ "command-line": line }));
        }
        let daemon: i32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(daemon).unwrap(), Signal::TERM).unwrap();
        qmp.wire().rest().unwrap();
        let said = fs::read_to_string(if moved { &other } else { &log }).unwrap();
        assert!(said.contains("terminating on signal 15"), "{said}");
    }
}

fn connect(socket: &Path) -> Qmp {
    let stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    Qmp::new(tests::Wire::new(stream.into()))
}

#[test]
fn the_pid_file_and_the_paths_of_sockets_go_with_the_program() {
    let mut vm = none().line("-pidfile $RUN/pid -serial unix:$RUN/port,server=on,wait=off").qmp().start();
    let (pid, port) = (vm.scratch().join("pid"), vm.scratch().join("port"));
    assert!(port.exists());
    let written: i32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    assert_eq!(written, vm.pid().as_raw_nonzero().get());
    let _ = vm.qmp().try_execute("quit", json!({}));
    vm.wait_mut();
    assert!(!pid.exists() && !port.exists(), "both go with the program");
}

#[test]
fn who_is_started_twice_leaves_the_first_one_alone() {
    let line = "-pidfile $RUN/pid -serial unix:$RUN/port,server=on,wait=off";
    let mut first = none().line(line).qmp().start();
    let [pid, port] = ["pid", "port"].map(|name| first.scratch().join(name));
    let folder = first.scratch().display().to_string();
    let second = none().line(&line.replace("$RUN", &folder)).run();
    let reason = "cannot create PID file: Cannot lock pid file: Resource temporarily unavailable";
    assert_eq!((second.code, second.stderr), (Some(1), format!("qemu-system-x86_64: {reason}\n")));
    assert!(pid.exists());
    std::os::unix::net::UnixStream::connect(&port).unwrap();
    first.qmp().ok("query-status", json!({}));
}

#[test]
fn a_pid_file_behind_a_link_goes_and_the_link_stays() {
    let builder = none().line("-pidfile $RUN/link").qmp();
    let [link, file] = ["link", "file"].map(|name| builder.scratch().join(name));
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let mut vm = builder.start();
    assert!(file.exists());
    let _ = vm.qmp().try_execute("quit", json!({}));
    vm.wait_mut();
    assert!(!file.exists() && fs::symlink_metadata(&link).is_ok());
}

#[test]
fn the_process_has_the_name_that_was_asked_for() {
    let vm = none().line("-name guest=g,process=a-very-long-process-name").qmp().start();
    let comm = fs::read_to_string(format!("/proc/{}/comm", vm.pid().as_raw_nonzero())).unwrap();
    assert_eq!(comm, "a-very-long-pro\n");
}

#[test]
fn messages_have_a_time_stamp_if_that_is_asked_for() {
    let exited = Vm::new().line("-msg timestamp=on -machine nope").run();
    assert_eq!(exited.code, Some(1));
    let first = exited.stderr.lines().next().unwrap();
    let (time, rest) = first.split_once(' ').unwrap();
    assert_eq!(rest, "qemu-system-x86_64: unsupported machine type: \"nope\"");
    assert_eq!((time.len(), &time[10..11], &time[26..27]), (27, "T", "Z"), "{time}");
}

#[test]
fn names_and_uuids_are_told_as_they_were_given() {
    let uuid = "12345678-1234-5678-9abc-123456789abc";
    let mut vm = none().line(&format!("-name oracle,debug-threads=on -uuid {uuid}")).qmp().hmp().start();
    assert_eq!(vm.qmp().ok("query-name", json!({})), json!({ "name": "oracle" }));
    assert_eq!(vm.qmp().ok("query-uuid", json!({})), json!({ "UUID": uuid }));
    assert_eq!(vm.hmp().run("info name"), "oracle\n");
    assert_eq!(vm.hmp().run("info uuid"), format!("{uuid}\n"));
}

#[test]
fn every_command_that_is_listed_has_a_schema_and_the_other_way_round() {
    let mut vm = none().qmp().start();
    let listed = strings(&vm.qmp().ok("query-commands", json!({})), "name");
    let schema = vm.qmp().ok("query-qmp-schema", json!({}));
    let commands: Vec<Value> = schema
        .as_array()
        .unwrap()
        .iter()
        .filter(|entity| entity["meta-type"] == "command")
        .cloned()
        .collect();
    assert_eq!(listed, strings(&json!(commands), "name"));
}

fn strings(list: &Value, key: &str) -> Vec<String> {
    let mut strings: Vec<String> =
        list.as_array().unwrap().iter().map(|member| member[key].as_str().unwrap().to_owned()).collect();
    strings.sort();
    strings
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event"].as_str().unwrap()).collect()
}

#[test]
fn kvm_that_cannot_be_had_is_an_error() {
    if have(&[Need::Kvm]) || !have(&[Need::Pliant]) {
        // Where it can be had there is nothing to see.
        return;
    }
    let exited = Vm::new().accel("kvm").line("-machine q35").run();
    assert_eq!(exited.code, Some(1));
    assert!(exited.stderr.contains("Could not access KVM kernel module: "), "{}", exited.stderr);
}

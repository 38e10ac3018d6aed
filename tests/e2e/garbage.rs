//! Whatever comes from outside: the program refuses it with one error each, and neither panics nor stops working.

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::json;
use tests::pci::Function;
use tests::virtio_mem::{IDS, Kind, VirtioMem};
use tests::{Need, Peer, Vm, VmBuilder, have, program, share_of};

/// Runs so many cases, or the share of them that is wanted, on one state (a machine), and panics with the smallest one that fails; it is shown, not stored.
fn cases<S: Strategy, T>(
    cases: usize,
    strategy: &S,
    state: T,
    test: impl Fn(&mut T, S::Value) -> Result<(), TestCaseError>,
) -> T {
    let cases = share_of(cases) as u32;
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let state = RefCell::new(state);
    TestRunner::new(config).run(strategy, |value| test(&mut state.borrow_mut(), value)).unwrap();
    state.into_inner()
}

/// What must not be on the standard error of a Rust program.
fn no_panic(stderr: &str) -> Result<(), TestCaseError> {
    prop_assert!(!stderr.contains("panicked"), "{}", stderr);
    Ok(())
}

#[test]
fn garbage_on_qmp_leaves_the_session_and_the_machine_working() {
    let vm = Vm::new().line("-machine none").qmp().qmp().start();
    let piece = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..40),
        2 => prop::sample::select(PIECES.to_vec()).prop_map(|piece: &str| piece.as_bytes().to_vec()),
    ];
    let bytes = prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat());
    cases(100, &bytes, (vm, 0), |(vm, id), bytes| {
        *id += 1;
        // 0xff resets the parser, as a client does that knows nothing of the state it is in.
        let request = format!("\u{0}\n{{\"execute\":\"query-status\",\"id\":\"fence-{id}\"}}\n");
        let fence = [&bytes[..], b"\xff", &request.as_bytes()[1..]].concat();
        vm.qmp().send_raw(&fence).unwrap();
        let sought = format!("\"id\": \"fence-{id}\"");
        loop {
            let line = vm.qmp().recv_line().map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok(), "not JSON: {}", line);
            if line.contains(&sought) {
                break;
            }
        }
        vm.qmp_at(1).ok("query-status", json!({}));
        no_panic(&vm.stderr())
    });
}

#[test]
fn many_requests_at_once_are_all_answered() {
    let mut vm = Vm::new().line("-machine none").qmp().start();
    // Complaints cost less of a turn than commands: after any number of them a command may be the last of the turn.
    for complaints in 0..20 {
        let mut requests = "}\n".repeat(complaints);
        for id in 0..40 {
            requests += &format!("{{\"execute\":\"query-status\",\"id\":{id}}}\n");
        }
        vm.qmp().send_raw(requests.as_bytes()).unwrap();
        for _ in 0..complaints {
            assert!(vm.qmp().recv_line().unwrap().contains("JSON parse error"));
        }
        for id in 0..40 {
            assert!(vm.qmp().recv_line().unwrap().contains(&format!("\"id\": {id}")));
        }
    }
    no_panic(&vm.stderr()).unwrap();
}

/// What garbage is made of, besides random bytes.
const PIECES: [&str; 12] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "{\"execute\":",
    "{\"execute\":\"qom-get\",\"arguments\":{\"path\":\"/machine\",\"property\":\"type\"}}",
    "{\"execute\":\"qom-set\",\"arguments\":{\"path\":\"/machine\"}}",
    "\n",
    "1e999",
];

#[test]
fn garbage_on_the_human_monitor_leaves_it_working() {
    let vm = Vm::new().line("-machine none").hmp().qmp().start();
    let word = prop_oneof![
        3 => "[ -~]{0,12}",
        2 => prop::sample::select(vec!["info ", "qom-get ", "qom-set ", "help ", "device_add ", "object_add ", "\"", "/machine "])
            .prop_map(str::to_owned),
        1 => "\\PC{0,8}",
    ];
    let line = prop::collection::vec(word, 0..8).prop_map(|words| words.concat().replace(['\n', '\r'], ""));
    cases(150, &line, vm, |vm, line| {
        // A line that ends the program is a command, not garbage.
        prop_assume!(
            !line.trim_start().starts_with('q') && !line.contains("exit") && !line.contains("delvm")
        );
        vm.hmp().wire().send(format!("{line}\n").as_bytes()).unwrap();
        // The prompt may be part of what is echoed; the status is not.
        vm.hmp().wire().send(b"info name\ninfo status\n").unwrap();
        vm.hmp().wire().until("VM status: ").map_err(|e| TestCaseError::fail(e.to_string()))?;
        vm.hmp().wire().until("(qemu) ").map_err(|e| TestCaseError::fail(e.to_string()))?;
        vm.qmp().ok("query-status", json!({}));
        no_panic(&vm.stderr())
    });
}

#[test]
fn a_garbage_command_line_ends_with_status_1_and_one_error() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let value = prop_oneof![
        3 => "[a-z0-9=,.:/-]{0,24}",
        1 => "\\PC{0,12}",
        3 => prop::sample::select(VALUES.to_vec()).prop_map(str::to_owned),
    ];
    let option = prop_oneof![
        6 => prop::sample::select(OPTIONS.to_vec()).prop_map(str::to_owned),
        1 => "-{0,2}[a-z]{0,8}",
    ];
    let args = prop::collection::vec((option, value), 1..5);
    cases(300, &args, (), |(), args| {
        let args: Vec<String> = args.into_iter().flat_map(|(option, value)| [option, value]).collect();
        prop_assume!(!args.iter().any(|arg| arg.contains('\0')));
        refused_or_started(Vm::new().args(["-S"]).args(&args).qmp())
    });
}

const OPTIONS: [&str; 14] = [
    "-machine", "-M", "-accel", "-m", "-smp", "-cpu", "-numa", "-object", "-device", "-global", "-name",
    "-uuid", "-chardev", "-mon",
];

const VALUES: [&str; 16] = [
    "pc",
    "q35",
    "none",
    "4G,maxmem=20G",
    "node,nodeid=0",
    "node,memdev=m0",
    "memory-backend-ram,id=m0,size=1G",
    "memory-backend-ram,id=m0,size=-1",
    "virtio-mem-pci,id=vm0,memdev=m0",
    "virtio-mem-pci,id=vm0,memdev=m0,requested-size=99999999999999999999",
    "{\"qom-type\":\"memory-backend-ram\",\"id\":\"m0\",\"size\":1073741824}",
    "{\"driver\":",
    "null,id=c0",
    "chardev=c0,mode=control",
    "size=18446744073709551615",
    "=,=,,=",
];

/// Either the command line is right and the machine starts, or it is refused as QEMU refuses.
fn refused_or_started(builder: VmBuilder) -> Result<(), TestCaseError> {
    match builder.try_start() {
        Ok(vm) => {
            no_panic(&vm.stderr())?;
            prop_assert_eq!(vm.quit().code, Some(0));
        }
        Err(exited) => {
            no_panic(&exited.stderr)?;
            prop_assert!(
                exited.code == Some(1) || (exited.code == Some(0) && !exited.stdout.is_empty()),
                "{:?}",
                exited
            );
            let begin = format!("{}: ", program::ARGV0);
            let errors: Vec<&str> = exited.stderr.lines().filter(|line| line.starts_with(&begin)).collect();
            let errors: Vec<&&str> = errors.iter().filter(|line| !line.contains("warning: ")).collect();
            // One error each; QEMU says two lines of a monitor's character device. Of log items, and of what `-global ?` may be, it
            // says which there are instead.
            let listed = ["Log items", "global options:"].iter().any(|text| exited.stdout.starts_with(text));
            if exited.code == Some(1) {
                prop_assert!(errors.len() == usize::from(!listed), "{:?}", exited);
            }
        }
    }
    Ok(())
}

#[test]
fn a_guest_that_writes_garbage_to_its_device_gets_a_device_that_can_be_reset() {
    let line = "-machine pc -m 256M,maxmem=2G -object memory-backend-ram,id=mem0,size=1G \
                -device virtio-mem-pci,id=vm0,memdev=mem0,requested-size=64M";
    let mut vm = Vm::new().line(line).qmp().qtest().start();
    let function = Function::find(vm.qtest(), 0, IDS.0, IDS.1)[0];
    let driver = VirtioMem::map(vm.qtest(), function, 0);
    let base = driver.config(vm.qtest()).addr;
    let request = prop_oneof![
        // A request of the right form with any values.
        (any::<u16>(), any::<u64>(), any::<u16>()).prop_map(|(kind, addr, n)| tests::virtio_mem::bytes(
            kind % 6,
            addr,
            n
        )),
        (0..4u16, 0..600u64, 0..600u16).prop_map(move |(kind, block, n)| tests::virtio_mem::bytes(
            kind,
            base + (block << 21),
            n
        )),
        prop::collection::vec(any::<u8>(), 0..64),
    ];
    let writes = prop::collection::vec((0..64u64, any::<u64>()), 0..6);
    let case = (request, prop::option::of(0..40usize), writes);
    let (mut vm, _) = cases(200, &case, (vm, driver), |(vm, driver), (request, room, writes)| {
        let qtest = vm.qtest();
        driver.init_usual(qtest);
        driver.request_raw(qtest, &request, room);
        for (offset, value) in writes {
            driver.set_common(qtest, offset, 1, value & 0xff);
            driver.set_device(qtest, offset, 1, value & 0xff);
        }
        // However broken it is now, a reset and a proper request work.
        prop_assert!(driver.init_usual(qtest));
        prop_assert_eq!(driver.request(qtest, Kind::UnplugAll, 0, 0), "ACK");
        prop_assert_eq!(driver.request(qtest, Kind::Plug, base, 1), "ACK");
        prop_assert_eq!(driver.config(qtest).plugged_size, 2 << 20);
        no_panic(&vm.stderr())
    });
    if program::peer() == Peer::Pliant {
        assert_eq!(vm.qmp().ok("query-status", json!({}))["status"], "running");
    }
}

//! How fast a guest writes memory, and limits on it: texts and replies as QEMU's, on a machine without vCPUs and, with rings of KVM, on one with.

use std::time::Instant;

use serde_json::{Value, json};
use tests::wire::patience;
use tests::{Need, Peer, Vm, have, program};

use crate::session::{guest_says, with_guest};

fn generic(desc: &str) -> (String, String) {
    ("GenericError".to_owned(), desc.to_owned())
}

/// Waits for the measurement's end. QEMU calls it unstarted for a moment first.
fn measured(vm: &mut Vm) -> Value {
    loop {
        let info = vm.qmp().ok("query-dirty-rate", json!({ "calc-time-unit": "millisecond" }));
        if info["status"] == "measured" {
            return info;
        }
        std::thread::yield_now();
    }
}

/// A measurement of a second.
fn measure(vm: &mut Vm, mode: &str) -> Value {
    vm.qmp().ok("calc-dirty-rate", json!({ "calc-time": 1, "mode": mode }));
    measured(vm)
}

/// Tries until it is so.
fn settles(mut attempt: impl FnMut() -> Result<(), String>) {
    let end = Instant::now() + patience();
    while let Err(why) = attempt() {
        assert!(Instant::now() < end, "{why}");
    }
}

const NO_RINGS: &str =
    "dirty page limit feature requires KVM with accelerator property 'dirty-ring-size' set'";
const CHECK_LIMITS: &str = "[Please use 'info vcpu_dirty_limit' to query dirty limit for virtual CPU]\n";

#[test]
fn without_rings_samples_and_the_log_are_there_and_limits_are_not() {
    let vm = Vm::new().line("-machine q35 -m 256M -S");
    // QEMU's translator, as it has no other without a guest to run.
    let mut vm = if program::peer() == Peer::Qemu { vm.accel("tcg") } else { vm }.qmp().hmp().start();
    let unstarted = json!({ "status": "unstarted", "start-time": 0, "calc-time": 0, "calc-time-unit": "second",
        "sample-pages": 0, "mode": "page-sampling" });
    assert_eq!(vm.qmp().ok("query-dirty-rate", json!({})), unstarted);
    assert_eq!(
        vm.hmp().run("info dirty_rate"),
        "Status: unstarted\nStart Time: 0 (ms)\nSample Pages: 0 (per GB)\nPeriod: 0 (sec)\nMode: page-sampling\n\
         Dirty rate: (not ready)\n"
    );
    let time = generic("Calculation time is out of range [50ms, 60000ms].");
    for arguments in [json!({ "calc-time": 61 }), json!({ "calc-time": 49, "calc-time-unit": "millisecond" })]
    {
        assert_eq!(vm.qmp().err("calc-dirty-rate", arguments), time);
    }
    assert_eq!(vm.qmp().err("calc-dirty-rate", json!({})), generic("Parameter 'calc-time' is missing"));
    assert_eq!(
        vm.qmp().err("calc-dirty-rate", json!({ "calc-time": 1, "mode": "dirty-ring" })),
        generic("mode dirty-ring is not enabled, use other method instead.")
    );
    for (line, reply) in [
        ("calc_dirty_rate 0", "Incorrect period length specified!\n"),
        ("calc_dirty_rate 61", "Error: Calculation time is out of range [50ms, 60000ms].\n"),
        ("calc_dirty_rate 1 100", "Error: sample-pages is out of range[128, 16384].\n"),
        ("calc_dirty_rate -r -b 1", "Either dirty ring or dirty bitmap can be specified!\n"),
        ("info vcpu_dirty_limit", "Dirty page limit not enabled!\n"),
        ("set_vcpu_dirty_limit -5", "Error: invalid dirty page limit -5\n"),
        ("set_vcpu_dirty_limit 4", &format!("Error: {NO_RINGS}\n")),
        ("cancel_vcpu_dirty_limit", CHECK_LIMITS),
    ] {
        assert_eq!(vm.hmp().run(line), reply, "{line}");
    }
    assert_eq!(vm.qmp().err("set-vcpu-dirty-limit", json!({ "dirty-rate": 5 })), generic(NO_RINGS));
    assert_eq!(vm.qmp().ok("cancel-vcpu-dirty-limit", json!({})), json!({}));
    assert_eq!(vm.qmp().ok("query-vcpu-dirty-limit", json!({})), json!([]));
    for mode in ["page-sampling", "dirty-bitmap"] {
        let arguments = json!({ "calc-time": 300, "calc-time-unit": "millisecond", "mode": mode });
        vm.qmp().ok("calc-dirty-rate", arguments.clone());
        let busy = generic("the dirty rate is already being measured.");
        assert_eq!(vm.qmp().err("calc-dirty-rate", arguments), busy);
        let info = measured(&mut vm);
        let pages = if mode == "page-sampling" { 512 } else { 0 };
        let told = [&info["status"], &info["dirty-rate"], &info["mode"], &info["sample-pages"]];
        assert_eq!(json!(told), json!(["measured", 0, mode, pages]));
        assert!(info["calc-time"].as_u64().unwrap() >= 300 && info["start-time"].as_u64().unwrap() > 0);
    }
    assert_eq!(
        vm.hmp().run("calc_dirty_rate -b 1"),
        "Starting dirty rate measurement with period 1 seconds\n[Please use 'info dirty_rate' to check results]\n"
    );
    measured(&mut vm);
    let text = vm.hmp().run("info dirty_rate");
    assert!(text.ends_with("Period: 1 (sec)\nMode: dirty-bitmap\nDirty rate: 0 (MB/s)\n"), "{text}");
}

#[test]
fn with_rings_each_vcpu_is_told_of_and_can_be_limited() {
    if !have(&[Need::Kvm]) {
        return;
    }
    let mut vm =
        Vm::new().accel("kvm,dirty-ring-size=4096").line("-machine q35 -m 64M -smp 2 -S").qmp().hmp().start();
    assert_eq!(
        vm.qmp().err("calc-dirty-rate", json!({ "calc-time": 1, "mode": "dirty-bitmap" })),
        generic("mode dirty-bitmap is not enabled, use other method instead.")
    );
    let arguments = json!({ "calc-time": 100, "calc-time-unit": "millisecond", "mode": "dirty-ring" });
    vm.qmp().ok("calc-dirty-rate", arguments);
    let info = measured(&mut vm);
    let vcpus = json!([{ "id": 0, "dirty-rate": 0 }, { "id": 1, "dirty-rate": 0 }]);
    assert_eq!((&info["dirty-rate"], &info["vcpu-dirty-rate"]), (&json!(0), &vcpus));
    let text = vm.hmp().run("info dirty_rate");
    assert!(
        text.ends_with(
            "Mode: dirty-ring\nDirty rate: 0 (MB/s)\nvcpu[0], Dirty rate: 0 (MB/s)\nvcpu[1], Dirty rate: 0 (MB/s)\n"
        ),
        "{text}"
    );
    let index = generic("incorrect cpu index specified");
    for cpu in [-1, 2] {
        let arguments = json!({ "cpu-index": cpu, "dirty-rate": 5 });
        assert_eq!(vm.qmp().err("set-vcpu-dirty-limit", arguments), index);
        assert_eq!(vm.qmp().err("cancel-vcpu-dirty-limit", json!({ "cpu-index": cpu })), index);
    }
    let limit = |cpu: u32, rate: u64| json!({ "cpu-index": cpu, "limit-rate": rate, "current-rate": 0 });
    vm.qmp().ok("set-vcpu-dirty-limit", json!({ "dirty-rate": 7 }));
    assert_eq!(vm.qmp().ok("query-vcpu-dirty-limit", json!({})), json!([limit(0, 7), limit(1, 7)]));
    assert_eq!(vm.hmp().run("set_vcpu_dirty_limit 9 1"), "");
    assert_eq!(
        vm.hmp().run("info vcpu_dirty_limit"),
        "vcpu[0], limit rate 7 (MB/s), current rate 0 (MB/s)\nvcpu[1], limit rate 9 (MB/s), current rate 0 (MB/s)\n"
    );
    assert_eq!(vm.hmp().run("cancel_vcpu_dirty_limit 9"), "Error: incorrect cpu index specified\n");
    assert_eq!(vm.hmp().run("cancel_vcpu_dirty_limit 0"), CHECK_LIMITS);
    assert_eq!(vm.qmp().ok("query-vcpu-dirty-limit", json!({})), json!([limit(1, 9)]));
    vm.qmp().ok("set-vcpu-dirty-limit", json!({ "dirty-rate": 0 }));
    assert_eq!(vm.qmp().ok("query-vcpu-dirty-limit", json!({})), json!([]));
}

#[test]
fn a_guest_that_writes_is_measured_in_each_way() {
    if !have(&[Need::Kvm]) {
        return;
    }
    for (accel, modes) in [
        ("kvm", ["page-sampling", "dirty-bitmap"]),
        ("kvm,dirty-ring-size=65536", ["page-sampling", "dirty-ring"]),
    ] {
        let mut vm = with_guest(Vm::new().accel(accel)).line("-machine q35 -m 256M").qmp().serial().start();
        vm.serial().until("ready: ").unwrap();
        guest_says(&mut vm, "dirty 64M 64M", "dirty: writing", &[]);
        for mode in modes {
            // A ring that overflowed has lost some, and on a busy host the guest may not have had a turn: it is found sooner or later.
            // 64 MiB is all there is to be written.
            settles(|| {
                let info = measure(&mut vm, mode);
                let rate = info["dirty-rate"].as_i64().unwrap();
                assert!(rate <= 200, "{accel} {mode}: {info}");
                if rate >= 2 { Ok(()) } else { Err(format!("{accel} {mode}: {info}")) }
            });
        }
        if modes.contains(&"dirty-ring") {
            vm.qmp().ok("set-vcpu-dirty-limit", json!({ "dirty-rate": 16 }));
            // It may pay for what it wrote at once before, and one look may fall into a burst of what was saved up: it settles.
            let within = |rate: &Value| (1..=24).contains(&rate.as_i64().unwrap());
            settles(|| {
                let rate = measure(&mut vm, "dirty-ring")["dirty-rate"].clone();
                let limits = vm.qmp().ok("query-vcpu-dirty-limit", json!({}));
                let settled = within(&rate) && within(&limits[0]["current-rate"]);
                if settled { Ok(()) } else { Err(format!("{rate} {limits}")) }
            });
        }
    }
}

#[test]
fn sizes_of_rings_are_refused_as_qemu_does() {
    let line = |size: &str| {
        Vm::new()
            .bare()
            .line("-display none -nodefaults -S")
            .args(["-accel", &format!("kvm,dirty-ring-size={size}")])
    };
    for (size, why) in [
        ("3", "dirty-ring-size must be a power of two."),
        ("1k", "Parameter 'dirty-ring-size' expects uint64"),
        ("4294967296", "Parameter 'dirty-ring-size' expects uint32_t"),
    ] {
        let said = line(size).run().stderr;
        assert!(said.ends_with(&format!("-accel kvm,dirty-ring-size={size}: {why}\n")), "{said}");
    }
}

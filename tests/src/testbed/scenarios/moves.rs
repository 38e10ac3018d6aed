//! Linux is moved while it works: to another process, into a file and out of it; and it goes on where it was when nothing comes of it.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::cpus::MEM_TOTAL;
use super::memory::{guest_has, resize};
use super::stress::Stress;
use super::{cpus, power, virtio};
use crate::Vm;
use crate::testbed::Linux;

const MIB: u64 = 1 << 20;

/// All that a claim here switches on, so that a process that was a destination has no other ways as a source than it is told.
const CAPABILITIES: [&str; 4] = ["events", "return-path", "multifd", "mapped-ram"];

/// Bytes a second: far less than a guest has in its memory, so that a move lasts until it is told to hurry.
const SLOW: u64 = MIB;
/// Milliseconds that no guest under stress can be moved in where a processor is emulated, and such in which every guest can.
const DOWNTIMES: [u64; 2] = [1, 120_000];

const VM0: &str = "/machine/peripheral/vm0";

fn has_memory_device(guest: &Linux) -> bool {
    guest.boot().options.iter().any(|part| part.contains("virtio-mem-pci,id=vm0"))
}

/// Switches these on beside `events`, and all others off.
fn capabilities(vm: &mut Vm, on: &[&str]) {
    let state = |name: &&str| *name == "events" || on.contains(name);
    let list: Vec<Value> =
        CAPABILITIES.iter().map(|name| json!({ "capability": name, "state": state(name) })).collect();
    vm.qmp().ok("migrate-set-capabilities", json!({ "capabilities": list }));
}

fn parameters(vm: &mut Vm, bandwidth: u64, downtime: u64) {
    let wanted = json!({ "max-bandwidth": bandwidth, "downtime-limit": downtime });
    vm.qmp().ok("migrate-set-parameters", wanted);
}

fn reached(vm: &mut Vm, status: &str) {
    vm.qmp().wait_event("MIGRATION", |event| event["data"]["status"] == status);
}

/// That a migration that was begun ends so; what both sides say otherwise.
fn ends(guest: &mut Linux, there: Option<&Vm>, status: &str) {
    let end = guest.vm().qmp().wait_for("the end of a migration", is_end);
    if end["data"]["status"] != status {
        let info = guest.vm().qmp().ok("query-migrate", json!({}));
        let said = there.map(Vm::stderr).unwrap_or_default();
        panic!("not {status}: {info}\n--- the other process: {said}");
    }
}

fn is_end(event: &Value) -> bool {
    const ENDS: [&str; 3] = ["completed", "failed", "cancelled"];
    event["event"] == "MIGRATION" && ENDS.iter().any(|end| event["data"]["status"] == *end)
}

fn state(vm: &mut Vm) -> String {
    vm.qmp().ok("query-status", json!({}))["status"].as_str().unwrap_or_default().to_owned()
}

/// Another process that awaits the guest on a socket, and the migration to it, which is under way and slow.
pub(super) fn set_out(guest: &mut Linux, ways: &[&str]) -> Vm {
    let mut there = guest.twin();
    let uri = format!("unix:{}", there.scratch().join("incoming").display());
    for vm in [guest.vm(), &mut there] {
        capabilities(vm, ways);
    }
    there.qmp().ok("migrate-incoming", json!({ "uri": uri }));
    parameters(guest.vm(), SLOW, DOWNTIMES[0]);
    guest.vm().qmp().events();
    guest.vm().qmp().ok("migrate", json!({ "uri": uri }));
    reached(guest.vm(), "active");
    there
}

/// Hurries, but not before the guest's memory was gone over twice; then the guest is in the other process. Returns the one it was in.
pub(super) fn arrive(guest: &mut Linux, mut there: Vm) -> Vm {
    parameters(guest.vm(), 0, DOWNTIMES[0]);
    // Who gets through before is fast.
    let again = |event: &Value| event["event"] == "MIGRATION_PASS" && event["data"]["pass"] == 3;
    let seen = guest.vm().qmp().wait_for("the third pass", |event| again(event) || is_end(event));
    if again(&seen) {
        parameters(guest.vm(), 0, DOWNTIMES[1]);
        ends(guest, Some(&there), "completed");
    } else {
        assert_eq!(seen["data"]["status"], "completed", "{}", there.stderr());
    }
    reached(&mut there, "completed");
    assert_eq!([state(guest.vm()), state(&mut there)], ["postmigrate", "running"]);
    guest.is_now_in(there)
}

/// Has the guest give all memory of the device back, and take this much; KiB that it has without the device.
fn plugged(guest: &mut Linux, size: u64) -> u64 {
    resize(guest, "vm0", 0);
    let bare = guest.number(MEM_TOTAL);
    resize(guest, "vm0", size);
    guest_has(guest, bare + (size >> 10));
    bare
}

/// Each device is asked for something that its interrupt answers.
fn devices_work(guest: &mut Linux) {
    virtio::entropy(guest);
    virtio::consoles(guest, 1);
    virtio::balloon_up_and_down(guest);
}

/// A processor that came later is one of those that arrive, and can go there.
pub(super) fn cpu_that_came_goes_along(guest: &mut Linux) {
    let plugged = cpus::plug(guest);
    let there = set_out(guest, &["return-path"]);
    arrive(guest, there);
    cpus::works(guest, &plugged);
    devices_work(guest);
    cpus::unplug(guest, &plugged);
    let plugged = cpus::plug(guest);
    cpus::unplug(guest, &plugged);
}

/// There and back, with sizes asked for between and on the way.
pub(super) fn migrates_under_stress(guest: &mut Linux) {
    let bare = has_memory_device(guest).then(|| plugged(guest, 256 * MIB));
    let mut stress = Stress::start(guest);
    for (ways, sizes) in
        [(&["return-path"][..], [384, 448, 128]), (&["return-path", "multifd"][..], [96, 64, 192])]
    {
        let sizes = sizes.map(|mib| mib * MIB);
        let there = set_out(guest, ways);
        if bare.is_some() {
            guest.vm().qmp().qom_set(VM0, "requested-size", json!(sizes[0]));
        }
        // It answers, on its way.
        stress.goes_on(guest);
        let old = arrive(guest, there);
        stress.moved_from(&old);
        stress.goes_on(guest);
        // Sizes first: a driver that was told to wait would ask again in the midst of what follows, but for another size.
        if let Some(bare) = bare {
            assert_eq!(guest.vm().qmp().qom_get(VM0, "requested-size"), sizes[0]);
            for size in &sizes[1..] {
                resize(guest, "vm0", *size);
                guest_has(guest, bare + (size >> 10));
            }
        }
        devices_work(guest);
    }
    stress.end(guest);
}

/// The driver was told to wait, and asks again by itself, after a minute.
pub(super) fn size_asked_for_on_the_way_is_reached(guest: &mut Linux) {
    let bare = plugged(guest, 256 * MIB);
    let wanted = 320 * MIB;
    let there = set_out(guest, &["return-path"]);
    guest.vm().qmp().qom_set(VM0, "requested-size", json!(wanted));
    guest.run("true");
    arrive(guest, there);
    let qmp = guest.vm().qmp();
    if qmp.qom_get(VM0, "size") != json!(wanted) {
        qmp.wait_event("MEMORY_DEVICE_SIZE_CHANGE", |e| e["data"]["size"] == wanted);
    }
    guest_has(guest, bare + (wanted >> 10));
}

pub(super) fn goes_on_from_a_file(guest: &mut Linux) {
    let mut stress = Stress::start(guest);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let uri = format!("file:{}", folder.path().join("saved").display());
    capabilities(guest.vm(), &["mapped-ram"]);
    parameters(guest.vm(), 0, DOWNTIMES[1]);
    guest.vm().qmp().events();
    guest.vm().qmp().ok("migrate", json!({ "uri": uri }));
    ends(guest, None, "completed");
    let mut there = guest.twin();
    capabilities(&mut there, &["mapped-ram"]);
    there.qmp().ok("migrate-incoming", json!({ "uri": uri }));
    reached(&mut there, "completed");
    assert_eq!([state(guest.vm()), state(&mut there)], ["postmigrate", "running"]);
    let old = guest.is_now_in(there);
    stress.moved_from(&old);
    fs::remove_dir_all(folder.path()).expect("it is ours");
    devices_work(guest);
    stress.end(guest);
}

pub(super) fn stays_when_nothing_comes_of_it(guest: &mut Linux) {
    let mut stress = Stress::start(guest);
    let there = set_out(guest, &["return-path"]);
    stress.goes_on(guest);
    guest.vm().qmp().ok("migrate_cancel", json!({}));
    ends(guest, Some(&there), "cancelled");
    drop(there);
    assert_eq!(state(guest.vm()), "running");
    stress.goes_on(guest);

    let mut there = set_out(guest, &["multifd"]);
    stress.goes_on(guest);
    there.signal(Signal::KILL);
    there.wait_mut();
    ends(guest, Some(&there), "failed");
    assert_eq!(state(guest.vm()), "running");
    stress.goes_on(guest);
    devices_work(guest);
    // What was held for the migration is free again.
    plugged(guest, 192 * MIB);

    let there = set_out(guest, &[]);
    let old = arrive(guest, there);
    stress.moved_from(&old);
    devices_work(guest);
    stress.end(guest);
}

/// A guest that is a host itself, as far as its kernel goes: the processor's state for nested guests is moved, and a reset clears it.
pub(super) fn host_is_moved_and_reboots(guest: &mut Linux) {
    const BECOME_A_HOST: &str =
        "while read -r module; do insmod $module; done </nested/order && [ -c /dev/kvm ]";
    if guest.run("grep -cw svm /proc/cpuinfo || true") == "0" {
        return guest.skip("the processor has no SVM");
    }
    guest.run(BECOME_A_HOST);
    let there = set_out(guest, &["return-path"]);
    arrive(guest, there);
    guest.run("[ -c /dev/kvm ]");
    power::reboot(guest, |guest| {
        guest.vm().qmp().wait_event("MEMORY_DEVICE_SIZE_CHANGE", |e| e["data"]["size"] == 0);
    });
    let wanted = guest.vm().qmp().qom_get(VM0, "requested-size");
    guest.eventually(|guest| {
        guest.run("true");
        let size = guest.vm().qmp().qom_get(VM0, "size");
        if size == wanted { Ok(()) } else { Err(format!("{size} after the reboot, not {wanted}")) }
    });
    guest.run(BECOME_A_HOST);
    // And on from there.
    let there = set_out(guest, &["return-path"]);
    arrive(guest, there);
    guest.run("[ -c /dev/kvm ]");
    devices_work(guest);
}

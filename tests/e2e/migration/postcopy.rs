//! Guests on KVM that go on there before their memory is, and write all the time.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;
use tests::{Need, Qmp, Vm, VmBuilder, have};

use super::{M, capabilities, destination, info, listen, machine, migrate, plug, reached, run_state};
use crate::session::{guest_reached, guest_says, with_guest};

const PLAIN: &[&str] = &["events", "postcopy-ram"];
const PREEMPT: &[&str] = &["events", "postcopy-ram", "postcopy-preempt"];

/// A machine with plugged memory and holes in it.
fn kvm() -> VmBuilder {
    with_guest(Vm::new().accel("kvm"))
        .line("-machine q35 -m 256M,maxmem=4G -smp 2 -object memory-backend-ram,id=mem0,size=1G")
        .line("-device pcie-root-port,id=port,chassis=1 -device virtio-mem-pci,id=vm0,memdev=mem0,bus=port")
        .line("-qmp unix:$RUN/oob,server=on,wait=off")
        .qmp()
        .hmp()
        .serial()
}

/// A client that may talk while the main loop waits.
fn beside(vm: &mut Vm) -> Qmp {
    let path = vm.scratch().join("oob");
    let mut client = Qmp::new(vm.connect(&path));
    client.greeting().unwrap();
    client.ok("qmp_capabilities", json!({ "enable": ["oob"] }));
    client
}

fn out_of_band(client: &mut Qmp, command: &str, arguments: serde_json::Value) {
    let reply =
        client.request(&json!({ "exec-oob": command, "arguments": arguments, "id": command })).unwrap();
    assert_eq!(reply["return"], json!({}), "{reply}");
}

/// Connects two sockets until it is told to break.
struct Relay(String, Arc<Mutex<Vec<UnixStream>>>);

impl Relay {
    fn start(uri: &str) -> Self {
        let to = uri.strip_prefix("unix:").unwrap().to_owned();
        let from = format!("{to}-relay");
        let listener = UnixListener::bind(Path::new(&from)).unwrap();
        let ends = Arc::<Mutex<Vec<UnixStream>>>::default();
        let kept = Arc::clone(&ends);
        thread::spawn(move || {
            while let Ok((near, _)) = listener.accept() {
                let Ok(far) = UnixStream::connect(&to) else { return };
                let copies = [near.try_clone().unwrap(), far.try_clone().unwrap()];
                let (a, b) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                thread::spawn(move || pump(a, b));
                thread::spawn(move || pump(far, near));
                kept.lock().unwrap().extend(copies);
            }
        });
        Self(format!("unix:{from}"), ends)
    }

    fn cut(&self) {
        for end in self.1.lock().unwrap().drain(..) {
            // It may be closed already.
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

fn pump(mut from: UnixStream, mut to: UnixStream) {
    let mut bytes = vec![0; 65536];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    // Either may be closed already.
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// A guest that writes into its plugged memory, on its way; most of its memory has not gone.
fn on_the_way(names: &[&str], relayed: bool) -> (Vm, Vm, Option<Relay>) {
    let mut here = kvm().start();
    here.qmp().qom_set("vm0", "requested-size", json!(64 * M));
    guest_reached(&mut here, &[64 * M]);
    guest_says(&mut here, "dirty 16M 64M", "bytes a second", &[]);
    let mut there = kvm().line("-incoming defer").start();
    for vm in [&mut here, &mut there] {
        capabilities(vm, names);
    }
    let listens = listen(&mut there);
    let relay = relayed.then(|| Relay::start(&listens));
    let uri = relay.as_ref().map_or(listens, |relay| relay.0.clone());
    // Slow enough to be looked at.
    here.qmp()
        .ok("migrate-set-parameters", json!({ "max-bandwidth": 16 * M, "max-postcopy-bandwidth": 65536 }));
    migrate(&mut here, &uri);
    reached(&mut here, "active");
    here.qmp().ok("migrate-start-postcopy", json!({}));
    reached(&mut here, "postcopy-active");
    reached(&mut there, "postcopy-active");
    there.qmp().wait_event("RESUME", |_| true);
    (here, there, relay)
}

/// That no word of the guest's plugged memory is another one.
fn whole(vm: &mut Vm) {
    guest_says(vm, "check", "never written", &["check: ok: ", " 0 words differ"]);
}

fn all_arrives(here: &mut Vm, there: &mut Vm) {
    here.qmp().ok("migrate-set-parameters", json!({ "max-postcopy-bandwidth": 0 }));
    reached(here, "completed");
    reached(there, "completed");
    assert_eq!([run_state(here), run_state(there)], ["postmigrate", "running"]);
}

fn to_the_end(here: &mut Vm, there: &mut Vm) {
    all_arrives(here, there);
    whole(there);
}

fn goes_on_before_its_memory(names: &[&str]) {
    if !have(&[Need::Kvm, Need::Pliant]) {
        return;
    }
    let (mut here, mut there, _) = on_the_way(names, false);
    whole(&mut there);
    let there_now = info(&mut there);
    assert_eq!(there_now["status"], "postcopy-active");
    let now = info(&mut here);
    assert_eq!(now["status"], "postcopy-active");
    assert!(now["ram"]["postcopy-requests"].as_u64().unwrap() > 0, "{now}");
    assert!(now["ram"]["remaining"].as_u64().unwrap() > 0, "{now}");
    assert!(now["downtime"].is_u64(), "{now}");
    // People look at memory that is not there, which waits as the guest does.
    assert!(there.hmp().run("xp /2xw 0x5000000").contains("0000000005000000:"));
    // The guest asks for more again and again, and is put off.
    there.qmp().qom_set("vm0", "requested-size", json!(96 * M));
    assert_eq!(there.qmp().qom_get("vm0", "size"), 64 * M);
    assert_eq!(
        here.qmp().err("migrate_cancel", json!({})).1,
        "Postcopy migration in progress, cannot cancel."
    );
    assert_eq!(here.qmp().err("cont", json!({})).1, "Migration is not finalized yet");
    assert_eq!(there.qmp().err("migrate", json!({ "uri": "unix:x" })).1, "duplicate yank instance");
    assert!(there.hmp().run("info migrate").contains("Migration status: postcopy-active"));
    all_arrives(&mut here, &mut there);
    // First: it says so at once, and whoever asks for something else would take it for a part of the answer.
    guest_reached(&mut there, &[96 * M]);
    whole(&mut there);
}

#[test]
fn a_guest_goes_on_before_its_memory_is_there() {
    goes_on_before_its_memory(PLAIN);
}

#[test]
fn a_guest_goes_on_and_what_it_waits_for_has_a_channel_of_its_own() {
    goes_on_before_its_memory(PREEMPT);
}

fn taken_up_again(names: &[&str]) {
    if !have(&[Need::Kvm, Need::Pliant]) {
        return;
    }
    let (mut here, mut there, relay) = on_the_way(names, true);
    let mut beside = [beside(&mut here), beside(&mut there)];
    whole(&mut there);
    for round in 0..3 {
        match round {
            0 => relay.as_ref().unwrap().cut(),
            1 => out_of_band(&mut beside[0], "migrate-pause", json!({})),
            _ => out_of_band(&mut beside[1], "migrate-pause", json!({})),
        }
        reached(&mut here, "postcopy-paused");
        beside[1].wait_event("MIGRATION", |event| event["data"]["status"] == "postcopy-paused");
        assert_eq!(run_state(&mut here), "finish-migrate");
        assert_eq!(here.qmp().err("cont", json!({})).1, "Migration is not finalized yet");
        let uri = format!("unix:{}", there.scratch().join(format!("again{round}")).display());
        out_of_band(&mut beside[1], "migrate-recover", json!({ "uri": uri }));
        here.qmp().ok("migrate", json!({ "uri": uri, "resume": true }));
        for status in ["postcopy-recover-setup", "postcopy-recover", "postcopy-active"] {
            reached(&mut here, status);
        }
        beside[1].wait_event("MIGRATION", |event| event["data"]["status"] == "postcopy-active");
        whole(&mut there);
    }
    to_the_end(&mut here, &mut there);
    let exited = here.quit();
    assert!(!exited.stderr.contains("panicked"), "{}", exited.stderr);
}

#[test]
fn a_connection_that_breaks_is_taken_up_again() {
    taken_up_again(PLAIN);
}

#[test]
fn two_connections_that_break_are_taken_up_again() {
    taken_up_again(PREEMPT);
}

#[test]
fn memory_that_cannot_come_page_by_page_is_said_beforehand() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let builder = Vm::new();
    // Not every host has a folder that is no tmpfs.
    let disk = builder.scratch().join("memory");
    std::fs::write(&disk, []).unwrap();
    let mut there = builder
        .line("-machine pc,memory-backend=ram -m 64M -object memory-backend-file,id=ram,size=64M,share=on,mem-path=$RUN/memory")
        .line("-incoming defer")
        .qmp()
        .start();
    let on = json!({ "capabilities": [{ "capability": "postcopy-ram", "state": true }] });
    if rustix::fs::statfs(&disk).unwrap().f_type == 0x0102_1994 {
        there.qmp().ok("migrate-set-capabilities", on);
    } else {
        let text = "Postcopy is not supported: Host backend files need to be TMPFS or HUGETLBFS only";
        assert_eq!(there.qmp().err("migrate-set-capabilities", on).1, text);
    }
}

#[test]
fn a_machine_without_a_guest_follows_at_once() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let (mut here, mut there) = (machine().start(), destination().start());
    for vm in [&mut here, &mut there] {
        capabilities(vm, PLAIN);
    }
    plug(&mut here);
    here.qtest().memset(0x200_0000, 64 * M, 0x5a);
    here.qmp().ok("migrate-set-parameters", json!({ "max-bandwidth": 16 * M }));
    let uri = listen(&mut there);
    migrate(&mut here, &uri);
    reached(&mut here, "active");
    assert_eq!(here.hmp().run("migrate_start_postcopy"), "");
    reached(&mut here, "completed");
    reached(&mut there, "completed");
    assert!(super::has_data(&mut there));
    assert!(there.qtest().bytes(0x200_0000 + 32 * M, 4096).iter().all(|byte| *byte == 0x5a));
    assert_eq!([run_state(&mut here), run_state(&mut there)], ["postmigrate", "running"]);
    let ram = &info(&mut here)["ram"];
    assert!(ram["postcopy-bytes"].as_u64().unwrap() > 16 * M, "{ram}");
}

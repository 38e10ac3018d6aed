//! Memory that is compressed on its way: of guests that write meanwhile, and to machines that were told otherwise.

use serde_json::{Value, json};
use tests::{Need, Vm, VmBuilder, have};

use super::{
    M, capabilities, destination, info, listen, machine, migrate, moves_on, plug, reached, run_state,
    sentences,
};
use crate::session::{guest_reached, guest_says, with_guest};

/// Has a machine compress over `channels`.
fn compress(vm: &mut Vm, kind: &str, channels: u8) {
    capabilities(vm, &["events", "multifd"]);
    let parameters = json!({ "multifd-compression": kind, "multifd-channels": channels });
    vm.qmp().ok("migrate-set-parameters", parameters);
}

fn guest() -> VmBuilder {
    with_guest(Vm::new().accel("kvm"))
        .line("-machine q35 -m 64M,maxmem=4G -smp 2 -object memory-backend-ram,id=mem0,size=1G")
        .line("-device virtio-mem-pci,id=vm0,memdev=mem0")
        .qmp()
        .serial()
}

/// Numbers of `query-migrate`'s `ram`.
fn counted(vm: &mut Vm, name: &str) -> u64 {
    let info: Value = info(vm);
    info["ram"][name].as_u64().unwrap_or_else(|| panic!("{name}: {info}"))
}

#[test]
fn a_guest_that_writes_arrives_whichever_way_it_was_compressed() {
    if !have(&[Need::Kvm, Need::Pliant]) {
        return;
    }
    let mut here = guest().start();
    here.qmp().qom_set("vm0", "requested-size", json!(64 * M));
    guest_reached(&mut here, &[64 * M]);
    guest_says(&mut here, "dirty 16M 64M", "bytes a second", &[]);
    for (kind, channels, level) in [("zlib", 1, 1), ("zstd", 16, 1), ("zlib", 16, 6), ("zstd", 2, 9)] {
        let mut there = guest().line("-incoming defer").start();
        for vm in [&mut here, &mut there] {
            compress(vm, kind, channels);
        }
        let name = format!("multifd-{kind}-level");
        // However slow the host compresses: all that the guest writes is soon sent.
        here.qmp().ok("migrate-set-parameters", json!({ name: level, "downtime-limit": 60_000 }));
        let uri = listen(&mut there);
        migrate(&mut here, &uri);
        reached(&mut here, "completed");
        reached(&mut there, "completed");
        assert_eq!([run_state(&mut here), run_state(&mut there)], ["postmigrate", "running"]);
        let [sent, all] = ["multifd-bytes", "transferred"].map(|name| counted(&mut here, name));
        assert!(sent > 0 && sent < all, "{kind} over {channels}: {sent} of {all}");
        let exited = here.quit();
        assert!(!exited.stderr.contains("panicked"), "{}", exited.stderr);
        here = there;
        guest_says(&mut here, "check", "never written", &["check: ok: ", " 0 words differ"]);
    }
}

#[test]
fn a_destination_that_was_told_otherwise_says_so_and_the_source_goes_on() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut source = machine().start();
    capabilities(&mut source, &["events", "return-path"]);
    plug(&mut source);
    for (ours, theirs, text) in [
        ("zlib", "zstd", "flags received 2 flags expected 4"),
        ("zstd", "zlib", "flags received 4 flags expected 2"),
        ("none", "zlib", "flags received 0 flags expected 2"),
        ("zstd", "none", "flags received 4 flags expected 0"),
    ] {
        let mut there = destination().start();
        compress(&mut source, ours, 2);
        compress(&mut there, theirs, 2);
        capabilities(&mut there, &["return-path"]);
        let uri = listen(&mut there);
        migrate(&mut source, &uri);
        reached(&mut source, "failed");
        let exited = there.wait();
        assert_eq!((exited.code, exited.signal), (Some(1), None), "{}", exited.stderr);
        let said = sentences(&exited.stderr);
        // Whichever channel's first packet came first.
        let first = said[0].strip_prefix("multifd 0: ").or_else(|| said[0].strip_prefix("multifd 1: "));
        assert_eq!(first, Some(text), "{said:?}");
        assert_eq!(run_state(&mut source), "running");
    }
    let off =
        json!([{ "capability": "multifd", "state": false }, { "capability": "return-path", "state": false }]);
    source.qmp().ok("migrate-set-capabilities", json!({ "capabilities": off }));
    moves_on(&mut source, true);
}

#[test]
fn pages_at_places_of_their_own_are_not_compressed() {
    let mut vm = machine().start();
    capabilities(&mut vm, &["mapped-ram"]);
    let zlib = json!({ "multifd-compression": "zlib" });
    vm.qmp().ok("migrate-set-parameters", zlib.clone());
    for change in [zlib, json!({ "multifd-compression": "none" }), json!({ "downtime-limit": 1 })] {
        let (_, text) = vm.qmp().err("migrate-set-parameters", change);
        assert_eq!(text, "Mapped-ram only available for non-compressed non-TLS multifd migration");
    }
    let uri = format!("file:{}", super::file(&vm, "saved").display());
    assert_eq!(vm.qmp().err("migrate", json!({ "uri": uri })).1, "Cannot use compression with mapped-ram");
}

//! Guests on KVM that write all the time, and are moved.

use serde_json::json;
use tests::moves::Plan;
use tests::vhost_user::{Backend, Options};
use tests::{Holds, Need, Vm, VmBuilder, have, share_of};

use super::{M, capabilities, info, migrate, reached, run_state};
use crate::session::{guest_reached, guest_says, with_guest};

fn machine() -> VmBuilder {
    with_guest(Vm::new().accel("kvm"))
        .line("-machine q35 -m 256M,maxmem=4G -smp 2 -object memory-backend-ram,id=mem0,size=1G")
        .line("-device pcie-root-port,id=port,chassis=1 -device virtio-mem-pci,id=vm0,memdev=mem0,bus=port")
        .qmp()
        .serial()
}

#[test]
fn a_guest_that_writes_is_moved_back_and_forth_and_resized() {
    if !have(&[Need::Kvm, Need::Pliant]) {
        return;
    }
    // Two at least: the second process holds what the first did.
    let moves = share_of(5).max(2) as u32;
    let plugged = share_of(4) as u64 * 64 * M;
    Plan { moves, plugged, rate: 256 * M }.run(|hop| println!("{hop}"));
}

#[test]
fn attempts_that_fail_leave_nothing_behind() {
    if !have(&[Need::Kvm, Need::Pliant]) {
        return;
    }
    let mut vm = machine().start();
    capabilities(&mut vm, &["events"]);
    vm.qmp().qom_set("vm0", "requested-size", json!(64 * M));
    guest_reached(&mut vm, &[64 * M]);
    let before = Holds::of(&vm);
    for _ in 0..2 {
        for uri in ["unix:/nonexistent", "file:/dev/full", "exec:head -c 10000 > /dev/null"] {
            migrate(&mut vm, uri);
            reached(&mut vm, "failed");
        }
        vm.qmp().ok("migrate-set-parameters", json!({ "max-bandwidth": 65536 }));
        migrate(&mut vm, "exec:cat > /dev/null");
        reached(&mut vm, "active");
        vm.qmp().ok("migrate_cancel", json!({}));
        reached(&mut vm, "cancelled");
        vm.qmp().ok("migrate-set-parameters", json!({ "max-bandwidth": 0 }));
        migrate(&mut vm, "exec:cat > /dev/null");
        reached(&mut vm, "completed");
        vm.qmp().ok("cont", json!({}));
        guest_says(&mut vm, "check", "words differ", &["check: ok: 32 blocks"]);
    }
    before.are_not_exceeded(&mut vm);
}

#[test]
fn memory_that_nobody_writes_is_sent_once() {
    if !have(&[Need::Kvm, Need::Pliant]) {
        return;
    }
    let mut vm = machine().start();
    capabilities(&mut vm, &["events"]);
    guest_reached(&mut vm, &[0]);
    // KVM holds every page to be written when it begins to look. The second look is at a running guest that waits.
    for attempt in 1..=2 {
        migrate(&mut vm, "exec:cat > /dev/null");
        reached(&mut vm, "completed");
        let ram = &info(&mut vm)["ram"];
        let page = ram["page-size"].as_u64().unwrap();
        let sent = ram["normal"].as_u64().unwrap() + ram["duplicate"].as_u64().unwrap();
        let all = ram["total"].as_u64().unwrap() / page;
        assert!(sent <= all + all / 8, "attempt {attempt}: {sent} pages of {all}: {ram}");
        vm.qmp().ok("cont", json!({}));
    }
}

#[test]
fn a_disk_that_another_process_serves_stays() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let builder = Vm::new().line(
        "-machine q35,memory-backend=base -m 256M -object memory-backend-memfd,id=base,size=256M,share=on \
         -chardev socket,id=disk,path=$RUN/backend -device vhost-user-blk-pci,chardev=disk",
    );
    let _backend = Backend::start(&builder.scratch().join("backend"), Options::default());
    let mut vm = builder.qmp().start();
    for _ in 0..2 {
        assert_eq!(
            vm.qmp().err("migrate", json!({ "uri": "exec:cat > /dev/null" })).1,
            "Migration disabled: vhost-user backend lacks VHOST_USER_PROTOCOL_F_LOG_SHMFD feature."
        );
    }
    assert_eq!(run_state(&mut vm), "running");
}

//! Guests on KVM that write all the time, and are moved.

use std::fs;
use std::time::Instant;

use serde_json::json;
use tests::vhost_user::{Backend, Options};
use tests::wire::patience;
use tests::{Need, Vm, VmBuilder, have};

use super::{M, capabilities, listen, migrate, reached, run_state};
use crate::session::{guest_reached, guest_says, with_guest};

fn machine() -> VmBuilder {
    with_guest(Vm::new().accel("kvm"))
        .line("-machine q35 -m 256M,maxmem=4G -smp 2 -object memory-backend-ram,id=mem0,size=1G")
        .line("-device pcie-root-port,id=port,chassis=1 -device virtio-mem-pci,id=vm0,memdev=mem0,bus=port")
        .qmp()
        .serial()
}

/// Descriptors and threads of a process.
fn holds(vm: &Vm) -> [usize; 2] {
    ["fd", "task"]
        .map(|what| fs::read_dir(format!("/proc/{}/{what}", vm.pid().as_raw_nonzero())).unwrap().count())
}

/// That a process holds no more than before, once threads that were told to have ended.
fn holds_no_more(vm: &mut Vm, before: [usize; 2]) {
    let until = Instant::now() + patience();
    loop {
        let now = holds(vm);
        if now[0] <= before[0] && now[1] <= before[1] {
            return;
        }
        assert!(Instant::now() < until, "descriptors and threads: {before:?}, and then {now:?}");
        vm.qmp().ok("query-status", json!({}));
    }
}

#[test]
fn a_guest_that_writes_is_moved_back_and_forth_and_resized() {
    if !have(&[Need::Kvm, Need::Pliant]) {
        return;
    }
    let mut here = machine().start();
    here.qmp().qom_set("vm0", "requested-size", json!(64 * M));
    guest_reached(&mut here, &[64 * M]);
    guest_says(&mut here, "dirty 16M 64M", "bytes a second", &[]);
    let mut first = None;
    for hop in 0..5 {
        capabilities(&mut here, &["events"]);
        let mut there = machine().line("-incoming defer").start();
        capabilities(&mut there, &["events"]);
        let uri = listen(&mut there);
        let before = holds(&here);
        // Less than the guest writes, so that it does not end before the other size is asked for.
        here.qmp().ok("migrate-set-parameters", json!({ "max-bandwidth": 16 * M }));
        migrate(&mut here, &uri);
        reached(&mut here, "active");
        // The guest is told to wait, and asks again where it arrives.
        let during = (80 + 16 * hop) * M;
        here.qmp().qom_set("vm0", "requested-size", json!(during));
        here.qmp().ok("migrate-set-parameters", json!({ "max-bandwidth": 0, "downtime-limit": 2000 }));
        reached(&mut here, "completed");
        reached(&mut there, "completed");
        assert_eq!([run_state(&mut here), run_state(&mut there)], ["postmigrate", "running"]);
        holds_no_more(&mut here, before);
        let exited = here.quit();
        assert!(!exited.stderr.contains("panicked"), "{}", exited.stderr);
        here = there;
        guest_reached(&mut here, &[during]);
        guest_says(&mut here, "check", "never written", &["check: ok: ", " 0 words differ"]);
        let between = (48 + 16 * (hop % 2)) * M;
        here.qmp().qom_set("vm0", "requested-size", json!(between));
        guest_reached(&mut here, &[between]);
        match first {
            None => first = Some(holds(&here)),
            Some(first) => holds_no_more(&mut here, first),
        }
    }
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
    let before = holds(&vm);
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
    holds_no_more(&mut vm, before);
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

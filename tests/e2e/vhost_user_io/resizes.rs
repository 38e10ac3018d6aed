//! A guest reads and writes its disk, with buffers in plugged memory, while that memory is plugged and unplugged.

use super::*;

/// The guest's disk, and the device whose memory it uses.
const DEVICES: &str = "-chardev socket,id=vhost,path=$RUN/vhost -device vhost-user-blk-pci,id=disk,chardev=vhost,num-queues=1 \
    -device virtio-mem-pci,id=vm0,memdev=mem0,requested-size=64M";

/// Sizes one after the other: growing, shrinking, all away, and back.
const SIZES: [u64; 7] = [G, 256 * M, 3 * G, 2 * M, 0, 2 * G, 512 * M];

fn follows(mut rig: Rig) {
    guest_reached(&mut rig.vm, &[64 * M]);
    rig.agree();
    job(&mut rig.vm, "disk write 0 4096 7");
    job(&mut rig.vm, "disk verify 0 4096 7");
    guest_says(&mut rig.vm, "disk run 8192 4096 1 at plugged", "started", &[]);
    rig.moves();
    for size in SIZES {
        rig.resize(size);
        rig.agree();
        rig.moves();
    }
    job(&mut rig.vm, "disk stop");
    // All is taken away by the reset, and plugged anew.
    rig.vm.qmp().ok("system_reset", json!({}));
    guest_reached(&mut rig.vm, &[512 * M]);
    rig.agree();
    job(&mut rig.vm, "disk verify 0 4096 7");
    job(&mut rig.vm, "disk load 16 at plugged");
    guest_says(&mut rig.vm, "check", "words differ", &["check: ok: 256 blocks"]);
    if let Server::Own(backend) = &rig.server {
        assert_eq!(backend.unmapped(), 0, "requests with buffers in memory that is not there");
    }
}

fn ours(name: &'static str, devices: &str) {
    let Some(accel) = accel(name) else { return };
    follows(Rig::own(with_guest(Vm::new().accel(accel)), Options::default(), devices));
}

fn daemons(name: &'static str, devices: &str) {
    let Some(accel) = accel(name).filter(|_| have(&[Need::StorageDaemon])) else { return };
    follows(Rig::daemon(with_guest(Vm::new().accel(accel)), devices));
}

#[test]
fn io_goes_on_beside_resizes_on_kvm() {
    ours("kvm", DEVICES);
}

#[test]
fn io_goes_on_beside_resizes_on_sim() {
    ours("sim", DEVICES);
}

#[test]
fn io_goes_on_beside_resizes_of_dynamic_memslots_on_kvm() {
    ours("kvm", &DEVICES.replace("vm0,", "vm0,dynamic-memslots=on,"));
}

#[test]
fn io_goes_on_beside_resizes_of_dynamic_memslots_on_sim() {
    ours("sim", &DEVICES.replace("vm0,", "vm0,dynamic-memslots=on,"));
}

#[test]
fn io_goes_on_beside_resizes_with_the_storage_daemon_on_sim() {
    daemons("sim", &DEVICES.replace("vm0,", "vm0,dynamic-memslots=on,"));
}

#[test]
fn io_goes_on_beside_resizes_with_the_storage_daemon_on_kvm() {
    daemons("kvm", &DEVICES.replace("vm0,", "vm0,dynamic-memslots=on,"));
}

//! Devices with options of all kinds are followed by the guest: where they lie, how large their blocks are, what is touched at plug.

use serde_json::json;

use super::memory::held;
use super::{M, can, complaints, device, q35, resize};
use crate::session::{guest_reached, guest_says};

#[test]
fn devices_whose_unplugged_memory_may_be_read_are_followed() {
    if !can("kvm") {
        return;
    }
    for mode in ["off", "auto"] {
        let mut vm = q35("kvm", &device(&format!(",unplugged-inaccessible={mode},requested-size=32M")));
        guest_reached(&mut vm, &[32 * M]);
        resize(&mut vm, 8 * M);
        guest_says(&mut vm, "check", "words differ", &["check: ok: 4 blocks"]);
    }
}

#[test]
fn preallocated_blocks_take_their_pages_when_they_are_plugged() {
    if !can("kvm") {
        return;
    }
    for backend in ["ram", "memfd"] {
        let line = format!(
            "-object memory-backend-{backend},id=mem0,size=768M \
             -device virtio-mem-pci,id=vm0,memdev=mem0,prealloc=on,requested-size=64M -append touch=none"
        );
        let mut vm = q35("kvm", &line);
        guest_reached(&mut vm, &[64 * M]);
        let full = held(&vm, 768 * M);
        assert!(full.rss >= 64 * M, "{backend}: {full:?}");
        resize(&mut vm, 0);
        let empty = held(&vm, 768 * M);
        assert!(empty.rss < 8 * M && empty.file == 0, "{backend}: {empty:?}");
    }
}

#[test]
fn a_device_at_an_address_on_a_node_with_large_blocks_is_followed() {
    if !can("kvm") {
        return;
    }
    let mut vm = q35(
        "kvm",
        "-smp 2 -object memory-backend-ram,id=ram0,size=256M -object memory-backend-ram,id=ram1,size=256M \
         -numa node,nodeid=0,cpus=0,memdev=ram0 -numa node,nodeid=1,cpus=1,memdev=ram1 \
         -object memory-backend-ram,id=mem0,size=1G \
         -device virtio-mem-pci,id=vm0,memdev=mem0,memaddr=0x120000000,node=1,block-size=4M,requested-size=32M",
    );
    guest_reached(&mut vm, &[32 * M]);
    guest_says(&mut vm, "mem", "mem: 1 devices", &["mem 0: addr 0x120000000, node 1", "block 4194304"]);
    resize(&mut vm, 4 * M);
    guest_says(&mut vm, "check", "words differ", &["check: ok: 1 blocks"]);
    let devices = vm.qmp().ok("query-memory-devices", json!({}));
    assert_eq!(devices[0]["data"]["memaddr"], 0x1_2000_0000_u64);
    assert!(vm.hmp().run("info numa").contains("node 1 plugged: 4 MB"));
}

#[test]
fn memory_in_slots_is_followed() {
    if !can("kvm") {
        return;
    }
    let line = "-object memory-backend-ram,id=mem0,size=3G \
                -device virtio-mem-pci,id=vm0,memdev=mem0,dynamic-memslots=on,requested-size=1028M \
                -append touch=none";
    let mut vm = q35("kvm", line);
    guest_reached(&mut vm, &[1028 * M]);
    guest_says(&mut vm, "check", "words differ", &["check: ok: 0 blocks verified, 514 never written"]);
    resize(&mut vm, 2 * M);
    resize(&mut vm, 1026 * M);
    resize(&mut vm, 0);
    assert_eq!(complaints(&vm), [""; 0]);
}

#[test]
fn a_device_that_notifies_by_exits_is_followed() {
    for accel in ["kvm", "sim"].into_iter().filter(|accel| can(accel)) {
        let mut vm = q35(accel, &device(",ioeventfd=off,requested-size=32M"));
        guest_reached(&mut vm, &[32 * M]);
        resize(&mut vm, 8 * M);
    }
}

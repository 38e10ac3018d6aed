//! Memory slots of fixed size (`memslots=N`): which parts are mapped for which requested size, what is refused, and that a guest that uses
//! them sees ordinary memory. Ours: QEMU has only `dynamic-memslots`.

use std::fmt::Write as _;

use serde_json::{Value, json};
use tests::oracle::view::device_memory;
use tests::{Need, Vm, VmBuilder, have};

use crate::session::{guest_reached, guest_says, sized, with_guest};

const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

/// The geometry of the pictures: device memory at 0x140000000, 1037 GiB of it.
const PLACE: &str =
    "-machine pc -cpu qemu64,vendor=GenuineIntel,phys-bits=46 -m 4G,maxmem=1041G -append touch=none";

/// The first address of device memory there.
const BASE: u64 = 0x1_4000_0000;

fn device(size: &str, options: &str) -> String {
    format!(
        "-object memory-backend-ram,id=mem0,size={size},reserve=off -device virtio-mem-pci,id=vm0,memdev=mem0{options}"
    )
}

fn ours() -> bool {
    have(&[Need::Pliant])
}

/// What `info mtree` shows of device memory with these parts of 1 GiB mapped.
fn picture(parts: u64) -> String {
    let mut text = "0000000140000000-000001047fffffff (prio 0, i/o): device-memory\n  \
                    0000000140000000-0000007e3fffffff (prio 0, i/o): virtio-mem-memslots\n"
        .to_owned();
    for part in 0..parts {
        let (from, to) = (part * G, part * G + G - 1);
        writeln!(
            text,
            "    {:016x}-{:016x} (prio 0, ram): alias virtio-mem-memslot-{part} @mem0 {from:016x}-{to:016x}",
            BASE + from,
            BASE + to
        )
        .unwrap();
    }
    text
}

fn shown(vm: &mut Vm) -> String {
    device_memory(&vm.hmp().run("info mtree"))
}

/// The sections of the guest's address space that are parts, as `info mtree -f` has them: one for each, never merged.
fn sections(vm: &mut Vm) -> usize {
    let text = vm.hmp().run("info mtree -f");
    let view =
        text.split("FlatView #").find(|view| view.contains("AS \"memory\"")).unwrap_or_default().to_owned();
    view.lines().filter(|line| line.contains(": mem0")).count()
}

/// The four pictures. `follows` waits for the guest, where there is one.
fn pictures(builder: VmBuilder, follows: impl Fn(&mut Vm, u64)) {
    let mut vm = builder.line(PLACE).line(&device("500G", ",memslots=500")).qmp().hmp().start();
    assert_eq!(shown(&mut vm), picture(0));
    for (requested, parts) in [(2 * G, 3), (20 * G, 21)] {
        vm.qmp().qom_set("vm0", "requested-size", json!(requested));
        // At once: what the guest does with it comes later.
        assert_eq!(shown(&mut vm), picture(parts));
        assert_eq!(sections(&mut vm), parts as usize);
        follows(&mut vm, requested);
        assert_eq!(shown(&mut vm), picture(parts));
    }
    vm.qmp().qom_set("vm0", "requested-size", json!(5 * G));
    assert_eq!(shown(&mut vm), picture(21), "the usable region does not shrink under the guest");
    follows(&mut vm, 5 * G);
    vm.qmp().ok("system_reset", json!({}));
    assert_eq!(shown(&mut vm), picture(6));
    follows(&mut vm, 5 * G);
    assert_eq!(shown(&mut vm), picture(6));
    vm.qmp().qom_set("vm0", "requested-size", json!(0));
    vm.qmp().ok("system_reset", json!({}));
    assert_eq!(shown(&mut vm), picture(0));
}

#[test]
fn parts_follow_the_usable_region_on_qtest() {
    if ours() {
        pictures(Vm::new(), |_, _| ());
    }
}

#[test]
fn parts_follow_the_usable_region_on_sim() {
    if ours() {
        pictures(with_guest(Vm::new().accel("sim")), |vm, size| sized(vm, "vm0", size));
    }
}

#[test]
fn parts_follow_the_usable_region_on_kvm() {
    if ours() && have(&[Need::Kvm]) {
        pictures(with_guest(Vm::new().accel("kvm")), |vm, size| sized(vm, "vm0", size));
    }
}

/// What a guest writes stays where it is while parts come.
fn keeps_memory(accel: &str) {
    let line = "-machine q35 -m 512M,maxmem=4G -object memory-backend-ram,id=mem0,size=2G \
                -device virtio-mem-pci,id=vm0,memdev=mem0,memslots=16,requested-size=100M";
    let mut vm = with_guest(Vm::new().accel(accel)).line(line).qmp().hmp().serial().start();
    guest_reached(&mut vm, &[100 * M]);
    for size in [300 * M, 700 * M, 60 * M, 500 * M] {
        vm.qmp().qom_set("vm0", "requested-size", json!(size));
        guest_reached(&mut vm, &[size]);
        let blocks = format!("check: ok: {} blocks", size / (2 * M));
        guest_says(&mut vm, "check", "words differ", &[&blocks]);
    }
    // What was usable with 700 MiB requested stays so.
    assert_eq!(sections(&mut vm), 8);
    vm.qmp().ok("system_reset", json!({}));
    guest_reached(&mut vm, &[500 * M]);
    guest_says(&mut vm, "check", "words differ", &["check: ok: 250 blocks"]);
    assert_eq!(sections(&mut vm), 6);
}

#[test]
fn a_guest_on_kvm_keeps_its_memory_while_parts_come() {
    if ours() && have(&[Need::Kvm]) {
        keeps_memory("kvm");
    }
}

#[test]
fn a_guest_on_sim_keeps_its_memory_while_parts_come() {
    if ours() {
        keeps_memory("sim");
    }
}

#[test]
fn one_part_is_the_plain_mapping_as_ever() {
    if !ours() {
        return;
    }
    let plain = "0000000140000000-000001047fffffff (prio 0, i/o): device-memory\n  \
                 0000000140000000-0000007e3fffffff (prio 0, ram): mem0\n";
    for options in ["", ",memslots=1"] {
        let mut vm = Vm::new().line(PLACE).line(&device("500G", options)).qmp().hmp().start();
        assert_eq!(shown(&mut vm), plain);
        assert_eq!(vm.qmp().qom_get("vm0", "memslots"), 1);
    }
}

#[test]
fn fewer_parts_than_asked_for_may_do() {
    if !ours() {
        return;
    }
    // (device, options, container's last address, first and last part's last addresses)
    for (size, options, parts) in [
        ("1G", ",memslots=1024", &[128; 8][..]),
        ("1G", ",memslots=3", &[384, 384, 256]),
        ("1G", ",memslots=9,block-size=256M", &[256; 4]),
        ("128M", ",memslots=2", &[128]),
        ("4G", ",memslots=0", &[1024; 4]),
    ] {
        let options = format!("{options},requested-size={size}");
        let mut vm = Vm::new().line(PLACE).line(&device(size, &options)).qmp().hmp().start();
        let text = shown(&mut vm);
        let sizes: Vec<u64> = text
            .lines()
            .filter_map(|line| {
                let range = line.split_once(" @mem0 ")?.1;
                let (from, to) = range.split_once('-')?;
                let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
                Some((number(to) + 1 - number(from)) / M)
            })
            .collect();
        assert_eq!(sizes, parts, "{options}: {text}");
    }
}

#[test]
fn bad_numbers_are_refused_with_a_sentence() {
    if !ours() {
        return;
    }
    for (options, sentence) in [
        (
            ",memslots=1025",
            "'memslots' property has value '1025', which exceeds the maximum number of memory slots: 1024",
        ),
        (
            ",memslots=2,dynamic-memslots=on",
            "'memslots' property set to '2' requires 'dynamic-memslots' to be 'off'",
        ),
        (
            ",memslots=0,dynamic-memslots=on",
            "'memslots' property set to '0' requires 'dynamic-memslots' to be 'off'",
        ),
        (",memslots=65536", "Parameter 'memslots' expects uint16_t"),
        (",memslots=-1", "Parameter 'memslots' expects uint16_t"),
        (",memslots=many", "Parameter 'memslots' expects integer"),
    ] {
        let device = device("8G", options);
        let exited = Vm::new().line(PLACE).line(&device).run();
        let text = device.rsplit_once("-device ").unwrap().1;
        assert_eq!(exited.stderr, format!("qemu-system-x86_64: -device {text}: {sentence}\n"));
        assert_eq!(exited.code, Some(1));
    }
    let mut vm = Vm::new().line(PLACE).line(&device("8G", ",memslots=4")).qmp().hmp().start();
    assert_eq!(
        vm.hmp().run("qom-set vm0 memslots 2").trim_end(),
        "Error: Attempt to set property 'memslots' on anonymous device (type 'virtio-mem') after it was realized"
    );
    assert_eq!(vm.qmp().qom_get("vm0", "memslots"), 4);
}

/// The members of one entry of a list in the reply of `x-pliant-query-memslots`.
fn entry(plan: &Value, list: &str, at: usize, names: &[&str]) -> Vec<u64> {
    names.iter().map(|name| plan[list][at][name].as_u64().unwrap()).collect()
}

#[test]
fn the_plan_of_slots_is_told() {
    if !ours() {
        return;
    }
    let second = "-object memory-backend-ram,id=mem1,size=8G,reserve=off -device virtio-mem-pci,memdev=mem1";
    let mut vm =
        Vm::new().line(PLACE).line(&device("500G", ",memslots=500")).line(second).qmp().hmp().start();
    let plan = vm.qmp().ok("x-pliant-query-memslots", json!({}));
    assert_eq!(
        plan,
        json!({
            "limit": 2048, "used": 1, "reserved": 500, "free": 1547, "users": [],
            "devices": [
                { "id": "vm0", "qom-path": "/machine/peripheral/vm0", "parts": 500, "used": 0, "reserved": 500,
                  "part-size": G },
                { "qom-path": "/machine/peripheral-anon/device[0]", "parts": 1, "used": 1, "reserved": 0,
                  "part-size": 8 * G },
            ],
        })
    );
    vm.qmp().qom_set("vm0", "requested-size", json!(2 * G));
    assert_eq!(
        vm.hmp().run("info memslots"),
        "user            limit  used  reserved  free\n\
         memory devices   2048     4       497  1547\n\
         \n\
         device                              parts  used  reserved  part size\n\
         vm0                                   500     3       497      1 GiB\n\
         /machine/peripheral-anon/device[0]      1     1         0      8 GiB\n"
    );
}

#[test]
fn the_plan_counts_the_slots_of_kvm() {
    if !(ours() && have(&[Need::Kvm])) {
        return;
    }
    let mut vm =
        Vm::new().accel("kvm").line("-S").line(PLACE).line(&device("500G", ",memslots=500")).qmp().start();
    let numbers = ["limit", "used", "reserved", "free"];
    let plan = vm.qmp().ok("x-pliant-query-memslots", json!({}));
    assert_eq!((plan["users"].as_array().unwrap().len(), &plan["users"][0]["name"]), (1, &json!("kvm")));
    let before = entry(&plan, "users", 0, &numbers);
    assert_eq!((before[2], before[1] + before[2] + before[3]), (500, before[0]));
    vm.qmp().qom_set("vm0", "requested-size", json!(20 * G));
    let after = entry(&vm.qmp().ok("x-pliant-query-memslots", json!({})), "users", 0, &numbers);
    assert_eq!(after, [before[0], before[1] + 21, 479, before[3]], "what was reserved is used");
}

#[test]
fn all_devices_together_take_2048_slots_at_most() {
    if !ours() {
        return;
    }
    let more = |n: u32, slots: u32| {
        format!(
            "-object memory-backend-ram,id=mem{n},size=200G,reserve=off \
             -device virtio-mem-pci,id=vm{n},memdev=mem{n},memslots={slots}"
        )
    };
    // 200 GiB in 1024 parts are 256 MiB each, so 800 parts do.
    let line = format!("{} {}", more(0, 1024), more(1, 1024));
    let mut vm = Vm::new().line(PLACE).line(&line).qmp().hmp().start();
    vm.hmp().run("object_add memory-backend-ram,id=mem2,size=200G,reserve=off");
    let refused = "memory devices have not enough free memory slots left: they may have 2048, of which 1600 are used or \
                   reserved, 800 more are required";
    assert_eq!(
        vm.hmp().run("device_add virtio-mem-pci,id=vm2,memdev=mem2,memslots=1024"),
        format!("Error: {refused}\n")
    );
    let add = json!({ "driver": "virtio-mem-pci", "id": "vm2", "memdev": "mem2", "memslots": 1024 });
    assert_eq!(vm.qmp().err("device_add", add), ("GenericError".to_owned(), refused.to_owned()));
    let exited = Vm::new().line(PLACE).line(&line).line(&more(2, 1024)).run();
    assert!(exited.stderr.ends_with(&format!("memslots=1024: {refused}\n")), "{}", exited.stderr);
    // What is left goes to a device that chooses, in the share of its size.
    assert_eq!(vm.qmp().ok("x-pliant-query-memslots", json!({}))["free"], 448);
    assert_eq!(vm.hmp().run("device_add virtio-mem-pci,id=vm2,memdev=mem2,memslots=0"), "");
    let plan = vm.qmp().ok("x-pliant-query-memslots", json!({}));
    // 448 * 200 / 637 are 140, of 1536 MiB each.
    assert_eq!(entry(&plan, "devices", 2, &["parts", "part-size"]), [134, 1536 * M]);
    assert_eq!(plan["free"], 448 - 134);
}

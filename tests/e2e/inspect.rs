//! The guest's memory and registers as monitors show and save them: `x`, `xp`, `print`, `memsave`, `pmemsave`. The same lines are
//! given to the real QEMU where it is installed; guests on KVM and `sim` have known words in their memory.

use std::fs;

use serde_json::json;
use tests::program::qemu;
use tests::{Need, Vm, have};

use crate::session::{guest_says, guest_with_64_mib};

const M: u64 = 1 << 20;
/// Where device memory begins on a q35 machine with little RAM.
const BASE: u64 = 4 << 30;

/// Lines whose answers depend on neither firmware nor the processor. Those that leave a format out go back to what was last.
const LINES: [&str; 74] = [
    "x",
    "x 0",
    "x /",
    "x /x",
    "x /4",
    "x /4xb",
    "x /0xb 0",
    "x /-1xb 0",
    "x /4z 0",
    "x /4xbb 0",
    "x /xb4 0",
    "x /4 x 0",
    "x /4xb 0 0",
    "x /4xb 0xe0",
    "x/4xb 0",
    "x /1 0",
    "x 0 0",
    "x /4xg 0",
    "x /3xh 0x1ffea",
    "x /17xb 0x1ffea",
    "x /9xw 0x1ffc0",
    "x /5dw 0",
    "x /5uw 0",
    "x /5ow 0",
    "x /20cb 0",
    "x /5dg 0",
    "x /5oh 0",
    "x 0",
    "x / 0",
    "x /3 0",
    "xp 0",
    "xp /2xg 0",
    "xp /4xb 0x100000000000",
    "x /4xb 0x100000000000",
    "xp /4xg 0x3fffff0",
    "xp /40xb 0x3fffff8",
    "x /40xb 0x3fffff8",
    "xp /2xg 0x3fffff8",
    "x /2xb -1",
    "xp /2xb -2",
    "xp /2xL 0",
    "x /4xb $eip",
    "x /4xb $rip",
    "x /4xb 1+",
    "x /4xb (1+2)*4",
    "x /4xb (1",
    "x /4xb ~0",
    "x /4xb 5/0",
    "x /4xb 7%4",
    "x /4xb 1<<4",
    "x /4xb foo",
    "x /4xb 'ab'",
    "x /4xb '",
    "x /4xb 0x",
    "x /4xb 99999999999999999999",
    "p $pc",
    "p $cs",
    "p $cs.limit",
    "p $esp",
    "p $eflags",
    "p $r8",
    "p $cr0",
    "p/c 65",
    "p/o 8",
    "p/d -1",
    "p/u -1",
    "p/i -5",
    "p 5",
    "p/x 0",
    "p 3+1|1",
    "p (1+2",
    "p 1,2",
    "memsave 0 4",
    "pmemsave 0 0x100000000 \"x\"",
];

#[test]
fn every_line_is_answered_as_by_qemu() {
    if !have(&[Need::Qemu, Need::Pliant]) {
        return;
    }
    let line = "-machine q35 -m 64M -smp 2";
    let mut ours = Vm::new().line(line).hmp().qmp().start();
    let mut theirs =
        Vm::new().program(&qemu().unwrap()).accel("tcg").line("-S").line(line).hmp().qmp().start();
    for line in LINES {
        assert_eq!(ours.hmp().run(line), theirs.hmp().run(line), "{line}");
    }
    // A program may say which CPU it means.
    for (line, cpu) in [("p/x $pc", 1), ("x/1xb 0", 1), ("p/x $pc", 2), ("p/x $pc", -1)] {
        let arguments = json!({ "command-line": line, "cpu-index": cpu });
        let run = |vm: &mut Vm| {
            vm.qmp().request(&json!({ "execute": "human-monitor-command", "arguments": arguments })).unwrap()
        };
        assert_eq!(run(&mut ours), run(&mut theirs), "{line} {cpu}");
    }
}

#[test]
fn memory_is_saved_as_by_qemu() {
    if !have(&[Need::Qemu, Need::Pliant]) {
        return;
    }
    let line = "-machine q35 -m 64M";
    let mut ours = Vm::new().line(line).qmp().start();
    let mut theirs = Vm::new().program(&qemu().unwrap()).accel("tcg").line("-S").line(line).qmp().start();
    let max = i64::MAX;
    for (command, val, size, cpu) in [
        ("memsave", 0, 4, Some(0)),
        ("memsave", 0, 4, Some(1)),
        ("memsave", 0, 4, Some(-1)),
        ("memsave", -1, 4, None),
        ("memsave", 0, 0, None),
        ("memsave", 0x1000_0000_0000, 4, None),
        ("memsave", 0x3ff_fff0, 32, None),
        ("memsave", 0x2000, 70_000, None),
        ("memsave", 0x2000, -1, None),
        ("memsave", max, max, None),
        ("pmemsave", 0, 4, None),
        ("pmemsave", -1, 4, None),
        ("pmemsave", 0, 0, None),
        ("pmemsave", 0x1000_0000_0000, 4, None),
        ("pmemsave", 0x3ff_fff0, 32, None),
    ] {
        let run = |vm: &mut Vm| {
            let file = vm.scratch().join("saved");
            let mut arguments = json!({ "val": val, "size": size, "filename": file });
            if let Some(cpu) = cpu {
                arguments["cpu-index"] = json!(cpu);
            }
            let reply = vm.qmp().request(&json!({ "execute": command, "arguments": arguments })).unwrap();
            // What was there before an error is saved, in whatever portions.
            let saved = if reply.get("return").is_some() { fs::read(file).unwrap().len() } else { 0 };
            (reply.get("return").cloned(), reply["error"]["desc"].clone(), saved)
        };
        assert_eq!(run(&mut ours), run(&mut theirs), "{command} {val:#x} {size:#x} {cpu:?}");
    }
}

/// A guest with 64 MiB of 1 GiB plugged.
fn guest(accel: &str) -> Vm {
    guest_with_64_mib(accel, "-machine q35 -m 2G,maxmem=4G -object memory-backend-ram,id=mem0,size=1G")
}

/// What the guest wrote is what `xp` and `pmemsave` find, running or stopped, up to where nothing is plugged.
fn finds_what_the_guest_wrote(vm: &mut Vm) {
    let (word, addr) = (0x1122_3344_5566_7788u64, BASE + 64 * M - 8);
    guest_says(vm, &format!("poke {addr:#x} {word:#x}"), "poke ", &[]);
    let expected = format!("{addr:016x}: 0x{word:016x}\n{:016x}: Cannot access memory\n", addr + 8);
    let shown = vm.hmp().run(&format!("xp /1xg {addr}"));
    assert_eq!(shown, format!("{addr:016x}: 0x{word:016x}\n"));
    // Lines of 8 bytes, so that the last one is whole.
    let bytes: String = word.to_le_bytes().iter().map(|byte| format!(" 0x{byte:02x}")).collect();
    let shown = vm.hmp().run(&format!("xp /16xb {addr}"));
    assert_eq!(shown, expected.replace(&format!(" 0x{word:016x}"), &bytes));
    let file = vm.scratch().join("saved");
    let save = |size: u64| json!({ "val": addr, "size": size, "filename": file });
    vm.qmp().ok("pmemsave", save(8));
    assert_eq!(fs::read(&file).unwrap(), word.to_le_bytes());
    let unplugged = format!("Memory at 0x{:016x} is not plugged", addr + 8);
    assert_eq!(vm.qmp().err("pmemsave", save(9)).1, unplugged);
    assert_eq!(vm.qmp().err("memsave", save(9)).1, unplugged);
}

fn shows_memory(accel: &str) {
    let mut vm = guest(accel);
    finds_what_the_guest_wrote(&mut vm);
    vm.qmp().ok("stop", json!({}));
    let addr = BASE + 64 * M - 8;
    assert_eq!(vm.hmp().run(&format!("x /1xg {addr}")), format!("{addr:016x}: 0x1122334455667788\n"));
    vm.qmp().ok("cont", json!({}));
    guest_says(&mut vm, "check", "words differ", &["check: ok: "]);
}

#[test]
fn memory_of_a_guest_on_kvm_is_shown_where_it_is_plugged() {
    if have(&[Need::Kvm, Need::Pliant]) {
        shows_memory("kvm");
    }
}

#[test]
fn memory_of_a_guest_on_sim_is_shown_where_it_is_plugged() {
    if have(&[Need::Pliant]) {
        shows_memory("sim");
    }
}

#[test]
fn linear_addresses_are_those_of_the_guests_own_page_tables() {
    if !have(&[Need::Kvm, Need::Pliant]) {
        return;
    }
    let mut vm = guest("kvm");
    // The second GiB is mapped when the guest first looks at it.
    let line = |kind: &str| format!("{kind} /1xw 0x40000000");
    assert_eq!(vm.hmp().run(&line("xp")), "0000000040000000: 0x00000000\n");
    assert_eq!(vm.hmp().run(&line("x")), "0000000040000000: Cannot access memory\n");
    let save = json!({ "val": 0x4000_0000, "size": 4, "filename": vm.scratch().join("saved") });
    let invalid = "Invalid addr 0x0000000040000000/size 4 specified";
    assert_eq!(vm.qmp().err("memsave", save.clone()).1, invalid);
    guest_says(&mut vm, "poke 0x40000000 0x12345678", "poke ", &[]);
    assert_eq!(vm.hmp().run(&line("x")), "0000000040000000: 0x12345678\n");
    vm.qmp().ok("memsave", save);
    assert_eq!(fs::read(vm.scratch().join("saved")).unwrap(), 0x1234_5678u32.to_le_bytes());
}

#[test]
fn registers_are_read_while_the_guest_runs_on() {
    if !have(&[Need::Kvm, Need::Pliant]) {
        return;
    }
    let mut vm = guest("kvm");
    // 64-bit code of ring 0 or 3; paging and long mode are on.
    for _ in 0..100 {
        let registers = vm.qmp().ok("x-pliant-query-registers", json!({}));
        assert!([0x08, 0x23].contains(&registers["cs"]["selector"].as_u64().unwrap()), "{registers}");
        assert_eq!(registers["efer"].as_u64().unwrap() & 0x500, 0x500);
        assert_eq!(registers["cr0"].as_u64().unwrap() >> 31, 1);
    }
    assert!(vm.hmp().run("p/x $eflags").starts_with("0x"));
    // Its code is where it says, and can be read there.
    let shown = vm.hmp().run("x /1xb $pc");
    assert!(!shown.contains("Cannot access"), "{shown}");
    guest_says(&mut vm, "check", "words differ", &["check: ok: "]);
    // Of the hosted guest there are none.
    let mut vm = guest("sim");
    let (_, desc) = vm.qmp().err("x-pliant-query-registers", json!({}));
    assert_eq!(desc, "CPU 0 has no registers that could be shown");
}

#[test]
fn looking_at_memory_that_is_not_plugged_costs_nothing() {
    if !have(&[Need::Pliant]) {
        return;
    }
    for protection in ["block", "off"] {
        for backend in ["ram", "memfd"] {
            let device = format!(
                "-object memory-backend-{backend},id=mem0,size=1G \
                 -device virtio-mem-pci,id=vm0,memdev=mem0,unplugged-protection={protection}"
            );
            let mut vm = Vm::new().line("-machine q35 -m 512M,maxmem=4G").line(&device).hmp().qmp().start();
            let before = crate::kvm::memory::held(&vm, 1 << 30);
            for block in 0..512 {
                let addr = BASE + block * 2 * M;
                let cannot = format!("{addr:016x}: Cannot access memory\n");
                assert_eq!(vm.hmp().run(&format!("xp /1xw {addr}")), cannot);
            }
            assert_eq!(crate::kvm::memory::held(&vm, 1 << 30), before, "{protection} {backend}");
        }
    }
}

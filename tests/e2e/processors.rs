//! Registers, page tables, ports and interrupt controllers at the console, beside the real QEMU where it is installed; and
//! non-maskable interrupts.

use serde_json::json;
use tests::program::qemu;
use tests::{Need, Vm, have};

use crate::session::{guest_says, guest_with_64_mib};

const M: u64 = 1 << 20;
/// Where device memory begins on a q35 machine with little RAM.
const BASE: u64 = 4 << 30;

/// Lines whose answers depend on neither firmware nor the host, on a q35 machine with 64 MiB and two CPUs on KVM that has not run.
const LINES: [&str; 66] = [
    "info cpus x",
    "cpu -1",
    "cpu 2",
    "cpu",
    "cpu 0 1",
    "cpu 1",
    "info registers 1",
    "info registers 5",
    "info registers -1",
    "info registers -a x",
    "info registers -x",
    "info registers a",
    "info registers 1 2",
    "info lapic 1",
    "info lapic 7",
    "info lapic -1",
    "info lapic 0x100000000",
    "info lapic 1 1",
    "info pic",
    "info irq",
    "nmi 1",
    "nmi",
    "info mem",
    "info tlb",
    "info mem 1",
    "gva2gpa 0",
    "gva2gpa 0x12345",
    "gva2gpa",
    "gpa2hva",
    "gpa2hva 0xf0000000",
    "gpa2hva 0x100000000000",
    "gpa2hva -1",
    "gpa2hpa 0x100000000000",
    "gpa2hpa 1 2",
    "sum 0 16",
    "sum 0 0",
    "sum 0x2000000 0x123456",
    "sum 0",
    "sum 0 -1",
    "sum 0x100000000000 16",
    "i",
    "i /w -1",
    "i 0x1234",
    "i /w 0x1234",
    "i/2b 0x1234",
    "i /xh 0x1234",
    "i 0x1234",
    "i/g 0x1234",
    "i/c 0x1234",
    "i /i 0x1234",
    "i/h 0x1234",
    "i /b 0x1234 1",
    "i/b 0x70.0x0f",
    "i/b 0x70 . 15",
    "i /b 0x1234.",
    "o /b 0x80 5",
    "o 0x80 5",
    "o/b 0x80",
    "o/g 0x80 1",
    "o/w 0x10cf8 0x80000000",
    "i/w 0xcf8",
    "i/xh 0xcfc",
    "o /b 0x80 0x100000000",
    "o/z 0 0",
    "info roms extra",
    "p/x $cs.base",
];

#[test]
fn every_line_is_answered_as_by_qemu() {
    if !have(&[Need::Qemu, Need::Kvm, Need::Pliant]) {
        return;
    }
    let line = "-machine q35 -m 64M -smp 2 -S";
    let mut ours = Vm::new().accel("kvm").line(line).hmp().qmp().start();
    let mut theirs = Vm::new().program(&qemu().unwrap()).accel("kvm").line(line).hmp().qmp().start();
    for line in LINES {
        assert_eq!(in_order(&ours.hmp().run(line)), in_order(&theirs.hmp().run(line)), "{line}");
    }
    // The CPU that was chosen above is the one that the console looks at; a program says which one it means.
    for vm in [&mut ours, &mut theirs] {
        assert!(vm.hmp().run("info cpus").contains("\n* CPU #1: thread_id="));
        assert!(vm.hmp().run("info registers").starts_with("\nCPU#1\nEAX=00000000 "));
        assert!(vm.hmp().run("info lapic").starts_with("dumping local APIC state for CPU 1 \n"));
        assert_eq!(vm.hmp().run("cpu 0"), "");
        assert!(vm.hmp().run("info cpus").starts_with("* CPU #0: thread_id="));
        let line = json!({ "command-line": "info registers", "cpu-index": 1 });
        let text = vm.qmp().ok("human-monitor-command", line);
        assert!(text.as_str().unwrap().starts_with("\r\nCPU#1\r\n"), "{text}");
        // What one such command chooses is forgotten.
        vm.qmp().ok("human-monitor-command", json!({ "command-line": "cpu 1" }));
        let text = vm.qmp().ok("human-monitor-command", json!({ "command-line": "info cpus" }));
        assert!(text.as_str().unwrap().starts_with("* CPU #0"), "{text}");
    }
}

/// QEMU shows interrupt controllers in the order of a hash table, and its timer may tick before the guest first runs.
fn in_order(text: &str) -> String {
    if !text.contains("pic0: ") && !text.contains("kvm-ioapic") {
        return text.to_owned();
    }
    let text = text.replace("pic0: irr=01 ", "pic0: irr=00 ");
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[test]
fn a_machine_without_a_processor_says_so_as_qemu() {
    if !have(&[Need::Qemu, Need::Pliant]) {
        return;
    }
    let mut ours = Vm::new().line("-machine none").hmp().qmp().start();
    let mut theirs =
        Vm::new().program(&qemu().unwrap()).accel("tcg").line("-machine none").hmp().qmp().start();
    for line in [
        "cpu 0",
        "info cpus",
        "info registers",
        "info registers 0",
        "info registers -a",
        "info lapic",
        "info lapic 0",
        "info pic",
        "info irq",
        "info mem",
        "info tlb",
        "info roms",
        "gva2gpa 0",
        "gpa2hva 0",
        "nmi",
        "sum 0 100",
    ] {
        assert_eq!(ours.hmp().run(line), theirs.hmp().run(line), "{line}");
    }
    for command in ["inject-nmi", "x-query-irq", "x-query-interrupt-controllers", "x-query-roms"] {
        let run = |vm: &mut Vm| vm.qmp().request(&json!({ "execute": command })).unwrap();
        assert_eq!(run(&mut ours), run(&mut theirs), "{command}");
    }
}

fn guest(accel: &str) -> Vm {
    guest_with_64_mib(accel, "-machine q35 -m 2G,maxmem=4G -object memory-backend-ram,id=mem0,size=1G")
}

#[test]
fn a_guest_shows_its_registers_and_tables_while_it_runs() {
    if !have(&[Need::Kvm, Need::Pliant]) {
        return;
    }
    let mut vm = guest("kvm");
    let text = vm.hmp().run("info registers");
    for line in ["\nCPU#0\nRAX=", "\nCS =0", "CS64 [-R", "\nTR =0028 ", "TSS64-busy\n", " XMM15="] {
        assert!(text.contains(line), "{line}: {text}");
    }
    // Whatever is mapped, each way of asking says the same of it.
    vm.qmp().ok("stop", json!({}));
    let tlb = vm.hmp().run("info tlb");
    let (linear, rest) = tlb.lines().nth(10).and_then(|line| line.split_once(": ")).unwrap();
    let physical = u64::from_str_radix(&rest[..16], 16).unwrap();
    assert_eq!(vm.hmp().run(&format!("gva2gpa 0x{linear}")), format!("gpa: {physical:#x}\n"));
    assert_eq!(vm.hmp().run("gva2gpa 0x7f0000000000"), "Unmapped\n");
    let first = "0000000000000000-0000000040000000 0000000040000000 urw\n";
    assert!(vm.hmp().run("info mem").starts_with(first));
    vm.qmp().ok("cont", json!({}));
    // Its PIC is where it put it, and its local APIC is on.
    assert!(vm.hmp().run("info pic").contains("irq_base=20 "));
    assert!(vm.hmp().run("info lapic").contains(" APIC enabled, focus=off, spurious vec 255\n"));
    guest_says(&mut vm, "check", "words differ", &["check: ok: "]);
}

#[test]
fn what_is_loaded_is_listed_where_it_is() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut vm = guest("sim");
    let roms = vm.hmp().run("info roms");
    let image = " mem=ram name=\"built-in guest ELF program header segment 0\"\n";
    assert!(roms.contains("\naddr=0000000000100000 size=0x") && roms.ends_with(image), "{roms}");
    // The start information begins with its magic number.
    let start = roms.lines().find(|line| line.ends_with("start info\"")).unwrap();
    let at = start.split(['=', ' ']).nth(1).unwrap();
    assert_eq!(vm.hmp().run(&format!("xp /1xw 0x{at}")), format!("{at}: 0x336ec578\n"));
    let reply = vm.qmp().ok("x-query-roms", json!({}));
    assert_eq!(reply["human-readable-text"], json!(roms));
}

#[test]
fn a_program_on_the_host_has_no_registers_and_no_controllers() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut vm = guest("sim");
    for (line, expected) in [
        ("info registers", "Error: CPU 0 has no registers that could be shown\n"),
        ("info mem", "Error: CPU 0 has no registers that could be shown\n"),
        ("info lapic", "local apic state not available\n"),
        ("info pic", "Interrupt controller information not available for interrupt-lines.\n"),
        ("nmi", "Error: machine does not provide NMIs\n"),
    ] {
        assert_eq!(vm.hmp().run(line), expected, "{line}");
    }
    assert!(vm.hmp().run("info irq").starts_with("IRQ statistics for interrupt-lines:\n"));
}

#[test]
fn the_guest_takes_a_non_maskable_interrupt() {
    if !have(&[Need::Kvm, Need::Pliant]) {
        return;
    }
    let mut vm = guest("kvm");
    assert!(vm.hmp().run("info lapic").contains("LVT1\t 0x00000400 active-hi edge "));
    vm.qmp().ok("inject-nmi", json!({}));
    // It has no use for one.
    let said =
        vm.serial().until("pliant-guest: fatal: exception").unwrap() + &vm.serial().until("\n").unwrap();
    assert!(said.contains("fatal: exception 2"), "{said}");
}

#[test]
fn memory_that_is_not_plugged_is_neither_summed_nor_made() {
    if !have(&[Need::Pliant]) {
        return;
    }
    for protection in ["block", "off"] {
        let device = format!(
            "-object memory-backend-ram,id=mem0,size=1G \
             -device virtio-mem-pci,id=vm0,memdev=mem0,unplugged-protection={protection}"
        );
        let mut vm = Vm::new().line("-machine q35 -m 512M,maxmem=4G").line(&device).hmp().qmp().start();
        let before = crate::kvm::memory::held(&vm, 1 << 30);
        let at = BASE + 4 * M;
        let (_, text) = vm.qmp().err("x-pliant-sum-memory", json!({ "address": at, "size": 100 }));
        assert_eq!(text, format!("Memory at 0x{at:016x} is not plugged"));
        let start = format!("Host virtual address for {at:#x} (mem0) is 0x");
        assert!(vm.hmp().run(&format!("gpa2hva {at:#x}")).starts_with(&start));
        assert_eq!(vm.hmp().run(&format!("gpa2hpa {at:#x}")), "Page not present\n");
        assert_eq!(crate::kvm::memory::held(&vm, 1 << 30), before, "{protection}");
    }
}

#[test]
fn what_cannot_be_asked_is_refused() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut vm = Vm::new().line("-machine q35 -m 64M").qmp().start();
    for (command, arguments, expected) in [
        ("x-pliant-read-port", json!({ "port": 0x70, "size": 8 }), "Parameter 'size' expects 1, 2 or 4"),
        (
            "x-pliant-write-port",
            json!({ "port": 0x70, "size": 0, "value": 0 }),
            "Parameter 'size' expects 1, 2 or 4",
        ),
        (
            "x-pliant-sum-memory",
            json!({ "address": 0, "size": (1u64 << 32) + 1 }),
            "Parameter 'size' expects a number of at most 4294967296",
        ),
        (
            "x-pliant-translate-address",
            json!({ "address": 0, "cpu-index": 1 }),
            "Parameter 'cpu-index' expects a CPU number",
        ),
        (
            "x-pliant-query-page-tables",
            json!({ "cpu-index": -1 }),
            "Parameter 'cpu-index' expects a CPU number",
        ),
        ("x-pliant-query-lapic", json!({ "apic-id": 9 }), "No CPU available"),
        (
            "x-pliant-query-host-address",
            json!({ "address": 0xfee0_0000u32 }),
            "No memory is mapped at address 0xfee00000",
        ),
    ] {
        assert_eq!(vm.qmp().err(command, arguments.clone()).1, expected, "{command} {arguments}");
    }
}

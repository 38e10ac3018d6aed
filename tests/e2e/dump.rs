//! `dump-guest-memory` of guests that run: the file holds what they wrote, of memory devices what they plugged, and with paging
//! the addresses that their page tables give it. `readelf` and `gdb` open it.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tests::core_file::CoreFile;
use tests::{Need, Vm, have};

use crate::kvm::memory::held;
use crate::session::{guest_reached, guest_says, guest_with_64_mib};

const M: u64 = 1 << 20;
/// Where device memory begins on these q35 machines.
const BASE: u64 = 4 << 30;
const WORD: u64 = 0x1122_3344_5566_7788;

/// A guest that has plugged 64 MiB of 1 GiB and written a word into the last of them.
fn guest(accel: &str) -> Vm {
    let machine = "-machine q35 -m 1280M,maxmem=4G -object memory-backend-memfd,id=mem0,size=1G";
    let mut vm = guest_with_64_mib(accel, machine);
    guest_says(&mut vm, &format!("poke {:#x} {WORD:#x}", BASE + 64 * M - 8), "poke ", &[]);
    vm
}

fn file(vm: &Vm) -> PathBuf {
    vm.scratch().join("core")
}

fn dump(vm: &mut Vm, paging: bool, more: &Value) -> CoreFile {
    let mut arguments = json!({ "paging": paging, "protocol": format!("file:{}", file(vm).display()) });
    for (name, value) in more.as_object().into_iter().flatten() {
        arguments[name] = value.clone();
    }
    vm.qmp().ok("dump-guest-memory", arguments);
    CoreFile::open(&file(vm))
}

/// Runs a tool on a file and returns what it says; `None` where it is not installed.
fn tool(name: &str, arguments: &[&str], file: &Path) -> Option<String> {
    let output = Command::new(name).args(arguments).arg(file).output().ok()?;
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {text}");
    Some(text)
}

/// What is plugged is there and nothing else of the device; and it is what the guest wrote.
fn shows_what_is_plugged(core: &CoreFile) {
    let shape: Vec<_> = core.segments.iter().map(|s| (s.linear, s.physical, s.len)).collect();
    assert_eq!(shape, [(0, 0, 1280 * M), (BASE, BASE, 64 * M)]);
    assert_eq!(core.physical(BASE + 64 * M - 8, 8), Some(WORD.to_le_bytes().to_vec()));
    assert_eq!(core.physical(BASE + 64 * M, 1), None);
    // Start information that the board left for the guest.
    assert_eq!(core.physical(0x6000, 4), Some(0x336e_c578u32.to_le_bytes().to_vec()));
}

fn dumps_physical_memory(accel: &str, vcpus: usize) {
    let mut vm = guest(accel);
    let before = held(&vm, 1 << 30);
    let core = dump(&mut vm, false, &json!({}));
    shows_what_is_plugged(&core);
    let names: Vec<_> =
        core.notes.iter().map(|note| (note.name.as_str(), note.kind, note.contents.len())).collect();
    let expected = [("CORE", 1, 336), ("QEMU", 0, 440)];
    assert_eq!(names, expected[..2 * vcpus]);
    // Who runs is told, and goes on.
    let names: Vec<_> =
        ["STOP", "DUMP_COMPLETED", "RESUME"].map(|name| vm.qmp().wait_event(name, |_| true)).into();
    let result = json!({ "status": "completed", "completed": 1344 * M, "total": 1344 * M });
    assert_eq!(names[1]["data"], json!({ "result": result }));
    assert_eq!(vm.qmp().ok("query-dump", json!({})), result);
    assert_eq!(vm.hmp().run("info dump"), "Status: completed\n");
    // Neither the guest's memory nor the file holds what the guest has never written.
    assert_eq!(held(&vm, 1 << 30), before);
    let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(file(&vm)).unwrap());
    assert!(blocks * 512 < 200 * M, "{blocks}");
    guest_says(&mut vm, "check", "words differ", &["check: ok: "]);
    if let Some(text) = tool("readelf", &["-a", "-W"], &file(&vm)) {
        assert!(!text.contains("Warning") && !text.contains("Error"), "{text}");
        assert!(
            text.contains("CORE (Core file)") && text.contains("Advanced Micro Devices X86-64"),
            "{text}"
        );
        assert_eq!(text.matches("NT_PRSTATUS").count(), vcpus, "{text}");
    }
    if let Some(text) = tool("gdb", &["-q", "-batch", "-nx", "-ex", "x/1xg 0x103fffff8", "-c"], &file(&vm)) {
        assert!(text.contains(&format!("0x103fffff8:\t{WORD:#018x}")), "{text}");
    }
}

#[test]
fn a_guest_on_kvm_is_dumped_as_it_is() {
    if have(&[Need::Kvm, Need::Pliant]) {
        dumps_physical_memory("kvm", 1);
    }
}

#[test]
fn a_guest_on_sim_is_dumped_without_registers() {
    if have(&[Need::Pliant]) {
        dumps_physical_memory("sim", 0);
    }
}

#[test]
fn with_paging_segments_are_what_the_guests_tables_map() {
    if !have(&[Need::Kvm, Need::Pliant]) {
        return;
    }
    let mut vm = guest("kvm");
    // The second GiB is mapped when the guest first looks at it: not yet.
    let core = dump(&mut vm, true, &json!({}));
    let mut shape: Vec<_> = core.segments.iter().map(|s| (s.linear, s.physical, s.len)).collect();
    assert_eq!(shape, [(0, 0, 1024 * M), (BASE, BASE, 64 * M)]);
    assert_eq!(core.linear(BASE + 64 * M - 8, 8), Some(WORD.to_le_bytes().to_vec()));
    // Registers, and the code and the stack that they lead to.
    let status = &core.notes[0].contents;
    let register = |index: usize| u64::from_le_bytes(status[112 + 8 * index..][..8].try_into().unwrap());
    let (rip, rsp) = (register(16), register(19));
    assert!(core.linear(rip, 16).is_some_and(|code| code.iter().any(|byte| *byte != 0)), "{rip:#x}");
    assert!(core.linear(rsp, 8).is_some(), "{rsp:#x}");
    // Once it is mapped it is there. Addresses are translated only, so all of the RAM has the same linear as physical address.
    guest_says(&mut vm, "peek 0x40000000", "peek ", &[]);
    let core = dump(&mut vm, true, &json!({ "detach": false, "format": "elf" }));
    shape[0].2 = 1280 * M;
    assert_eq!(core.segments.iter().map(|s| (s.linear, s.physical, s.len)).collect::<Vec<_>>(), shape);
    // A part of it.
    let part = json!({ "begin": BASE + 63 * M, "length": 512 * M });
    let core = dump(&mut vm, true, &part);
    assert_eq!(
        core.segments.iter().map(|s| (s.linear, s.physical, s.len)).collect::<Vec<_>>(),
        [(BASE + 63 * M, BASE + 63 * M, M)]
    );
    if let Some(text) = tool(
        "gdb",
        &["-q", "-batch", "-nx", "-ex", "x/1xg 0x103fffff8", "-ex", "info registers rip", "-c"],
        &file(&vm),
    ) {
        assert!(text.contains(&format!("0x103fffff8:\t{WORD:#018x}")), "{text}");
        assert!(text.contains("rip "), "{text}");
    }
}

#[test]
fn monitors_answer_while_a_detached_dump_is_written_and_the_guest_stands_still() {
    if !have(&[Need::Kvm, Need::Pliant]) {
        return;
    }
    let mut vm = guest("kvm");
    // A reader that does not read holds the dump up for as long as it takes.
    let pipe = vm.scratch().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut reader = fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let path = pipe.to_str().unwrap().to_owned();
    assert_eq!(vm.hmp().run(&format!("dump-guest-memory -d {path}")), "");
    vm.qmp().wait_event("STOP", |_| true);
    assert_eq!(vm.hmp().run("info status"), "VM status: paused (save-vm)\n");
    assert!(vm.hmp().run("info dump").starts_with("Status: active\nFinished: "));
    assert_eq!(vm.qmp().ok("query-dump", json!({}))["status"], "active");
    let busy = "There is a dump in process, please wait.";
    for command in ["stop", "cont"] {
        assert_eq!(vm.qmp().err(command, json!({})).1, busy);
    }
    assert_eq!(vm.hmp().run("dump-guest-memory /tmp/x"), format!("Error: {busy}\n"));
    // The guest is asked for more and does nothing; resets wait as well.
    vm.qmp().qom_set("vm0", "requested-size", json!(128 * M));
    vm.qmp().ok("system_reset", json!({}));
    assert_eq!(vm.qmp().qom_get("vm0", "size"), 64 * M);
    let reading = std::thread::spawn(move || {
        // Nobody closes this end, so the size has to be known: up to the names of the sections.
        let mut header = vec![0; 192];
        reader.read_exact(&mut header).unwrap();
        let end = u64::from_le_bytes(header[152..160].try_into().unwrap()) + 11;
        let rest = std::io::copy(&mut reader.take(end - 192), &mut std::io::sink()).unwrap();
        (end, rest + 192)
    });
    vm.qmp().wait_event("DUMP_COMPLETED", |event| event["data"]["result"]["status"] == "completed");
    vm.qmp().wait_event("RESET", |_| true);
    vm.qmp().wait_event("RESUME", |_| true);
    let (end, read) = reading.join().unwrap();
    assert_eq!(read, end);
    assert!(end > 1344 * M);
    guest_reached(&mut vm, &[128 * M]);
}

#[test]
fn a_program_that_ends_does_not_wait_for_its_dump() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut vm = Vm::new().line("-machine q35 -m 64M").hmp().qmp().start();
    let pipe = vm.scratch().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let _reader = fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    assert_eq!(vm.hmp().run(&format!("dump-guest-memory -d {}", pipe.display())), "");
    assert_eq!(vm.qmp().ok("query-dump", json!({}))["status"], "active");
    let exited = vm.quit();
    assert_eq!((exited.code, exited.signal), (Some(0), None), "{}", exited.stderr);
}

#[test]
fn a_machine_of_an_older_processor_is_dumped_into_a_smaller_file() {
    if !have(&[Need::QtestAccel]) {
        return;
    }
    // Real mode and little memory: ELF32, as QEMU would without firmware below 4 GiB.
    let mut vm = Vm::new().line("-machine q35 -m 64M -smp 2").qmp().qtest().start();
    vm.qtest().write(0x1234, 8, WORD);
    let path = file(&vm);
    let arguments = json!({ "paging": true, "protocol": format!("file:{}", path.display()) });
    vm.qmp().ok("dump-guest-memory", arguments);
    let bytes = fs::read(&path).unwrap();
    assert_eq!((bytes[4], bytes[18]), (1, 3));
    let start = u32::from_le_bytes(bytes[28..32].try_into().unwrap()) as usize;
    let field = |segment: usize, at: usize| {
        u32::from_le_bytes(bytes[start + 32 * segment + at..][..4].try_into().unwrap())
    };
    assert_eq!((field(1, 0), field(1, 8), field(1, 12), field(1, 16)), (1, 0, 0, 64 << 20));
    assert_eq!(bytes[field(1, 4) as usize + 0x1234..][..8], WORD.to_le_bytes());
    if let Some(text) = tool("readelf", &["-a", "-W"], &path) {
        assert!(text.contains("Intel 80386") && text.contains("ELF32"), "{text}");
        assert_eq!(text.matches("NT_PRSTATUS").count(), 2, "{text}");
    }
    if let Some(text) = tool("gdb", &["-q", "-batch", "-nx", "-ex", "info registers eip", "-c"], &path) {
        assert!(text.contains("0xfff0"), "{text}");
    }
}

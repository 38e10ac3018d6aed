//! `virtio-pmem-pci`: what monitors show of it, what it refuses, and flushes. The same is asked of the real QEMU where it is installed.

use std::fs;
use std::os::unix::fs::FileExt as _;

use serde_json::{Value, json};
use tests::pci::Function;
use tests::virtio_mem::VERSION_1;
use tests::{Need, VirtioMem, Vm, VmBuilder, have, program};

/// Vendor and device ID of virtio-pmem on PCI.
const IDS: (u16, u16) = (0x1af4, 0x105b);
const BASE: u64 = 4 << 30;
const DEVICES: &str = "-m 1G,maxmem=8G -object memory-backend-ram,id=mem0,size=512M -object memory-backend-ram,id=mem1,size=1G \
                       -device virtio-pmem-pci,id=p0,memdev=mem0";

/// Lines for a `pc`, whose bus takes devices at run time.
const LINES: [&str; 21] = [
    "info memory-devices",
    "device_add virtio-pmem-pci,id=p1",
    "device_add virtio-pmem-pci,id=p1,memdev=mem0",
    "device_add virtio-pmem-pci,id=p1,memdev=mem1,memaddr=0x110000000",
    "device_add virtio-pmem-pci,id=p1,memdev=mem1,vectors=2",
    "device_add virtio-pmem-pci,id=p1,memdev=mem1,memaddr=0x200000000",
    "device_add virtio-pmem,memdev=mem1",
    "info memory-devices",
    "info memory_size_summary",
    "info numa",
    "device_del p0",
    "device_del p1",
    "object_del mem1",
    "qom-set p1 memdev mem0",
    "qom-set p1 memaddr 1",
    "qom-get p1 memdev",
    "qom-get p1/virtio-backend memaddr",
    "info virtio",
    "info virtio-status /machine/peripheral/p0/virtio-backend",
    "info virtio-queue-status /machine/peripheral/p0/virtio-backend 0",
    "info memory-devices",
];

fn qemu() -> VmBuilder {
    Vm::new().program(&program::qemu().unwrap()).accel("tcg").line("-S")
}

/// Everything that the monitors say.
fn transcript(vm: VmBuilder) -> Vec<String> {
    let mut vm = vm.line("-machine pc").line(DEVICES).qmp().hmp().start();
    let mut said: Vec<String> = LINES.map(|line| format!("{line}\n{}", vm.hmp().run(line))).into();
    said.push(vm.qmp().ok("query-memory-devices", json!({})).to_string());
    said.push(properties(&mut vm, "virtio-pmem-pci"));
    said.push(properties(&mut vm, "virtio-pmem"));
    said.push(subtree(&vm.hmp().run("info qtree"), "dev: virtio-pmem-pci, id \"p0\""));
    let map = vm.hmp().run("info mtree -f");
    said.extend(map.lines().filter(|line| line.contains("ram): mem")).map(str::to_owned).take(2));
    vm.qmp().ok("system_reset", json!({}));
    said.push(vm.hmp().run("info memory-devices"));
    said
}

/// The properties that users may set, by name.
fn properties(vm: &mut Vm, class: &str) -> String {
    let reply = vm.qmp().ok("device-list-properties", json!({ "typename": class }));
    let mut list: Vec<String> = reply.as_array().unwrap().iter().map(Value::to_string).collect();
    list.sort();
    list.join("\n")
}

/// The lines of a device and of what is below it.
fn subtree(text: &str, device: &str) -> String {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut lines = text.lines().skip_while(|line| line.trim_start() != device);
    let first = lines.next().expect("the device is there");
    let below = lines.take_while(|line| indent(line) > indent(first));
    std::iter::once(first).chain(below).map(|line| format!("{}\n", line.trim_start())).collect()
}

#[test]
fn the_monitors_show_and_refuse_what_qemus_do() {
    if !have(&[Need::Pliant, Need::Qemu]) {
        return;
    }
    let ours = transcript(Vm::new().line("-S"));
    for (ours, theirs) in ours.iter().zip(transcript(qemu())) {
        assert_eq!(*ours, theirs);
    }
    let last = ours.last().unwrap();
    assert!(
        last.contains("Memory device [virtio-pmem]: \"p1\"\n  memaddr: 0x200000000\n  size: 1073741824\n"),
        "{last}"
    );
}

/// What a guest that maps the device finds out: its configuration, and the answers to these requests.
fn answers(vm: VmBuilder, backend: &str, requests: &[(&[u8], usize)]) -> String {
    let line =
        format!("-machine q35 -m 1G,maxmem=8G -object {backend},id=mem0 -device virtio-pmem-pci,memdev=mem0");
    let mut vm = vm.line(&line).qtest().start();
    let path = vm.scratch().join("memory");
    let qtest = vm.qtest();
    let function = Function::find(qtest, 0, IDS.0, IDS.1)[0];
    let mut driver = VirtioMem::map_as(qtest, function, 0, IDS);
    let features = driver.features(qtest);
    assert!(driver.init(qtest, VERSION_1));
    let config = [0, 8, 16].map(|offset| driver.device(qtest, offset, 8));
    assert_eq!(config[0], BASE);
    let mut said = format!("{features:x} {config:x?}");
    qtest.write_bytes(BASE + 0x1000, b"to be kept");
    for (request, room) in requests {
        let answer = driver.request_raw(qtest, request, Some(*room));
        let (len, isr) = (driver.used_len, driver.isr(qtest));
        said.push_str(&format!("\n{answer:x?} {len} {isr}"));
    }
    // Half a request stops the device.
    let half = driver.request_raw(qtest, &[0; 4], None);
    said.push_str(&format!("\n{half:x?} {:x}", driver.status(qtest)));
    if let Ok(file) = fs::File::open(path) {
        let mut kept = [0; 10];
        file.read_exact_at(&mut kept, 0x1000).unwrap();
        said.push_str(&format!("\n{}", String::from_utf8_lossy(&kept)));
    }
    said
}

#[test]
fn flushes_are_answered_as_qemu_answers_them() {
    if !have(&[Need::Pliant, Need::Qemu]) {
        return;
    }
    let requests: [(&[u8], usize); 5] =
        [(&[0; 4], 4), (&[7, 0, 0, 0], 4), (&[0], 4), (&[0; 4], 2), (&[0; 4], 9)];
    for (backend, done) in [
        ("memory-backend-ram,size=4M", "[1, 0, 0, 0]"),
        ("memory-backend-ram,size=4M,share=on", "[0, 0, 0, 0]"),
        ("memory-backend-memfd,size=4M", "[0, 0, 0, 0]"),
        ("memory-backend-file,size=4M,mem-path=$RUN/memory,share=on", "to be kept"),
        ("memory-backend-file,size=4M,mem-path=$RUN/memory,share=off", "[0, 0, 0, 0]"),
    ] {
        let ours = answers(Vm::new(), backend, &requests);
        assert_eq!(ours, answers(qemu(), backend, &requests), "{backend}");
        assert!(ours.contains(done), "{backend}: {ours}");
    }
}

#[test]
fn behind_a_port_it_is_refused_to_go_and_on_a_root_complex_to_come() {
    if !have(&[Need::QtestAccel]) {
        return;
    }
    let line = "-machine q35 -m 1G,maxmem=8G -object memory-backend-ram,id=mem0,size=512M -object memory-backend-ram,id=mem1,size=512M \
                -device pcie-root-port,id=port -device virtio-pmem-pci,id=p0,memdev=mem0,bus=port";
    let mut vm = Vm::new().line(line).qmp().start();
    let refused = |desc: &str| ("GenericError".to_owned(), desc.to_owned());
    assert_eq!(
        vm.qmp().err("device_del", json!({ "id": "p0" })),
        refused("this virtio based memory devices cannot be unplugged")
    );
    assert_eq!(
        vm.qmp().err("device_add", json!({ "driver": "virtio-pmem-pci", "memdev": "mem1" })),
        refused("Bus 'pcie.0' does not support hotplugging")
    );
    assert_eq!(
        vm.qmp().ok("query-memory-devices", json!({})),
        json!([{ "type": "virtio-pmem", "data": { "id": "p0", "memaddr": BASE, "size": 512 << 20, "memdev": "/objects/mem0" } }])
    );
}

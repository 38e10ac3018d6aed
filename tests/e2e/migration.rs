//! Machines on the move between two processes, and into files and back: as the oracle's `5-migration/` has it, and what it does not
//! have: peers that die, stall and talk nonsense, and everything that can be asked for meanwhile.

mod compressed;
mod described;
mod failures;
mod files;
mod garbage;
mod guests;
mod meanwhile;
mod postcopy;
mod recorded;

use std::path::PathBuf;

use serde_json::{Value, json};
use tests::pci::Function;
use tests::virtio_mem::{IDS, Kind, VirtioMem};
use tests::{Vm, VmBuilder};

const M: u64 = 1 << 20;
/// Guest physical address of the device's memory on a `pc` with less than 3 GiB.
const MEMORY: u64 = 4 << 30;
/// The blocks that the recordings' driver plugs: first block and number.
const PLUGGED: [(u64, u16); 2] = [(0, 8), (16, 4)];

/// The machine of nearly all recordings.
fn machine() -> VmBuilder {
    Vm::new().line("-machine pc -m 512M,maxmem=4G").line(DEVICE).qmp().hmp().qtest()
}

const DEVICE: &str = "-object memory-backend-ram,id=mem0,size=1G -device virtio-mem-pci,id=vm0,memdev=mem0";

/// A machine that awaits one; it is told where by [`listen`].
fn destination() -> VmBuilder {
    machine().line("-incoming defer")
}

/// Switches capabilities on.
pub(crate) fn capabilities(vm: &mut Vm, names: &[&str]) {
    let list: Vec<Value> = names.iter().map(|name| json!({ "capability": name, "state": true })).collect();
    vm.qmp().ok("migrate-set-capabilities", json!({ "capabilities": list }));
}

/// Does as the recordings' driver: asks for 64 MiB, plugs [`PLUGGED`] and writes a word into each block.
fn plug(vm: &mut Vm) -> VirtioMem {
    vm.qmp().qom_set("vm0", "requested-size", json!(64 * M));
    let qtest = vm.qtest();
    let function = Function::find(qtest, 0, IDS.0, IDS.1)[0];
    let mut driver = VirtioMem::map(qtest, function, 0);
    assert!(driver.init_usual(qtest));
    let block_size = driver.config(qtest).block_size;
    let memory = driver.config(qtest).addr;
    for (block, count) in PLUGGED {
        let addr = memory + block * block_size;
        assert_eq!(driver.request(qtest, Kind::Plug, addr, count), "ACK");
        for block in block..block + u64::from(count) {
            qtest.write_bytes(memory + block * block_size, word(block).as_bytes());
        }
    }
    driver
}

/// What the driver writes at the start of a block.
fn word(block: u64) -> String {
    format!("DATA{block:04}")
}

/// Whether all that the driver wrote is there.
fn has_data(vm: &mut Vm) -> bool {
    let blocks = PLUGGED.iter().flat_map(|(first, count)| *first..first + u64::from(*count));
    blocks.into_iter().all(|block| vm.qtest().bytes(MEMORY + block * 2 * M, 8) == word(block).as_bytes())
}

/// Has a machine wait for another on a socket in its own folder; the address.
pub(crate) fn listen(vm: &mut Vm) -> String {
    let uri = format!("unix:{}", vm.scratch().join("incoming").display());
    vm.qmp().ok("migrate-incoming", json!({ "uri": uri }));
    uri
}

/// A file in a machine's folder.
fn file(vm: &Vm, name: &str) -> PathBuf {
    vm.scratch().join(name)
}

pub(crate) fn migrate(vm: &mut Vm, uri: &str) {
    vm.qmp().ok("migrate", json!({ "uri": uri }));
}

/// Waits for the event that tells of a status.
pub(crate) fn reached(vm: &mut Vm, status: &str) {
    vm.qmp().wait_event("MIGRATION", |event| event["data"]["status"] == status);
}

/// The events up to the migration's end.
fn story(vm: &mut Vm) -> Vec<Value> {
    const ENDS: [&str; 3] = ["completed", "failed", "cancelled"];
    vm.qmp().events_to("MIGRATION", |event| ENDS.iter().any(|end| event["data"]["status"] == *end))
}

fn run_state(vm: &mut Vm) -> String {
    vm.qmp().ok("query-status", json!({}))["status"].as_str().unwrap().to_owned()
}

fn info(vm: &mut Vm) -> Value {
    vm.qmp().ok("query-migrate", json!({}))
}

/// That the machine is here and can go elsewhere after all: a second migration, of a machine made as by [`machine`].
fn moves_on(source: &mut Vm, driven: bool) -> Vm {
    assert_eq!(run_state(source), "running");
    source.qmp().events();
    let mut there = destination().start();
    capabilities(&mut there, &["events"]);
    let uri = listen(&mut there);
    migrate(source, &uri);
    reached(source, "completed");
    reached(&mut there, "completed");
    assert_eq!([run_state(source), run_state(&mut there)], ["postmigrate", "running"]);
    assert!(!driven || has_data(&mut there));
    there
}

/// A message without the program's name.
fn sentences(stderr: &str) -> Vec<&str> {
    stderr.lines().filter_map(|line| line.strip_prefix("qemu-system-x86_64: ")).collect()
}

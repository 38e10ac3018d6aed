//! What the dirty log costs a migration and the guest: its start, a look at all memory, taking all marks in pieces of 1 MiB (with the
//! kernel's clearing), and a guest that writes into every page meanwhile.
//!
//! `all` is memory of which the guest has written every page. `sparse` is a device of 64 GiB in which 64 MiB are plugged.

mod quiet;

use std::ops::Range;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use accel::kvm::KvmAccel;
use accel::{Accel, BootState, CpuModel, VcpuConfig};
use memory::{
    AccessConstraints, DirtyClient, DiscardManager, Memory, RamBlock, RamSpec, RegionDesc, RegionOps,
    SIZE_ALL, UnassignedIo,
};

use quiet::Quiet;

const CLIENT: DirtyClient = DirtyClient::Migration;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Bytes whose marks are taken at once.
const STEP: u64 = MIB;
/// Where the guest's memory is that it writes to.
const BASE: u64 = 256 * MIB;
const ROM: u64 = 0xffff_0000;

/// Blocks the vCPU that writes to it until it may go on.
struct Bell(Mutex<(Sender<()>, Receiver<()>)>);

impl RegionOps for Bell {
    fn read(&self, _offset: u64, _size: u8) -> u64 {
        0
    }

    fn write(&self, _offset: u64, _size: u8, _value: u64) {
        let ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Both fail at the end.
        let _ = ends.0.send(());
        let _ = ends.1.recv();
    }

    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(1, 8)
    }
}

struct Machine {
    memory: Arc<Memory>,
    accel: Arc<KvmAccel>,
    block: Arc<RamBlock>,
    rung: Receiver<()>,
    go: Option<Sender<()>>,
}

impl Machine {
    /// A guest that writes into each page of `touched` bytes again and again. `None` without KVM.
    fn new(touched: u64) -> Option<Self> {
        let accel = KvmAccel::open(&[]).ok()?;
        let memory = Memory::new();
        let make = |name, size| memory.create_ram(RamSpec::anonymous(name, size)).expect("memory");
        let (block, rom) = (make("ram", touched), make("rom", 0x1_0000));
        rom.write(0, &program(touched)).expect("the program is small");
        let (ring, rung) = mpsc::channel();
        let (go, gone) = mpsc::channel();
        let mut tx = memory.transaction();
        let root = tx.container(RegionDesc::new("system", SIZE_ALL));
        let io_root = tx.io(RegionDesc::new("io", 0x1_0000), Arc::new(UnassignedIo));
        let ram = tx.ram(RegionDesc::new("ram", touched.into()), Arc::clone(&block));
        let rom = tx.rom(RegionDesc::new("rom", 0x1_0000), rom);
        let ports = tx.io(RegionDesc::new("ports", 0x100), Arc::new(Bell(Mutex::new((ring, gone)))));
        tx.add_subregion(root, BASE, ram, 0);
        tx.add_subregion(root, ROM, rom, 0);
        tx.add_subregion(io_root, 0, ports, 0);
        let (sparse, at) = (sparse(&memory, &mut tx), 4 * GIB);
        tx.add_subregion(root, at, sparse.1, 0);
        let (system, io) = (tx.address_space("memory", root), tx.address_space("I/O", io_root));
        tx.commit();
        accel.attach(&memory, &system, &io).expect("a fresh VM");
        accel
            .create_vcpus(VcpuConfig::new(1, &CpuModel::default(), &*accel), Arc::new(Quiet))
            .expect("a vCPU");
        accel.set_boot(Some(BootState::Pvh { entry: ROM as u32, start_info: 0 }));
        accel.reset();
        accel.resume();
        let block = if touched > MIB { block } else { sparse.0 };
        let machine = Self { memory, accel, block, rung, go: Some(go) };
        machine.rung.recv_timeout(Duration::from_secs(60)).expect("the guest runs");
        Some(machine)
    }

    /// One pass of the guest over all its pages.
    fn pass(&self) {
        self.go.as_ref().map(|go| go.send(()));
        self.rung.recv_timeout(Duration::from_secs(600)).expect("the guest runs");
    }

    /// Takes all marks as a sender does.
    fn take(&self) -> u64 {
        let log = self.block.dirty_log(CLIENT).expect("it logs");
        let (mut at, mut bytes) = (0, 0);
        while let Some(next) = log.next_dirty(at) {
            let start = next / STEP * STEP;
            let taken = self.memory.take_dirty(CLIENT, &self.block, start, STEP);
            bytes += taken.iter().map(|run| run.end - run.start).sum::<u64>();
            at = start + STEP;
        }
        bytes
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.go = None;
        self.accel.shutdown();
    }
}

/// 64 GiB of which 64 MiB are plugged, at two places.
fn sparse(memory: &Memory, tx: &mut memory::Transaction<'_>) -> (Arc<RamBlock>, memory::RegionId) {
    let size = 64 * GIB;
    let spec = RamSpec { reserve: false, ..RamSpec::anonymous("mem0", size) };
    let block = memory.create_ram(spec).expect("the host has address space");
    let mut manager = DiscardManager::new(size, 2 * MIB).followed_by_mappings();
    manager.protect(&block, 2 * MIB).expect("the host protects");
    let plugged: [Range<u64>; 2] = [0..32 * MIB, 60 * GIB..60 * GIB + 32 * MIB];
    plugged.into_iter().for_each(|range| manager.populate(range).expect("nobody refuses"));
    let region = tx.ram(RegionDesc::new("mem0", size.into()), Arc::clone(&block));
    tx.set_discard_manager(region, Some(Arc::new(manager))).expect("a fresh region");
    (block, region)
}

/// `again: mov edi,BASE; mov ecx,pages; next: inc byte [edi]; add edi,4096; dec ecx; jnz next; out 10h,al; jmp again`
fn program(touched: u64) -> Vec<u8> {
    let mut code = vec![0xbf];
    code.extend((BASE as u32).to_le_bytes());
    code.push(0xb9);
    code.extend(((touched / 4096) as u32).to_le_bytes());
    code.extend([0xfe, 0x07, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, 0x49, 0x75, 0xf5, 0xe6, 0x10, 0xeb, 0xe7]);
    code
}

fn timed<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let value = run();
    println!("  {what:<42} {:>9.3} ms", start.elapsed().as_secs_f64() * 1e3);
    value
}

fn main() -> ExitCode {
    let cases = [
        ("all, 1 GiB", GIB, true),
        ("all, 3.5 GiB", 7 * GIB / 2, true),
        ("sparse, 64 MiB of 64 GiB", MIB, false),
    ];
    for (name, touched, all) in cases {
        let Some(machine) = Machine::new(touched) else {
            println!("no KVM");
            return ExitCode::SUCCESS;
        };
        println!("{name}");
        timed("a pass of the guest, memory new to KVM", || machine.pass());
        timed("a pass, nobody logs", || machine.pass());
        timed("start of the log, with the first look", || {
            machine.memory.start_global_dirty_log(CLIENT).expect("KVM logs")
        });
        if all {
            timed("a pass, logged, not watched", || machine.pass());
        }
        timed("look", || machine.memory.sync_dirty_log());
        let bytes = timed("taking everything", || machine.take());
        println!("    {} MiB", bytes / MIB);
        timed("look, nothing written", || machine.memory.sync_dirty_log());
        if all {
            timed("a pass, watched", || machine.pass());
            timed("look", || machine.memory.sync_dirty_log());
            timed("taking everything", || machine.take());
        }
        timed("end of the log", || machine.memory.stop_global_dirty_log(CLIENT));
        timed("a pass, nobody logs", || machine.pass());
    }
    ExitCode::SUCCESS
}

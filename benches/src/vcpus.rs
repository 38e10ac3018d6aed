//! What it costs to take the state of vCPUs and interrupt controllers out of the kernel and to put it into another VM: the part of a
//! migration's downtime that is the accelerator's.
//!
//! The guest's vCPUs spin. `save` has all sections written, `load` has them taken over by a VM that was reset, `resume` is until the guest
//! there has written to a port.

mod quiet;

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use accel::kvm::KvmAccel;
use accel::{Accel, CpuModel, VcpuConfig};
use memory::{AccessConstraints, Memory, RamSpec, RegionDesc, RegionOps, SIZE_ALL, UnassignedIo};
use vmstate::{Decoder, Encoder, Saved, Section};

use quiet::Quiet;

/// `out 10h,al; jmp` back.
const PROGRAM: [u8; 4] = [0xe6, 0x10, 0xeb, 0xfc];
/// The program's ROM ends at 4 GiB, where a reset vCPU starts.
const ROM: u64 = 0xffff_0000;
const ROM_SIZE: u64 = 0x1_0000;
/// `jmp` to the start of the ROM, at the reset vector.
const RESET_VECTOR: (u64, [u8; 3]) = (0xfff0, [0xe9, 0x0d, 0x00]);
/// Times that each guest is moved.
const MOVES: usize = 51;

/// Tells when the guest wrote: who waits for it may get a processor much later.
struct Bell(Mutex<Sender<Instant>>);

impl RegionOps for Bell {
    fn read(&self, _offset: u64, _size: u8) -> u64 {
        0
    }

    fn write(&self, _offset: u64, _size: u8, _value: u64) {
        // Nobody may listen any more.
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).send(Instant::now());
    }

    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(1, 8)
    }
}

struct Vm {
    accel: Arc<KvmAccel>,
    bell: Receiver<Instant>,
    _memory: Arc<Memory>,
}

/// A VM that was reset and did not run.
fn vm(cpus: u32) -> Option<Vm> {
    let accel = KvmAccel::open(&[]).ok()?;
    let memory = Memory::new();
    let (sender, bell) = mpsc::channel();
    let block = |name, size| memory.create_ram(RamSpec::anonymous(name, size)).expect("little memory");
    let (ram, rom) = (block("ram", 64 << 20), block("rom", ROM_SIZE));
    rom.write(0, &PROGRAM).expect("the program is small");
    rom.write(RESET_VECTOR.0, &RESET_VECTOR.1).expect("the vector is inside");
    let mut tx = memory.transaction();
    let root = tx.container(RegionDesc::new("system", SIZE_ALL));
    let io_root = tx.io(RegionDesc::new("io", 0x1_0000), Arc::new(UnassignedIo));
    let ram = tx.ram(RegionDesc::new("ram", 64 << 20), ram);
    let rom = tx.rom(RegionDesc::new("rom", ROM_SIZE.into()), rom);
    let ports = tx.io(RegionDesc::new("ports", 0x100), Arc::new(Bell(Mutex::new(sender))));
    tx.add_subregion(root, 0, ram, 0);
    tx.add_subregion(root, ROM, rom, 0);
    tx.add_subregion(io_root, 0, ports, 0);
    let (system, io) = (tx.address_space("memory", root), tx.address_space("I/O", io_root));
    tx.commit();
    accel.attach(&memory, &system, &io).expect("a fresh VM");
    let vcpus = VcpuConfig::new(cpus, &CpuModel::default(), &*accel);
    accel.create_vcpus(vcpus, Arc::new(Quiet)).expect("vCPUs");
    accel.reset();
    Some(Vm { accel, bell, _memory: memory })
}

impl Vm {
    fn sections(&self) -> Vec<Section> {
        match self.accel.saved() {
            Saved::Sections(all) => all,
            other => panic!("{other:?}"),
        }
    }

    /// When the guest first wrote.
    fn wait(&self) -> Instant {
        self.bell.recv_timeout(Duration::from_secs(20)).expect("the guest runs")
    }
}

/// Median and least, µs. The least is what it takes if nobody else wants the processor.
fn show(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let micros = |time: Duration| time.as_micros();
    format!("{:7}/{:5}", micros(times[times.len() / 2]), micros(times[0]))
}

fn measure(cpus: u32, ready: bool) -> Option<()> {
    let [mut pauses, mut saves, mut loads, mut resumes] = [const { Vec::new() }; 4];
    let mut bytes = 0;
    for _ in 0..MOVES {
        let (from, to) = (vm(cpus)?, vm(cpus)?);
        if ready {
            to.accel.make_ready();
        }
        from.accel.resume();
        from.wait();
        let start = Instant::now();
        from.accel.pause();
        pauses.push(start.elapsed());
        let start = Instant::now();
        let stream: Vec<_> = from
            .sections()
            .iter()
            .map(|section| {
                let mut out = Encoder::new();
                section.save(&mut out);
                (section.version(), out.into_bytes())
            })
            .collect();
        saves.push(start.elapsed());
        bytes = stream.iter().map(|(_, bytes)| bytes.len()).sum();
        let start = Instant::now();
        for (section, (version, bytes)) in to.sections().iter().zip(&stream) {
            section.load(&mut Decoder::new(&bytes[..]), *version).expect("the same machine");
        }
        loads.push(start.elapsed());
        let start = Instant::now();
        to.accel.resume();
        resumes.push(to.wait() - start);
    }
    println!(
        "{cpus:5} {:>6} {} {} {} {} {bytes:8}",
        if ready { "yes" } else { "no" },
        show(pauses),
        show(saves),
        show(loads),
        show(resumes)
    );
    Some(())
}

fn main() {
    println!("µs, median and least of {MOVES}");
    println!("vCPUs  ready         pause          save          load        resume    bytes");
    for ready in [false, true] {
        for cpus in [1, 2, 4] {
            if measure(cpus, ready).is_none() {
                println!("there is no KVM");
                return;
            }
        }
    }
}

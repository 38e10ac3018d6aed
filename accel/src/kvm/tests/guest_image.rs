//! The built-in guest's image on a real vCPU.

use std::sync::Arc;

use memory::{AddressSpace, Memory, RamSpec, RegionDesc, RegionId, SIZE_ALL, UnassignedIo};

use super::super::KvmAccel;
use super::rig::kvm;
use crate::testing::{Console, Serial, start_info};
use crate::{Accel, BootState, CpuModel, VcpuConfig, VcpuEvents};

const RAM: u64 = 64 << 20;
const START_INFO: u32 = 0x9000;

struct Loud;

impl VcpuEvents for Loud {
    fn triple_fault(&self, cpu: u32) {
        eprintln!("cpu {cpu}: triple fault");
    }
    fn reset(&self, cpu: u32) {
        eprintln!("cpu {cpu}: reset");
    }
    fn shutdown(&self, cpu: u32) {
        eprintln!("cpu {cpu}: shutdown");
    }
    fn failed_access(&self, _cpu: u32, _addr: u64, _write: bool) {}
    fn internal_error(&self, cpu: u32, text: &str) {
        eprintln!("cpu {cpu}: {text}");
    }
}

fn word<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().unwrap()
}

/// Puts the image's segments into memory and returns the entry of its PVH note.
fn load(system: &AddressSpace) -> u32 {
    let elf = guest::IMAGE;
    let headers = u64::from_le_bytes(word(elf, 32)) as usize;
    let mut entry = None;
    for index in 0..usize::from(u16::from_le_bytes(word(elf, 56))) {
        let header = &elf[headers + 56 * index..];
        let [offset, addr, size, in_memory] =
            [8, 24, 32, 40].map(|at| u64::from_le_bytes(word(header, at)) as usize);
        match u32::from_le_bytes(word(header, 0)) {
            1 => {
                let mut bytes = elf[offset..offset + size].to_vec();
                bytes.resize(in_memory, 0);
                assert!(system.write(addr as u64, &bytes).is_ok());
            }
            // Name size 4, descriptor, type 18, "Xen".
            4 => {
                let note = &elf[offset..offset + size];
                let at = note.windows(8).position(|w| w == b"\x12\0\0\0Xen\0").expect("a PVH note");
                entry = Some(u32::from_le_bytes(word(note, at + 8)));
            }
            _ => {}
        }
    }
    assert!(system.write(u64::from(START_INFO), &start_info(START_INFO, RAM)).is_ok());
    entry.expect("an entry")
}

/// A machine that runs the image.
pub(super) struct Machine {
    pub(super) accel: Arc<KvmAccel>,
    pub(super) memory: Arc<Memory>,
    /// The root of the system address space.
    pub(super) root: RegionId,
    pub(super) system: Arc<AddressSpace>,
    pub(super) console: Console,
}

/// Memory, a serial port, one vCPU of the given model at the image's entry.
pub(super) fn machine(cpu: &str, events: Arc<dyn VcpuEvents>) -> Option<Machine> {
    let accel = kvm()?;
    let memory = Memory::new();
    let (serial, console) = Serial::new();
    let block = memory.create_ram(RamSpec::anonymous("ram", RAM)).unwrap();
    let mut tx = memory.transaction();
    let root = tx.container(RegionDesc::new("system", SIZE_ALL));
    let io_root = tx.io(RegionDesc::new("io", 0x1_0000), Arc::new(UnassignedIo));
    let ram = tx.ram(RegionDesc::new("ram", u128::from(RAM)), block);
    let port = tx.io(RegionDesc::new("serial", 8), serial);
    tx.add_subregion(root, 0, ram, 0);
    tx.add_subregion(io_root, 0x3f8, port, 0);
    let system = tx.address_space("memory", root);
    let io = tx.address_space("I/O", io_root);
    tx.commit();
    accel.attach(&memory, &system, &io).unwrap();
    accel.create_vcpus(VcpuConfig::new(1, &CpuModel::parse(cpu).unwrap(), &*accel), events).unwrap();
    let entry = load(&system);
    accel.set_boot(Some(BootState::Pvh { entry, start_info: START_INFO }));
    accel.reset();
    Some(Machine { accel, memory, root, system, console })
}

#[test]
fn it_starts_with_every_cpu_model() {
    for cpu in ["qemu64", "host", "max,-avx2"] {
        let Some(Machine { accel, console, .. }) = machine(cpu, Arc::new(Loud)) else { return };
        accel.resume();
        console.read_until("ready: 0 virtio-mem devices");
        accel.shutdown();
    }
}

#[test]
fn it_goes_on_after_pauses_and_starts_again_after_resets() {
    let Some(Machine { accel, system, console, .. }) = machine("qemu64", Arc::new(Loud)) else { return };
    for _ in 0..3 {
        accel.resume();
        console.read_until("ready: ");
        for _ in 0..20 {
            accel.pause();
            accel.resume();
            console.type_line("peek 0x9000");
            console.read_until("336ec578");
        }
        accel.pause();
        console.drain();
        load(&system);
        accel.reset();
    }
}

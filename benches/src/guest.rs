//! A guest that halts at once, so that the kernel has the memory slots and the vCPU is out of the way.

use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use accel::kvm::KvmAccel;
use accel::{Accel, CpuModel, VcpuConfig};
use memory::{
    AccessConstraints, AddressSpace, Memory, RamSpec, RegionDesc, RegionId, RegionOps, UnassignedIo,
};

use crate::quiet::Quiet;

/// `out 10h,al; hlt; jmp` to the `hlt`.
const PROGRAM: [u8; 5] = [0xe6, 0x10, 0xf4, 0xeb, 0xfd];
/// The program's ROM ends at 4 GiB, where a reset vCPU starts.
const ROM: u64 = 0xffff_0000;
const ROM_SIZE: u64 = 0x1_0000;
/// `jmp` to the start of the ROM, at the reset vector.
const RESET_VECTOR: (u64, [u8; 3]) = (0xfff0, [0xe9, 0x0d, 0x00]);

/// Hears of the program's one write to a port.
struct Bell(Mutex<Sender<()>>);

impl RegionOps for Bell {
    fn read(&self, _offset: u64, _size: u8) -> u64 {
        0
    }

    fn write(&self, _offset: u64, _size: u8, _value: u64) {
        // Nobody waits for a second one.
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).send(());
    }

    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(1, 8)
    }
}

/// A VM with one vCPU that halted.
pub(crate) struct Guest(Arc<KvmAccel>);

impl Guest {
    /// A guest in `system`, or `None` without KVM.
    pub(crate) fn new(memory: &Arc<Memory>, root: RegionId, system: &Arc<AddressSpace>) -> Option<Self> {
        let accel = KvmAccel::open(&[]).ok()?;
        let (sender, halted) = mpsc::channel();
        let block = |name, size| memory.create_ram(RamSpec::anonymous(name, size)).expect("little memory");
        let (ram, rom) = (block("ram", 0x8000), block("rom", ROM_SIZE));
        rom.write(0, &PROGRAM).expect("the program is small");
        rom.write(RESET_VECTOR.0, &RESET_VECTOR.1).expect("the vector is inside");
        let mut tx = memory.transaction();
        let io_root = tx.io(RegionDesc::new("io", 0x1_0000), Arc::new(UnassignedIo));
        let ram = tx.ram(RegionDesc::new("ram", 0x8000), ram);
        let rom = tx.rom(RegionDesc::new("rom", ROM_SIZE.into()), rom);
        let ports = tx.io(RegionDesc::new("ports", 0x100), Arc::new(Bell(Mutex::new(sender))));
        tx.add_subregion(root, 0, ram, 0);
        tx.add_subregion(root, ROM, rom, 0);
        tx.add_subregion(io_root, 0, ports, 0);
        let io = tx.address_space("I/O", io_root);
        tx.commit();
        accel.attach(memory, system, &io).expect("a fresh VM");
        let vcpus = VcpuConfig::new(1, &CpuModel::default(), &*accel);
        accel.create_vcpus(vcpus, Arc::new(Quiet)).expect("one vCPU");
        accel.reset();
        accel.resume();
        halted.recv_timeout(Duration::from_secs(20)).expect("the guest runs");
        Some(Self(accel))
    }

    /// Memory slot ioctls so far.
    pub(crate) fn slot_changes(&self) -> u64 {
        self.0.stats().slot_changes
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.shutdown();
    }
}

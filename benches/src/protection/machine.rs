//! A VM whose one vCPU does nothing but write words into a [`Region`], in ring 3.
//!
//! Ring 3 because a host without hardware help (KVM-PVM) emulates ring 0 instruction by instruction, and then touches memory in other
//! ways than guests do. The vCPU is put there by its registers: long mode, identity map in pages of 2 MiB, no tables of
//! segments, no interrupts.
#![expect(unsafe_code, reason = "handing host memory to a guest")]

use std::io;
use std::ops::Range;
use std::sync::Arc;

use kvm_bindings::{
    KVM_CAP_DISABLE_QUIRKS2, KVM_MAX_CPUID_ENTRIES, KVM_X86_QUIRK_SLOT_ZAP_ALL, kvm_enable_cap, kvm_segment,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VcpuExit, VcpuFd, VmFd};
use memory::{Memory, RamBlock, RamSpec};

use super::host::Region;

/// Guest-physical address of the region.
const BASE: u64 = 1 << 40;
/// Tables of levels 4 and 3, and of level 2 for the first GiB.
const TABLE_4: u64 = 0x1000;
const TABLE_3_LOW: u64 = 0x2000;
const TABLE_2_LOW: u64 = 0x3000;
/// Those of the region: one table of level 2 for each GiB.
const TABLE_3: u64 = 0x4000;
const TABLES_2: u64 = 0x7000;
/// The guest reaches no more of a region.
const REACH: u64 = 256 << 30;
const PROGRAM: u64 = 0x5000;
const ORDER: u64 = 0x6000;
/// The control memory ends and the bell is here.
const BELL: u64 = 0x20_0000;

/// Rings the bell, then takes address, count and step from the order and writes that many words:
/// `mov [BELL],eax; mov rdi,[ORDER]; mov rcx,[ORDER+8]; mov rdx,[ORDER+16]; 1: mov [rdi],rcx; add rdi,rdx; dec rcx; jnz 1b; jmp`
/// to the start.
const CODE: [u8; 44] = [
    0x89, 0x04, 0x25, 0x00, 0x00, 0x20, 0x00, 0x48, 0x8b, 0x3c, 0x25, 0x00, 0x60, 0x00, 0x00, 0x48, 0x8b,
    0x0c, 0x25, 0x08, 0x60, 0x00, 0x00, 0x48, 0x8b, 0x14, 0x25, 0x10, 0x60, 0x00, 0x00, 0x48, 0x89, 0x0f,
    0x48, 0x01, 0xd7, 0x48, 0xff, 0xc9, 0x75, 0xf6, 0xeb, 0xd4,
];

/// How a pass of the guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    /// All words are written or dropped; so many were dropped.
    Done { dropped: u64 },
    /// `KVM_RUN` failed with `EFAULT`. [`Machine::go_on`] tries again.
    Fault,
}

/// See the module.
pub(crate) struct Machine<'a> {
    region: &'a Region,
    vcpu: VcpuFd,
    vm: VmFd,
    control: Arc<RamBlock>,
    max_slots: u32,
}

impl<'a> Machine<'a> {
    /// `None` without KVM.
    pub(crate) fn new(region: &'a Region) -> Option<Self> {
        let kvm = Kvm::new().ok()?;
        let vm = kvm.create_vm().ok()?;
        let control = Memory::new().create_ram(RamSpec::anonymous("control", BELL)).ok()?;
        let vcpu = vm.create_vcpu(0).ok()?;
        vcpu.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).ok()?).ok()?;
        let max_slots = u32::try_from(kvm.check_extension_int(Cap::NrMemslots)).ok()?;
        let mut machine = Self { region, vcpu, vm, control, max_slots };
        machine.set_slot(0, 0, BELL, machine.control.host_address() as u64).ok()?;
        machine.load();
        machine.enter_ring_3().ok()?;
        // It begins with the bell.
        (machine.go_on().ok()? == Pass::Done { dropped: 0 }).then_some(machine)
    }

    /// Slots that the kernel has for the region.
    pub(crate) fn max_slots(&self) -> u32 {
        self.max_slots - 1
    }

    fn put(&self, at: u64, words: &[u64]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.put_bytes(at, &bytes);
    }

    fn put_bytes(&self, at: u64, bytes: &[u8]) {
        self.control.write(at, bytes).expect("the control memory has room");
    }

    fn load(&self) {
        // Present, writable, for ring 3; a page of 2 MiB.
        const TABLE: u64 = 7;
        const PAGE: u64 = 0x87;
        let pages = |first: u64| -> Vec<u64> { (0..512).map(|i| first + (i << 21) + PAGE).collect() };
        self.put(TABLE_4, &[TABLE_3_LOW + TABLE]);
        self.put(TABLE_4 + 8 * (BASE >> 39), &[TABLE_3 + TABLE]);
        self.put(TABLE_3_LOW, &[TABLE_2_LOW + TABLE]);
        self.put(TABLE_2_LOW, &pages(0));
        for gib in 0..self.region.size().min(REACH).div_ceil(1 << 30) {
            let table = TABLES_2 + 0x1000 * gib;
            self.put(TABLE_3 + 8 * gib, &[table + TABLE]);
            self.put(table, &pages(BASE + (gib << 30)));
        }
        self.put_bytes(PROGRAM, &CODE);
    }

    fn enter_ring_3(&self) -> Result<(), kvm_ioctls::Error> {
        let mut sregs = self.vcpu.get_sregs()?;
        let data = kvm_segment {
            limit: u32::MAX,
            selector: 0x1b,
            type_: 3,
            dpl: 3,
            present: 1,
            s: 1,
            db: 1,
            g: 1,
            ..Default::default()
        };
        sregs.cs = kvm_segment { selector: 0x23, type_: 11, l: 1, db: 0, ..data };
        (sregs.ds, sregs.es, sregs.ss, sregs.fs, sregs.gs) = (data, data, data, data, data);
        // PG, NE, ET, MP, PE; PAE; LMA, LME.
        (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (0x8000_0033, TABLE_4, 0x20, 0x500);
        self.vcpu.set_sregs(&sregs)?;
        let mut regs = self.vcpu.get_regs()?;
        (regs.rip, regs.rflags) = (PROGRAM, 2);
        self.vcpu.set_regs(&regs)
    }

    fn set_slot(&self, slot: u32, gpa: u64, size: u64, host: u64) -> io::Result<()> {
        let region = kvm_userspace_memory_region {
            slot,
            guest_phys_addr: gpa,
            memory_size: size,
            userspace_addr: host,
            ..Default::default()
        };
        // SAFETY: the memory is `control` or part of `region`, both of which live as long as the VM.
        unsafe { self.vm.set_user_memory_region(region) }.map_err(|e| io::Error::from_raw_os_error(e.errno()))
    }

    /// Gives the guest a part of the region. Slots are numbered from 1 on.
    pub(crate) fn add(&self, slot: u32, range: &Range<u64>) -> io::Result<()> {
        let (host, len) = self.region.place(range);
        self.set_slot(slot, BASE + range.start, len, host)
    }

    pub(crate) fn delete(&self, slot: u32) -> io::Result<()> {
        self.set_slot(slot, 0, 0, 0)
    }

    /// Has the kernel forget only what a deleted slot mapped, instead of all the guest's memory.
    ///
    /// # Errors
    /// Kernels before 6.12 cannot.
    pub(crate) fn forget_only_deleted_slots(&self) -> io::Result<()> {
        let mut cap = kvm_enable_cap { cap: KVM_CAP_DISABLE_QUIRKS2, ..Default::default() };
        cap.args[0] = u64::from(KVM_X86_QUIRK_SLOT_ZAP_ALL);
        self.vm.enable_cap(&cap).map_err(|e| io::Error::from_raw_os_error(e.errno()))
    }

    /// Has the guest write `count` words, `step` bytes apart, from offset `at` of the region on.
    pub(crate) fn write(&mut self, at: u64, count: u64, step: u64) -> io::Result<Pass> {
        self.put(ORDER, &[BASE + at, count, step]);
        self.go_on()
    }

    /// Runs the guest until the bell.
    pub(crate) fn go_on(&mut self) -> io::Result<Pass> {
        let mut dropped = 0;
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::MmioWrite(BELL, _)) => return Ok(Pass::Done { dropped }),
                Ok(VcpuExit::MmioWrite(..)) => dropped += 1,
                Ok(exit) => return Err(io::Error::other(format!("unexpected exit {exit:?}"))),
                Err(error) if error.errno() == libc::EFAULT => return Ok(Pass::Fault),
                Err(error) if error.errno() == libc::EINTR => {}
                Err(error) => return Err(io::Error::from_raw_os_error(error.errno())),
            }
        }
    }
}

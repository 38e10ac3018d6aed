//! The state in which the Xen PVH boot protocol enters a kernel (Xen `docs/misc/pvh.pandoc`, "Direct boot ABI"): 32-bit protected
//! mode, paging off, flat segments, `ebx` at the start information.

use kvm_bindings::kvm_segment;
use kvm_ioctls::VcpuFd;

use crate::BootState;

/// Protection enable, extension type.
const CR0: u64 = 0x11;
/// Only the bit that is always set.
const RFLAGS: u64 = 2;

/// Entry of the local vector table for input 1, bytes from the start of the APIC's registers.
const LVT_LINT1: usize = 0x360;
/// Delivered as a non-maskable interrupt.
const LVT_NMI: u32 = 0x400;

const CODE: kvm_segment = flat(0x08, 0xb);
const DATA: kvm_segment = flat(0x10, 0x3);
/// A busy 32-bit TSS of 104 bytes at 0.
const TASK: kvm_segment = kvm_segment { limit: 0x67, s: 0, g: 0, db: 0, ..flat(0x18, 0xb) };

const fn flat(selector: u16, type_: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

/// Puts a vCPU that is in reset state into the boot state.
pub(crate) fn enter(fd: &VcpuFd, boot: &BootState) -> Result<(), kvm_ioctls::Error> {
    let BootState::Pvh { entry, start_info } = *boot;
    let mut sregs = fd.get_sregs()?;
    sregs.cs = CODE;
    (sregs.ds, sregs.es, sregs.ss, sregs.fs, sregs.gs) = (DATA, DATA, DATA, DATA, DATA);
    sregs.tr = TASK;
    sregs.cr0 = CR0;
    (sregs.cr4, sregs.efer) = (0, 0);
    fd.set_sregs(&sregs)?;
    // What firmware does before it starts a kernel: non-maskable interrupts of the board come in at LINT1.
    let mut lapic = fd.get_lapic()?;
    for (byte, value) in lapic.regs[LVT_LINT1..].iter_mut().zip(LVT_NMI.to_le_bytes()) {
        *byte = value.cast_signed();
    }
    fd.set_lapic(&lapic)?;
    let mut regs = fd.get_regs()?;
    (regs.rip, regs.rbx, regs.rflags) = (u64::from(entry), u64::from(start_info), RFLAGS);
    fd.set_regs(&regs)
}

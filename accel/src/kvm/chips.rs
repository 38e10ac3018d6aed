//! Reading the kernel's interrupt controllers, and delivering what comes past them.

#![expect(unsafe_code, reason = "the kernel's structures are unions")]

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_MAX_CPUID_ENTRIES, kvm_irqchip,
};
use kvm_ioctls::{VcpuFd, VmFd};

use crate::chips::{Chips, IoApic, LocalApic, Pic};

type Result<T> = std::result::Result<T, kvm_ioctls::Error>;

/// CPUID.1:ECX.
const X2APIC: u32 = 1 << 21;
/// `IA32_APIC_BASE`: the APIC is enabled.
const APIC_BASE_ENABLED: u64 = 1 << 11;
/// Local vector table, input 1.
const LVT_LINT1: u32 = 0x360;
const LVT_MASKED: u32 = 1 << 16;
const LVT_MODE: u32 = 7 << 8;
const LVT_MODE_NMI: u32 = 4 << 8;
/// What KVM's IOAPIC says it is.
const IOAPIC_VERSION: u8 = 0x11;

/// A vCPU's local APIC. On the vCPU's own thread only.
pub(super) fn local_apic(fd: &VcpuFd) -> Result<LocalApic> {
    let state = fd.get_lapic()?;
    let mut registers = [0; 64];
    for (register, bytes) in registers.iter_mut().zip(state.regs.chunks_exact(16)) {
        *register =
            bytes[..4].iter().rev().fold(0, |value, byte| value << 8 | u32::from(byte.cast_unsigned()));
    }
    let cpuid = fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES)?;
    let x2apic = cpuid.as_slice().iter().any(|leaf| leaf.function == 1 && leaf.ecx & X2APIC != 0);
    Ok(LocalApic { registers, x2apic })
}

/// Delivers a non-maskable interrupt as a board does that wires it to LINT1. On the vCPU's own thread only.
pub(super) fn nmi(fd: &VcpuFd) -> Result<()> {
    let enabled = fd.get_sregs()?.apic_base & APIC_BASE_ENABLED != 0;
    let lint1 = local_apic(fd)?.register(LVT_LINT1);
    if enabled && (lint1 & LVT_MASKED != 0 || lint1 & LVT_MODE != LVT_MODE_NMI) {
        return Ok(());
    }
    fd.nmi()
}

/// PIC pair and IOAPIC.
pub(super) fn chips(vm: &VmFd) -> Result<Chips> {
    Ok(Chips {
        pics: [pic(vm, KVM_IRQCHIP_PIC_MASTER)?, pic(vm, KVM_IRQCHIP_PIC_SLAVE)?],
        ioapic: ioapic(vm)?,
    })
}

fn read(vm: &VmFd, chip_id: u32) -> Result<kvm_irqchip> {
    let mut chip = kvm_irqchip { chip_id, ..Default::default() };
    vm.get_irqchip(&mut chip)?;
    Ok(chip)
}

fn pic(vm: &VmFd, chip_id: u32) -> Result<Pic> {
    let chip = read(vm, chip_id)?;
    // SAFETY: the kernel filled this member, since a PIC was asked for; integers of any value are valid.
    let pic = unsafe { chip.chip.pic };
    Ok(Pic {
        irr: pic.irr,
        imr: pic.imr,
        isr: pic.isr,
        priority: pic.priority_add,
        base: pic.irq_base,
        read_isr: pic.read_reg_select != 0,
        elcr: pic.elcr,
        fully_nested: pic.special_fully_nested_mode != 0,
    })
}

fn ioapic(vm: &VmFd) -> Result<IoApic> {
    let chip = read(vm, KVM_IRQCHIP_IOAPIC)?;
    // SAFETY: the kernel filled this member, since the IOAPIC was asked for; integers of any value are valid.
    let ioapic = unsafe { chip.chip.ioapic };
    // SAFETY: both members of the union are the same 64 bits.
    let pins = ioapic.redirtbl.map(|entry| unsafe { entry.bits });
    Ok(IoApic {
        id: ioapic.id as u8,
        version: IOAPIC_VERSION,
        select: ioapic.ioregsel as u8,
        irr: ioapic.irr,
        pins,
    })
}

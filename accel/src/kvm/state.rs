//! What vCPUs and interrupt controllers have: taken from the kernel and given back to it, at a reset and when a machine moves.
//!
//! A vCPU is reset to exactly what the kernel made it when it was created, which is the architecture's reset state (Intel SDM
//! volume 3, 9.1.1), saved then and loaded at every reset.
//!
//! # Order
//!
//! What is given to the kernel changes what was given before, so that [`VcpuState::restore`] has an order:
//!
//! - the run state first, because that discards an INIT or SIPI that waits, and again behind the segment registers, which end the
//!   boot processor's halt if it is at the reset vector;
//! - general registers drop an exception that waits, segment registers bring the APIC base: events and the local APIC come later;
//! - nested state behind the segment registers, which bring the mode that it needs;
//! - the time stamp counter before any deadline on it, the local APIC, whose timer gets its mode there, before the deadline.

#![expect(unsafe_code, reason = "KVM_SET_XSAVE has no safe wrapper")]

use kvm_bindings::{
    CpuId, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_MAX_CPUID_ENTRIES, Msrs,
    kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_pit_config, kvm_pit_state2,
    kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Cap, Kvm, KvmNestedStateBuffer, VcpuFd, VmFd};

use super::tsc::InStep;

type Result<T> = std::result::Result<T, kvm_ioctls::Error>;

/// The time stamp counter. Zero is loaded at a reset, which KVM takes as "in step with the other vCPUs".
pub(super) const MSR_IA32_TSC: u32 = 0x10;
/// When the local APIC's timer fires, in the mode that compares with the time stamp counter.
const MSR_TSC_DEADLINE: u32 = 0x6e0;
/// Registers of memory types that the kernel's list leaves out: default, fixed ranges, and the eight pairs of variable ones.
const MTRRS: [std::ops::RangeInclusive<u32>; 5] =
    [0x200..=0x20f, 0x250..=0x250, 0x258..=0x259, 0x268..=0x26f, 0x2ff..=0x2ff];
/// The low byte is how many banks of machine checks there are.
const MSR_MCG_CAP: u32 = 0x179;
/// The first of four registers of the first bank.
const MSR_MC0_CTL: u32 = 0x400;

/// CPUID.1:ECX and CPUID.80000001:ECX.
const VMX: u32 = 1 << 5;
const SVM: u32 = 1 << 2;
/// As many registers as the kernel takes at once.
const MSR_BATCH: usize = 255;

/// What the kernel saves and loads of a vCPU besides what all have.
#[derive(Debug, Clone, Default)]
pub(crate) struct Extent {
    /// Model-specific registers; of a vCPU, the time stamp counter is the last.
    msrs: Vec<u32>,
    /// What it is to guests of its own.
    nested: bool,
}

impl Extent {
    /// Of any vCPU.
    pub(crate) fn of(kvm: &Kvm) -> Self {
        let nested = kvm.check_extension(Cap::NestedState);
        match kvm.get_msr_index_list() {
            Ok(list) => {
                let mut msrs = list.as_slice().to_vec();
                let more: Vec<_> =
                    MTRRS.into_iter().flatten().filter(|index| !msrs.contains(index)).collect();
                msrs.extend(more);
                Self { msrs, nested }
            }
            Err(error) => {
                tracing::warn!(%error, "no list of MSRs: they are not reset");
                Self { msrs: Vec::new(), nested }
            }
        }
    }

    /// Of this vCPU: registers that it has, with its banks of machine checks; nested state if it has VMX or SVM.
    fn of_vcpu(&self, fd: &VcpuFd, cpuid: &CpuId) -> Self {
        let banks = read_msrs(fd, &[MSR_MCG_CAP]).first().map_or(0, |cap| cap.data as u32 & 0xff);
        let banks = MSR_MC0_CTL..MSR_MC0_CTL + 4 * banks.min(32);
        let others = self.msrs.iter().copied().filter(|index| *index != MSR_IA32_TSC);
        let wanted: Vec<_> = others.chain(banks).chain([MSR_IA32_TSC]).collect();
        let msrs = read_msrs(fd, &wanted).into_iter().map(|entry| entry.index).collect();
        let ecx = |leaf| super::cpuid::find(cpuid, leaf, None).map_or(0, |entry| entry.ecx);
        Self { msrs, nested: self.nested && (ecx(1) & VMX != 0 || ecx(0x8000_0001) & SVM != 0) }
    }

    /// Registers that can be read and may be loaded: not the time stamp counter.
    pub(super) fn msrs(&self) -> &[u32] {
        self.msrs.strip_suffix(&[MSR_IA32_TSC]).unwrap_or(&self.msrs)
    }

    /// Whether a vCPU can have guests of its own, and the kernel says so.
    pub(super) fn has_nested(&self) -> bool {
        self.nested
    }
}

/// Those of `indices` that can be read, with their values: one call of the kernel if all can.
fn read_msrs(fd: &VcpuFd, indices: &[u32]) -> Vec<kvm_msr_entry> {
    let all: Vec<_> =
        indices.iter().map(|index| kvm_msr_entry { index: *index, ..Default::default() }).collect();
    let mut found = Vec::with_capacity(all.len());
    each_msr(&all, |msrs| {
        let count = fd.get_msrs(msrs)?;
        found.extend_from_slice(&msrs.as_slice()[..count]);
        Ok(count)
    });
    found
}

/// Hands `entries` to `ioctl`, which does the first few and says how many; those it stopped at are skipped and given back.
fn each_msr(
    entries: &[kvm_msr_entry],
    mut ioctl: impl FnMut(&mut Msrs) -> Result<usize>,
) -> Vec<kvm_msr_entry> {
    let (mut left, mut skipped) = (entries, Vec::new());
    while !left.is_empty() {
        let batch = &left[..left.len().min(MSR_BATCH)];
        let Ok(mut msrs) = Msrs::from_entries(batch) else { return skipped };
        let done = ioctl(&mut msrs).unwrap_or(0).min(batch.len());
        if let Some(refused) = batch.get(done) {
            trace::emit!(pliant_kvm_msr_skipped, refused.index);
            skipped.push(*refused);
        }
        left = &left[batch.len().min(done + 1)..];
    }
    skipped
}

/// All that a guest can tell of a vCPU. Its parts are the kernel's structures; what of them means nothing here is zero.
#[derive(Default)]
pub(crate) struct VcpuState {
    pub(super) mp_state: kvm_mp_state,
    pub(super) regs: kvm_regs,
    pub(super) sregs: kvm_sregs,
    pub(super) xsave: Box<kvm_xsave>,
    pub(super) xcrs: kvm_xcrs,
    pub(super) debug: kvm_debugregs,
    pub(super) events: kvm_vcpu_events,
    pub(super) lapic: Box<kvm_lapic_state>,
    /// The time stamp counter is not among them.
    pub(super) msrs: Vec<kvm_msr_entry>,
    pub(super) nested: Option<Box<KvmNestedStateBuffer>>,
}

impl VcpuState {
    /// Gives its time stamp counter, too. Called on the vCPU's thread, or before there is one; outside the guest.
    pub(super) fn capture(fd: &VcpuFd, extent: &Extent) -> Result<(Self, u64)> {
        let mut state = Self {
            // First: an INIT or SIPI that waits is carried out.
            mp_state: fd.get_mp_state()?,
            regs: fd.get_regs()?,
            sregs: fd.get_sregs()?,
            xsave: Box::new(fd.get_xsave()?),
            xcrs: fd.get_xcrs()?,
            debug: fd.get_debug_regs()?,
            lapic: Box::new(fd.get_lapic()?),
            msrs: read_msrs(fd, &extent.msrs),
            nested: if extent.nested { Some(nested(fd)?) } else { None },
            events: fd.get_vcpu_events()?,
        };
        let tsc = state.msrs.pop_if(|msr| msr.index == MSR_IA32_TSC).map_or(0, |msr| msr.data);
        Ok((state, tsc))
    }

    /// Loads it; `tsc` sets the time stamp counter. Gives the registers that the kernel refused. On the vCPU's thread, outside
    /// the guest.
    pub(super) fn restore(
        &self,
        fd: &VcpuFd,
        tsc: impl FnOnce() -> Result<()>,
    ) -> Result<Vec<kvm_msr_entry>> {
        let Self { mp_state, regs, sregs, xsave, xcrs, debug, events, lapic, msrs, nested } = self;
        fd.set_mp_state(*mp_state)?;
        fd.set_regs(regs)?;
        // SAFETY: the kernel reads as much as its state for this vCPU needs, which is more than a kvm_xsave only after
        // arch_prctl(ARCH_REQ_XCOMP_GUEST_PERM), which this program never calls.
        unsafe { fd.set_xsave(xsave)? };
        // A host without XSAVE has none and refuses to be told so.
        if xcrs.nr_xcrs > 0 {
            fd.set_xcrs(xcrs)?;
        }
        fd.set_sregs(sregs)?;
        if let Some(nested) = nested {
            fd.set_nested_state(nested)?;
        }
        tsc()?;
        let mut refused = each_msr(msrs, |msrs| fd.set_msrs(msrs));
        fd.set_lapic(lapic)?;
        let deadline = msrs.iter().find(|msr| msr.index == MSR_TSC_DEADLINE && msr.data != 0);
        if let Some(deadline) = deadline {
            refused.extend(each_msr(&[*deadline], |msrs| fd.set_msrs(msrs)));
        }
        fd.set_debug_regs(debug)?;
        fd.set_mp_state(*mp_state)?;
        fd.set_vcpu_events(events)?;
        Ok(refused)
    }
}

fn nested(fd: &VcpuFd) -> Result<Box<KvmNestedStateBuffer>> {
    let mut state = Box::new(KvmNestedStateBuffer::empty());
    // What it gives back, whether there is more than a header, is in the header as well.
    let _more = fd.nested_state(&mut state)?;
    Ok(state)
}

/// A vCPU as it was created.
pub(crate) struct ResetState {
    state: VcpuState,
    extent: Extent,
}

impl ResetState {
    pub(crate) fn capture(fd: &VcpuFd, extent: &Extent) -> Result<Self> {
        let cpuid = fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES)?;
        let extent = extent.of_vcpu(fd, &cpuid);
        let (mut state, _) = VcpuState::capture(fd, &extent)?;
        // Which processor it is; the kernel does not look at the CPUID table for it.
        state.regs.rdx = super::cpuid::find(&cpuid, 1, None).map_or(state.regs.rdx, |leaf| leaf.eax.into());
        Ok(Self { state, extent })
    }

    /// What the kernel saves and loads.
    pub(crate) fn extent(&self) -> &Extent {
        &self.extent
    }

    /// Its value of a register.
    pub(crate) fn msr(&self, index: u32) -> Option<u64> {
        self.state.msrs.iter().find(|msr| msr.index == index).map(|msr| msr.data)
    }

    /// Loads it. Called on the vCPU's thread, outside the guest.
    pub(crate) fn restore(&self, fd: &VcpuFd) -> Result<()> {
        self.state.restore(fd, || super::tsc::start(fd)).map(|_refused| ())
    }
}

/// A vCPU as it is, with its time.
#[derive(Default)]
pub(crate) struct LiveState {
    pub(super) state: VcpuState,
    pub(super) tsc: u64,
    /// Ticks of it in a millisecond; 0 if the kernel does not say.
    pub(super) tsc_khz: u32,
    /// It stays halted until a reset.
    pub(super) broken: bool,
}

impl LiveState {
    /// The vCPUs that share `step` are saved as of one moment.
    pub(super) fn capture(
        fd: &VcpuFd,
        extent: &Extent,
        step: &InStep,
        tsc_khz: u32,
        broken: bool,
    ) -> Result<Self> {
        let (state, now) = VcpuState::capture(fd, extent)?;
        Ok(Self { state, tsc: step.read(fd, now), tsc_khz, broken })
    }

    /// Loads it; the time goes on from what was saved, at `tsc_khz` if that is not 0. Gives the registers that the kernel refused.
    pub(super) fn restore(&self, fd: &VcpuFd, step: &InStep) -> Result<Vec<kvm_msr_entry>> {
        if self.tsc_khz != 0 {
            fd.set_tsc_khz(self.tsc_khz)?;
        }
        self.state.restore(fd, || step.write(fd, self.tsc))
    }
}

/// PIC pair and IOAPIC, in the order of the kernel's numbers.
#[derive(Clone, Copy)]
pub(crate) struct ChipState(pub(super) [kvm_irqchip; 3]);

/// One of the kernel's interrupt controllers.
pub(super) fn chip(vm: &VmFd, chip_id: u32) -> Result<kvm_irqchip> {
    let mut chip = kvm_irqchip { chip_id, ..Default::default() };
    vm.get_irqchip(&mut chip)?;
    Ok(chip)
}

impl ChipState {
    pub(crate) fn capture(vm: &VmFd) -> Result<Self> {
        let [master, slave, ioapic] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];
        Ok(Self([chip(vm, master)?, chip(vm, slave)?, chip(vm, ioapic)?]))
    }

    pub(crate) fn restore(&self, vm: &VmFd) -> Result<()> {
        self.0.iter().try_for_each(|chip| vm.set_irqchip(chip))
    }
}

/// The PIT drives no speaker in the kernel; port 61h is emulated there all the same.
const KVM_PIT_SPEAKER_DUMMY: u32 = 1;

/// Creates the PIT and returns its reset state.
pub(crate) fn create_pit(vm: &VmFd) -> Result<kvm_pit_state2> {
    vm.create_pit2(kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() })?;
    vm.get_pit2()
}

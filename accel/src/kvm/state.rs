//! What vCPUs and interrupt controllers are reset to: exactly what the kernel made them when they were created, which is the
//! architecture's reset state (Intel SDM volume 3, 9.1.1), saved then and loaded at every reset.

#![expect(unsafe_code, reason = "KVM_SET_XSAVE has no safe wrapper")]

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_MAX_CPUID_ENTRIES, Msrs,
    kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_pit_config, kvm_pit_state2,
    kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

type Result<T> = std::result::Result<T, kvm_ioctls::Error>;

/// The time stamp counter. Zero is loaded, which KVM takes as "in step with the other vCPUs".
const MSR_IA32_TSC: u32 = 0x10;

/// Model-specific registers that the kernel saves and loads.
pub(crate) struct MsrIndices(Vec<u32>);

impl MsrIndices {
    pub(crate) fn of(kvm: &Kvm) -> Self {
        match kvm.get_msr_index_list() {
            Ok(list) => Self(list.as_slice().to_vec()),
            Err(error) => {
                tracing::warn!(%error, "no list of MSRs: they are not reset");
                Self(Vec::new())
            }
        }
    }

    /// Those that can be read, with their values.
    fn read(&self, fd: &VcpuFd) -> Vec<kvm_msr_entry> {
        let all: Vec<_> =
            self.0.iter().map(|index| kvm_msr_entry { index: *index, ..Default::default() }).collect();
        let mut found = Vec::with_capacity(all.len());
        each_msr(&all, |msrs| {
            let count = fd.get_msrs(msrs)?;
            found.extend_from_slice(&msrs.as_slice()[..count]);
            Ok(count)
        });
        for entry in &mut found {
            if entry.index == MSR_IA32_TSC {
                entry.data = 0;
            }
        }
        found
    }
}

/// Hands `entries` to `ioctl`, which does the first few and says how many; the one it stopped at is skipped.
fn each_msr(entries: &[kvm_msr_entry], mut ioctl: impl FnMut(&mut Msrs) -> Result<usize>) {
    let mut left = entries;
    while !left.is_empty() {
        let Ok(mut msrs) = Msrs::from_entries(left) else { return };
        let done = ioctl(&mut msrs).unwrap_or(0);
        if let Some(refused) = left.get(done) {
            trace::emit!(pliant_kvm_msr_skipped, refused.index);
        }
        left = left.get(done + 1..).unwrap_or_default();
    }
}

/// A vCPU as it was created.
pub(crate) struct ResetState {
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: Box<kvm_xsave>,
    xcrs: kvm_xcrs,
    debug: kvm_debugregs,
    events: kvm_vcpu_events,
    mp_state: kvm_mp_state,
    lapic: Box<kvm_lapic_state>,
    msrs: Vec<kvm_msr_entry>,
}

impl ResetState {
    pub(crate) fn capture(fd: &VcpuFd, msrs: &MsrIndices) -> Result<Self> {
        let mut regs = fd.get_regs()?;
        // Which processor it is; the kernel does not look at the CPUID table for it.
        let cpuid = fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES)?;
        let signature = cpuid.as_slice().iter().find(|leaf| leaf.function == 1).map(|leaf| leaf.eax);
        regs.rdx = signature.map_or(regs.rdx, u64::from);
        Ok(Self {
            regs,
            sregs: fd.get_sregs()?,
            xsave: Box::new(fd.get_xsave()?),
            xcrs: fd.get_xcrs()?,
            debug: fd.get_debug_regs()?,
            events: fd.get_vcpu_events()?,
            mp_state: fd.get_mp_state()?,
            lapic: Box::new(fd.get_lapic()?),
            msrs: msrs.read(fd),
        })
    }

    /// Loads it. Called on the vCPU's thread, outside the guest.
    pub(crate) fn restore(&self, fd: &VcpuFd) -> Result<()> {
        let Self { regs, sregs, xsave, xcrs, debug, events, mp_state, lapic, msrs } = self;
        // First, because it also discards a pending INIT or SIPI.
        fd.set_mp_state(*mp_state)?;
        fd.set_regs(regs)?;
        // SAFETY: the kernel reads as much as its state for this vCPU needs, which is more than a kvm_xsave only after
        // arch_prctl(ARCH_REQ_XCOMP_GUEST_PERM), which this program never calls.
        unsafe { fd.set_xsave(xsave)? };
        // A host without XSAVE has none and refuses to be told so.
        if xcrs.nr_xcrs > 0 {
            fd.set_xcrs(xcrs)?;
        }
        // The APIC base is in here, so the LAPIC's registers come later.
        fd.set_sregs(sregs)?;
        each_msr(msrs, |msrs| fd.set_msrs(msrs));
        fd.set_vcpu_events(events)?;
        fd.set_lapic(lapic)?;
        fd.set_debug_regs(debug)
    }
}

/// PIC pair and IOAPIC as they were created.
pub(crate) struct ChipState([kvm_irqchip; 3]);

impl ChipState {
    pub(crate) fn capture(vm: &VmFd) -> Result<Self> {
        let chip = |chip_id| -> Result<kvm_irqchip> {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            vm.get_irqchip(&mut chip)?;
            Ok(chip)
        };
        Ok(Self([chip(KVM_IRQCHIP_PIC_MASTER)?, chip(KVM_IRQCHIP_PIC_SLAVE)?, chip(KVM_IRQCHIP_IOAPIC)?]))
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

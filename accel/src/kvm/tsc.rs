//! Time stamp counters of vCPUs, moved so that they stay in step with each other.
//!
//! Interface: Linux `Documentation/virt/kvm/devices/vcpu.rst`, `KVM_VCPU_TSC_OFFSET` (Linux 5.16): a vCPU's counter is the host's, scaled,
//! plus an offset. Whoever comes first, of the vCPUs that share an [`InStep`], decides what moment it is; the others differ from
//! it by what their offsets differ.
//!
//! Older kernels know the register alone, and take a value that is within a second of what a vCPU would have by itself for one that is to
//! be in step. So the first writes a value that is nowhere near before the one that is meant, and the others are then in step with it.

#![expect(unsafe_code, reason = "device attributes of vCPUs have no safe wrapper")]

use std::sync::{Mutex, PoisonError};

use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, Msrs, kvm_device_attr, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use super::state::MSR_IA32_TSC;

type Result<T> = std::result::Result<T, kvm_ioctls::Error>;

ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);

/// Far from any time that a counter can have by itself.
const ELSEWHERE: u64 = 1 << 62;

/// Vcpus that are saved as of one moment, or loaded at one. One for each time.
#[derive(Debug, Default)]
pub(super) struct InStep(Mutex<Option<First>>);

#[derive(Debug, Clone, Copy)]
struct First {
    tsc: u64,
    /// `None` if the kernel does not tell.
    offset: Option<u64>,
}

impl First {
    /// What a vCPU of another offset has at its moment.
    fn tsc_with(self, offset: u64) -> Option<u64> {
        Some(self.tsc.wrapping_add(offset.wrapping_sub(self.offset?)))
    }

    /// The offset of a vCPU that had `tsc` at its moment.
    fn offset_with(self, tsc: u64) -> Option<u64> {
        Some(self.offset?.wrapping_add(tsc.wrapping_sub(self.tsc)))
    }
}

impl InStep {
    /// What this vCPU's counter, which is at `now`, was at the moment when the first was asked.
    pub(super) fn read(&self, fd: &VcpuFd, now: u64) -> u64 {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = offset(fd);
        let tsc = first.zip(own).and_then(|(first, own)| first.tsc_with(own));
        first.get_or_insert(First { tsc: now, offset: own });
        tsc.unwrap_or(now)
    }

    /// Lets the counter go on from `tsc`, which [`InStep::read`] gave.
    pub(super) fn write(&self, fd: &VcpuFd, tsc: u64) -> Result<()> {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = *first {
            return first.offset_with(tsc).map_or_else(|| write(fd, tsc), |offset| set_offset(fd, offset));
        }
        let offset = match offset(fd) {
            Some(old) => {
                let now = First { tsc: read(fd)?, offset: Some(old) };
                let offset = now.offset_with(tsc);
                offset.map_or(Ok(()), |offset| set_offset(fd, offset))?;
                offset
            }
            None => {
                write(fd, tsc ^ ELSEWHERE)?;
                write(fd, tsc)?;
                None
            }
        };
        *first = Some(First { tsc, offset });
        Ok(())
    }
}

/// Starts a counter at 0, in step with the others.
pub(super) fn start(fd: &VcpuFd) -> Result<()> {
    write(fd, 0)
}

fn entry(data: u64) -> Result<Msrs> {
    let entry = kvm_msr_entry { index: MSR_IA32_TSC, data, ..Default::default() };
    Msrs::from_entries(&[entry]).map_err(|_| kvm_ioctls::Error::new(libc::ENOMEM))
}

fn read(fd: &VcpuFd) -> Result<u64> {
    let mut msrs = entry(0)?;
    fd.get_msrs(&mut msrs)?;
    Ok(msrs.as_slice().first().map_or(0, |entry| entry.data))
}

/// A kernel that has no such register leaves the counter as it is.
fn write(fd: &VcpuFd, tsc: u64) -> Result<()> {
    fd.set_msrs(&entry(tsc)?).map(|_done| ())
}

fn attribute(value: &mut u64) -> kvm_device_attr {
    kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: std::ptr::from_mut(value) as u64,
        ..Default::default()
    }
}

/// `None` if this kernel does not tell.
fn offset(fd: &VcpuFd) -> Option<u64> {
    let mut value = 0;
    let attribute = attribute(&mut value);
    // SAFETY: the kernel reads the structure and writes eight bytes at `addr`, where `value` lives until after the call.
    let result = unsafe { ioctl_with_ref(fd, KVM_GET_DEVICE_ATTR(), &attribute) };
    (result == 0).then_some(value)
}

fn set_offset(fd: &VcpuFd, mut value: u64) -> Result<()> {
    let attribute = attribute(&mut value);
    // SAFETY: the kernel reads the structure and eight bytes at `addr`, where `value` lives until after the call.
    match unsafe { ioctl_with_ref(fd, KVM_SET_DEVICE_ATTR(), &attribute) } {
        0 => Ok(()),
        _ => Err(kvm_ioctls::Error::last()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_differ_by_what_their_offsets_differ() {
        // The host's counter is at 10,000 when the first is asked; the second is 50 behind.
        let saved = First { tsc: 400, offset: Some(400_u64.wrapping_sub(10_000)) };
        assert_eq!(saved.tsc_with(350_u64.wrapping_sub(10_000)), Some(350));
        // On another host it is at 77 by then.
        let now = First { tsc: 5, offset: Some(5_u64.wrapping_sub(77)) };
        let first = First { tsc: 400, offset: now.offset_with(400) };
        assert_eq!(first.offset, Some(400 - 77));
        assert_eq!(first.offset_with(350), Some(350 - 77));
        assert_eq!(First { tsc: 400, offset: None }.tsc_with(1), None);
    }
}

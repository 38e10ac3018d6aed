//! Event descriptors that the kernel signals at a write of the guest's.

#![expect(unsafe_code, reason = "KVM_IOEVENTFD with a length but no value")]

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use kvm_bindings::{
    KVMIO, kvm_ioeventfd, kvm_ioeventfd_flag_nr_datamatch, kvm_ioeventfd_flag_nr_deassign,
    kvm_ioeventfd_flag_nr_pio,
};
use kvm_ioctls::VmFd;
use memory::{IoEventFdSection, MemoryListener};
use vmm_sys_util::ioctl::ioctl_with_ref;

vmm_sys_util::ioctl_iow_nr!(KVM_IOEVENTFD, KVMIO, 0x79, kvm_ioeventfd);

/// Listener of the port address space.
pub(crate) struct IoListener {
    vm: Arc<VmFd>,
}

impl IoListener {
    pub(crate) fn new(vm: Arc<VmFd>) -> Self {
        Self { vm }
    }
}

impl MemoryListener for IoListener {
    fn eventfd_add(&self, eventfd: &IoEventFdSection) {
        assign(&self.vm, eventfd, true);
    }

    fn eventfd_del(&self, eventfd: &IoEventFdSection) {
        deassign(&self.vm, eventfd, true);
    }
}

pub(super) fn assign(vm: &VmFd, eventfd: &IoEventFdSection, port: bool) {
    // Without it the write exits to us and the address space signals the descriptor.
    if let Err(error) = ioeventfd(vm, eventfd, port, 0) {
        tracing::warn!(%error, ?eventfd, "no ioeventfd in the kernel");
    }
}

pub(super) fn deassign(vm: &VmFd, eventfd: &IoEventFdSection, port: bool) {
    if let Err(error) = ioeventfd(vm, eventfd, port, 1 << kvm_ioeventfd_flag_nr_deassign) {
        trace::emit!(pliant_kvm_ioeventfd_lost, eventfd.addr, &error);
    }
}

fn ioeventfd(vm: &VmFd, eventfd: &IoEventFdSection, port: bool, mut flags: u32) -> io::Result<()> {
    if port {
        flags |= 1 << kvm_ioeventfd_flag_nr_pio;
    }
    if eventfd.datamatch.is_some() {
        flags |= 1 << kvm_ioeventfd_flag_nr_datamatch;
    }
    let request = kvm_ioeventfd {
        datamatch: eventfd.datamatch.unwrap_or(0),
        addr: eventfd.addr,
        len: u32::from(eventfd.size),
        fd: eventfd.fd.as_raw_fd(),
        flags,
        ..Default::default()
    };
    let (fd, addr, val, size) = (request.fd, request.addr, request.datamatch, eventfd.size);
    let assign = u8::from(flags & 1 << kvm_ioeventfd_flag_nr_deassign == 0);
    let datamatch = eventfd.datamatch.is_some().into();
    if port {
        trace::emit!(kvm_set_ioeventfd_pio, fd, addr, val, assign, size, datamatch);
    } else {
        trace::emit!(kvm_set_ioeventfd_mmio, fd, addr, val, assign, size, datamatch);
    }
    // SAFETY: `vm` is a VM descriptor and the kernel only reads the structure, which outlives the call.
    match unsafe { ioctl_with_ref(vm, KVM_IOEVENTFD(), &request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

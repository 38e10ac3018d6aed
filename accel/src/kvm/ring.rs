//! Dirty rings (`-accel kvm,dirty-ring-size=N`): the kernel writes down each page that a vCPU writes, in a ring of that vCPU's, instead
//! of a bitmap of each slot.
//!
//! Interface: Linux `Documentation/virt/kvm/api.rst`, `KVM_CAP_DIRTY_LOG_RING`. An entry that the kernel has filled is flagged dirty; whoever reads
//! it flags it to be reset, and `KVM_RESET_DIRTY_RINGS` has the kernel watch those pages again. Rings are *reaped*: read, reset, and only then
//! are the pages marked, so that whoever takes a mark and reads the page misses no write. Reaping happens when somebody looks, before
//! a slot goes (its number means another one afterwards), and on a vCPU's own thread when its ring is nearly full, which makes it leave the guest.
//! A ring that is not full may wait until somebody looks, so there is no thread that reaps now and then.
//!
//! # Rings that overflow
//!
//! The kernel has a vCPU leave the guest before its ring is full, unless it emulates many instructions at a stretch, each of whose writes is an
//! entry: KVM-PVM does so with code that is not in user mode. It then goes on around the ring over what nobody read. A ring of which all entries are dirty has
//! overflowed: everything that is logged counts as written, and is watched anew. The kernel's place in such a ring is ahead of ours from
//! then on by an unknown number of entries, which are not dirty; they are skipped (flagged to be reset) up to the next that is, with vCPUs
//! out of the guest. A vCPU that leaves since its ring is full, with nothing in it, has as many skipped as are certain to be there.
//!
//! Left out: a bitmap besides the rings (for pages that no vCPU writes), which this architecture does not need.

#![expect(unsafe_code, reason = "the rings are memory shared with the kernel")]

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use kvm_bindings::{
    KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_DIRTY_LOG_PAGE_OFFSET, KVMIO, kvm_dirty_gfn,
    kvm_enable_cap,
};
use kvm_ioctls::VmFd;
use qapi::{Error, Result};
use vmm_sys_util::ioctl::ioctl;

use super::listener::{Ioctls, Slots, SystemListener};
use super::{PAGE_SIZE, init_error, os_error};

vmm_sys_util::ioctl_io_nr!(KVM_RESET_DIRTY_RINGS, KVMIO, 0xc7);

/// Flags of an entry; see the module.
const DIRTY: u32 = 1;
const RESET: u32 = 2;
/// Entries that the kernel keeps free at most when it calls a ring full.
const KEPT_FREE: u32 = 64 + 512;
const ENTRY_SIZE: u32 = size_of::<kvm_dirty_gfn>() as u32;

/// Has the kernel keep rings of `entries` for each vCPU that is created from now on. Gives whether it does: 0 entries are no rings, and a
/// kernel without them has bitmaps, with a warning.
///
/// # Errors
/// QEMU's messages, for a size that the kernel does not take.
pub(super) fn enable(vm: &VmFd, entries: u32) -> Result<bool> {
    if entries == 0 {
        return Ok(false);
    }
    let caps = [KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL];
    let max = |cap: &u32| u32::try_from(vm.check_extension_raw((*cap).into())).unwrap_or(0);
    let Some((cap, max)) = caps.iter().map(|cap| (*cap, max(cap))).find(|(_, max)| *max > 0) else {
        tracing::warn!("KVM dirty ring not available, using bitmap method");
        return Ok(false);
    };
    let bytes = u64::from(entries) * u64::from(ENTRY_SIZE);
    if bytes > max.into() {
        let max = max / ENTRY_SIZE;
        let text =
            format!("KVM dirty ring size {entries} too big (maximum is {max}).  Please use a smaller value.");
        return Err(init_error(&text, &io::Error::from_raw_os_error(libc::EINVAL)));
    }
    let mut request = kvm_enable_cap { cap, ..kvm_enable_cap::default() };
    request.args[0] = bytes;
    vm.enable_cap(&request).map_err(|error| {
        let why = qapi::strerror(&os_error(error));
        let text = format!("Enabling of KVM dirty ring failed: {why}. Suggested minimum value is 1024.");
        init_error(&text, &io::Error::from_raw_os_error(libc::EIO))
    })?;
    Ok(true)
}

/// `dirty-ring-size=VALUE`.
///
/// # Errors
/// QEMU's messages.
pub(super) fn parse(value: &str) -> Result<u32> {
    let entries = qom::Input::Text(value).to_uint("dirty-ring-size", 32)?;
    if entries != 0 && !entries.is_power_of_two() {
        return Err(Error::generic("dirty-ring-size must be a power of two."));
    }
    Ok(u32::try_from(entries).unwrap_or(u32::MAX))
}

/// The rings of all vCPUs by index, those that were taken away included: one that comes again goes on in its ring.
#[derive(Default)]
pub(super) struct Rings(BTreeMap<u32, Ring>);

/// One vCPU's ring.
struct Ring {
    entries: NonNull<kvm_dirty_gfn>,
    count: u32,
    /// The next entry to be read, without bound.
    next: u32,
    /// Pages read so far.
    pages: u64,
    /// The kernel may be ahead of us.
    overflowed: bool,
}

// SAFETY: the mapping belongs to no thread, and all accesses to it are atomic or of entries that are ours by their flags.
unsafe impl Send for Ring {}

impl Ring {
    /// Maps the ring of a vCPU.
    fn map(vcpu: &impl AsRawFd, count: u32) -> io::Result<Self> {
        let offset = i64::from(KVM_DIRTY_LOG_PAGE_OFFSET) * PAGE_SIZE as i64;
        let len = count as usize * ENTRY_SIZE as usize;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping without MAP_FIXED replaces nothing.
        let entries = unsafe {
            libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_SHARED, vcpu.as_raw_fd(), offset)
        };
        match NonNull::new(entries.cast::<kvm_dirty_gfn>()) {
            Some(mapped) if entries != libc::MAP_FAILED => {
                Ok(Self { entries: mapped, count, next: 0, pages: 0, overflowed: false })
            }
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The flags of an entry, and where it is.
    fn entry(&self, index: u32) -> (&AtomicU32, *const kvm_dirty_gfn) {
        // SAFETY: the index is below `count`, so the entry is inside the mapping, which lives as long as `self`.
        let entry = unsafe { self.entries.add((index % self.count) as usize) }.as_ptr();
        // SAFETY: the field is inside the entry and aligned; it is shared with the kernel and only touched by atomics.
        (unsafe { AtomicU32::from_ptr(&raw mut (*entry).flags) }, entry)
    }

    fn is_dirty(&self, index: u32) -> bool {
        self.entry(index).0.load(Ordering::Acquire) & DIRTY != 0
    }

    /// Reads what the kernel has filled, to be reset: slot number and page in the slot. Gives whether the ring had overflowed. One that
    /// did before is only read while its vCPU is outside of the guest.
    fn read(&mut self, found: &mut Vec<(u32, u64)>) -> bool {
        let (mut seen, before) = (0, found.len());
        // The kernel fills no entry again before it is reset.
        while seen < self.count {
            if self.is_dirty(self.next) {
                let (flags, entry) = self.entry(self.next);
                // SAFETY: flagged dirty, the entry is ours to read; any bit pattern is a number.
                found.push(unsafe {
                    ((&raw const (*entry).slot).read(), (&raw const (*entry).offset).read())
                });
                flags.store(RESET, Ordering::Release);
                self.next = self.next.wrapping_add(1);
                seen += 1;
                continue;
            }
            let ahead = |skip: &u32| self.is_dirty(self.next.wrapping_add(*skip));
            let Some(skip) = (1..self.count - seen).find(ahead).filter(|_| self.overflowed) else { break };
            self.skip(skip);
            seen += skip;
        }
        let read = found.len() - before;
        self.pages += read as u64;
        let lost = read == self.count as usize;
        self.overflowed |= lost;
        lost
    }

    /// Has the kernel pass over entries that are not dirty.
    fn skip(&mut self, entries: u32) {
        for _ in 0..entries {
            self.entry(self.next).0.store(RESET, Ordering::Release);
            self.next = self.next.wrapping_add(1);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let len = self.count as usize * ENTRY_SIZE as usize;
        // SAFETY: the mapping is ours and nothing else points into it.
        unsafe { libc::munmap(self.entries.as_ptr().cast(), len) };
    }
}

impl Rings {
    /// Takes in the ring of a new vCPU.
    fn add(&mut self, index: u32, vcpu: &impl AsRawFd, entries: u32) -> io::Result<()> {
        self.0.insert(index, Ring::map(vcpu, entries)?);
        Ok(())
    }
}

impl SystemListener {
    /// Takes in the ring of a new vCPU, if there are rings.
    pub(super) fn add_ring(&self, index: u32, vcpu: &impl AsRawFd, entries: u32) -> io::Result<()> {
        self.slots().rings.as_mut().map_or(Ok(()), |rings| rings.add(index, vcpu, entries))
    }

    /// Pages that were read from the ring of a vCPU so far.
    pub(super) fn ring_pages(&self, cpu: u32) -> Option<u64> {
        Some(self.slots().rings.as_ref()?.0.get(&cpu)?.pages)
    }

    /// Reads all rings.
    pub(super) fn read_rings(&self) {
        self.slots().reap(&self.vm);
    }

    /// A vCPU's ring is nearly full. Called on its thread, outside of the gate.
    pub(super) fn ring_is_full(&self, cpu: u32) {
        let mut slots = self.slots();
        if slots.reap(&self.vm) {
            return;
        }
        if let Some(ring) = slots.rings.as_mut().and_then(|rings| rings.0.get_mut(&cpu)) {
            ring.overflowed = true;
            ring.skip(ring.count.saturating_sub(KEPT_FREE).max(1));
        }
        reset(&self.vm);
    }
}

impl Slots {
    /// Marks what vCPUs wrote since the last time, and has the pages watched again. Gives whether there was anything.
    pub(super) fn reap(&mut self, vm: &VmFd) -> bool {
        let (start, gate) = (Instant::now(), Arc::clone(&self.gate));
        let Some(rings) = &mut self.rings else { return false };
        let mut closed = rings.0.values().any(|ring| ring.overflowed).then(|| gate.close());
        let mut found = Vec::new();
        let mut read = || rings.0.values_mut().fold(false, |lost, ring| ring.read(&mut found) | lost);
        let lost = read();
        if found.is_empty() {
            return false;
        }
        reset(vm);
        if lost {
            closed.get_or_insert_with(|| gate.close());
            tracing::debug!("a dirty ring overflowed: everything counts as written");
            match self.table.restart_logs(&mut Ioctls(vm)) {
                Ok(logged) => logged.into_iter().for_each(|(gpa, size)| self.mark(gpa, size)),
                Err(error) => tracing::error!(%error, "cannot start the dirty log again"),
            }
        }
        trace::emit!(kvm_dirty_ring_reap, found.len() as u64, start.elapsed().as_micros() as u64);
        // After the reset: what is written before it is read after the mark.
        found.sort_unstable();
        let slots: HashMap<u32, u64> = self.table.numbered().collect();
        let (mut at, pages) = (0, found.len());
        while at < pages {
            let (slot, first) = found[at];
            let run =
                (at..pages).take_while(|next| found[*next] == (slot, first + (next - at) as u64)).count();
            at += run;
            // A slot of the one address space there is.
            if let Some(gpa) = slots.get(&slot) {
                self.mark(gpa.saturating_add(first.saturating_mul(PAGE_SIZE)), run as u64 * PAGE_SIZE);
            }
            while at < pages && found[at] == found[at - 1] {
                at += 1;
            }
        }
        true
    }
}

/// Has the kernel watch pages again whose entries were read.
fn reset(vm: &VmFd) {
    // SAFETY: a VM descriptor, and a request without argument.
    if unsafe { ioctl(vm, KVM_RESET_DIRTY_RINGS()) } < 0 {
        tracing::error!(error = %io::Error::last_os_error(), "cannot reset the dirty rings");
    }
}

#[cfg(test)]
mod tests;

//! Event descriptors that a guest write signals instead of reaching the device.
#![expect(
    unsafe_code,
    reason = "the event descriptors of vmm-sys-util convert to owned ones only through raw numbers"
)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use crate::flatview::FlatRange;
use crate::region::Arena;

/// One event descriptor on a region or, with `addr` made absolute, in an address space.
#[derive(Clone)]
#[doc(alias = "MemoryRegionIoeventfd")]
pub struct IoEventFd {
    /// Offset in the region (in a region), guest address (in a view).
    pub addr: u64,
    /// Length of the write that signals: 1, 2, 4, 8, or 0 for any length.
    pub size: u8,
    /// Value that the write must have, if it matters.
    pub datamatch: Option<u64>,
    /// What is signalled.
    pub fd: Arc<EventFd>,
}

impl std::fmt::Debug for IoEventFd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}/{} match {:?} fd {}", self.addr, self.size, self.datamatch, self.fd.as_raw_fd())
    }
}

impl PartialEq for IoEventFd {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for IoEventFd {}

impl IoEventFd {
    fn key(&self) -> (u64, u8, Option<u64>, i32) {
        (self.addr, self.size, self.datamatch, self.fd.as_raw_fd())
    }

    /// Whether a write of the low `size` bytes of `value` at `addr` signals this descriptor.
    pub(crate) fn matches(&self, addr: u64, size: u8, value: u64) -> bool {
        self.addr == addr
            && (self.size == 0 || self.size == size)
            && self.datamatch.is_none_or(|wanted| wanted == value)
    }
}

/// Another descriptor of the same event, for whoever waits for it.
///
/// # Errors
/// No descriptor is left.
pub fn event_descriptor(event: &EventFd) -> io::Result<OwnedFd> {
    let copy = event.try_clone()?.into_raw_fd();
    // SAFETY: `into_raw_fd` just gave up its ownership of the copy, and nobody else knows the number.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// All descriptors that are reachable in `ranges`, sorted by address.
pub(crate) fn collect(arena: &Arena, ranges: &[FlatRange]) -> Vec<IoEventFd> {
    let mut found = Vec::new();
    for range in ranges {
        for fd in &arena[range.region()].ioeventfds {
            let Some(into) = fd.addr.checked_sub(range.offset) else { continue };
            let last = into.saturating_add(u64::from(fd.size.max(1)) - 1);
            if last <= range.last - range.addr {
                found.push(IoEventFd { addr: range.addr + into, ..fd.clone() });
            }
        }
    }
    found.sort_by_key(IoEventFd::key);
    found
}

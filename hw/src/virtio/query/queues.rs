//! What `x-query-virtio-queue-status`, `-queue-element` and `-vhost-queue-status` answer.
//!
//! Looking changes nothing: rings are read through [`Transport::read_ram`], which makes no page and sees no unplugged memory, and
//! with no lock held, so that a driver that runs may change them meanwhile. Whatever the driver wrote, one look reads at most
//! [`MAX_DESCRIPTORS`] descriptors.

use std::os::fd::AsRawFd as _;
use std::sync::Arc;

use qapi::types::{
    VirtQueueStatus, VirtVhostQueueStatus, VirtioQueueElement, VirtioRingAvail, VirtioRingDesc,
    VirtioRingUsed,
};
use qapi::{Error, Result};

use super::{Found, Machine, find};
use crate::virtio::ring::{MAX_DESCRIPTORS, VirtQueue};
use crate::virtio::transport::Transport;

/// `VIRTQ_DESC_F_NEXT` (virtio 1.3 §2.7.5).
const NEXT: u16 = 1;
/// `VIRTQ_DESC_F_INDIRECT`.
const INDIRECT: u16 = 4;
/// Bytes of a descriptor.
const DESCRIPTOR: u64 = 16;
/// What the bits of a descriptor's flags are called; the last two are those of packed rings.
const FLAGS: [(u16, &str); 5] =
    [(1 << 15, "used"), (1 << 7, "avail"), (INDIRECT, "indirect"), (2, "write"), (NEXT, "next")];

/// Where a queue is, copied so that it can be looked at with no lock held.
#[derive(Debug, Clone, Copy)]
struct Ring {
    enabled: bool,
    packed: bool,
    size: u16,
    default_size: u16,
    desc: u64,
    avail: u64,
    used: u64,
    next_avail: u16,
    next_used: u16,
    signalled: Option<u16>,
}

impl Ring {
    fn of(queue: &VirtQueue) -> Self {
        // Addresses count once the driver enabled the queue.
        let enabled = queue.is_enabled();
        let address = |address: u64| if enabled { address } else { 0 };
        Self {
            enabled,
            packed: queue.is_packed(),
            size: queue.size(),
            default_size: queue.default_size(),
            desc: address(queue.desc),
            avail: address(queue.avail),
            used: address(queue.used),
            next_avail: queue.next_avail(),
            next_used: queue.next_used(),
            signalled: queue.signalled(),
        }
    }
}

fn no_queue(queue: u16) -> Error {
    Error::generic(format!("Invalid virtqueue number {queue}"))
}

fn ring(transport: &Transport, queue: u16) -> Option<Ring> {
    transport.with_state(|state| state.queues().get(usize::from(queue)).map(Ring::of))
}

fn device(machine: &Machine, path: &str, kind: &str) -> Result<Found> {
    find(machine, path).ok_or_else(|| Error::generic(format!("Path {path} is not a {kind}")))
}

/// Two numbers that lie behind each other in guest memory.
fn pair(transport: &Transport, addr: u64) -> Option<(u16, u16)> {
    let mut bytes = [0; 4];
    transport.read_ram(addr, &mut bytes).then(|| {
        let [a, b, c, d] = bytes;
        (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
    })
}

fn number(transport: &Transport, addr: u64) -> Option<u16> {
    let mut bytes = [0; 2];
    transport.read_ram(addr, &mut bytes).then(|| u16::from_le_bytes(bytes))
}

/// The registers and indices of queue `queue` of the device at `path`.
///
/// # Errors
/// `Path … is not a VirtIODevice`, `Invalid virtqueue number …`.
pub fn status(machine: &Machine, path: &str, queue: u16) -> Result<VirtQueueStatus> {
    let Found { backend, transport, .. } = device(machine, path, "VirtIODevice")?;
    let ring = ring(&transport, queue).ok_or_else(|| no_queue(queue))?;
    // Of a ring that is served elsewhere only the other side knows how far it is.
    let elsewhere = backend.ring_server().is_some_and(|server| server.status().started);
    // What the device would see now. A packed ring has no index that runs ahead.
    let seen = || match ring.enabled && !ring.packed {
        true => pair(&transport, ring.avail).map_or(ring.next_avail, |(_, index)| index),
        false => ring.next_avail,
    };
    Ok(VirtQueueStatus {
        name: backend.name().to_owned(),
        queue_index: queue,
        // A buffer that was taken is given back before anything else is looked at.
        inuse: 0,
        vring_num: ring.size.into(),
        vring_num_default: ring.default_size.into(),
        vring_align: 4096,
        vring_desc: ring.desc,
        vring_avail: ring.avail,
        vring_used: ring.used,
        last_avail_idx: (!elsewhere).then_some(ring.next_avail),
        shadow_avail_idx: (!elsewhere).then(seen),
        used_idx: ring.next_used,
        signalled_used: ring.signalled.unwrap_or(0),
        signalled_used_valid: ring.signalled.is_some(),
    })
}

/// What the process that serves queue `queue` of the device at `path` was told of it.
///
/// # Errors
/// `Path … is not a VirtIODevice`, it does not serve any, or not this one.
pub fn vhost_status(machine: &Machine, path: &str, queue: u16) -> Result<VirtVhostQueueStatus> {
    let Found { backend, transport, .. } = device(machine, path, "VirtIODevice")?;
    let started = backend.ring_server().is_some_and(|server| server.status().started);
    if !started {
        return Err(Error::generic("Error: vhost device has not started yet"));
    }
    let ring = ring(&transport, queue)
        .ok_or_else(|| Error::generic(format!("Invalid vhost virtqueue number {queue}")))?;
    let events = transport.ring_events(queue);
    let fd = |event: &Arc<vmm_sys_util::eventfd::EventFd>| i64::from(event.as_raw_fd());
    let entries = u32::from(ring.size);
    Ok(VirtVhostQueueStatus {
        name: backend.name().to_owned(),
        kick: events.as_ref().map_or(0, |(kick, _)| fd(kick)),
        call: events.as_ref().map_or(0, |(_, call)| fd(call)),
        // The other process is told guest addresses, and no others.
        desc: ring.desc,
        avail: ring.avail,
        used: ring.used,
        num: i64::from(ring.size),
        desc_phys: ring.desc,
        desc_size: 16 * entries,
        avail_phys: ring.avail,
        avail_size: 4 + 2 * entries,
        used_phys: ring.used,
        used_size: 4 + 8 * entries,
    })
}

/// The descriptors behind an entry of the available ring: entry `index`, or the one that is taken next.
///
/// # Errors
/// `Path … is not a VirtIO device`, `Invalid virtqueue number …`, the queue is not set up, or the ring is not in RAM.
pub fn element(machine: &Machine, path: &str, queue: u16, index: Option<u16>) -> Result<VirtioQueueElement> {
    let Found { backend, transport, .. } = device(machine, path, "VirtIO device")?;
    let ring = ring(&transport, queue).ok_or_else(|| no_queue(queue))?;
    if !ring.enabled {
        return Err(Error::generic("Region caches not initialized"));
    }
    if ring.packed {
        return Err(Error::generic("Packed ring not supported"));
    }
    let unmapped = |what: &str| Error::generic(format!("Cannot map {what}"));
    let entry = index.unwrap_or(ring.next_avail) % ring.size.max(1);
    let at = ring.avail.checked_add(4 + 2 * u64::from(entry));
    let avail = pair(&transport, ring.avail).zip(at.and_then(|at| number(&transport, at)));
    let ((avail_flags, avail_idx), head) = avail.ok_or_else(|| unmapped("available ring"))?;
    let (used_flags, used_idx) = pair(&transport, ring.used).ok_or_else(|| unmapped("used ring"))?;
    if head >= ring.size {
        return Err(Error::generic(format!("Guest says index {head} is available")));
    }
    Ok(VirtioQueueElement {
        name: backend.name().to_owned(),
        index: head.into(),
        descs: chain(&transport, &ring, head)?,
        avail: VirtioRingAvail { flags: avail_flags, idx: avail_idx, ring: head },
        used: VirtioRingUsed { flags: used_flags, idx: used_idx },
    })
}

/// A table of descriptors.
struct Table<'t> {
    transport: &'t Transport,
    at: u64,
    entries: u32,
    unmapped: &'static str,
}

struct Descriptor {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Table<'_> {
    fn read(&self, index: u16) -> Result<Descriptor> {
        let mut bytes = [0; DESCRIPTOR as usize];
        let at = self.at.checked_add(DESCRIPTOR * u64::from(index));
        if !at.is_some_and(|at| self.transport.read_ram(at, &mut bytes)) {
            return Err(Error::generic(self.unmapped));
        }
        let whole = u128::from_le_bytes(bytes);
        // Address, length, flags and the next one, from the lowest bit on.
        Ok(Descriptor {
            addr: whole as u64,
            len: (whole >> 64) as u32,
            flags: (whole >> 96) as u16,
            next: (whole >> 112) as u16,
        })
    }
}

/// The descriptors from `head` on, the last one first. A chain that leads back into itself, or out of its table, ends there.
fn chain(transport: &Transport, ring: &Ring, head: u16) -> Result<Vec<VirtioRingDesc>> {
    let mut table =
        Table { transport, at: ring.desc, entries: ring.size.into(), unmapped: "Cannot map descriptor ring" };
    let mut descriptor = table.read(head)?;
    if descriptor.flags & INDIRECT != 0 {
        let entries = descriptor.len / DESCRIPTOR as u32;
        if entries == 0 {
            return Err(Error::generic("Invalid size for indirect buffer table"));
        }
        table = Table { at: descriptor.addr, entries, unmapped: "Cannot map indirect buffer", ..table };
        descriptor = table.read(0)?;
    }
    let limit = table.entries.min(MAX_DESCRIPTORS as u32) as usize;
    let mut list = Vec::new();
    loop {
        let flags = FLAGS.iter().filter(|(bit, _)| descriptor.flags & bit != 0);
        list.push(VirtioRingDesc {
            addr: descriptor.addr,
            len: descriptor.len,
            flags: flags.map(|(_, name)| (*name).to_owned()).collect(),
        });
        let more = descriptor.flags & NEXT != 0 && u32::from(descriptor.next) < table.entries;
        if !more || list.len() >= limit {
            break;
        }
        descriptor = table.read(descriptor.next)?;
    }
    list.reverse();
    Ok(list)
}

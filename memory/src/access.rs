//! Carrying an access through a view: RAM is copied, devices are called with the sizes they implement.
//!
//! The splitting rules are QEMU's: an access to a device is first cut to the largest size it takes and to its
//! natural alignment, checked against what it takes, and then split or widened to what it implements.

use trace::log::Item;

use crate::flatview::{FlatRange, FlatView};
use crate::ops::{AccessConstraints, MemTx, RegionOps};
use crate::region::{RegionCore, RegionKind};

/// What to do with the bytes.
pub(crate) enum Direction<'a> {
    Read(&'a mut [u8]),
    Write(&'a [u8]),
    /// A write that ROM takes and devices do not see.
    Load(&'a [u8]),
}

impl Direction<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Read(buf) => buf.len(),
            Self::Write(buf) | Self::Load(buf) => buf.len(),
        }
    }

    /// What a vCPU or a device does.
    fn verb(&self) -> Option<&'static str> {
        match self {
            Self::Read(_) => Some("read"),
            Self::Write(_) => Some("write"),
            Self::Load(_) => None,
        }
    }

    fn part(&mut self, at: usize, len: usize) -> Direction<'_> {
        match self {
            Self::Read(buf) => Direction::Read(&mut buf[at..at + len]),
            Self::Write(buf) => Direction::Write(&buf[at..at + len]),
            Self::Load(buf) => Direction::Load(&buf[at..at + len]),
        }
    }
}

/// Runs an access of any length; addresses wrap at 2^64.
pub(crate) fn transfer(view: &FlatView, addr: u64, mut bytes: Direction<'_>) -> MemTx {
    let mut result = MemTx::Ok;
    let mut done = 0;
    while done < bytes.len() {
        let at = addr.wrapping_add(done as u64);
        let left = bytes.len() - done;
        let (len, part) = match view.lookup(at) {
            Some(range) => {
                let len = up_to(left, room(view, range, at, left) - at);
                access_range(view, range, at, bytes.part(done, len))
            }
            None => {
                let len = match view.next_start(at) {
                    Some(next) => up_to(left, next - at - 1),
                    None => up_to(left, u64::MAX - at),
                };
                let part = bytes.part(done, len);
                nothing_there(at, &part);
                unassigned(part);
                (len, MemTx::DecodeError)
            }
        };
        result = result.and(part);
        done += len;
    }
    result
}

/// The last address that an access of `left` bytes at `at` may reach. A device is accessed whole even where a smaller
/// region lies on top of its middle (port cf9h inside the register at cf8h): it decodes the address of the access only.
fn room(view: &FlatView, range: &FlatRange, at: u64, left: usize) -> u64 {
    let end = at.saturating_add(left as u64 - 1).min(at.saturating_add(7));
    if end <= range.last || !matches!(range.core.kind, RegionKind::Io(_)) {
        return range.last;
    }
    let base = range.addr.wrapping_sub(range.offset);
    let same = |r: &&FlatRange| r.region() == range.region() && r.addr.wrapping_sub(r.offset) == base;
    let ranges = view.ranges();
    let later = ranges.slice(ranges.position(at) + 1..ranges.len()).take_while(|r| r.addr <= end);
    later.filter(same).last().map_or(range.last, |r| r.last)
}

/// `left`, but not past `last_offset`.
fn up_to(left: usize, last_offset: u64) -> usize {
    usize::try_from(last_offset).ok().and_then(|o| o.checked_add(1)).map_or(left, |n| n.min(left))
}

/// Logs an access to a hole, in the pieces in which QEMU carries it out; what is long is nobody's register and one piece.
fn nothing_there(at: u64, bytes: &Direction<'_>) {
    if !trace::log::wants(Item::InvalidMem) {
        return;
    }
    let mut done = 0;
    while done < bytes.len() {
        let (at, left) = (at.wrapping_add(done as u64), bytes.len() - done);
        let aligned = 1 << at.trailing_zeros().min(2);
        let size = if bytes.len() > 8 { left } else { 1 << left.min(aligned).ilog2() };
        refused(bytes, at, size, "(null)", "rejected");
        done += size;
    }
}

/// Logs an access that did not come about.
fn refused(bytes: &Direction<'_>, at: u64, size: usize, region: &str, why: &str) {
    // Loaders know where ROM ends.
    let Some(what) = bytes.verb() else { return };
    trace::log_item!(
        Item::InvalidMem,
        "Invalid {what} at addr 0x{at:X}, size {size}, region '{region}', reason: {why}"
    );
}

fn unassigned(bytes: Direction<'_>) {
    if let Direction::Read(buf) = bytes {
        buf.fill(0);
    }
}

/// One step inside one range; returns how many bytes it took.
fn access_range(view: &FlatView, range: &FlatRange, at: u64, mut bytes: Direction<'_>) -> (usize, MemTx) {
    let offset = range.offset + (at - range.addr);
    let len = bytes.len();
    match (&range.core.kind, &mut bytes) {
        (RegionKind::Ram(block), Direction::Read(buf)) => {
            let result = outcome(block.read(offset, buf));
            if !result.is_ok() {
                // Unplugged, and protected.
                buf.fill(0);
                refused(&bytes, offset, len, &range.core.name, "unplugged");
            }
            (len, result)
        }
        (RegionKind::Ram(_), Direction::Write(_)) if range.readonly => {
            refused(&bytes, offset, len, &range.core.name, "rejected");
            (len, MemTx::DecodeError)
        }
        (RegionKind::Ram(block), Direction::Write(buf) | Direction::Load(buf)) => {
            let result = outcome(block.write(offset, buf));
            if !result.is_ok() {
                refused(&bytes, offset, len, &range.core.name, "unplugged");
            }
            (len, result)
        }
        (RegionKind::Io(_), Direction::Load(_)) => (len, MemTx::Ok),
        (RegionKind::Io(ops), _) => {
            let constraints = ops.constraints();
            let size = access_size(&constraints, len, offset);
            (size, device(view, &range.core, &**ops, &constraints, at, offset, bytes.part(0, size)))
        }
        // Neither is ever rendered.
        (RegionKind::Container | RegionKind::Alias(_), _) => (len, MemTx::DecodeError),
    }
}

fn outcome<E>(result: Result<(), E>) -> MemTx {
    if result.is_ok() { MemTx::Ok } else { MemTx::Error }
}

/// The largest power of two that the device takes, the alignment allows and that is left.
#[doc(alias = "memory_access_size")]
fn access_size(constraints: &AccessConstraints, left: usize, offset: u64) -> usize {
    let mut max = u64::from(constraints.valid_max.clamp(1, 8));
    if !constraints.impl_unaligned && offset != 0 {
        max = max.min(offset & offset.wrapping_neg());
    }
    let size = left.min(max as usize);
    1 << size.ilog2()
}

/// An access of 1, 2, 4 or 8 bytes to a device.
fn device(
    view: &FlatView,
    core: &RegionCore,
    ops: &dyn RegionOps,
    constraints: &AccessConstraints,
    at: u64,
    offset: u64,
    bytes: Direction<'_>,
) -> MemTx {
    let size = bytes.len() as u8;
    let aligned = constraints.valid_unaligned || offset & (u64::from(size) - 1) == 0;
    if !aligned || size < constraints.valid_min || size > constraints.valid_max {
        if aligned && trace::log::wants(Item::InvalidMem) {
            let (min, max) = (constraints.valid_min, constraints.valid_max);
            refused(&bytes, offset, bytes.len(), &core.name, &format!("invalid size (min:{min} max:{max})"));
        } else {
            refused(&bytes, offset, bytes.len(), &core.name, "unaligned");
        }
        unassigned(bytes);
        return MemTx::DecodeError;
    }
    let step = size.min(constraints.impl_max).max(constraints.impl_min).clamp(1, 8);
    let mask = if step == 8 { u64::MAX } else { (1 << (step * 8)) - 1 };
    match bytes {
        Direction::Read(buf) => {
            let (mut value, mut result) = (0, MemTx::Ok);
            for done in (0..size).step_by(usize::from(step)) {
                let (part, outcome) = ops.try_read(offset + u64::from(done), step);
                let addr = at + u64::from(done);
                trace::emit!(
                    memory_region_ops_read,
                    trace::current_cpu(),
                    trace::Id::of(core),
                    addr,
                    part,
                    step,
                    &core.name
                );
                value |= (part & mask) << (done * 8);
                result = result.and(outcome);
            }
            buf.copy_from_slice(&value.to_le_bytes()[..buf.len()]);
            result
        }
        Direction::Write(buf) | Direction::Load(buf) => {
            let mut le = [0; 8];
            le[..buf.len()].copy_from_slice(buf);
            let value = u64::from_le_bytes(le);
            if signal(view, at, size, value) {
                return MemTx::Ok;
            }
            (0..size).step_by(usize::from(step)).fold(MemTx::Ok, |result, done| {
                let (addr, part) = (at + u64::from(done), value >> (done * 8) & mask);
                trace::emit!(
                    memory_region_ops_write,
                    trace::current_cpu(),
                    trace::Id::of(core),
                    addr,
                    part,
                    step,
                    &core.name
                );
                result.and(ops.try_write(offset + u64::from(done), step, part))
            })
        }
    }
}

/// Signals an event descriptor that matches the write; an accelerator that does it itself never gets here.
#[doc(alias = "memory_region_dispatch_write_eventfds")]
fn signal(view: &FlatView, at: u64, size: u8, value: u64) -> bool {
    let first = view.ioeventfds.partition_point(|fd| fd.addr < at);
    let candidates = view.ioeventfds[first..].iter().take_while(|fd| fd.addr == at);
    let Some(hit) = candidates.into_iter().find(|fd| fd.matches(at, size, value)) else { return false };
    if let Err(error) = hit.fd.write(1) {
        trace::emit!(pliant_ioeventfd_lost, hit.addr, &error);
    }
    true
}

//! What is at a physical address.

use std::sync::Arc;

use memory::{AddressSpace, FlatRange, RamBlock};

use super::Unreadable;

/// Fills the start of `buf`, which is not empty, from `addr` on and says how much of it, at least one byte: up to the end of a region,
/// or of what is plugged. Devices are read as a guest would read them, with what that does to them.
///
/// # Errors
/// The first byte cannot be read.
pub fn read(space: &AddressSpace, addr: u64, buf: &mut [u8]) -> Result<usize, Unreadable> {
    let view = space.view();
    let Some(range) = view.lookup(addr) else {
        let next = view.next_start(addr).unwrap_or(u64::MAX);
        return Err(Unreadable::Nothing { len: (next - addr).max(1) });
    };
    let part = part_of(range, addr, buf);
    match range.block() {
        Some(block) => read_block(block, offset(range, addr), part),
        None if space.read(addr, part).is_ok() => Ok(part.len()),
        None => Err(Unreadable::Refused),
    }
}

/// Fills all of `buf` from RAM; false where there is other than RAM that can be read.
pub fn read_ram(space: &AddressSpace, addr: u64, buf: &mut [u8]) -> bool {
    let view = space.view();
    let (done, _) = super::read_all(addr, buf, |at, buf| {
        let range = view.lookup(at).ok_or(Unreadable::Nothing { len: 1 })?;
        let part = part_of(range, at, buf);
        read_block(range.block().ok_or(Unreadable::Refused)?, offset(range, at), part)
    });
    done == buf.len()
}

fn offset(range: &FlatRange, addr: u64) -> u64 {
    range.offset + (addr - range.addr)
}

/// What of `buf` lies in the range.
fn part_of<'b>(range: &FlatRange, addr: u64, buf: &'b mut [u8]) -> &'b mut [u8] {
    let more = usize::try_from(range.last - addr).map_or(buf.len(), |more| more.saturating_add(1));
    let len = buf.len().min(more);
    &mut buf[..len]
}

/// Reads RAM, and of a block that is plugged piece by piece only what is plugged from `offset` on.
fn read_block(block: &Arc<RamBlock>, offset: u64, buf: &mut [u8]) -> Result<usize, Unreadable> {
    let copy = |buf: &mut [u8]| match block.reader().read(offset, buf) {
        Ok(()) => Ok(buf.len()),
        // Plugged, but kept from everybody all the same.
        Err(_) => Err(Unreadable::Unplugged),
    };
    let Some(manager) = block.discard_manager() else { return copy(buf) };
    // Read while it cannot be unplugged: a moment later the host would give a fresh page.
    manager.with_populated(offset..offset.saturating_add(buf.len() as u64), |runs| {
        match runs.first().filter(|run| run.start == offset) {
            Some(run) => copy(&mut buf[..(run.end - run.start) as usize]),
            None => Err(Unreadable::Unplugged),
        }
    })
}

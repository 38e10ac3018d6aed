//! The guest's memory and registers as somebody sees them who looks for a mistake: by physical or linear address, never a
//! page that was not there before.
//!
//! - [`physical`] reads what is at a physical address, and says why it cannot;
//! - [`Linear`] goes through a vCPU's page tables ([`crate::i386::paging`]) first;
//! - [`output`] writes files in which zeroes cost nothing;
//! - `tables`, `chips` and [`roms`] are the texts of `info mem`, `info tlb`, `info lapic`, `info pic`, `info irq`, `info roms`;
//! - `commands` are `memsave`, `pmemsave` and what the console's `x`, `xp` and register names stand on.
//!
//! Memory of a virtio-mem device is looked at only while it is plugged, whether the device protects the rest or not. Left
//! out: writing to memory, disassembly.

mod chips;
mod commands;
pub(crate) mod output;
pub mod physical;
mod registers;
pub mod roms;
mod tables;

use memory::AddressSpace;

use crate::i386::paging::Paging;

/// Why memory cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// The page tables do not map it.
    NotMapped,
    /// Nothing is there, for so many bytes.
    Nothing {
        /// Bytes up to where something is, or to the end of all addresses.
        len: u64,
    },
    /// A memory device has not plugged it.
    Unplugged,
    /// A device does not take the access.
    Refused,
}

/// The machine's memory as a vCPU sees it.
#[derive(Debug, Clone, Copy)]
pub struct Linear<'a> {
    /// Physical memory.
    pub space: &'a AddressSpace,
    /// How addresses are translated.
    pub paging: Paging,
}

impl Linear<'_> {
    /// Fills the start of `buf` from `linear` on and says how much of it, at least one byte, up to the end of a page or of
    /// what is of one kind; see [`physical::read`].
    ///
    /// # Errors
    /// The first byte cannot be read.
    pub fn read(&self, linear: u64, buf: &mut [u8]) -> Result<usize, Unreadable> {
        let mut tables = |addr: u64, buf: &mut [u8]| physical::read_ram(self.space, addr, buf);
        let page = self.paging.translate(linear, &mut tables).ok_or(Unreadable::NotMapped)?;
        let len = usize::try_from(page.left).map_or(buf.len(), |left| left.min(buf.len()));
        physical::read(self.space, page.physical, &mut buf[..len])
    }
}

/// Fills `buf` by as many calls of `read` as it takes; gives the number of bytes before the first that cannot be read, and why not.
pub fn read_all(
    addr: u64,
    buf: &mut [u8],
    mut read: impl FnMut(u64, &mut [u8]) -> Result<usize, Unreadable>,
) -> (usize, Option<Unreadable>) {
    let mut done = 0;
    while done < buf.len() {
        // Behind the last address is nothing.
        let Some(at) = addr.checked_add(done as u64) else {
            return (done, Some(Unreadable::Nothing { len: u64::MAX }));
        };
        match read(at, &mut buf[done..]) {
            Ok(count) => done += count,
            Err(why) => return (done, Some(why)),
        }
    }
    (done, None)
}

#[cfg(test)]
mod tests;

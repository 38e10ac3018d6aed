//! Giving memory back to the host.

use std::io;

use super::RamBlock;
use super::file::{host_page_size, punch_hole};
use super::mapping::Advice;
use crate::error::DiscardError;

impl RamBlock {
    /// Gives the pages of `len` bytes at `offset` back to the host; they read as zeroes afterwards.
    ///
    /// Private anonymous memory is dropped with `MADV_DONTNEED`. Of a file, the hole is punched in the file itself
    /// (also for a private mapping, which other users of the file will notice; there is a warning) and the pages of
    /// the mapping are dropped. `offset` and `len` are multiples of [`page_size`](Self::page_size).
    ///
    /// A transparent huge page is freed once all of it is discarded; of a part, the content is gone at once and the
    /// memory when the kernel splits the page (and `khugepaged` may fill the part again from what is left of it). Block
    /// and host address are aligned so that ranges of whole huge pages share none with their neighbours.
    ///
    /// # Errors
    /// Ranges that are unaligned or outside, files open for reading only, and what the kernel says.
    #[doc(alias = "ram_block_discard_range")]
    pub fn discard(&self, offset: u64, len: u64) -> Result<(), DiscardError> {
        let fail = |what: String, errno: i32| DiscardError {
            report: format!("ram_block_discard_range: {what}"),
            source: io::Error::from_raw_os_error(errno),
        };
        let page = self.page_size();
        if !offset.is_multiple_of(page) {
            return Err(fail(format!("Unaligned start address: {offset:#x}"), libc::EINVAL));
        }
        if !len.is_multiple_of(page) {
            return Err(fail(format!("Unaligned length: {len:#x}"), libc::EINVAL));
        }
        if offset.checked_add(len).is_none_or(|end| end > self.max_size()) {
            let name = self.label();
            return Err(fail(format!("Overrun block '{name}' ({offset:#x}/{len:#x})"), libc::EINVAL));
        }
        if len == 0 {
            return Ok(());
        }
        let done = self.give_back(offset, len, page, fail);
        // They read as zeroes now, or some do.
        self.mark_dirty(offset, len);
        let ret = done.as_ref().map_or_else(|error| -errno_of(&error.source), |()| 0);
        let (advise, punch) = (page == host_page_size(), self.backing().is_some());
        trace::emit!(ram_block_discard_range, self.label(), offset, len, advise.into(), punch.into(), ret);
        done
    }

    fn give_back(
        &self,
        offset: u64,
        len: u64,
        page: u64,
        fail: impl Fn(String, i32) -> DiscardError,
    ) -> Result<(), DiscardError> {
        if let Some(backing) = self.backing() {
            if backing.readonly_fd {
                let what = "Discarding RAM with readonly files is not supported";
                return Err(fail(what.to_owned(), libc::EPERM));
            }
            if !backing.shared {
                warn_private_once();
            }
            punch_hole(&backing.file, backing.offset + offset, len).map_err(|e| {
                let (name, start, errno) = (self.name(), backing.offset, errno_of(&e));
                fail(format!("Failed to fallocate {name}:{offset:x}+{start:x} +{len:x} (-{errno})"), errno)
            })?;
        }
        // Huge pages are gone with the hole; the kernel refuses to advise on less than all of them.
        if page == host_page_size() {
            // Anonymous pages, and the copies of a private mapping; a shared one falls back on the file, where the hole
            // is now.
            self.mapping.advise(offset, len, Advice::DontNeed).map_err(|e| {
                let (name, errno) = (self.name(), errno_of(&e));
                fail(format!("Failed to discard range {name}:{offset:x} +{len:x} (-{errno})"), errno)
            })?;
        }
        Ok(())
    }

    /// Throws away what is behind the whole block, so that the host need not write it back (`discard-data=on`).
    pub fn discard_contents(&self) {
        if let Err(error) = self.mapping.advise(0, self.max_size(), Advice::Remove) {
            trace::emit!(pliant_ram_block_advise_failed, self.label(), Advice::Remove, &error);
        }
    }
}

fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// Once a process: a guest unplugs as often as it likes.
fn warn_private_once() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        tracing::warn!(
            "ram_block_discard_range: Discarding RAM in private file mappings is possibly dangerous, because it will \
             modify the underlying file and will affect other users of the file"
        );
    });
}

#[cfg(test)]
mod tests;

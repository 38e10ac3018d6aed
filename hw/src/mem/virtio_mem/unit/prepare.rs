//! Allocating the pages of a large request bit by bit before it is served, so that nobody waits for all of them at once.
//!
//! A guest may ask for 128 GiB in one request, and with `prealloc=on` somebody has to write to every page. So the device asks for
//! time ([`Outcome::Again`](crate::virtio::Outcome::Again)): the request stays in its queue, each of the main loop's turns
//! allocates a slice, and serving finds the pages there. Nothing is plugged meanwhile and nobody was told; whatever else is asked
//! for, or a reset, frees the pages again.

use std::ops::Range;

use memory::Admission;

use super::super::policy::{Decision, decide};
use super::super::request::Request;
use super::Unit;

/// Bytes that a thread allocates at once: some milliseconds' worth.
pub(super) const SLICE: u64 = 8 << 20;

/// Pages that are allocated for a request that is not served yet.
pub(super) struct Preparing {
    pub(super) range: Range<u64>,
    done: u64,
    /// Keeps the host mapping open meanwhile.
    _open: Admission,
}

impl Preparing {
    /// Whether it is for these blocks and has all their pages.
    pub(super) fn has_all_of(&self, range: &Range<u64>) -> bool {
        self.range == *range && self.done == range.end - range.start
    }
}

impl Unit {
    /// Works for a moment on what `request` will need; true once it should be served. `busy` as for [`serve`](Self::serve).
    pub fn prepare(&mut self, request: Request, busy: bool) -> bool {
        let (Some(threads), Decision::Plug(range)) = (self.prealloc, decide(request, &self.view(busy)))
        else {
            return true;
        };
        let len = range.end - range.start;
        let slice =
            self.slice.saturating_mul(threads.clamp(1, 16).into()).next_multiple_of(self.block.page_size());
        if len <= slice {
            return true;
        }
        if self.preparing.as_ref().is_none_or(|preparing| preparing.range != range) {
            self.abandon();
            // Serving it says what is wrong, here and below.
            let Ok(open) = self.blocks.admit(range.clone()) else { return true };
            if let Request::Plug(span) = request {
                trace::emit!(pliant_virtio_mem_prepare, span.addr, span.blocks);
            }
            self.preparing = Some(Preparing { range, done: 0, _open: open });
        }
        let Some(preparing) = &mut self.preparing else { return true };
        let part = slice.min(len - preparing.done);
        if self.block.prealloc(preparing.range.start + preparing.done, part, threads).is_err() {
            return true;
        }
        preparing.done += part;
        preparing.done == len
    }

    /// Has a thread allocate so many bytes at once: small slices make small requests take many turns.
    #[cfg(test)]
    pub fn set_slice(&mut self, bytes: u64) {
        self.slice = bytes;
    }

    /// Frees what was allocated for a request that is not going to be served.
    pub fn abandon(&mut self) {
        if let Some(Preparing { range, .. }) = self.preparing.take() {
            self.free(&range);
        }
    }
}

#[cfg(test)]
mod tests;

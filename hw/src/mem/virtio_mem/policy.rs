//! What to do about a request: one pure function with the order of evaluation that guests see.
//!
//! Range validity comes before everything, the requested size before the blocks' state, the state before "busy"; so a
//! guest that asks for nonsense learns so even while a migration runs.

use std::ops::Range;

use memory::DiscardManager;

use super::request::{BlockState, Request, Response, Span};

/// Where the device's memory is; fixed when the device is realized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Guest-physical address of the region.
    pub addr: u64,
    /// Size of the region, bytes, a multiple of the block size.
    pub region_size: u64,
    /// Size of a block, bytes, a power of two.
    pub block_size: u64,
}

impl Layout {
    /// The bytes of the region that `span` names, or `None` if it is empty, unaligned or reaches beyond `usable`.
    fn bytes(&self, span: Span, usable: u64) -> Option<Range<u64>> {
        let offset = span.addr.checked_sub(self.addr)?;
        if span.blocks == 0 || !span.addr.is_multiple_of(self.block_size) {
            return None;
        }
        let size = u64::from(span.blocks).checked_mul(self.block_size)?;
        let end = offset.checked_add(size)?;
        (end <= usable).then_some(offset..end)
    }
}

/// What the decision depends on beside the request.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Where the memory is.
    pub layout: Layout,
    /// Bytes from the start of the region in which the guest may plug.
    pub usable: u64,
    /// The size the user wants the guest to have.
    pub requested: u64,
    /// Knows the plugged blocks; its granularity is the block size.
    pub blocks: &'a DiscardManager,
    /// Somebody (a migration) forbids changes for now.
    pub busy: bool,
}

/// What to do. Ranges are bytes of the region: whole blocks, in bounds, not empty and wholly in the opposite state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Answer; nothing changes.
    Reply(Response),
    /// Plug these blocks, then acknowledge.
    Plug(Range<u64>),
    /// Unplug these blocks, then acknowledge.
    Unplug(Range<u64>),
    /// Unplug what is plugged and shrink the usable region to what the requested size needs, then acknowledge.
    UnplugAll,
}

/// Decides about `request`.
pub fn decide(request: Request, view: &View<'_>) -> Decision {
    let valid = |span| view.layout.bytes(span, view.usable);
    let plugged = view.blocks.populated_bytes();
    match request {
        Request::Plug(span) => {
            let Some(range) = valid(span) else { return Decision::Reply(Response::Error) };
            if plugged + (range.end - range.start) > view.requested {
                Decision::Reply(Response::Nack)
            } else if !view.blocks.is_discarded(range.clone()) {
                Decision::Reply(Response::Error)
            } else if view.busy {
                Decision::Reply(Response::Busy)
            } else {
                Decision::Plug(range)
            }
        }
        Request::Unplug(span) => {
            let Some(range) = valid(span) else { return Decision::Reply(Response::Error) };
            if !view.blocks.is_populated(range.clone()) {
                Decision::Reply(Response::Error)
            } else if view.busy {
                Decision::Reply(Response::Busy)
            } else {
                Decision::Unplug(range)
            }
        }
        Request::UnplugAll if view.busy && plugged != 0 => Decision::Reply(Response::Busy),
        Request::UnplugAll => Decision::UnplugAll,
        Request::State(span) => {
            let Some(range) = valid(span) else { return Decision::Reply(Response::Error) };
            let state = if view.blocks.is_populated(range.clone()) {
                BlockState::Plugged
            } else if view.blocks.is_discarded(range) {
                BlockState::Unplugged
            } else {
                BlockState::Mixed
            };
            Decision::Reply(Response::State(state))
        }
    }
}

#[cfg(test)]
mod tests;

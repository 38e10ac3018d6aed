//! Looking at pages before they are sent.

use std::io;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use memory::{BlockReader, DirtyBitmap, RamBlock};

use super::mapped::Place;
use super::populated;
use crate::wire::PAGE;

/// A block that is sent.
pub(crate) struct SendBlock {
    pub(crate) block: Arc<RamBlock>,
    pub(crate) name: String,
    /// What is to be sent.
    pub(super) log: Arc<DirtyBitmap>,
    /// What is populated.
    pub(super) runs: Vec<Range<u64>>,
    reader: BlockReader,
    place: OnceLock<Place>,
}

impl SendBlock {
    /// `ignored`: it is not sent.
    pub(super) fn new(block: Arc<RamBlock>, log: Arc<DirtyBitmap>, ignored: bool) -> Self {
        let runs = if ignored { Vec::new() } else { populated(&block) };
        let (name, reader) = (block.name(), block.reader());
        Self { block, name, log, runs, reader, place: OnceLock::new() }
    }

    /// Where its pages are in a file; otherwise they go into the stream.
    pub(crate) fn place(&self) -> Option<&Place> {
        self.place.get()
    }

    pub(super) fn set_place(&self, place: Place) {
        // It is told once.
        let _ = self.place.set(place);
    }
}

/// What is at a place of a block.
enum Find {
    /// Pages up to here were never touched.
    Hole(u64),
    /// Pages up to here have to be looked at.
    Data(u64),
}

/// Tells pages of zeroes from others.
pub(crate) struct Scan<'a> {
    block: &'a SendBlock,
    bulk: bool,
}

impl<'a> Scan<'a> {
    /// For pages of `block`; `bulk` says that there may be memory that nobody ever touched, which is zero without a look.
    pub(crate) fn new(block: &'a SendBlock, bulk: bool) -> Self {
        Self { block, bulk }
    }

    fn find(&self, at: u64, end: u64) -> Find {
        if !self.bulk {
            return Find::Data(end);
        }
        let data = self.block.reader.next_data(at..end);
        if data.start > at {
            Find::Hole(data.start.min(end))
        } else {
            Find::Data(data.end.clamp(at + PAGE, end))
        }
    }

    /// Divides a range, whose log was taken, into runs of zeroes (`true`) and of others, and gives them in order.
    ///
    /// # Errors
    /// Those of `each`.
    pub(crate) fn range(
        &mut self,
        range: Range<u64>,
        mut each: impl FnMut(Range<u64>, bool) -> io::Result<()>,
    ) -> io::Result<()> {
        // Pages of a kind that lie side by side.
        let mut last: Option<(Range<u64>, bool)> = None;
        let mut at = range.start;
        while at < range.end {
            let (end, hole) = match self.find(at, range.end) {
                Find::Hole(end) => (end, true),
                Find::Data(end) => (end, false),
            };
            while at < end {
                // A hole is told in one.
                let (next, zero) =
                    if hole { (end, true) } else { self.block.block.alike(at..end, PAGE as usize) };
                match &mut last {
                    Some((run, kind)) if *kind == zero => run.end = next,
                    _ => {
                        if let Some((run, zero)) = last.replace((at..next, zero)) {
                            each(run, zero)?;
                        }
                    }
                }
                at = next;
            }
        }
        last.map_or(Ok(()), |(run, zero)| each(run, zero))
    }
}

//! The ranges of a view, in chunks that one view shares with the next.
//!
//! A change replaces a few neighbours among what may be thousands. Copying them all costs two atomic operations each, one
//! when the copy is made and one when it is dropped: 20 µs of 23 µs for one memory slot among 2048. So a list is a list of
//! chunks, and a changed list copies the chunk that changed and names the others again.

use std::ops::{Index, Range};
use std::sync::Arc;

use crate::flatview::FlatRange;

/// Ranges that a full chunk is cut into, half of what one may have.
const CHUNK: usize = 64;
/// A chunk with fewer takes its neighbour in.
const FEW: usize = CHUNK / 2;

#[derive(Debug, Clone)]
struct Chunk {
    /// Index of the first range in the whole list.
    index: usize,
    /// Last guest address.
    last: u64,
    /// Not empty.
    ranges: Arc<[FlatRange]>,
}

/// A list of ranges by ascending address, without overlap. Cheap to copy and to change.
#[derive(Debug, Clone, Default)]
pub struct Ranges {
    chunks: Vec<Chunk>,
}

impl Ranges {
    /// `ranges` are sorted.
    pub(crate) fn new(ranges: Vec<FlatRange>) -> Self {
        let mut list = Self::default();
        list.extend(ranges);
        list
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.chunks.last().map_or(0, |chunk| chunk.index + chunk.ranges.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// All, by ascending address.
    pub fn iter(&self) -> impl Iterator<Item = &FlatRange> + Clone {
        self.chunks.iter().flat_map(|chunk| chunk.ranges.iter())
    }

    /// The range at an index.
    pub fn get(&self, index: usize) -> Option<&FlatRange> {
        let chunk = &self.chunks[self.chunk_of(index).checked_sub(1)?];
        chunk.ranges.get(index - chunk.index)
    }

    /// Those at a range of indices.
    pub(crate) fn slice(&self, indices: Range<usize>) -> impl Iterator<Item = &FlatRange> + Clone {
        let first = self.chunk_of(indices.start).saturating_sub(1);
        let before = self.chunks.get(first).map_or(0, |chunk| chunk.index);
        let from = self.chunks[first..].iter().flat_map(|chunk| chunk.ranges.iter());
        from.skip(indices.start - before).take(indices.len())
    }

    /// The first range that ends at or after an address.
    pub(crate) fn reaching(&self, addr: u64) -> Option<&FlatRange> {
        let chunk = self.chunks.get(self.chunks.partition_point(|chunk| chunk.last < addr))?;
        chunk.ranges.get(chunk.ranges.partition_point(|r| r.last < addr))
    }

    /// The index of the first range that ends at or after an address.
    pub(crate) fn position(&self, addr: u64) -> usize {
        let Some(chunk) = self.chunks.get(self.chunks.partition_point(|chunk| chunk.last < addr)) else {
            return self.len();
        };
        chunk.index + chunk.ranges.partition_point(|r| r.last < addr)
    }

    /// The list with some replaced.
    pub(crate) fn splice(&self, gone: Range<usize>, new: Vec<FlatRange>) -> Self {
        // The chunk that the new ones go into or behind, and the others that lose something.
        let mut first = self.chunk_of(gone.start).saturating_sub(1);
        let behind = self.chunks.partition_point(|chunk| chunk.index < gone.end).max(first + 1);
        let mut behind = behind.min(self.chunks.len());
        let len = |chunks: &[Chunk]| chunks.iter().map(|chunk| chunk.ranges.len()).sum::<usize>();
        while len(&self.chunks[first..behind]) - gone.len() + new.len() < FEW {
            if behind < self.chunks.len() {
                behind += 1;
            } else if first > 0 {
                first -= 1;
            } else {
                break;
            }
        }
        let start = self.chunks.get(first).map_or(0, |chunk| chunk.index);
        let end = start + len(&self.chunks[first..behind]);
        let mut list = Self { chunks: Vec::with_capacity(self.chunks.len() + 1) };
        list.chunks.extend_from_slice(&self.chunks[..first]);
        let mut middle = Vec::with_capacity(end - start - gone.len() + new.len());
        middle.extend(self.slice(start..gone.start).cloned());
        middle.extend(new);
        middle.extend(self.slice(gone.end..end).cloned());
        list.extend(middle);
        for chunk in &self.chunks[behind..] {
            list.chunks.push(Chunk { index: list.len(), ..chunk.clone() });
        }
        list
    }

    /// How many chunks begin at or before an index.
    fn chunk_of(&self, index: usize) -> usize {
        self.chunks.partition_point(|chunk| chunk.index <= index)
    }

    /// Puts ranges behind all others: as one chunk if they fit, else in equal parts.
    fn extend(&mut self, ranges: Vec<FlatRange>) {
        let parts = if ranges.len() <= 2 * CHUNK { 1 } else { ranges.len().div_ceil(CHUNK) };
        let size = ranges.len().div_ceil(parts);
        let mut rest = ranges.into_iter();
        loop {
            let ranges: Arc<[FlatRange]> = rest.by_ref().take(size).collect();
            let Some(last) = ranges.last().map(|r| r.last) else { return };
            self.chunks.push(Chunk { index: self.len(), last, ranges });
        }
    }
}

impl Index<usize> for Ranges {
    type Output = FlatRange;

    fn index(&self, index: usize) -> &FlatRange {
        self.get(index).expect("the index is below the length")
    }
}

impl PartialEq for Ranges {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

#[cfg(test)]
mod tests;

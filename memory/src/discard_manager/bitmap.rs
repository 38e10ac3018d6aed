//! A bitmap with range operations a word at a time.

use std::ops::Range;

/// A bitmap with range operations a word at a time.
#[derive(Debug, Clone)]
pub struct PopulatedBitmap {
    bits: u64,
    words: Vec<u64>,
    count: u64,
}

impl PopulatedBitmap {
    /// `bits` bits, all clear.
    pub fn new(bits: u64) -> Self {
        let words = usize::try_from(bits.div_ceil(64)).expect("a bitmap fits in memory");
        Self { bits, words: vec![0; words], count: 0 }
    }

    /// Number of bits.
    pub fn len(&self) -> u64 {
        self.bits
    }

    /// Whether there are no bits.
    pub fn is_empty(&self) -> bool {
        self.bits == 0
    }

    /// Number of bits that are set.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Sets or clears a range; bits beyond the end are ignored.
    pub fn set(&mut self, range: Range<u64>, value: bool) {
        for (index, mask) in self.words_of(range) {
            let word = &mut self.words[index];
            let new = if value { *word | mask } else { *word & !mask };
            self.count = self.count + u64::from(new.count_ones()) - u64::from(word.count_ones());
            *word = new;
        }
    }

    /// Whether all bits of a range have the value.
    pub fn all(&self, range: Range<u64>, value: bool) -> bool {
        self.words_of(range).all(|(i, mask)| self.words[i] & mask == if value { mask } else { 0 })
    }

    /// Number of bits of a range that are set.
    pub fn count_in(&self, range: Range<u64>) -> u64 {
        self.words_of(range).map(|(i, mask)| u64::from((self.words[i] & mask).count_ones())).sum()
    }

    /// Maximal runs of bits with the value, inside the range, ascending.
    pub fn runs(&self, range: Range<u64>, value: bool) -> impl Iterator<Item = Range<u64>> {
        let end = range.end.min(self.bits);
        let mut at = range.start;
        std::iter::from_fn(move || {
            let start = self.next(at, end, value)?;
            at = self.next(start, end, !value).unwrap_or(end);
            Some(start..at)
        })
    }

    /// First bit with the value in `from..end`.
    fn next(&self, from: u64, end: u64, value: bool) -> Option<u64> {
        let mut at = from;
        while at < end {
            let word = self.words[(at / 64) as usize];
            let word = (if value { word } else { !word }) & (u64::MAX << (at % 64));
            if word != 0 {
                let found = at / 64 * 64 + u64::from(word.trailing_zeros());
                return (found < end).then_some(found);
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }

    fn words_of(&self, range: Range<u64>) -> impl Iterator<Item = (usize, u64)> + use<> {
        words(range.start..range.end.min(self.bits))
    }
}

/// Words of 64 bits that a range of bits touches, with a mask of those in the range.
pub(super) fn words(bits: Range<u64>) -> impl Iterator<Item = (usize, u64)> {
    let Range { start, end } = bits;
    let words = if start < end { start / 64..end.div_ceil(64) } else { 0..0 };
    words.map(move |word| {
        let mut mask = u64::MAX;
        if word * 64 < start {
            mask &= u64::MAX << (start % 64);
        }
        if end - word * 64 < 64 {
            mask &= (1 << (end % 64)) - 1;
        }
        (word as usize, mask)
    })
}

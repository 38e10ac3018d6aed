//! Characters in a line of bytes: where they begin and how many columns of a terminal they take.
//!
//! A line may hold anything that was typed. Bytes that are no UTF-8 count as characters of one byte and one column each.
//! Widths are those of the East Asian wide ranges and of combining marks; left out: what emoji sequences join.

use std::ops::Range;

/// Bytes of the character that begins with `lead`, if that can begin one of several bytes.
pub(crate) fn sequence(lead: u8) -> Option<usize> {
    match lead {
        0xc2..=0xdf => Some(2),
        0xe0..=0xef => Some(3),
        0xf0..=0xf4 => Some(4),
        _ => None,
    }
}

/// Where the character at `at` ends; `at` itself at the end of the line.
pub(crate) fn next(line: &[u8], at: usize) -> usize {
    characters(&line[at..]).next().map_or(at, |(part, _)| at + part.end)
}

/// Where the character before `at` begins; 0 at the start of the line.
pub(crate) fn previous(line: &[u8], at: usize) -> usize {
    characters(&line[..at]).last().map_or(0, |(part, _)| part.start)
}

/// `at`, or the end of the character that it is in the middle of.
pub(crate) fn boundary(line: &[u8], at: usize) -> usize {
    characters(line).map(|(part, _)| part.end).find(|end| *end >= at).filter(|_| at > 0).unwrap_or(at)
}

/// Columns that `line` takes.
pub(crate) fn width(line: &[u8]) -> usize {
    characters(line).map(|(_, columns)| columns).sum()
}

/// The characters of `line`: their bytes and columns.
pub(crate) fn characters(line: &[u8]) -> impl Iterator<Item = (Range<usize>, usize)> + '_ {
    let mut at = 0;
    let mut place = move |bytes: usize, columns: usize| {
        at += bytes;
        (at - bytes..at, columns)
    };
    line.utf8_chunks()
        .flat_map(|chunk| {
            let valid = chunk.valid().chars().map(|c| (c.len_utf8(), columns(c)));
            valid.chain(chunk.invalid().iter().map(|_| (1, 1)))
        })
        .map(move |(bytes, columns)| place(bytes, columns))
}

/// Columns of a character.
fn columns(c: char) -> usize {
    const NONE: [(u32, u32); 9] = [
        (0x300, 0x36f),
        (0x483, 0x489),
        (0x591, 0x5bd),
        (0x64b, 0x65f),
        (0x200b, 0x200f),
        (0x20d0, 0x20ff),
        (0xfe00, 0xfe0f),
        (0xfe20, 0xfe2f),
        (0xe0100, 0xe01ef),
    ];
    const TWO: [(u32, u32); 11] = [
        (0x1100, 0x115f),
        (0x2e80, 0x303e),
        (0x3041, 0x4dbf),
        (0x4e00, 0xa4cf),
        (0xac00, 0xd7a3),
        (0xf900, 0xfaff),
        (0xfe30, 0xfe6f),
        (0xff00, 0xff60),
        (0xffe0, 0xffe6),
        (0x1f300, 0x1f9ff),
        (0x20000, 0x3fffd),
    ];
    let code = u32::from(c);
    let within = |ranges: &[(u32, u32)]| ranges.iter().any(|(a, b)| (*a..=*b).contains(&code));
    match code {
        ..0x300 => 1,
        _ if within(&NONE) => 0,
        _ if within(&TWO) => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_is_one_step_however_many_bytes_it_has() {
        let line = "a\u{e9}\u{65e5}\u{1f4be}".as_bytes();
        let mut at = 0;
        let mut stops = vec![0];
        while at < line.len() {
            at = next(line, at);
            stops.push(at);
        }
        assert_eq!(stops, [0, 1, 3, 6, 10]);
        while at > 0 {
            assert_eq!(stops.pop(), Some(at));
            at = previous(line, at);
        }
        assert_eq!(next(line, 10), 10);
    }

    #[test]
    fn wide_characters_take_two_columns_and_marks_none() {
        assert_eq!(width("e\u{301}".as_bytes()), 1);
        assert_eq!(width("\u{65e5}\u{672c}".as_bytes()), 4);
        assert_eq!(width(b"\xff\xc3"), 2, "bytes that are no characters take one each");
    }
}

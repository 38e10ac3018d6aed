//! `/fmt` of the console: how many values, of what size, written how.

use std::fmt::Write as _;

use nom::Parser as _;
use nom::bytes::complete::take_till;
use nom::character::complete::{char, digit0};
use nom::combinator::opt;
use nom::sequence::preceded;

use super::lexis::Mistake;

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Letter {
    /// `x`
    Hex,
    /// `d`
    Decimal,
    /// `u`
    Unsigned,
    /// `o`
    Octal,
    /// `c`
    Character,
    /// `i`: a machine instruction.
    Instruction,
}

/// What a format that leaves something out goes back to: what was used last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LastFormat {
    letter: Letter,
    size: usize,
}

impl Default for LastFormat {
    fn default() -> Self {
        Self { letter: Letter::Hex, size: 4 }
    }
}

/// A complete format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    /// Values.
    pub(crate) count: u64,
    pub(crate) letter: Letter,
    /// Bytes of a value: 1, 2, 4 or 8; of an instruction 0, unless it is said.
    pub(crate) size: usize,
}

impl Format {
    /// The format that `text` begins with, `/4xb`; all of it may be missing. Gives what follows it, too. The error is a line to print.
    pub(super) fn parse<'t>(text: &'t str, last: &mut LastFormat) -> Result<(Self, &'t str), String> {
        let spec = preceded(char::<_, Mistake>('/'), (digit0, take_till(|c: char| c.is_whitespace())));
        let (rest, spec) = opt(spec).parse(text).map_err(|_| String::new())?;
        let (digits, letters) = spec.unwrap_or_default();
        // More than anybody has memory.
        let count = if digits.is_empty() { 1 } else { digits.parse().unwrap_or(u64::MAX) };
        let (mut letter, mut size) = (None, None);
        for c in letters.chars() {
            match c {
                'x' => letter = Some(Letter::Hex),
                'd' => letter = Some(Letter::Decimal),
                'u' => letter = Some(Letter::Unsigned),
                'o' => letter = Some(Letter::Octal),
                'c' => letter = Some(Letter::Character),
                'i' => letter = Some(Letter::Instruction),
                'b' => size = Some(1),
                'h' => size = Some(2),
                'w' => size = Some(4),
                'g' | 'L' => size = Some(8),
                c => return Err(format!("invalid char in format: '{c}'\n")),
            }
        }
        last.letter = letter.unwrap_or(last.letter);
        // Instructions have the size they have.
        if last.letter != Letter::Instruction {
            last.size = size.unwrap_or(last.size);
        }
        let size = if last.letter == Letter::Instruction { size.unwrap_or(0) } else { last.size };
        Ok((Self { count, letter: last.letter, size }, rest))
    }
}

/// Bytes of memory as `x` and `xp` print them from `addr` on; `wanted` bytes were asked for, of which only `bytes` can be read.
pub(super) fn memory(format: Format, addr: u64, wanted: usize, bytes: &[u8]) -> String {
    let line = if format.size == 1 { 8 } else { 16 };
    let value_size = if format.letter == Letter::Character { 1 } else { format.size };
    let mut out = String::new();
    for start in (0..wanted).step_by(line) {
        // Writing to a String cannot fail.
        let _ = write!(out, "{:016x}:", addr.wrapping_add(start as u64));
        let Some(bytes) = bytes.get(start..wanted.min(start + line)) else {
            return out + " Cannot access memory\n";
        };
        for raw in bytes.chunks(value_size) {
            let mut le = [0; 8];
            le[..raw.len()].copy_from_slice(raw);
            out.push(' ');
            out.push_str(&value(format.letter, value_size, u64::from_le_bytes(le)));
        }
        out.push('\n');
    }
    out
}

/// One value of memory, padded so that columns line up.
fn value(letter: Letter, size: usize, value: u64) -> String {
    let decimals = [3, 5, 10, 20][size.ilog2() as usize];
    match letter {
        Letter::Hex => format!("0x{value:0width$x}", width = size * 2),
        Letter::Octal => format!("{:>width$}", octal(value), width = (size * 8).div_ceil(3)),
        // Smaller ones are not taken as negative.
        Letter::Decimal if size == 8 => format!("{:>decimals$}", value.cast_signed()),
        Letter::Decimal | Letter::Unsigned | Letter::Instruction => format!("{value:>decimals$}"),
        Letter::Character => character(value),
    }
}

/// The value of an expression as `print` shows it.
pub(super) fn expression(letter: Letter, value: i64) -> String {
    let unsigned = value.cast_unsigned();
    match letter {
        Letter::Hex if value == 0 => "0".to_owned(),
        Letter::Hex => format!("{unsigned:#x}"),
        Letter::Octal => octal(unsigned),
        Letter::Unsigned => unsigned.to_string(),
        Letter::Decimal | Letter::Instruction => value.to_string(),
        Letter::Character => character(unsigned),
    }
}

/// Octal as C's `#` flag has it.
fn octal(value: u64) -> String {
    if value == 0 { "0".to_owned() } else { format!("0{value:o}") }
}

/// A C character constant; of a number too large for one, the lower 32 bits.
fn character(value: u64) -> String {
    match value as u32 {
        0x27 => r"'\''".to_owned(),
        0x5c => r"'\\'".to_owned(),
        0x0a => r"'\n'".to_owned(),
        0x0d => r"'\r'".to_owned(),
        c @ 0x20..=0x7e => format!("'{}'", char::from(c as u8)),
        c => format!(r"'\x{c:02x}'"),
    }
}

#[cfg(test)]
mod tests;

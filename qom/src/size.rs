//! Sizes as people write them: `500M`, `0x4000000`, `1.5G`. One parser for the command line, properties and HMP.

use qapi::{Error, Result};

/// Why a text is no size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeError {
    /// Not a number, a sign, or something behind the number.
    Invalid,
    /// A number of 2^64 or more, or a whole one below zero.
    Range,
}

/// Parses a number of bytes; without a suffix it is multiplied by `default_unit`.
///
/// Suffixes `b k M G T P E` in either case are powers of 1024. A fraction needs a suffix above `b`; a
/// hexadecimal number takes neither.
///
/// ```
/// # use qom::size::{parse, SizeError};
/// assert_eq!(parse("500M", 1), Ok(500 << 20));
/// assert_eq!(parse("1.5k", 1), Ok(1536));
/// assert_eq!(parse("4", 1 << 20), Ok(4 << 20));
/// assert_eq!(parse("16E", 1), Err(SizeError::Range));
/// assert_eq!(parse("-2M", 1), Err(SizeError::Invalid));
/// assert_eq!(parse("-2", 1), Err(SizeError::Range));
/// ```
pub fn parse(text: &str, default_unit: u64) -> std::result::Result<u64, SizeError> {
    let text = text.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    // A whole number below zero is one that is too small; with anything behind it it is none at all.
    if let Some(digits) = text.strip_prefix('-') {
        let whole = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        return Err(if whole { SizeError::Range } else { SizeError::Invalid });
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        if hex.is_empty() || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(SizeError::Invalid);
        }
        return scaled(u64::from_str_radix(hex, 16).map_err(|_| SizeError::Range)?.into(), default_unit);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = text.split_at(digits);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            (Some(&rest[..digits]), &rest[digits..])
        }
        None => (None, rest),
    };
    if whole.is_empty() && fraction.is_none_or(str::is_empty) {
        return Err(SizeError::Invalid);
    }
    let unit = match rest {
        "" => None,
        "b" | "B" => Some(1u64),
        "k" | "K" => Some(1 << 10),
        "m" | "M" => Some(1 << 20),
        "g" | "G" => Some(1 << 30),
        "t" | "T" => Some(1 << 40),
        "p" | "P" => Some(1 << 50),
        "e" | "E" => Some(1 << 60),
        _ => return Err(SizeError::Invalid),
    };
    // A fraction of a byte means nothing, so a fraction wants a unit that can be divided.
    if fraction.is_some() && unit.unwrap_or(default_unit) == 1 {
        return Err(SizeError::Invalid);
    }
    let unit = unit.unwrap_or(default_unit);
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u128>().map_err(|_| SizeError::Range)? };
    let mut bytes = whole.checked_mul(unit.into()).ok_or(SizeError::Range)?;
    if let Some(digits) = fraction {
        let mut scale = u128::from(unit);
        let mut part = 0u128;
        // 18 digits decide a 64-bit fraction; the product stays below 2^124.
        let kept = &digits[..digits.len().min(18)];
        for d in kept.bytes() {
            part = part * 10 + u128::from(d - b'0');
        }
        scale *= part;
        bytes += scale / 10u128.pow(kept.len() as u32);
    }
    scaled(bytes, 1)
}

/// As [`parse`] for a text that a person wrote for `name`.
///
/// # Errors
/// QEMU's, with its two hint lines where the text is no size.
pub fn parse_named(name: &str, text: &str, default_unit: u64) -> Result<u64> {
    parse(text, default_unit).map_err(|error| match error {
        SizeError::Range => Error::generic(format!("Value '{text}' is out of range for parameter '{name}'")),
        SizeError::Invalid => {
            Error::generic(format!("Parameter '{name}' expects a non-negative number below 2^64"))
                .with_hint("Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-")
                .with_hint("and exabytes, respectively.")
        }
    })
}

fn scaled(bytes: u128, unit: u64) -> std::result::Result<u64, SizeError> {
    bytes.checked_mul(unit.into()).and_then(|b| u64::try_from(b).ok()).ok_or(SizeError::Range)
}

/// A size as QEMU's help and `info qtree` show it for people: `2 GiB`, `1.5 KiB`, `64 B`.
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    // QEMU picks the unit by the binary exponent of bytes / 1000, so that at most four digits are shown.
    let exp = if bytes < 1000 { 0 } else { (64 - (bytes / 1000).leading_zeros()).div_ceil(10).min(6) };
    let (index, div) = (exp as usize, 1u64 << (10 * exp));
    let value = bytes as f64 / div as f64;
    format!("{} {}", general(value), UNITS[index])
}

/// `%0.3g` of the C library for a value below 10000.
fn general(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let exponent = value.abs().log10().floor() as i32;
    if exponent >= 3 {
        let mantissa = format!("{:.2}", value / 10f64.powi(exponent));
        return format!("{}e+{:02}", mantissa.trim_end_matches('0').trim_end_matches('.'), exponent);
    }
    let text = format!("{:.*}", (2 - exponent).max(0) as usize, value);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

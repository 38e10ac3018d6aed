//! Numbers and words of the command line and of serial commands.

/// Parses a number as people write sizes: decimal or `0x…`, with an optional binary suffix K, M, G or T.
///
/// `None` for anything else and for numbers of more than 64 bits.
#[must_use]
pub fn parse_number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(rest) => (rest, 16),
        None => (text, 10),
    };
    let shift = match digits.as_bytes().last()? {
        b'k' | b'K' => 10,
        b'm' | b'M' => 20,
        b'g' | b'G' => 30,
        b't' | b'T' => 40,
        _ => 0,
    };
    let digits = if shift == 0 { digits } else { &digits[..digits.len() - 1] };
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()?.checked_mul(1 << shift)
}

/// The value of the last `name=value` word of a command line.
#[must_use]
pub fn option<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_ascii_whitespace().filter_map(|word| word.strip_prefix(name)?.strip_prefix('=')).next_back()
}

#[cfg(test)]
mod tests;

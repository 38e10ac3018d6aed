//! UTF-8 as the protocol takes it: C0 80 is the NUL character; surrogates, noncharacters and overlong forms are invalid.
//!
//! An invalid sequence counts as one unit (lead byte and the continuation bytes that follow it), which decides how many
//! replacement characters a client sees.

/// Whether `code` may stand in a string.
fn valid(code: u32) -> bool {
    code <= 0x10_FFFF
        && !(0xD800..=0xDFFF).contains(&code)
        && !(0xFDD0..=0xFDEF).contains(&code)
        && code & 0xFFFE != 0xFFFE
}

/// The character of a code point, unless it is a surrogate, a noncharacter or too large.
pub(super) fn character(code: u32) -> Option<char> {
    if valid(code) { char::from_u32(code) } else { None }
}

/// First character of `bytes` (`None` if invalid) and the number of bytes it takes; at least 1 unless `bytes` is empty.
pub(super) fn decode(bytes: &[u8]) -> (Option<char>, usize) {
    let Some(&lead) = bytes.first() else { return (None, 0) };
    match lead {
        0..0x80 => (Some(char::from(lead)), 1),
        0x80..0xC0 | 0xFE.. => (None, 1),
        0xC0..0xFE => {
            let len = lead.leading_ones() as usize;
            let mut code = u32::from(lead) & (0x7F >> len);
            for i in 1..len {
                match bytes.get(i) {
                    Some(&b) if b & 0xC0 == 0x80 => code = code << 6 | u32::from(b & 0x3F),
                    _ => return (None, i),
                }
            }
            let least = [0x80, 0x800, 0x1_0000, 0x20_0000, 0x400_0000][len - 2];
            let overlong = code < least && !(code == 0 && len == 2);
            (if overlong { None } else { character(code) }, len)
        }
    }
}

/// `bytes` as text; each invalid sequence becomes U+FFFD.
pub(super) fn lossy(mut bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    while !bytes.is_empty() {
        let (c, len) = decode(bytes);
        text.push(c.unwrap_or(char::REPLACEMENT_CHARACTER));
        bytes = &bytes[len..];
    }
    text
}

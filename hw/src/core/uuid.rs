//! UUIDs (RFC 9562): 16 bytes in the order of their text.

use qapi::{Error, Result};
use rustix::rand::{GetRandomFlags, getrandom};

/// Bytes of one.
pub type Uuid = [u8; 16];

/// The bytes of hexadecimal digits of either case in groups of 8-4-4-4-12; `None` for any other text.
pub fn parse(text: &str) -> Option<Uuid> {
    let dash = |i: usize| matches!(i, 8 | 13 | 18 | 23);
    let good = text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| if dash(i) { b == b'-' } else { b.is_ascii_hexdigit() });
    if !good {
        return None;
    }
    u128::from_str_radix(&text.replace('-', ""), 16).ok().map(u128::to_be_bytes)
}

/// The text, in lower case.
pub fn text(uuid: &Uuid) -> String {
    let digits = format!("{:032x}", u128::from_be_bytes(*uuid));
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

/// A new one, of version 4.
///
/// # Errors
/// The host has no random numbers.
pub fn random() -> Result<Uuid> {
    let mut uuid = Uuid::default();
    if getrandom(&mut uuid, GetRandomFlags::empty()) != Ok(uuid.len()) {
        return Err(Error::generic("the host has no random numbers for a UUID"));
    }
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    Ok(uuid)
}

/// The first three fields little-endian, as SMBIOS and ACPI have them.
pub fn mixed_endian(mut uuid: Uuid) -> Uuid {
    uuid[..4].reverse();
    uuid[4..6].reverse();
    uuid[6..8].reverse();
    uuid
}

#[cfg(test)]
mod tests;

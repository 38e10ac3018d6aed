//! What the options mean: texts of the command line as typed values, each with the complaint QEMU has about a wrong one.
//!
//! Pure: nothing here opens, allocates or starts anything.

pub(crate) mod identity;
pub(crate) mod memory;
pub(crate) mod numa;
pub(crate) mod smp;

use qapi::{Error, Result};
use qom::size::{self, SizeError};

/// A size that a person wrote behind `key`, MiB or bytes without a suffix.
fn size_of(key: &str, text: &str, default_unit: u64) -> Result<u64> {
    size::parse(text, default_unit).map_err(|e| match e {
        SizeError::Range => Error::generic(format!("Value '{text}' is out of range for parameter '{key}'")),
        SizeError::Invalid => {
            Error::generic(format!("Parameter '{key}' expects a non-negative number below 2^64"))
                .with_hint("Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-")
                .with_hint("and exabytes, respectively.")
        }
    })
}

#[cfg(test)]
mod tests;

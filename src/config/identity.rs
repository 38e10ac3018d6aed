//! `-name` and `-uuid`.

use qapi::{Error, Result};

use qom::options as grammar;

use crate::cli::Raw;

/// What the virtual machine is called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) guest: Option<String>,
    /// Name the process is given.
    pub(crate) process: Option<String>,
    /// Whether threads are named; ours always are.
    pub(crate) debug_threads: bool,
}

/// Parses `-name [guest=]NAME[,process=NAME][,debug-threads=on|off]`.
///
/// # Errors
/// QEMU's, with the option's prefix.
pub(crate) fn name(raw: Option<&Raw>) -> Result<Name> {
    let Some(raw) = raw else { return Ok(Name::default()) };
    let options = grammar::options(&raw.text, Some("guest"));
    let at = |e: Error| e.prefixed(&raw.prefix());
    options.only(&["guest", "process", "debug-threads"]).map_err(at)?;
    Ok(Name {
        guest: options.get("guest").map(str::to_owned),
        process: options.get("process").map(str::to_owned),
        debug_threads: options.flag("debug-threads").map_err(at)?.unwrap_or(false),
    })
}

/// A UUID as 16 bytes in the order they are written.
pub(crate) type Uuid = [u8; 16];

/// Parses `-uuid`; all zero without it.
///
/// # Errors
/// QEMU's, with the option's prefix.
pub(crate) fn uuid(raw: Option<&Raw>) -> Result<Uuid> {
    let Some(raw) = raw else { return Ok([0; 16]) };
    parse_uuid(&raw.text)
        .ok_or_else(|| Error::generic("failed to parse UUID string: wrong format").prefixed(&raw.prefix()))
}

fn parse_uuid(text: &str) -> Option<Uuid> {
    let bytes = text.as_bytes();
    if bytes.len() != 36 {
        return None;
    }
    let mut digits = Vec::with_capacity(32);
    for (i, b) in bytes.iter().enumerate() {
        match i {
            8 | 13 | 18 | 23 if *b == b'-' => {}
            8 | 13 | 18 | 23 => return None,
            _ => digits.push(char::from(*b).to_digit(16)? as u8),
        }
    }
    let mut uuid = [0; 16];
    for (byte, pair) in uuid.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Some(uuid)
}

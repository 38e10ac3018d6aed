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
    // Threads are always named, so that either answer is met.
    options.flag("debug-threads").map_err(at)?;
    Ok(Name {
        guest: options.get("guest").map(str::to_owned),
        process: options.get("process").map(str::to_owned),
    })
}

/// Checks `-uuid` and gives it in lower case.
///
/// # Errors
/// QEMU's, with the option's prefix.
pub(crate) fn uuid(raw: &Raw) -> Result<String> {
    if is_uuid(raw.text.as_bytes()) {
        Ok(raw.text.to_ascii_lowercase())
    } else {
        Err(Error::generic("failed to parse UUID string: wrong format").prefixed(&raw.prefix()))
    }
}

/// Hexadecimal digits in groups of 8-4-4-4-12.
fn is_uuid(text: &[u8]) -> bool {
    let dash = |i: usize| matches!(i, 8 | 13 | 18 | 23);
    text.len() == 36
        && text.iter().enumerate().all(|(i, b)| if dash(i) { *b == b'-' } else { b.is_ascii_hexdigit() })
}

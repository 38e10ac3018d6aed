//! `-name` and `-uuid`.

use hw::core::uuid;
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
    let wrong = || Error::generic("failed to parse UUID string: wrong format").prefixed(&raw.prefix());
    uuid::parse(&raw.text).map(|bytes| uuid::text(&bytes)).ok_or_else(wrong)
}

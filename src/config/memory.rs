//! `-m`: how much RAM, and how far it may grow, as it was written. Whether the sizes fit each other and the machine is
//! checked where the machine is put together.

use hw::core::MemoryConfig;
use qapi::{Error, Result};
use qom::{options, size};

use crate::cli::Raw;

/// Parses `-m [size=]SIZE[,slots=N,maxmem=SIZE]`.
///
/// # Errors
/// QEMU's, with the option's prefix.
pub(crate) fn parse(raw: Option<&Raw>) -> Result<MemoryConfig> {
    let Some(raw) = raw else { return Ok(MemoryConfig::default()) };
    let parsed = options::options(&raw.text, Some("size"));
    let at = |e: Error| e.prefixed(&raw.prefix());
    parsed.only(&["size", "slots", "maxmem"]).map_err(at)?;
    // "-m help" is no list of keys in QEMU but a size that is none.
    let size = if parsed.help { Some("help") } else { parsed.get("size") };
    let slots = |text: &str| {
        let bad = || Error::generic("Parameter 'slots' expects a number");
        qom::Input::Keyval(text).to_u64("slots").map_err(|_| bad())
    };
    Ok(MemoryConfig {
        size: size.map(|t| ram_size(t, &at)).transpose()?,
        maxmem: parsed.get("maxmem").map(|t| size::parse_named("maxmem", t, 1).map_err(at)).transpose()?,
        slots: parsed.get("slots").map(|t| slots(t).map_err(at)).transpose()?,
    })
}

/// A RAM size; a bare number is MiB.
fn ram_size(text: &str, at: &dyn Fn(Error) -> Error) -> Result<u64> {
    let unit = if text.bytes().last().is_some_and(|b| b.is_ascii_digit()) { 1 << 20 } else { 1 };
    let size = size::parse_named("size", text, unit).map_err(at)?;
    // QEMU puts an M behind a bare number and reads it again; a hexadecimal one cannot have a suffix.
    if unit != 1 && (text.starts_with("0x") || text.starts_with("0X")) {
        return Err(Error::generic("Parameter 'memory.size' expects size"));
    }
    Ok(size)
}

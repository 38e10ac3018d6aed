//! `-m`: how much RAM, and how far it may grow.

use qapi::{Error, Result};

use crate::cli::Raw;

/// RAM when `-m` says nothing: 128 MiB.
const DEFAULT_RAM: u64 = 128 << 20;
/// RAM is a multiple of this; a size in between is rounded up.
const RAM_ALIGN: u64 = 8192;
/// `maxmem` must be a multiple of this.
const MAXMEM_ALIGN: u64 = 4096;
/// Most hot-plug slots a machine can have.
const MAX_SLOTS: u64 = 256;

/// Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    /// RAM at start.
    pub(crate) ram: u64,
    /// Whether the command line gave a size, so that a memory backend must match it.
    pub(crate) ram_given: bool,
    /// RAM and memory devices together, at most.
    pub(crate) maxmem: u64,
    /// Slots for DIMMs.
    pub(crate) slots: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self { ram: DEFAULT_RAM, ram_given: false, maxmem: DEFAULT_RAM, slots: 0 }
    }
}

/// Parses `-m [size=]SIZE[,slots=N,maxmem=SIZE]`.
///
/// # Errors
/// QEMU's; those about the text name the option, those about the sizes do not.
pub(crate) fn parse(raw: Option<&Raw>) -> Result<Memory> {
    let Some(raw) = raw else { return Ok(Memory::default()) };
    let options = qom::options::options(&raw.text, Some("size"));
    let at = |e: Error| e.prefixed(&raw.prefix());
    options.only(&["size", "slots", "maxmem"]).map_err(at)?;
    // "-m help" is no list of keys in QEMU but a size that is none.
    let size_text = if options.help { Some("help") } else { options.get("size") };
    let mut memory = Memory::default();
    if let Some(text) = size_text {
        let unit = if text.bytes().last().is_some_and(|b| b.is_ascii_digit()) { 1 << 20 } else { 1 };
        // A sign wraps to a huge number of MiB in QEMU, which is out of range.
        if text.strip_prefix('-').is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit())) {
            return Err(at(Error::generic(format!("Value '{text}' is out of range for parameter 'size'"))));
        }
        let size = super::size_of("size", text, unit).map_err(at)?;
        if size != 0 {
            let too_big = || Error::generic("ram size too large");
            memory.ram = size.checked_next_multiple_of(RAM_ALIGN).ok_or_else(too_big)?;
            memory.ram_given = true;
        }
    }
    let slots = options.get("slots").map(|t| slot_count(t).map_err(at)).transpose()?;
    let maxmem = options.get("maxmem").map(|t| super::size_of("maxmem", t, 1).map_err(at)).transpose()?;
    memory.maxmem = memory.ram;
    match (maxmem, slots) {
        (None, Some(_)) => return Err(Error::generic("slots specified but no max-size")),
        (None, None) => {}
        (Some(maxmem), slots) => {
            let slots = slots.unwrap_or(0);
            check_growth(memory.ram, maxmem, slots)?;
            memory.maxmem = maxmem;
            memory.slots = slots;
        }
    }
    Ok(memory)
}

fn slot_count(text: &str) -> Result<u64> {
    text.parse().map_err(|_| Error::generic("Parameter 'slots' expects a number"))
}

fn check_growth(ram: u64, maxmem: u64, slots: u64) -> Result<()> {
    if maxmem < ram {
        return Err(Error::generic(format!(
            "invalid value of maxmem: maximum memory size (0x{maxmem:x}) must be at least the initial memory size (0x{ram:x})"
        )));
    }
    if slots != 0 && maxmem == ram {
        return Err(Error::generic(format!(
            "invalid value of maxmem: memory slots were specified but maximum memory size (0x{maxmem:x}) is equal to the initial memory size (0x{ram:x})"
        )));
    }
    if slots > MAX_SLOTS {
        return Err(Error::generic(format!("unsupported amount of memory slots: {slots}")));
    }
    if maxmem > ram && maxmem % MAXMEM_ALIGN != 0 {
        return Err(Error::generic(format!(
            "maximum memory size must by aligned to multiple of {MAXMEM_ALIGN} bytes"
        )));
    }
    Ok(())
}

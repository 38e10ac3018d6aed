//! Memory hot-plug by ACPI.

/// Where the register block is.
pub const BASE: u64 = 0xa00;
/// Bytes of it.
pub const REGISTERS: u64 = 0x18;

//! What the options mean: texts of the command line as typed values, each with the complaint QEMU has about a wrong one.
//!
//! Pure: nothing here opens, allocates or starts anything.

pub(crate) mod accelerator;
pub(crate) mod actions;
pub(crate) mod boot;
pub(crate) mod identity;
pub(crate) mod memory;
pub(crate) mod numa;
pub(crate) mod outputs;
pub(crate) mod overcommit;
pub(crate) mod rtc;
pub(crate) mod sandbox;
pub(crate) mod smbios;
pub(crate) mod smp;

#[cfg(test)]
mod tests;

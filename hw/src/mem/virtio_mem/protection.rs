//! `unplugged-protection`: how the memory of unplugged blocks is kept from being used. A property of ours.
//!
//! `block` costs no memory slot (`accel::kvm` explains the stages), only splits of the host mapping, so it is what `auto`
//! comes to; see `docs/protection.md` for what was measured.

use qapi::{Error, Result};

use super::device::OnOffAuto;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// `block` if the guest was told that unplugged memory is inaccessible, else `off`.
    Auto,
    /// None, as in QEMU.
    Off,
    /// Parts in which nothing is plugged are in no memory slot and cannot be touched. The parts are those the memory is mapped in.
    Slot,
    /// Every block that is not plugged.
    Block,
}

impl Protection {
    /// Names, indexed by the discriminant.
    pub const NAMES: [&str; 4] = ["auto", "off", "slot", "block"];
    /// In the order of [`Protection::NAMES`].
    pub const ALL: [Self; 4] = [Self::Auto, Self::Off, Self::Slot, Self::Block];

    /// What it comes to for a device whose `unplugged-inaccessible` came to `inaccessible`.
    ///
    /// # Errors
    /// The guest may read unplugged memory, and the user wants it protected.
    pub(super) fn resolve(self, inaccessible: OnOffAuto) -> Result<Self> {
        match (self, inaccessible) {
            (Self::Auto, OnOffAuto::On) => Ok(Self::Block),
            (Self::Auto, _) => Ok(Self::Off),
            (Self::Slot | Self::Block, OnOffAuto::Auto | OnOffAuto::Off) => Err(Error::generic(format!(
                "'unplugged-protection' property set to '{}' requires 'unplugged-inaccessible' to be 'on'",
                Self::NAMES[self as usize]
            ))),
            (set, _) => Ok(set),
        }
    }

    /// Bytes of the units that are protected on their own: blocks, or the parts of `part` bytes; `None` if nothing is.
    pub(super) fn unit(self, block: u64, part: u64) -> Option<u64> {
        match self {
            Self::Auto | Self::Off => None,
            Self::Slot => Some(part),
            Self::Block => Some(block),
        }
    }
}

//! What a migration goes by.

use qapi::types::{MigrationCapability as Capability, MigrationParameters, MultiFDCompression};
use qapi::{Error, Result};

use crate::address::Address;
use crate::capabilities::Capabilities;
use crate::parameters;

/// Capabilities and parameters; a migration that runs looks at them again and again.
#[derive(Debug, Clone)]
pub struct Settings {
    /// All parameters, each of them there.
    pub parameters: MigrationParameters,
    /// What is on.
    pub capabilities: Capabilities,
}

impl Settings {
    /// Whether a machine that goes by these can be sent to an address.
    ///
    /// # Errors
    /// QEMU's.
    pub fn fit(&self, address: &Address) -> Result<()> {
        self.capabilities.fit(address)?;
        if self.has_compressed_places() {
            return Err(Error::generic("Cannot use compression with mapped-ram"));
        }
        Ok(())
    }

    /// These with other parameters.
    ///
    /// # Errors
    /// QEMU's. As with QEMU, what goes wrong together is found out by the change after it, whatever that changes, and a capability has to be
    /// switched off to get out of it.
    pub fn change(&mut self, change: &MigrationParameters) -> Result<()> {
        let changed = parameters::changed(&self.parameters, change)?;
        if self.has_compressed_places() {
            let text = "Mapped-ram only available for non-compressed non-TLS multifd migration";
            return Err(Error::generic(text));
        }
        self.parameters = changed;
        Ok(())
    }

    /// Pages at places of their own cannot be compressed.
    fn has_compressed_places(&self) -> bool {
        let compressed =
            !matches!(self.parameters.multifd_compression, None | Some(MultiFDCompression::None));
        compressed && self.capabilities.has(Capability::MappedRam)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self { parameters: parameters::defaults(), capabilities: Capabilities::default() }
    }
}

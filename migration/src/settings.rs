//! What a migration goes by.

use qapi::types::{MigrationCapability as Capability, MigrationParameters, MultiFDCompression};
use qapi::{Enum, Error, Result};

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
    /// Whether a migration that goes by these can use an address.
    ///
    /// # Errors
    /// QEMU's, and one of our own for compression, which is not there yet.
    pub fn fit(&self, address: &Address) -> Result<()> {
        self.capabilities.fit(address)?;
        match self.parameters.multifd_compression {
            None | Some(MultiFDCompression::None) => Ok(()),
            Some(_) if !self.capabilities.has(Capability::Multifd) => Ok(()),
            Some(kind) => {
                let kind = kind.as_str();
                Err(Error::generic(format!("multifd-compression={kind} is not supported")))
            }
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self { parameters: parameters::defaults(), capabilities: Capabilities::default() }
    }
}

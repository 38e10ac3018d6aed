//! What a migration goes by.

use qapi::types::MigrationParameters;

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

impl Default for Settings {
    fn default() -> Self {
        Self { parameters: parameters::defaults(), capabilities: Capabilities::default() }
    }
}

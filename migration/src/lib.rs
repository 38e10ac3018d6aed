//! Moving a machine elsewhere. So far its configuration alone: capabilities and parameters, which a migration will go by.
//!
//! A migration that there is not cannot be told about: [`query-migrate`](qapi::commands::MigrationCommands::query_migrate) answers an
//! empty object, as QEMU does before the first one, and `migrate` is no command yet.
//!
//! ```
//! use migration::Migration;
//! use qapi::commands::MigrationCommands;
//! let migration = Migration::default();
//! migration.x_pliant_migrate_set_parameter_text("max-bandwidth".into(), "1G".into())?;
//! assert_eq!(migration.query_migrate_parameters()?.max_bandwidth, Some(1 << 30));
//! # Ok::<(), qapi::Error>(())
//! ```

pub mod parameters;

use std::sync::{Mutex, MutexGuard, PoisonError};

use qapi::commands::MigrationCommands;
use qapi::types::{MigrationCapability, MigrationCapabilityStatus, MigrationInfo, MigrationParameters};
use qapi::{Enum, Result};

/// Migration of one machine. Commands come from the main loop thread; any thread may read.
#[derive(Debug)]
pub struct Migration {
    settings: Mutex<Settings>,
}

#[derive(Debug)]
struct Settings {
    parameters: MigrationParameters,
    /// What is on.
    capabilities: Vec<MigrationCapability>,
}

impl Default for Migration {
    fn default() -> Self {
        let settings = Settings { parameters: parameters::defaults(), capabilities: Vec::new() };
        Self { settings: Mutex::new(settings) }
    }
}

impl Migration {
    fn settings(&self) -> MutexGuard<'_, Settings> {
        // Both halves are only ever assigned whole.
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MigrationCommands for Migration {
    fn migrate_set_capabilities(&self, capabilities: Vec<MigrationCapabilityStatus>) -> Result<()> {
        let on = &mut self.settings().capabilities;
        for change in capabilities {
            on.retain(|c| *c != change.capability);
            if change.state {
                on.push(change.capability);
            }
        }
        Ok(())
    }

    fn query_migrate_capabilities(&self) -> Result<Vec<MigrationCapabilityStatus>> {
        let settings = self.settings();
        let status = |capability: &MigrationCapability| MigrationCapabilityStatus {
            capability: *capability,
            state: settings.capabilities.contains(capability),
        };
        Ok(MigrationCapability::VALUES.iter().map(status).collect())
    }

    fn migrate_set_parameters(&self, change: MigrationParameters) -> Result<()> {
        let mut settings = self.settings();
        settings.parameters = parameters::changed(&settings.parameters, &change)?;
        Ok(())
    }

    fn x_pliant_migrate_set_parameter_text(&self, parameter: String, value: String) -> Result<()> {
        self.migrate_set_parameters(parameters::from_text(&parameter, &value)?)
    }

    fn query_migrate_parameters(&self) -> Result<MigrationParameters> {
        Ok(self.settings().parameters.clone())
    }

    fn query_migrate(&self) -> Result<MigrationInfo> {
        // There was none.
        Ok(MigrationInfo::default())
    }
}

#[cfg(test)]
mod tests;

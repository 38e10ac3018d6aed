//! Capabilities: which there are, and which go together.

use qapi::types::{MigrationCapability as Capability, MigrationCapabilityStatus};
use qapi::{Enum, Error, Result};

use crate::address::Address;

/// Those that are on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities(Vec<Capability>);

impl Capabilities {
    /// Whether one is on.
    pub fn has(&self, capability: Capability) -> bool {
        self.0.contains(&capability)
    }

    /// These with changes; of a capability that is named twice the last word counts.
    ///
    /// # Errors
    /// QEMU's: two do not go together.
    pub fn changed(&self, changes: &[MigrationCapabilityStatus]) -> Result<Self> {
        let mut on = self.0.clone();
        for change in changes {
            on.retain(|c| *c != change.capability);
            if change.state {
                on.push(change.capability);
            }
        }
        let changed = Self(on);
        let conflicts = [
            (
                Capability::PostcopyRam,
                Capability::XIgnoreShared,
                "Postcopy is not compatible with ignore-shared",
            ),
            (Capability::PostcopyRam, Capability::Multifd, "Postcopy is not yet compatible with multifd"),
        ];
        for (one, other, why) in conflicts {
            if changed.has(one) && changed.has(other) {
                return Err(Error::generic(why));
            }
        }
        if changed.has(Capability::PostcopyPreempt) && !changed.has(Capability::PostcopyRam) {
            return Err(Error::generic("Postcopy preempt requires postcopy-ram"));
        }
        if changed.has(Capability::SwitchoverAck) && !changed.has(Capability::ReturnPath) {
            return Err(Error::generic("Capability 'switchover-ack' requires capability 'return-path'"));
        }
        if changed.has(Capability::MappedRam) && changed.has(Capability::PostcopyRam) {
            return Err(Error::generic("Mapped-ram migration is incompatible with postcopy"));
        }
        Ok(changed)
    }

    /// Whether a migration with these can use an address.
    ///
    /// # Errors
    /// QEMU's.
    #[doc(alias = "migration_channels_and_transport_compatible")]
    pub fn fit(&self, address: &Address) -> Result<()> {
        if self.has(Capability::MappedRam) && !matches!(address, Address::File { .. }) {
            return Err(Error::generic("Migration requires seekable transport (e.g. file)"));
        }
        let several = match address {
            Address::Socket(_) => true,
            Address::File { .. } => self.has(Capability::MappedRam),
            Address::Fd(_) | Address::Exec(_) => false,
        };
        let needs = self.has(Capability::Multifd) || self.has(Capability::PostcopyPreempt);
        if needs && !several {
            return Err(Error::generic("Migration requires multi-channel URIs (e.g. tcp)"));
        }
        Ok(())
    }

    /// All there are, and whether they are on.
    pub fn all(&self) -> Vec<MigrationCapabilityStatus> {
        let status = |capability: &Capability| MigrationCapabilityStatus {
            capability: *capability,
            state: self.has(*capability),
        };
        Capability::VALUES.iter().map(status).collect()
    }
}

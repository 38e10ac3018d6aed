//! Port regions of a device: mapped when it is realized, gone when it is unrealized.

use std::sync::{Arc, Mutex, PoisonError};

use memory::{Owner, RegionDesc, RegionId, RegionOps};
use qom::ObjectRef;

use crate::core::machine::Machine;

/// The regions a device put into the port space.
#[derive(Default)]
pub struct Ports(Mutex<Vec<RegionId>>);

impl Ports {
    /// Maps `ops` at `base`, `len` ports.
    pub fn map(
        &self,
        machine: &Machine,
        owner: &ObjectRef,
        name: &str,
        base: u64,
        len: u64,
        ops: Arc<dyn RegionOps>,
    ) -> RegionId {
        self.map_in(machine, machine.io_region(), owner, name, base, len, ops)
    }

    /// Maps `ops` at `offset` in `parent`, `len` ports.
    #[expect(clippy::too_many_arguments, reason = "as `map`, with the region that contains it")]
    pub fn map_in(
        &self,
        machine: &Machine,
        parent: RegionId,
        owner: &ObjectRef,
        name: &str,
        offset: u64,
        len: u64,
        ops: Arc<dyn RegionOps>,
    ) -> RegionId {
        let mut tx = machine.memory().transaction();
        let region = tx.io(RegionDesc::new(name, len.into()).owned_by(Owner::of(owner)), ops);
        tx.add_subregion(parent, offset, region, 0);
        tx.commit();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(region);
        region
    }

    /// Takes everything out again.
    pub fn unmap(&self, machine: &Machine) {
        let regions = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut tx = machine.memory().transaction();
        for region in regions.into_iter().rev() {
            if let Err(error) = tx.destroy(region) {
                tracing::warn!(%error, "port region");
            }
        }
    }
}

//! Pages of discarded memory are readied before it is populated, over a longer time than anybody would wait for.

use std::ops::Range;
use std::sync::Arc;

use super::DiscardManager;
use crate::error::{Error, Result};

/// Keeps the host mapping of a range open in which somebody readies pages that he is going to populate: no one else gets in, neither
/// the guest nor this program's own accesses. What is not populated when it is dropped is closed again.
///
/// Whoever holds it must be the only one who populates and discards in the range.
pub struct Admission {
    manager: Arc<DiscardManager>,
    range: Range<u64>,
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Admission({:#x}..{:#x})", self.range.start, self.range.end)
    }
}

impl DiscardManager {
    /// Opens the host mapping of a range for whoever readies its pages ([`RamBlock::prealloc`](crate::RamBlock::prealloc)).
    ///
    /// # Errors
    /// [`Error::BadDiscardRange`], [`Error::Protect`].
    pub fn admit(self: &Arc<Self>, range: Range<u64>) -> Result<Admission> {
        self.bits(&range)?;
        let _unchanged = self.state();
        if let Some(barrier) = &self.barrier {
            barrier.admit(&range).map_err(Error::Protect)?;
        }
        Ok(Admission { manager: Arc::clone(self), range })
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let _unchanged = self.manager.state();
        if let Some(barrier) = &self.manager.barrier {
            barrier.retract(&barrier.closed(&self.range));
        }
    }
}

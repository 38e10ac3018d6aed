//! Who needs pages to be given back to the host, and who cannot live with it: the two exclude each other.
//!
//! A device that pins guest memory (VFIO, vhost-vdpa, locked memory) and one whose purpose is to give memory back cannot both have
//! their way, and nobody would notice until the host runs out: the pinned pages stay, and the device writes into pages that
//! nobody sees. So each states what it needs before it starts, and whoever comes second is refused. *Coordinated* discards
//! are those a [`DiscardManager`](crate::DiscardManager) announces: a user of memory that listens there (virtio-mem with
//! VFIO) only excludes the others.
//!
//! | who | claims |
//! | --- | --- |
//! | virtio-mem | [`CoordinatedRequired`](DiscardClaim::CoordinatedRequired) |
//! | a balloon | [`Required`](DiscardClaim::Required) |
//! | `-overcommit mem-lock=on`, a device that maps all memory once | [`Disabled`](DiscardClaim::Disabled) |
//! | [`DmaMapper`](crate::DmaMapper) | [`UncoordinatedDisabled`](DiscardClaim::UncoordinatedDisabled) |
//!
//! ```
//! use memory::{DiscardClaim, Memory};
//!
//! let memory = Memory::new();
//! let balloon = memory.discard_policy().claim(DiscardClaim::Required).unwrap();
//! assert!(memory.discard_policy().claim(DiscardClaim::Disabled).is_err());
//! drop(balloon);
//! let _pinned = memory.discard_policy().claim(DiscardClaim::Disabled).unwrap();
//! ```

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What somebody needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiscardClaim {
    /// All discards work.
    #[doc(alias = "ram_block_discard_require")]
    Required,
    /// Those that a discard manager announces work.
    #[doc(alias = "ram_block_coordinated_discard_require")]
    CoordinatedRequired,
    /// Nobody discards.
    #[doc(alias = "ram_block_discard_disable")]
    Disabled,
    /// Nobody discards without a discard manager that announces it.
    #[doc(alias = "ram_block_uncoordinated_discard_disable")]
    UncoordinatedDisabled,
}

impl DiscardClaim {
    /// The claims it cannot live with.
    fn excludes(self) -> &'static [Self] {
        match self {
            Self::Required => &[Self::Disabled, Self::UncoordinatedDisabled],
            Self::CoordinatedRequired => &[Self::Disabled],
            Self::Disabled => &[Self::Required, Self::CoordinatedRequired],
            Self::UncoordinatedDisabled => &[Self::Required],
        }
    }
}

/// Somebody claims the opposite. The text is that of the errno QEMU has for it (`EBUSY`); callers put their sentence before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Device or resource busy")]
pub struct DiscardConflict;

/// The claims of one VM, counted.
#[derive(Debug, Default)]
pub struct DiscardPolicy {
    /// Indexed by the discriminant of [`DiscardClaim`].
    counts: Mutex<[u32; 4]>,
    suspended: AtomicU32,
}

impl DiscardPolicy {
    fn counts(&self) -> MutexGuard<'_, [u32; 4]> {
        // Changed one number at a time.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a claim that holds until the guard is dropped.
    ///
    /// # Errors
    /// Somebody claims the opposite.
    pub fn claim(self: &Arc<Self>, claim: DiscardClaim) -> Result<DiscardGuard, DiscardConflict> {
        let mut counts = self.counts();
        if claim.excludes().iter().any(|other| counts[*other as usize] > 0) {
            return Err(DiscardConflict);
        }
        counts[claim as usize] += 1;
        Ok(DiscardGuard { policy: Arc::clone(self), claim })
    }

    /// Has those who give memory back without being waited for leave it be, until the guard is dropped.
    pub fn suspend(self: &Arc<Self>) -> Suspension {
        self.suspended.fetch_add(1, Ordering::SeqCst);
        Suspension(Arc::clone(self))
    }

    /// Whether a [`Suspension`] lives.
    pub fn is_suspended(&self) -> bool {
        self.suspended.load(Ordering::SeqCst) != 0
    }

    /// Whether somebody makes this claim.
    pub fn is_claimed(&self, claim: DiscardClaim) -> bool {
        self.counts()[claim as usize] > 0
    }
}

/// Memory is not given back meanwhile by who could as well leave it (a balloon).
#[derive(Debug)]
#[must_use = "dropping it ends the suspension"]
pub struct Suspension(Arc<DiscardPolicy>);

impl Drop for Suspension {
    fn drop(&mut self) {
        self.0.suspended.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A claim that holds.
#[derive(Debug)]
#[must_use = "dropping it ends the claim"]
pub struct DiscardGuard {
    policy: Arc<DiscardPolicy>,
    claim: DiscardClaim,
}

impl Drop for DiscardGuard {
    fn drop(&mut self) {
        self.policy.counts()[self.claim as usize] -= 1;
    }
}

#[cfg(test)]
mod tests;

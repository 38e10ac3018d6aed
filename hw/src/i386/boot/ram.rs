//! The guest's RAM as loaders see it.

use std::sync::Arc;

use memory::FlatView;
use qapi::{Error, Result};
use vm_memory::{Bytes, GuestAddress, ReadVolatile};

use crate::core::machine::Machine;

/// RAM as it is while the vCPUs are paused.
pub(super) struct Ram(Arc<FlatView>);

impl Ram {
    pub(super) fn of(machine: &Machine) -> Self {
        Self(machine.system_space().view())
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// There is no RAM.
    pub(super) fn write(&self, address: u64, data: &[u8]) -> Result<()> {
        self.0.guest_memory().write_slice(data, GuestAddress(address)).map_err(|_| absent(address))
    }

    /// Fills `size` bytes with zeros.
    ///
    /// # Errors
    /// There is no RAM.
    pub(super) fn clear(&self, address: u64, size: u64) -> Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut done = 0;
        while done < size {
            let len = (size - done).min(ZEROS.len() as u64);
            self.write(address + done, &ZEROS[..len as usize])?;
            done += len;
        }
        Ok(())
    }

    /// Has `source` fill `size` bytes. `None` if it could not.
    pub(super) fn fill(&self, address: u64, mut source: impl ReadVolatile, size: u64) -> Option<()> {
        let size = usize::try_from(size).ok()?;
        self.0.guest_memory().read_exact_volatile_from(GuestAddress(address), &mut source, size).ok()
    }
}

fn absent(address: u64) -> Error {
    Error::generic(format!("the guest cannot be loaded: there is no RAM at {address:#x}"))
}

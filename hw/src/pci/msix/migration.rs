//! What a migration takes along of a table.

use vmstate::{LoadError, Result, vmstate};

use super::{ENTRY_MASKED, Msix, State, Vector};

vmstate! {
    /// Table and pending bits. Whether messages are on is in the function's configuration space.
    pub struct MsixState: "msix", version 1 {
        /// Four words an entry: address low, address high, data, control.
        table: Vec<[u32; 4]>,
        /// A byte an entry, 1 for one that is pending.
        pending: Vec<u8>,
    }
}

impl Msix {
    /// The state of now.
    pub fn saved_state(&self) -> MsixState {
        let state = self.lock();
        let State { enabled: _, all_masked: _, vectors } = &*state;
        let (table, pending) = vectors
            .iter()
            .map(|Vector { words, pending, route: _, sources: _ }| (*words, u8::from(*pending)))
            .unzip();
        MsixState { table, pending }
    }

    /// Takes over what the same function had elsewhere, where control said so. Nothing is sent.
    ///
    /// # Errors
    /// Another number of vectors.
    pub fn load_state(&self, saved: &MsixState, enabled: bool, all_masked: bool) -> Result<()> {
        let MsixState { table, pending } = saved;
        let mut state = self.lock();
        let own = state.vectors.len();
        if (table.len(), pending.len()) != (own, own) {
            let count = table.len();
            return Err(LoadError::invalid(format!("MSI-X has {count} vectors, not {own}")));
        }
        for (vector, (words, pending)) in state.vectors.iter_mut().zip(table.iter().zip(pending)) {
            vector.words = *words;
            // One that could go would have gone.
            let held = !enabled || all_masked || words[3] & ENTRY_MASKED != 0;
            vector.pending = *pending != 0 && held;
            vector.route = None;
        }
        (state.enabled, state.all_masked) = (enabled, all_masked);
        (0..own).for_each(|index| self.settle_sources(&state, index));
        Ok(())
    }
}

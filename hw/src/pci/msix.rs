//! MSI-X: a table of messages in device memory, masked one by one or all together (PCI 3.0 §6.8.2).
//!
//! A message is a write of four bytes by the function. One to the window of the local APICs goes to the interrupt controller, one
//! to RAM changes RAM, and one to a device's registers is lost: it could come back to this very table. Like any other write it
//! needs bus mastering.

mod migration;
mod source;

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use accel::{IrqChip, MsiMessage, MsiRoute};
use memory::{AccessConstraints, AddressSpace, RegionOps};

pub use migration::MsixState;
pub use source::MsixSource;

/// Vectors at most.
pub const MAX_VECTORS: u16 = 2048;
/// Bytes of a table entry.
const ENTRY: usize = 16;
const ENTRY_MASKED: u32 = 1;
/// Addresses that local APICs listen to (Intel SDM volume 3, 11.11.1).
const APIC_WINDOW: Range<u64> = 0xfee0_0000..0xfef0_0000;

/// Where table and pending bits lie in a BAR of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsixLayout {
    /// Bytes of the table, at offset 0.
    pub table_size: u64,
    /// Offset of the pending bits.
    pub pba_offset: u64,
    /// Bytes of the pending bits.
    pub pba_size: u64,
    /// Bytes of the BAR.
    pub bar_size: u64,
}

impl MsixLayout {
    /// The layout for `vectors` vectors.
    pub fn exclusive(vectors: u16) -> Self {
        let table_size = u64::from(vectors) * ENTRY as u64;
        let pba_size = u64::from(vectors).div_ceil(64) * 8;
        let pba_offset = if table_size > 2048 { table_size } else { 2048 };
        let bar_size = (pba_offset + pba_size).next_power_of_two().max(4096);
        Self { table_size, pba_offset, pba_size, bar_size }
    }
}

/// The table of one function.
pub struct Msix {
    irq: Arc<dyn IrqChip>,
    /// Memory as the function reaches it.
    space: Arc<AddressSpace>,
    state: Mutex<State>,
}

struct State {
    enabled: bool,
    all_masked: bool,
    vectors: Vec<Vector>,
}

#[derive(Default)]
struct Vector {
    /// Address low, address high, data, control.
    words: [u32; 4],
    pending: bool,
    /// Made when the vector first fires, kept up to date since.
    route: Option<Box<dyn MsiRoute>>,
    /// Who interrupts without a word to us, while nothing is masked.
    sources: Vec<Arc<MsixSource>>,
}

impl Vector {
    fn message(&self) -> MsiMessage {
        MsiMessage { address: u64::from(self.words[0]) | u64::from(self.words[1]) << 32, data: self.words[2] }
    }

    fn fire(&mut self, irq: &Arc<dyn IrqChip>, space: &AddressSpace) {
        let message = self.message();
        if !APIC_WINDOW.contains(&message.address) {
            if let Some(range) = space.ram_range(message.address, 4) {
                range.copy_from(&message.data.to_le_bytes());
            }
            return;
        }
        // Without bus mastering the function sees no memory at all.
        if space.view().ranges().is_empty() {
            return;
        }
        if self.route.is_none() {
            self.route = Arc::clone(irq).msi_route(message).ok();
        }
        match &self.route {
            Some(route) => route.trigger(),
            // Out of routes: slower, but delivered.
            None => irq.send_msi(message),
        }
    }
}

impl Msix {
    /// A table of `vectors` masked entries of a function that reaches memory through `space`.
    pub fn new(vectors: u16, irq: Arc<dyn IrqChip>, space: Arc<AddressSpace>) -> Arc<Self> {
        let vectors = (0..vectors).map(|_| Vector::default()).collect();
        let state = State { enabled: false, all_masked: false, vectors };
        let msix = Self { irq, space, state: Mutex::new(state) };
        msix.reset();
        Arc::new(msix)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Entries are words written whole; a panic elsewhere leaves them usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the guest switched the function from its pin to messages.
    pub fn is_enabled(&self) -> bool {
        self.lock().enabled
    }

    /// Entries in the table.
    pub fn vectors(&self) -> u16 {
        self.lock().vectors.len() as u16
    }

    /// Delivers vector `index`, or remembers it while masked. Nothing happens while MSI-X is off or for other numbers.
    pub fn notify(&self, index: u16) {
        let mut state = self.lock();
        if !state.enabled {
            return;
        }
        let all_masked = state.all_masked;
        let Some(vector) = state.vectors.get_mut(usize::from(index)) else { return };
        if all_masked || vector.words[3] & ENTRY_MASKED != 0 {
            vector.pending = true;
        } else {
            vector.fire(&self.irq, &self.space);
        }
    }

    /// What the control register says now.
    pub fn set_control(&self, enabled: bool, all_masked: bool) {
        let mut state = self.lock();
        (state.enabled, state.all_masked) = (enabled, all_masked);
        self.fire_pending(&mut state);
        (0..state.vectors.len()).for_each(|index| self.settle_sources(&state, index));
    }

    /// Has signals of `source` be vector `index`, and no other vector any more. They take the shortest way that there is at any time:
    /// through the accelerator while the vector is not masked, else through whoever watches the source.
    pub fn connect(&self, index: u16, source: &Arc<MsixSource>) {
        let mut state = self.lock();
        self.take_source(&mut state, source);
        if let Some(vector) = state.vectors.get_mut(usize::from(index)) {
            vector.sources.push(Arc::clone(source));
            self.settle_sources(&state, usize::from(index));
        }
    }

    /// Signals of `source` are no vector any more.
    pub fn disconnect(&self, source: &Arc<MsixSource>) {
        self.take_source(&mut self.lock(), source);
    }

    fn take_source(&self, state: &mut State, source: &Arc<MsixSource>) {
        for vector in &mut state.vectors {
            vector.sources.retain(|other| !Arc::ptr_eq(other, source));
        }
        source.set_direct(&self.irq, None);
    }

    /// Has the sources of a vector take the way that its state allows.
    fn settle_sources(&self, state: &State, index: usize) {
        let vector = &state.vectors[index];
        let open = state.enabled && !state.all_masked && vector.words[3] & ENTRY_MASKED == 0;
        let message = Some(vector.message()).filter(|m| open && APIC_WINDOW.contains(&m.address));
        vector.sources.iter().for_each(|source| source.set_direct(&self.irq, message));
    }

    fn fire_pending(&self, state: &mut State) {
        if !state.enabled || state.all_masked {
            return;
        }
        for vector in &mut state.vectors {
            if vector.pending && vector.words[3] & ENTRY_MASKED == 0 {
                vector.pending = false;
                vector.fire(&self.irq, &self.space);
            }
        }
    }

    /// Power-on state: off, every entry masked and empty, nothing pending.
    pub fn reset(&self) {
        let mut state = self.lock();
        (state.enabled, state.all_masked) = (false, false);
        for vector in &mut state.vectors {
            let sources = std::mem::take(&mut vector.sources);
            *vector = Vector { words: [0, 0, 0, ENTRY_MASKED], sources, ..Vector::default() };
        }
        (0..state.vectors.len()).for_each(|index| self.settle_sources(&state, index));
    }

    fn read_table(&self, offset: u64) -> u32 {
        let (entry, word) = (offset as usize / ENTRY, offset as usize % ENTRY / 4);
        self.lock().vectors.get(entry).map_or(0, |v| v.words[word])
    }

    fn write_table(&self, offset: u64, value: u32) {
        let (entry, word) = (offset as usize / ENTRY, offset as usize % ENTRY / 4);
        let mut state = self.lock();
        let Some(vector) = state.vectors.get_mut(entry) else { return };
        vector.words[word] = value;
        let message = vector.message();
        if word < 3
            && let Some(route) = &vector.route
            && let Err(error) = route.update(message)
        {
            tracing::warn!(%error, "MSI route");
            vector.route = None;
        }
        self.fire_pending(&mut state);
        self.settle_sources(&state, entry);
    }

    fn read_pending(&self, offset: u64) -> u32 {
        let state = self.lock();
        let first = offset as usize * 8;
        (0..32)
            .fold(0, |bits, i| bits | u32::from(state.vectors.get(first + i).is_some_and(|v| v.pending)) << i)
    }
}

const ACCESS: AccessConstraints = AccessConstraints::new().valid(4, 8).implemented(4, 4);

/// The table as a region.
pub(super) struct TableOps(pub(super) Arc<Msix>);

impl RegionOps for TableOps {
    fn read(&self, offset: u64, _size: u8) -> u64 {
        self.0.read_table(offset).into()
    }
    fn write(&self, offset: u64, _size: u8, value: u64) {
        self.0.write_table(offset, value as u32);
    }
    fn constraints(&self) -> AccessConstraints {
        ACCESS
    }
}

/// The pending bits as a region; writes are lost.
pub(super) struct PendingOps(pub(super) Arc<Msix>);

impl RegionOps for PendingOps {
    fn read(&self, offset: u64, _size: u8) -> u64 {
        self.0.read_pending(offset).into()
    }
    fn write(&self, _offset: u64, _size: u8, _value: u64) {}
    fn constraints(&self) -> AccessConstraints {
        ACCESS
    }
}

#[cfg(test)]
mod tests;

//! What is put into the guest's memory at each reset: `info roms`.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use crate::core::machine::Machine;

/// Something that was put into RAM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rom {
    /// Physical address.
    pub address: u64,
    /// Bytes, what was cleared included.
    pub size: u64,
    /// For people.
    pub name: String,
}

/// All that was put there at the last reset.
#[derive(Debug, Default)]
pub struct Roms(Mutex<Vec<Rom>>);

impl Roms {
    /// Those of a machine.
    pub fn of(machine: &Machine) -> Arc<Self> {
        machine.extension(Self::default)
    }

    /// Replaces the list.
    pub fn set(&self, mut roms: Vec<Rom>) {
        roms.sort_by_key(|rom| rom.address);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = roms;
    }

    /// The list.
    pub fn list(&self) -> Vec<Rom> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A line for each.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for Rom { address, size, name } in &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = writeln!(out, "addr={address:016x} size={size:#08x} mem=ram name=\"{name}\"");
        }
        out
    }
}

//! What a guest reads of the machine: the tables of ACPI 6.5 §5, made anew for each start of the guest.
//!
//! [`facts`] looks at the machine, everything else is a function of what it found: [`fixed`] tables that are lists,
//! [`affinity`] and [`hmat`] those about NUMA, [`dsdt`] the one that is a program, [`loader`] how to move them. Left out: sleep states other than S5, which the machine
//! does not have; HPET.

mod affinity;
mod code;
mod dsdt;
mod facts;
mod fixed;
mod hmat;
mod loader;

use std::sync::Arc;

use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use qapi::Result;

use crate::core::machine::Machine;
use crate::i386::layout::Layout;
use facts::Facts;

/// Who made the tables, and which; QEMU's defaults.
const OEM_ID: [u8; 6] = *b"BOCHS ";
const OEM_TABLE_ID: [u8; 8] = *b"BXPC    ";
const OEM_REVISION: u32 = 1;
/// The FACS must be aligned to this.
const FACS_ALIGN: u64 = 64;
/// Other tables are.
const ALIGN: usize = 16;

/// Tables as they lie in guest memory.
pub struct Tables {
    /// All but the root pointer.
    pub blob: Vec<u8>,
    /// The root pointer (RSDP), 36 bytes; it points into the blob.
    pub rsdp: Vec<u8>,
}

/// Tables for a machine as it is now. `base` is where the blob will lie: aligned to 16 bytes, below 4 GiB. Its length does
/// not depend on that. Not for a machine whose `acpi` is off.
///
/// # Errors
/// The machine has no ACPI.
pub fn build(machine: &Arc<Machine>, layout: &Layout, base: u64) -> Result<Tables> {
    Ok(assemble(&Facts::of(machine, layout)?, base))
}

/// Tables for firmware to place, and the script that it follows for that.
pub struct Movable {
    /// Built for address 0.
    pub tables: Tables,
    /// `etc/table-loader`.
    pub script: Vec<u8>,
}

/// The same tables, for whoever moves them.
///
/// # Errors
/// The machine has no ACPI.
pub fn movable(machine: &Arc<Machine>, layout: &Layout) -> Result<Movable> {
    /// Any other address.
    const ELSEWHERE: u64 = 0x1000_0000;
    let mut facts = Facts::of(machine, layout)?;
    // That page is for firmware to place, too.
    facts.generation = facts.generation.map(|_| 0);
    let tables = assemble(&facts, 0);
    let script = loader::script(&tables, &assemble(&facts, ELSEWHERE));
    Ok(Movable { tables, script })
}

fn assemble(facts: &Facts, base: u64) -> Tables {
    let mut blob = Blob { base, bytes: Vec::new() };
    let facs = (!facts.platform.is_reduced()).then(|| {
        blob.bytes.resize((base.next_multiple_of(FACS_ALIGN) - base) as usize, 0);
        let at = blob.push(&bytes_of(&FACS::new()));
        // What follows is where it would be with the most padding.
        blob.bytes.resize(FACS_ALIGN as usize - ALIGN + FACS::len(), 0);
        at
    });
    let dsdt = blob.push(&dsdt::dsdt(facts));
    let mut tables = vec![fixed::fadt(facts, dsdt, facs), fixed::madt(facts)];
    tables.extend(affinity::tables(facts));
    tables.extend(hmat::hmat(facts));
    tables.extend(fixed::mcfg(facts));
    tables.extend(fixed::waet(facts));
    let mut root = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for table in tables {
        root.add_entry(blob.push(&table));
    }
    let root = blob.push(&bytes_of(&root));
    Tables { blob: blob.bytes, rsdp: bytes_of(&Rsdp::new(OEM_ID, root)) }
}

struct Blob {
    base: u64,
    bytes: Vec<u8>,
}

impl Blob {
    /// Adds a table and tells its address.
    fn push(&mut self, table: &[u8]) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
        let at = self.base + self.bytes.len() as u64;
        self.bytes.extend_from_slice(table);
        at
    }
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// A table with the usual header.
fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    const HEADER: u32 = 36;
    let mut table = Sdt::new(*signature, HEADER, revision, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append_slice(body);
    table.as_slice().to_vec()
}

#[cfg(test)]
mod tests;

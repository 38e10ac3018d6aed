//! The tables for firmware, which puts them where it likes: the script that tells it which words are addresses and which bytes
//! are sums (`etc/table-loader`, QEMU's linker-loader interface).

use super::{Tables, dsdt};
use crate::acpi::vmgenid;

const TABLES: &str = "etc/acpi/tables";
const RSDP: &str = "etc/acpi/rsdp";
const COMMAND: usize = 128;
const NAME: usize = 56;
const ALLOCATE: u32 = 1;
const ADD_POINTER: u32 = 2;
const ADD_CHECKSUM: u32 = 3;
const WRITE_POINTER: u32 = 4;
/// Anywhere below 4 GiB.
const ZONE_HIGH: u8 = 1;
/// The area that guests search.
const ZONE_FSEG: u8 = 2;
/// What the FACS needs.
const TABLES_ALIGN: u32 = 64;
const RSDP_ALIGN: u32 = 16;
/// Offset of a table's sum.
const CHECKSUM: usize = 9;
/// The FADT's address of the DSDT.
const DSDT: usize = 40;
/// The FADT's addresses: offset and size.
const FADT_POINTERS: [(usize, u8); 4] = [(36, 4), (DSDT, 4), (132, 8), (140, 8)];

#[derive(Default)]
struct Script(Vec<u8>);

impl Script {
    fn command(&mut self, kind: u32, names: &[&str], rest: &[&[u8]]) {
        let start = self.0.len();
        self.0.extend(kind.to_le_bytes());
        for name in names {
            let end = self.0.len() + NAME;
            self.0.extend(name.as_bytes());
            self.0.resize(end, 0);
        }
        rest.iter().for_each(|part| self.0.extend(*part));
        self.0.resize(start + COMMAND, 0);
    }

    fn allocate(&mut self, file: &str, align: u32, zone: u8) {
        self.command(ALLOCATE, &[file], &[&align.to_le_bytes(), &[zone]]);
    }

    /// Adds the address of the tables to a word of `file`.
    fn pointer(&mut self, file: &str, at: usize, size: u8) {
        self.pointer_to(TABLES, file, at, size);
    }

    /// Adds the address of `target` to a word of `file`.
    fn pointer_to(&mut self, target: &str, file: &str, at: usize, size: u8) {
        self.command(ADD_POINTER, &[file, target], &[&(at as u32).to_le_bytes(), &[size]]);
    }

    /// Has the host told, through `file`, where byte `offset` of `target` is.
    fn tell(&mut self, file: &str, target: &str, offset: u32) {
        self.command(WRITE_POINTER, &[file, target], &[&[0; 4], &offset.to_le_bytes(), &[8]]);
    }

    fn checksum(&mut self, file: &str, at: usize, start: usize, len: usize) {
        let words = [at, start, len].map(|word| (word as u32).to_le_bytes());
        self.command(ADD_CHECKSUM, &[file], &[&words[0], &words[1], &words[2]]);
    }
}

fn word(bytes: &[u8], at: usize, size: u8) -> u64 {
    let mut out = [0; 8];
    if let Some(part) = bytes.get(at..at + usize::from(size)) {
        out[..part.len()].copy_from_slice(part);
    }
    u64::from_le_bytes(out)
}

/// The script for tables that were built for address 0; `elsewhere` are the same for another one, which shows what an address is.
pub(super) fn script(tables: &Tables, elsewhere: &Tables) -> Vec<u8> {
    let mut script = Script::default();
    let blob = &tables.blob;
    script.allocate(RSDP, RSDP_ALIGN, ZONE_FSEG);
    script.allocate(TABLES, TABLES_ALIGN, ZONE_HIGH);
    let generation = dsdt::place_of_page(blob);
    if generation.is_some() {
        script.allocate(vmgenid::GUID_FILE, vmgenid::PAGE_SIZE, ZONE_HIGH);
        script.tell(vmgenid::ADDR_FILE, vmgenid::GUID_FILE, vmgenid::OFFSET.into());
    }
    let length = |table: usize| word(blob, table + 4, 4) as usize;
    let root = word(&tables.rsdp, 24, 8) as usize;
    for entry in (root + 36..root + length(root)).step_by(8) {
        let table = word(blob, entry, 8) as usize;
        if blob.get(table..table + 4) == Some(b"FACP") {
            if let Some(at) = generation {
                let dsdt = word(blob, table + DSDT, 4) as usize;
                script.pointer_to(vmgenid::GUID_FILE, TABLES, at, 4);
                script.checksum(TABLES, dsdt + CHECKSUM, dsdt, length(dsdt));
            }
            for (offset, size) in FADT_POINTERS {
                let at = table + offset;
                if word(blob, at, size) != word(&elsewhere.blob, at, size) {
                    script.pointer(TABLES, at, size);
                }
            }
            script.checksum(TABLES, table + CHECKSUM, table, length(table));
        }
        script.pointer(TABLES, entry, 8);
    }
    script.checksum(TABLES, root + CHECKSUM, root, length(root));
    script.pointer(RSDP, 24, 8);
    script.checksum(RSDP, 8, 0, 20);
    script.checksum(RSDP, 32, 0, 36);
    script.0
}

#[cfg(test)]
mod tests;

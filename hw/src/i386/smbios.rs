//! What the machine is called and consists of: the tables of SMBIOS 2.8 (DMTF DSP0134) that a guest of QEMU finds, each value where
//! QEMU has it, and the entry point that leads to them.
//!
//! Firmware puts a type 0 of its own in front, so there is one for guests that are started without and none in the files of
//! `fw_cfg`, unless the user gave one. Left out: processors of a socket beyond what 8 bits count on machine types up to 8.0, the tables about connectors, slots and on-board devices.

use std::ops::RangeInclusive;
use std::sync::Arc;

use qapi::{Error, Result};

use crate::core::config::{SmbiosBios, SmbiosBoard, SmbiosChassis, SmbiosSystem};
use crate::core::machine::Machine;
use crate::core::machine_types::Version;
use crate::core::uuid::{self, Uuid, mixed_endian};
use crate::i386::cpu;
use crate::i386::layout::Layout;

const MANUFACTURER: &str = "QEMU";
/// No other structure is referred to.
const NO_HANDLE: u16 = 0xfffe;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// What a DIMM holds at most.
const DIMM: u64 = 2 << 40;
/// The same up to 9.0.
const OLD_DIMM: u64 = 16 * GIB;
/// There are no numbers for more of them.
const DIMMS_MAX: u64 = 256;
/// A size in MiB from which on it is in the wider field.
const WIDE_DIMM: u64 = 0x7fff;
/// A number of KiB that says that it is in the wider field.
const WIDE_RANGE: u64 = u32::MAX as u64;
/// KiB of memory from which on the number is in the wider field.
const WIDE_ARRAY: u64 = 0x8000_0000;
const MEMORY_ARRAY: u16 = 0x1000;
const CHASSIS: u16 = 0x300;
/// Speed of processors, in MHz.
const SPEED: u16 = 2000;
/// A length that the older entry point can tell.
const OLD_ENTRY_MAX: usize = 0xffff;
/// Threads of a socket that the structures of then can tell.
const OLD_THREADS_MAX: u32 = 254;
/// Releases whose machine types have the longer one in any case.
#[doc(alias = "default_smbios_ep_type")]
const WIDE_VERSIONS: RangeInclusive<Version> = (8, 1)..=(8, 2);

/// Structures one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Smbios {
    pub(super) tables: Vec<u8>,
    count: u16,
    largest: u16,
    /// As of version 3.0, with the longer entry point.
    wide: bool,
}

/// A structure that is being put together.
struct Structure {
    bytes: Vec<u8>,
    texts: Vec<u8>,
    count: u8,
}

impl Structure {
    fn new(kind: u8, handle: u16) -> Self {
        let [low, high] = handle.to_le_bytes();
        Self { bytes: vec![kind, 0, low, high], texts: Vec::new(), count: 0 }
    }

    fn bytes(&mut self, list: &[u8]) -> &mut Self {
        self.bytes.extend(list);
        self
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// A text that nothing refers to by number. An empty one would end the list, so that a blank stands for it.
    fn append(&mut self, text: &str) {
        self.count += 1;
        self.texts.extend(if text.is_empty() { " " } else { text }.as_bytes());
        self.texts.push(0);
    }

    /// The number of a text, which comes behind the fixed part.
    fn text(&mut self, text: &str) -> &mut Self {
        self.append(text);
        let number = self.count;
        self.bytes(&[number])
    }

    /// The number of the text that was `said`, else of `default`; there is none for an empty one.
    fn text_or(&mut self, said: Option<&String>, default: &str) -> &mut Self {
        match said.map_or(default, String::as_str) {
            "" => self.bytes(&[0]),
            text => self.text(text),
        }
    }

    /// The same without a default.
    fn told(&mut self, said: Option<&String>) -> &mut Self {
        self.text_or(said, "")
    }
}

impl Smbios {
    /// The tables of `machine`. `bios`: with a type 0. They are as of version 2.8, unless that has no room for them; machine types of two
    /// releases had version 3.0 in any case, and those before it in none.
    ///
    /// # Errors
    /// QEMU's text: they are too long for a machine type of that age.
    pub(super) fn new(machine: &Arc<Machine>, layout: &Layout, bios: bool) -> Result<Self> {
        let (version, package) = (machine.kind().version, machine.smp().package());
        let many = package.dies * package.modules * package.cores * package.threads > OLD_THREADS_MAX;
        if WIDE_VERSIONS.contains(&version) || many && version > *WIDE_VERSIONS.end() {
            return Ok(Self::build(machine, layout, bios, true));
        }
        let all = Self::build(machine, layout, bios, false);
        match all.tables.len() {
            ..=OLD_ENTRY_MAX => Ok(all),
            length if version < *WIDE_VERSIONS.start() => {
                Err(Error::generic(format!("SMBIOS 2.1 table length {length} exceeds {OLD_ENTRY_MAX}")))
            }
            _ => Ok(Self::build(machine, layout, bios, true)),
        }
    }

    fn build(machine: &Arc<Machine>, layout: &Layout, bios: bool, wide: bool) -> Self {
        let mut all = Self { wide, ..Self::default() };
        let kind = machine.kind();
        let version = kind.name;
        let said = &machine.config().smbios;
        match &said.bios {
            Some(given) => all.push(given_firmware(given)),
            None if bios => all.push(firmware()),
            None => {}
        }
        let mut system = Structure::new(1, 0x100);
        let SmbiosSystem { manufacturer, product, version: own, serial, sku, family } = &said.system;
        system.text_or(manufacturer.as_ref(), MANUFACTURER).text_or(product.as_ref(), kind.description());
        system.text_or(own.as_ref(), version).told(serial.as_ref());
        // Woken by the power switch.
        system.bytes(&mixed_endian(uuid(machine))).bytes(&[6]).told(sku.as_ref()).told(family.as_ref());
        all.push(system);
        if let Some(board) = &said.board {
            let SmbiosBoard { manufacturer, product, version: own, serial, asset, location } = board;
            let mut s = Structure::new(2, 0x200);
            s.text_or(manufacturer.as_ref(), MANUFACTURER).text_or(product.as_ref(), kind.description());
            s.text_or(own.as_ref(), version).told(serial.as_ref()).told(asset.as_ref());
            // A board that hosts others; in the chassis; a motherboard without parts.
            s.bytes(&[1]).told(location.as_ref()).u16(CHASSIS).bytes(&[10, 0]);
            all.push(s);
        }
        let SmbiosChassis { manufacturer, version: own, serial, asset, sku } = &said.chassis;
        let mut chassis = Structure::new(3, CHASSIS);
        chassis.text_or(manufacturer.as_ref(), MANUFACTURER).bytes(&[1]).text_or(own.as_ref(), version);
        chassis.told(serial.as_ref()).told(asset.as_ref());
        // Safe in all states, security unknown, no locks and no parts.
        chassis.bytes(&[3, 3, 3, 2, 0, 0, 0, 0, 0, 0, 0, 0]).told(sku.as_ref());
        all.push(chassis);
        all.processors(machine, version);
        if !said.oem.is_empty() {
            let mut oem = Structure::new(11, 0xe00);
            oem.bytes(&[said.oem.len() as u8]);
            said.oem.iter().for_each(|text| oem.append(text));
            all.push(oem);
        }
        all.memory(machine, layout);
        let mut boot = Structure::new(32, 0x2000);
        boot.bytes(&[0; 7]);
        all.push(boot);
        all.push(Structure::new(127, 0x7f00));
        all
    }

    fn push(&mut self, mut structure: Structure) {
        let start = self.tables.len();
        structure.bytes[1] = structure.bytes.len() as u8;
        self.tables.extend(structure.bytes);
        self.tables.extend(&structure.texts);
        // Texts end with an empty one; two zeros where there are none.
        self.tables.resize(self.tables.len() + if structure.count == 0 { 2 } else { 1 }, 0);
        self.count += 1;
        self.largest = self.largest.max((self.tables.len() - start) as u16);
    }

    fn processors(&mut self, machine: &Arc<Machine>, version: &str) {
        let smp = machine.smp();
        let said = &machine.config().smbios.processor;
        let prefix = said.socket.as_deref().unwrap_or("CPU");
        let (signature, features) = cpu::signature(machine);
        let cores = smp.dies * smp.modules * smp.cores;
        let threads = cores * smp.threads;
        for (handle, socket) in (0x400..).zip(0..smp.sockets) {
            let mut s = Structure::new(4, handle);
            s.text(&format!("{prefix} {socket}")).bytes(&[3, 0xfe]);
            s.text_or(said.manufacturer.as_ref(), MANUFACTURER);
            let id = u64::from(features) << 32 | u64::from(signature);
            s.u64(said.id.unwrap_or(id)).text_or(said.version.as_ref(), version).bytes(&[0]);
            // External clock, highest and current speed in MHz; populated and enabled; no caches.
            s.u16(0).u16(said.max_speed.unwrap_or(SPEED)).u16(said.current_speed.unwrap_or(SPEED));
            s.bytes(&[0x41, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
            s.told(said.serial.as_ref()).told(said.asset.as_ref()).told(said.part.as_ref());
            // Unknown characteristics; a family that is not listed, unless somebody said which.
            s.bytes(&[small(cores), small(cores), small(threads)]).u16(2).u16(said.family.unwrap_or(1));
            if self.wide {
                s.u16(cores as u16).u16(cores as u16).u16(threads as u16);
            }
            self.push(s);
        }
    }

    fn memory(&mut self, machine: &Arc<Machine>, layout: &Layout) {
        let size = machine.sizes().ram;
        let said = &machine.config().smbios.memory;
        let prefix = said.socket.as_deref().unwrap_or("DIMM");
        let most = if machine.kind().version > (9, 0) { DIMM } else { OLD_DIMM };
        let most = most.max((size / DIMMS_MAX).next_multiple_of(GIB));
        let dimms = size.div_ceil(most);
        let mut array = Structure::new(16, MEMORY_ARRAY);
        let (narrow, wide) = if size / KIB < WIDE_ARRAY { (size / KIB, 0) } else { (WIDE_ARRAY, size) };
        // Elsewhere, system memory, with error correction.
        array.bytes(&[1, 3, 6]).u32(narrow as u32).u16(NO_HANDLE).u16(dimms as u16).u64(wide);
        self.push(array);
        for (handle, number) in (0x1100..).zip(0..dimms) {
            let mib = (size - number * most).min(most) / MIB;
            let (narrow, wide) = if mib < WIDE_DIMM { (mib, 0) } else { (WIDE_DIMM, mib) };
            let mut dimm = Structure::new(17, handle);
            dimm.u16(MEMORY_ARRAY).u16(NO_HANDLE).u16(0xffff).u16(0xffff).u16(narrow as u16);
            dimm.bytes(&[9, 0]).text(&format!("{prefix} {number}")).told(said.bank.as_ref());
            // RAM of another kind, whose ranks nobody knows.
            dimm.bytes(&[7, 2, 0]).u16(said.speed).text_or(said.manufacturer.as_ref(), MANUFACTURER);
            dimm.told(said.serial.as_ref()).told(said.asset.as_ref()).told(said.part.as_ref()).bytes(&[0]);
            // It is as fast as it can be; voltages are not told.
            dimm.u32(wide as u32).u16(said.speed).bytes(&[0; 6]);
            self.push(dimm);
        }
        let ranges = [(0, layout.below_4g), (layout.above_4g_start, layout.above_4g)];
        for (handle, (start, size)) in (0x1300..).zip(ranges.into_iter().filter(|(_, size)| *size > 0)) {
            let (first, last) = (start / KIB, (start + size - 1) / KIB);
            let mut mapped = Structure::new(19, handle);
            if last < WIDE_RANGE {
                mapped.u32(first as u32).u32(last as u32).u16(MEMORY_ARRAY).bytes(&[1]).u64(0).u64(0);
            } else {
                let wide = WIDE_RANGE as u32;
                mapped.u32(wide).u32(wide).u16(MEMORY_ARRAY).bytes(&[1]).u64(start).u64(start + size - 1);
            }
            self.push(mapped);
        }
    }

    /// The entry point, 31 or 24 bytes, for tables at `address`. `sealed`: with its sums; firmware makes them when it has moved the
    /// tables.
    pub(super) fn entry_point(&self, address: u64, sealed: bool) -> Vec<u8> {
        let length = self.tables.len();
        if self.wide {
            // Version 3.0, its documentation, the entry point's revision.
            let mut out = b"_SM3_\0\x18\x03\0\0\x01\0".to_vec();
            out.extend((length as u32).to_le_bytes());
            out.extend(address.to_le_bytes());
            if sealed {
                out[5] = checksum(&out);
            }
            return out;
        }
        let mut out = b"_SM_\0\x1f\x02\x08".to_vec();
        out.extend(self.largest.to_le_bytes());
        out.extend([0; 6]);
        out.extend(b"_DMI_\0");
        out.extend((length as u16).to_le_bytes());
        out.extend((address as u32).to_le_bytes());
        out.extend(self.count.to_le_bytes());
        // The version once more, in decimal digits.
        out.push(0x28);
        if sealed {
            out[21] = checksum(&out[16..]);
            out[4] = checksum(&out);
        }
        out
    }
}

/// What stands for firmware.
fn firmware() -> Structure {
    let mut s = Structure::new(0, 0);
    // From E0000h; the date is the one that SeaBIOS has. Characteristics are not told, but that it is virtual.
    s.text("pliant").text(env!("CARGO_PKG_VERSION")).u16(0xe000).text("04/01/2014").bytes(&[0]);
    s.u64(1 << 3).bytes(&[0, 1 << 2 | 1 << 4, 0, 0, 0xff, 0xff]);
    s
}

/// What the user says that firmware is.
fn given_firmware(said: &SmbiosBios) -> Structure {
    let SmbiosBios { vendor, version, date, release, uefi } = said;
    let mut s = Structure::new(0, 0);
    s.told(vendor.as_ref()).told(version.as_ref()).u16(0xe800).told(date.as_ref()).bytes(&[0]);
    let uefi = if *uefi { 1 << 3 } else { 0 };
    s.u64(1 << 3).bytes(&[0, 1 << 2 | 1 << 4 | uefi, release.0, release.1, 0xff, 0xff]);
    s
}

fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

/// 255 for what is more.
fn small(count: u32) -> u8 {
    u8::try_from(count).unwrap_or(u8::MAX)
}

/// The 16 bytes of `-uuid` in the order of its text; zeros without.
pub(super) fn uuid(machine: &Machine) -> Uuid {
    machine.config().uuid.as_deref().and_then(uuid::parse).unwrap_or_default()
}

#[cfg(test)]
mod tests;

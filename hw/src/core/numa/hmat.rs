//! What `-numa hmat-lb` and `-numa hmat-cache` say: how fast memory is seen from a node with CPUs, and the caches beside
//! memory. ACPI 6.5, 5.2.28 (HMAT) has 16-bit entries with one unit a table; whatever does not fit is refused.
//!
//! QEMU 10 lets some latencies through that do not fit and cuts their upper bits off; here all of them are checked.

use std::collections::BTreeMap;

use qapi::{Error, Result};

use super::{Numa, error};

/// The largest entry; above it is the one for "unreachable".
const MAX_ENTRY: u64 = 65534;
/// Bandwidths are multiples of it, bytes a second.
const MIB: u64 = 1 << 20;
/// Caches beside memory have levels 1 to 3.
const MAX_LEVEL: u8 = 3;

/// Which memory a table is about: the values of the field "memory hierarchy".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hierarchy {
    /// Memory itself.
    Memory,
    /// The first level of the cache beside it.
    FirstLevel,
    /// The second.
    SecondLevel,
    /// The third.
    ThirdLevel,
}

impl Hierarchy {
    /// All, in the order of their numbers in the table.
    pub const ALL: [Self; 4] = [Self::Memory, Self::FirstLevel, Self::SecondLevel, Self::ThirdLevel];
    /// Their names in `-numa`, in the same order.
    pub const NAMES: [&str; 4] = ["memory", "first-level", "second-level", "third-level"];
}

/// What a table measures: the values of the field "data type".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DataType {
    /// Latency of reads and writes, nanoseconds.
    AccessLatency,
    /// Of reads.
    ReadLatency,
    /// Of writes.
    WriteLatency,
    /// Bandwidth of reads and writes, bytes a second.
    AccessBandwidth,
    /// Of reads.
    ReadBandwidth,
    /// Of writes.
    WriteBandwidth,
}

impl DataType {
    /// All, in the order of their numbers in the table.
    pub const ALL: [Self; 6] = [
        Self::AccessLatency,
        Self::ReadLatency,
        Self::WriteLatency,
        Self::AccessBandwidth,
        Self::ReadBandwidth,
        Self::WriteBandwidth,
    ];
    /// Their names in `-numa`, in the same order.
    pub const NAMES: [&str; 6] = [
        "access-latency",
        "read-latency",
        "write-latency",
        "access-bandwidth",
        "read-bandwidth",
        "write-bandwidth",
    ];

    /// Whether it is a latency.
    #[must_use]
    pub fn is_latency(self) -> bool {
        matches!(self, Self::AccessLatency | Self::ReadLatency | Self::WriteLatency)
    }
}

/// One `-numa hmat-lb`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HmatLb {
    /// The node whose CPUs access.
    pub initiator: u16,
    /// The node whose memory is accessed.
    pub target: u16,
    /// Which memory.
    pub hierarchy: Hierarchy,
    /// What is told.
    pub data_type: DataType,
    /// `latency=`, nanoseconds.
    pub latency: Option<u64>,
    /// `bandwidth=`, bytes a second.
    pub bandwidth: Option<u64>,
}

/// A table of latencies or bandwidths.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LbTable {
    /// (initiator, target): nanoseconds or bytes a second.
    values: BTreeMap<(u16, u16), u64>,
}

impl LbTable {
    /// The unit of entries, nanoseconds or bytes a second: the largest power of ten (of two MiB, for bandwidths) that divides all.
    #[must_use]
    pub fn unit(&self, data_type: DataType) -> u64 {
        let (first, step) = if data_type.is_latency() { (1, 10) } else { (MIB, 2) };
        let values = || self.values.values().filter(|value| **value != 0);
        if values().next().is_none() {
            return first;
        }
        let mut unit: u64 = first;
        while let Some(next) = unit.checked_mul(step).filter(|next| values().all(|value| value % next == 0)) {
            unit = next;
        }
        unit
    }

    /// The value between two nodes, nanoseconds or bytes a second; `None` if nothing was said.
    #[must_use]
    pub fn value(&self, initiator: u16, target: u16) -> Option<u64> {
        self.values.get(&(initiator, target)).copied()
    }

    /// The same in units, as the table in memory has it; 0 if nothing was said.
    #[must_use]
    pub fn entry(&self, data_type: DataType, initiator: u16, target: u16) -> u16 {
        let units = self.value(initiator, target).unwrap_or(0) / self.unit(data_type);
        // `add_lb` lets no larger one in.
        u16::try_from(units).unwrap_or(u16::MAX)
    }

    fn fits(&self, data_type: DataType) -> bool {
        let unit = self.unit(data_type);
        self.values.values().all(|value| value / unit <= MAX_ENTRY)
    }
}

/// How a cache maps memory: the values of the field "associativity".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Associativity {
    /// Not told.
    None,
    /// Direct mapped.
    Direct,
    /// Some other way.
    Complex,
}

impl Associativity {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::None, Self::Direct, Self::Complex];
    /// Their names in `-numa`.
    pub const NAMES: [&str; 3] = ["none", "direct", "complex"];
}

/// When a cache writes: the values of the field "write policy".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WritePolicy {
    /// Not told.
    None,
    /// Late.
    WriteBack,
    /// At once.
    WriteThrough,
}

impl WritePolicy {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::None, Self::WriteBack, Self::WriteThrough];
    /// Their names in `-numa`.
    pub const NAMES: [&str; 3] = ["none", "write-back", "write-through"];
}

/// One `-numa hmat-cache`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HmatCache {
    /// The node whose memory it is beside.
    pub node_id: u16,
    /// Bytes.
    pub size: u64,
    /// 1 to 3.
    pub level: u8,
    /// How it maps memory.
    pub associativity: Associativity,
    /// When it writes.
    pub policy: WritePolicy,
    /// Bytes of a line.
    pub line: u16,
}

/// All that is said about how fast memory is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hmat {
    tables: BTreeMap<(Hierarchy, DataType), LbTable>,
    caches: BTreeMap<(u16, u8), HmatCache>,
}

impl Hmat {
    /// The tables that anything was said about, by hierarchy and data type.
    pub fn tables(&self) -> impl Iterator<Item = (Hierarchy, DataType, &LbTable)> {
        self.tables.iter().map(|((hierarchy, data_type), table)| (*hierarchy, *data_type, table))
    }

    /// The caches, by node and level.
    pub fn caches(&self) -> impl Iterator<Item = &HmatCache> {
        self.caches.values()
    }

    /// How many levels of caches a node's memory has.
    #[must_use]
    pub fn levels_of(&self, node: u16) -> u16 {
        self.caches.keys().filter(|(id, _)| *id == node).count() as u16
    }

    fn tells_of(&self, target: u16, latency: bool) -> bool {
        let mut tables = self.tables.iter().filter(|((_, data_type), _)| data_type.is_latency() == latency);
        tables.any(|(_, table)| table.values.keys().any(|(_, to)| *to == target))
    }
}

impl Numa {
    /// Takes one `-numa hmat-lb`.
    ///
    /// # Errors
    /// QEMU's texts; the caller prefixes the option.
    pub fn add_hmat_lb(&mut self, lb: &HmatLb) -> Result<()> {
        let HmatLb { initiator, target, hierarchy, data_type, latency, bandwidth } = *lb;
        let count = self.len();
        for (what, id) in [("initiator", initiator), ("target", target)] {
            if usize::from(id) >= count {
                return error(format!("Invalid {what}={id}, it should be less than {count}"));
            }
            if what == "initiator" && self.nodes.get(&id).is_none_or(|node| node.cpus.is_empty()) {
                return error(format!("Invalid initiator={id}, it isn't an initiator proximity domain"));
            }
        }
        let (wanted, other, name) = if data_type.is_latency() {
            (latency, bandwidth, ["latency", "bandwidth"])
        } else {
            (bandwidth, latency, ["bandwidth", "latency"])
        };
        let Some(value) = wanted else { return error(format!("Missing '{}' option", name[0])) };
        if other.is_some() {
            return error(format!("Invalid option '{}' since the data type is {}", name[1], name[0]));
        }
        let between = format!("between initiator={initiator} and target={target}");
        let mut table = self.hmat.tables.get(&(hierarchy, data_type)).cloned().unwrap_or_default();
        if table.values.contains_key(&(initiator, target)) {
            let pair = &between["between ".len()..];
            return error(format!("Duplicate configuration of the {} for {pair}", name[0]));
        }
        if !data_type.is_latency() && value % MIB != 0 {
            return error(format!("Bandwidth {value} {between} should be 1MB aligned"));
        }
        table.values.insert((initiator, target), value);
        if !table.fits(data_type) {
            let (what, than) = if data_type.is_latency() {
                ("Latency", "previously entered min or max values")
            } else {
                ("Bandwidth", "previously entered values")
            };
            return error(format!(
                "{what} {value} {between} should not differ from {than} on more than {MAX_ENTRY}"
            ));
        }
        self.hmat.tables.insert((hierarchy, data_type), table);
        Ok(())
    }

    /// Takes one `-numa hmat-cache`.
    ///
    /// # Errors
    /// QEMU's texts; the caller prefixes the option.
    pub fn add_hmat_cache(&mut self, cache: &HmatCache) -> Result<()> {
        let HmatCache { node_id, size, level, .. } = *cache;
        let count = self.len();
        if usize::from(node_id) >= count {
            return error(format!("Invalid node-id={node_id}, it should be less than {count}"));
        }
        if !self.hmat.tells_of(node_id, true) || !self.hmat.tells_of(node_id, false) {
            return error(format!(
                "The latency and bandwidth information of node-id={node_id} should be provided before memory side \
                 cache attributes"
            ));
        }
        if level == 0 || level > MAX_LEVEL {
            return error(format!(
                "Invalid level={level}, it should be larger than 0 and less than or equal to {MAX_LEVEL}"
            ));
        }
        if self.hmat.caches.contains_key(&(node_id, level)) {
            return error(format!(
                "Duplicate configuration of the side cache for node-id={node_id} and level={level}"
            ));
        }
        if level > 1 {
            let below = level - 1;
            let Some(lower) = self.hmat.caches.get(&(node_id, below)) else {
                return error(format!("Cache level={below} shall be defined first"));
            };
            if size <= lower.size {
                return Err(Error::generic(format!(
                    "Invalid size={size}, the size of level={level} should be larger than the size({}) of level={below}",
                    lower.size
                )));
            }
        }
        self.hmat.caches.insert((node_id, level), *cache);
        Ok(())
    }
}

#[cfg(test)]
mod tests;

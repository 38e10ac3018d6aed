//! HMAT (ACPI 6.5 §5.2.28): how fast memory is, seen from the processors of each node, and what caches stand beside it.

use super::facts::Facts;
use super::table;
use crate::core::machine::Machine;
use crate::core::numa::hmat::{DataType, Hierarchy, HmatCache, LbTable};

/// Picoseconds in the nanosecond that latencies come in.
const PICOSECONDS: u64 = 1000;
const MIB: u64 = 1 << 20;
const INITIATOR_VALID: u16 = 1;
/// Data types from here on are bandwidths.
const FIRST_BANDWIDTH: u8 = 3;

/// Latencies or bandwidths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Locality {
    /// Which memory: 0 is memory itself, 1 to 3 the caches beside it.
    pub(super) hierarchy: u8,
    /// What is measured: 0 to 2 latencies, 3 to 5 bandwidths.
    pub(super) data_type: u8,
    /// What the entries are multiples of: nanoseconds, or bytes a second.
    pub(super) unit: u64,
    /// A row for each initiator, with an entry for each target.
    pub(super) entries: Vec<Vec<u16>>,
}

/// A cache beside the memory of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SideCache {
    pub(super) node: u32,
    /// Bytes.
    pub(super) size: u64,
    /// How many levels the node has, and which this is.
    pub(super) levels: u8,
    pub(super) level: u8,
    /// As the table numbers them.
    pub(super) associativity: u8,
    pub(super) policy: u8,
    /// Bytes.
    pub(super) line: u16,
}

/// What is told of a machine whose `hmat` is on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Performance {
    /// The node whose processors are next to each node's memory.
    pub(super) attached: Vec<Option<u32>>,
    /// Nodes with processors.
    pub(super) initiators: Vec<u32>,
    pub(super) localities: Vec<Locality>,
    pub(super) caches: Vec<SideCache>,
}

impl Performance {
    /// What `-numa` says, if the machine tells it.
    pub(super) fn of(machine: &Machine) -> Option<Self> {
        if !machine.properties().hmat() {
            return None;
        }
        let numa = machine.numa();
        let initiators: Vec<u16> =
            numa.nodes().filter(|(_, node)| !node.cpus.is_empty()).map(|(id, _)| id).collect();
        let targets: Vec<u16> = numa.nodes().map(|(id, _)| id).collect();
        let locality = |(hierarchy, data_type, table): (Hierarchy, DataType, &LbTable)| Locality {
            hierarchy: hierarchy as u8,
            data_type: data_type as u8,
            unit: table.unit(data_type),
            entries: initiators
                .iter()
                .map(|from| targets.iter().map(|to| table.entry(data_type, *from, *to)).collect())
                .collect(),
        };
        let cache = |told: &HmatCache| SideCache {
            node: told.node_id.into(),
            size: told.size,
            levels: numa.hmat().levels_of(told.node_id) as u8,
            level: told.level,
            associativity: told.associativity as u8,
            policy: told.policy as u8,
            line: told.line,
        };
        Some(Self {
            attached: targets.iter().map(|node| numa.initiator_of(*node).map(u32::from)).collect(),
            localities: numa.hmat().tables().map(locality).collect(),
            caches: numa.hmat().caches().map(cache).collect(),
            initiators: initiators.into_iter().map(u32::from).collect(),
        })
    }
}

/// The table, if it is wanted.
pub(super) fn hmat(facts: &Facts) -> Option<Vec<u8>> {
    let told = facts.performance.as_ref()?;
    let mut body = vec![0; 4];
    for (node, attached) in (0u32..).zip(&told.attached) {
        body.extend(domain(node, *attached));
    }
    let targets = facts.nodes.len() as u32;
    body.extend(told.localities.iter().flat_map(|l| locality(l, &told.initiators, targets)));
    body.extend(told.caches.iter().flat_map(cache));
    Some(table(b"HMAT", 2, &body))
}

/// The head of a structure: its type and its length.
fn structure(kind: u16, rest: Vec<u8>) -> Vec<u8> {
    const HEAD: usize = 8;
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend([0; 2]);
    bytes.extend(((HEAD + rest.len()) as u32).to_le_bytes());
    bytes.extend(rest);
    bytes
}

fn domain(node: u32, attached: Option<u32>) -> Vec<u8> {
    let flags = if attached.is_some() { INITIATOR_VALID } else { 0 };
    let mut rest = flags.to_le_bytes().to_vec();
    rest.extend([0; 2]);
    rest.extend(attached.unwrap_or(0).to_le_bytes());
    rest.extend(node.to_le_bytes());
    rest.extend([0; 20]);
    structure(0, rest)
}

fn locality(told: &Locality, initiators: &[u32], targets: u32) -> Vec<u8> {
    let unit = if told.data_type < FIRST_BANDWIDTH {
        told.unit.saturating_mul(PICOSECONDS)
    } else {
        told.unit / MIB
    };
    let mut rest = vec![told.hierarchy, told.data_type, 0, 0];
    rest.extend((initiators.len() as u32).to_le_bytes());
    rest.extend(targets.to_le_bytes());
    rest.extend([0; 4]);
    rest.extend(unit.to_le_bytes());
    rest.extend(initiators.iter().flat_map(|node| node.to_le_bytes()));
    rest.extend((0..targets).flat_map(u32::to_le_bytes));
    rest.extend(told.entries.iter().flatten().flat_map(|entry| entry.to_le_bytes()));
    structure(1, rest)
}

fn cache(told: &SideCache) -> Vec<u8> {
    let attributes = [told.levels | told.level << 4, told.associativity | told.policy << 4];
    let mut rest = told.node.to_le_bytes().to_vec();
    rest.extend([0; 4]);
    rest.extend(told.size.to_le_bytes());
    rest.extend(attributes);
    rest.extend(told.line.to_le_bytes());
    rest.extend([0; 4]);
    structure(2, rest)
}

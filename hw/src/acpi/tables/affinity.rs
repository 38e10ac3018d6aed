//! Tables about NUMA: SRAT, who is on which node; SLIT, how far nodes are from each other.

use super::facts::Facts;
use super::table;
use acpi_tables::srat::MemoryAffinity;

/// The hole of the VGA window and the BIOS.
const HOLE: (u64, u64) = (0xa_0000, 0x10_0000);
const ENABLED: u32 = 1;
/// APIC IDs that fit the short entry.
const FIRST_WIDE_ID: u32 = 255;

/// The tables; none without nodes.
pub(super) fn tables(facts: &Facts) -> Vec<Vec<u8>> {
    if facts.nodes.is_empty() {
        return Vec::new();
    }
    let mut list = vec![srat(facts)];
    list.extend(facts.distances.as_ref().map(|rows| slit(rows)));
    list
}

fn processor(apic_id: u32, node: u32) -> Vec<u8> {
    if apic_id < FIRST_WIDE_ID {
        let [low, high @ ..] = node.to_le_bytes();
        let mut entry = vec![0, 16, low, apic_id as u8];
        entry.extend(ENABLED.to_le_bytes());
        entry.push(0);
        entry.extend(high);
        entry.extend([0; 4]);
        return entry;
    }
    let mut entry = vec![2, 24, 0, 0];
    for word in [node, apic_id, ENABLED, 0, 0] {
        entry.extend(word.to_le_bytes());
    }
    entry
}

/// The pieces of memory that each node has: (node, first address, size).
pub(super) fn memory(facts: &Facts) -> Vec<(u32, u64, u64)> {
    let layout = &facts.layout;
    let mut free = vec![
        (0, HOLE.0),
        (HOLE.1, layout.below_4g),
        (layout.above_4g_start, layout.above_4g_start + layout.above_4g),
    ];
    free.retain(|(start, end)| start < end);
    let mut list = Vec::new();
    for (node, size) in (0u32..).zip(&facts.nodes) {
        // What the hole hides belongs to the node too.
        let mut left = *size;
        while left > 0 {
            let Some((start, end)) = free.first_mut() else { break };
            let part = left.min(*end - *start);
            list.push((node, *start, part));
            *start += part;
            left -= part;
            if *start == *end {
                if *end == HOLE.0 {
                    left = left.saturating_sub(HOLE.1 - HOLE.0);
                }
                free.remove(0);
            }
        }
    }
    list
}

fn srat(facts: &Facts) -> Vec<u8> {
    // A field that must be 1, and 8 reserved bytes.
    let mut body = vec![1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for cpu in &facts.processors {
        body.extend(processor(cpu.apic_id, cpu.node.unwrap_or(0).into()));
    }
    for (node, start, size) in memory(facts) {
        body.extend(super::bytes_of(&MemoryAffinity::new(node, start, size).enabled()));
    }
    if let Some((start, size)) = facts.layout.device_memory {
        // As in QEMU: of the last node, until a device in it says something else.
        let last = facts.nodes.len() as u32 - 1;
        body.extend(super::bytes_of(&MemoryAffinity::new(last, start, size).enabled().hotpluggable()));
    }
    table(b"SRAT", 3, &body)
}

fn slit(rows: &[Vec<u8>]) -> Vec<u8> {
    let mut body = (rows.len() as u64).to_le_bytes().to_vec();
    body.extend(rows.iter().flatten());
    table(b"SLIT", 1, &body)
}

//! NUMA nodes as `-numa` declares them: CPUs, memory, distances and how fast memory is ([`hmat`]), with QEMU's checks.
//!
//! One thing is more than QEMU 10 accepts: a list of nodes without any memory splits the RAM evenly, as older QEMUs did.

use std::collections::BTreeMap;

use qapi::{Error, Result};

use super::config::Smp;

pub mod hmat;

use hmat::Hmat;

/// Nodes at most.
const MAX_NODES: u16 = 128;
/// From a node to itself.
const LOCAL_DISTANCE: u8 = 10;
/// To another node where nobody says more.
const REMOTE_DISTANCE: u8 = 20;
/// Granularity of an even split; the last node takes the rest.
const SPLIT_ALIGN: u64 = 8 << 20;

/// One `-numa node`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NumaNodeOptions {
    /// `nodeid=`; the next free number if absent.
    pub nodeid: Option<u16>,
    /// `cpus=`, all of them.
    pub cpus: Vec<u16>,
    /// `mem=`, bytes.
    pub mem: Option<u64>,
    /// `memdev=`.
    pub memdev: Option<String>,
    /// `initiator=`: the node whose CPUs are next to its memory.
    pub initiator: Option<u16>,
}

/// One `-numa cpu`: those CPUs whose place has all the numbers that are given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NumaCpuOptions {
    /// `node-id=`.
    pub node_id: Option<i64>,
    /// `socket-id=`, `die-id=`, `module-id=`, `core-id=`, `thread-id=`, as [`Smp::position`] has them.
    pub place: [Option<i64>; 5],
    /// `cluster-id=`, which no x86 machine has.
    pub cluster_id: Option<i64>,
}

/// A declared node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NumaNode {
    /// Bytes of RAM.
    pub size: u64,
    /// Id of the memory backend.
    pub memdev: Option<String>,
    /// Indices of its CPUs, ascending.
    pub cpus: Vec<u32>,
    /// The node whose CPUs are next to its memory, if one was named.
    pub initiator: Option<u16>,
}

/// All nodes of a machine.
#[derive(Debug, Clone, Default)]
pub struct Numa {
    nodes: BTreeMap<u16, NumaNode>,
    distances: BTreeMap<(u16, u16), u8>,
    hmat: Hmat,
    uses_mem: bool,
    uses_memdev: bool,
    split: bool,
}

impl Numa {
    /// Adds a node. `memdev_size` looks up the size of a backend; `legacy_mem` tells whether `mem=` is still known.
    ///
    /// # Errors
    /// QEMU's texts; the caller prefixes the option.
    pub fn add_node(
        &mut self,
        options: NumaNodeOptions,
        maxcpus: u32,
        legacy_mem: bool,
        memdev_size: impl Fn(&str) -> Option<u64>,
    ) -> Result<()> {
        let next = (0..).find(|n| !self.nodes.contains_key(n)).unwrap_or(MAX_NODES);
        let nodeid = options.nodeid.unwrap_or(next);
        if nodeid >= MAX_NODES {
            return error(format!("Max number of NUMA nodes reached: {nodeid}"));
        }
        if self.nodes.contains_key(&nodeid) {
            return error(format!("Duplicate NUMA nodeid: {nodeid}"));
        }
        let mut cpus = Vec::new();
        for cpu in options.cpus.into_iter().map(u32::from) {
            if cpu >= maxcpus {
                return error(format!("CPU index ({cpu}) should be smaller than maxcpus ({maxcpus})"));
            }
            if let Some((id, _)) = self.nodes.iter().find(|(_, n)| n.cpus.contains(&cpu)) {
                return error(format!("CPU is already assigned to node-id: {id}"));
            }
            if !cpus.contains(&cpu) {
                cpus.push(cpu);
            }
        }
        cpus.sort_unstable();
        let mixed = options.mem.is_some() && options.memdev.is_some();
        self.uses_mem |= options.mem.is_some();
        self.uses_memdev |= options.memdev.is_some();
        if mixed || (self.uses_mem && self.uses_memdev) {
            return error("numa configuration should use either mem= or memdev=,mixing both is not allowed");
        }
        if let Some(initiator) = options.initiator.filter(|id| *id >= MAX_NODES) {
            return error(format!(
                "The initiator id {initiator} expects an integer between 0 and {}",
                MAX_NODES - 1
            ));
        }
        if let Some(initiator) = options.initiator.filter(|id| *id != nodeid && !cpus.is_empty()) {
            return error(format!(
                "The initiator of CPU NUMA node {nodeid} should be itself (got {initiator})"
            ));
        }
        let mut node = NumaNode { size: 0, memdev: None, cpus, initiator: options.initiator };
        if let Some(mem) = options.mem {
            if !legacy_mem {
                return Err(Error::generic("Parameter -numa node,mem is not supported by this machine type")
                    .with_hint("Use -numa node,memdev instead"));
            }
            node.size = mem;
        }
        if let Some(memdev) = options.memdev {
            let Some(size) = memdev_size(&memdev) else {
                return error(format!("memdev={memdev} is ambiguous"));
            };
            node.size = size;
            node.memdev = Some(memdev);
        }
        self.nodes.insert(nodeid, node);
        Ok(())
    }

    /// Gives CPUs of `smp` to a node, `-numa cpu`. What says nothing of a place means all of them.
    ///
    /// # Errors
    /// QEMU's texts; the caller prefixes the option.
    pub fn add_cpus(&mut self, options: &NumaCpuOptions, smp: &Smp) -> Result<()> {
        let Some(node_id) = options.node_id else { return error("Missing mandatory node-id property") };
        let Some(id) = u16::try_from(node_id).ok().filter(|id| self.nodes.contains_key(id)) else {
            return error(format!(
                "Invalid node-id={node_id}, NUMA node must be defined with -numa node,nodeid=ID before it's used with \
                 -numa cpu,node-id=ID"
            ));
        };
        let [_, die, module, ..] = options.place;
        for (name, lacking) in [
            ("module-id", module.is_some() && smp.modules <= 1),
            ("cluster-id", options.cluster_id.is_some()),
            ("die-id", die.is_some() && smp.dies <= 1),
        ] {
            if lacking {
                return error(format!("{name} is not supported"));
            }
        }
        let fits = |cpu: &u32| {
            let place = smp.position(*cpu);
            options
                .place
                .iter()
                .zip(place)
                .all(|(given, is)| given.is_none_or(|given| given == i64::from(is)))
        };
        let cpus: Vec<u32> = (0..smp.maxcpus).filter(fits).collect();
        if cpus.is_empty() {
            return error("no match found");
        }
        let taken = |cpu: &u32| self.node_of_cpu(*cpu).filter(|of| *of != id);
        if let Some(of) = cpus.iter().find_map(taken) {
            return error(format!("CPU is already assigned to node-id: {of}"));
        }
        if let Some(node) = self.nodes.get_mut(&id) {
            node.cpus.extend(cpus);
            node.cpus.sort_unstable();
            node.cpus.dedup();
        }
        Ok(())
    }

    /// Declares the one node of a machine whose command line has none.
    pub fn add_implicit_node(&mut self) {
        if self.nodes.is_empty() {
            self.nodes.insert(0, NumaNode::default());
        }
    }

    /// Sets the distance between two nodes, `-numa dist`.
    ///
    /// # Errors
    /// QEMU's texts; the caller prefixes the option.
    pub fn add_distance(&mut self, src: u16, dst: u16, val: u8) -> Result<()> {
        if src >= MAX_NODES || dst >= MAX_NODES {
            return error(format!(
                "Parameter '{}' expects an integer between 0 and {}",
                if src >= MAX_NODES { "src" } else { "dst" },
                MAX_NODES - 1
            ));
        }
        if !self.nodes.contains_key(&src) || !self.nodes.contains_key(&dst) {
            return error(
                "Source/Destination NUMA node is missing. Please use '-numa node' option to declare it first.",
            );
        }
        if val < LOCAL_DISTANCE {
            return error(format!("NUMA distance ({val}) is invalid, it shouldn't be less than 10."));
        }
        if src == dst && val != LOCAL_DISTANCE {
            return error(format!("Local distance of node {src} should be 10."));
        }
        self.distances.insert((src, dst), val);
        Ok(())
    }

    /// Checks the whole list against `ram` bytes, fills in distances of the way back, and gives CPUs of `smp` that no node
    /// claimed to node 0. Tells which ones, if nodes claimed others.
    ///
    /// # Errors
    /// QEMU's texts.
    pub fn complete(&mut self, ram: u64, smp: &Smp) -> Result<Vec<u32>> {
        if self.nodes.is_empty() {
            return Ok(Vec::new());
        }
        let highest = self.nodes.keys().next_back().copied().unwrap_or(0);
        // From the top, as QEMU looks for holes.
        if let Some(id) = (0..highest).rev().find(|id| !self.nodes.contains_key(id)) {
            return error(format!("numa: Node ID missing: {id}"));
        }
        let mut seen = Vec::new();
        for memdev in self.nodes.values().filter_map(|n| n.memdev.as_deref()) {
            if seen.contains(&memdev) {
                return error(format!("memory backend {memdev} can't be used multiple times."));
            }
            seen.push(memdev);
        }
        if !self.uses_mem && !self.uses_memdev {
            self.split_evenly(ram);
        }
        let total = self.nodes.values().try_fold(0u64, |sum, n| sum.checked_add(n.size));
        if total != Some(ram) {
            return error(format!(
                "total memory for NUMA nodes ({:#x}) should equal RAM size ({ram:#x})",
                total.unwrap_or(u64::MAX)
            ));
        }
        self.complete_distances()?;
        let rest = self.assign_rest(smp);
        self.check_initiators()?;
        Ok(rest)
    }

    /// With one distance given, all must be; one way is enough where each is as long as the way back.
    fn complete_distances(&mut self) -> Result<()> {
        if self.distances.is_empty() {
            return Ok(());
        }
        let ids: Vec<u16> = self.nodes.keys().copied().collect();
        let pairs = || ids.iter().flat_map(|a| ids.iter().filter(move |b| *b > a).map(move |b| (*a, *b)));
        let mut one_way = Vec::new();
        let mut asymmetrical = false;
        for (a, b) in pairs() {
            match (self.distances.get(&(a, b)).copied(), self.distances.get(&(b, a)).copied()) {
                (Some(there), Some(back)) => asymmetrical |= there != back,
                (Some(there), None) => one_way.push(((b, a), there)),
                (None, Some(back)) => one_way.push(((a, b), back)),
                (None, None) => {
                    return error(format!(
                        "The distance between node {a} and {b} is missing, at least one distance value between each \
                         nodes should be provided."
                    ));
                }
            }
        }
        if asymmetrical && !one_way.is_empty() {
            return error(
                "At least one asymmetrical pair of distances is given, please provide distances for both directions \
                 of all node pairs.",
            );
        }
        self.distances.extend(one_way);
        self.distances.extend(ids.iter().map(|id| ((*id, *id), LOCAL_DISTANCE)));
        Ok(())
    }

    /// Whether memory without CPUs names a node that has some.
    fn check_initiators(&self) -> Result<()> {
        for (id, node) in &self.nodes {
            let Some(initiator) = node.initiator else { continue };
            let Some(named) = self.nodes.get(&initiator) else {
                return error(format!(
                    "NUMA node {initiator} is missing, use '-numa node' option to declare it first"
                ));
            };
            if named.cpus.is_empty() {
                return error(format!("The initiator of NUMA node {id} is invalid"));
            }
        }
        Ok(())
    }

    fn split_evenly(&mut self, ram: u64) {
        let count = self.nodes.len() as u64;
        let part = ram / count / SPLIT_ALIGN * SPLIT_ALIGN;
        let last = self.nodes.keys().next_back().copied();
        for (id, node) in &mut self.nodes {
            node.size = if Some(*id) == last { ram - part * (count - 1) } else { part };
        }
        self.split = true;
    }

    fn assign_rest(&mut self, smp: &Smp) -> Vec<u32> {
        let taken: Vec<u32> = self.nodes.values().flat_map(|n| n.cpus.iter().copied()).collect();
        let count = self.nodes.len() as u32;
        let rest: Vec<u32> = (0..smp.maxcpus).filter(|c| !taken.contains(c)).collect();
        for &cpu in &rest {
            // Without any assignment the sockets go round; with a partial one, all go to node 0.
            let id = if taken.is_empty() { smp.position(cpu)[0] % count } else { 0 };
            if let Some(node) = self.nodes.get_mut(&(id as u16)) {
                node.cpus.push(cpu);
            }
        }
        for node in self.nodes.values_mut() {
            node.cpus.sort_unstable();
        }
        if taken.is_empty() { Vec::new() } else { rest }
    }

    /// Whether any distance was given; all are then, once the list is complete.
    pub fn has_distances(&self) -> bool {
        !self.distances.is_empty()
    }

    /// The distance between two nodes: as given, else 10 to itself and 20 to others.
    pub fn distance(&self, from: u16, to: u16) -> u8 {
        let unknown = if from == to { LOCAL_DISTANCE } else { REMOTE_DISTANCE };
        self.distances.get(&(from, to)).copied().unwrap_or(unknown)
    }

    /// What is said about how fast memory is.
    pub fn hmat(&self) -> &Hmat {
        &self.hmat
    }

    /// The node whose CPUs are next to a node's memory: itself if it has any, else the one that was named.
    pub fn initiator_of(&self, id: u16) -> Option<u16> {
        let node = self.nodes.get(&id)?;
        if node.cpus.is_empty() { node.initiator } else { Some(id) }
    }

    /// Number of nodes; 0 without NUMA.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are no nodes.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The nodes by id.
    pub fn nodes(&self) -> impl Iterator<Item = (u16, &NumaNode)> {
        self.nodes.iter().map(|(id, node)| (*id, node))
    }

    /// Whether nodes name memory backends.
    pub fn uses_memdev(&self) -> bool {
        self.uses_memdev
    }

    /// The node of a CPU.
    pub fn node_of_cpu(&self, cpu: u32) -> Option<u16> {
        self.nodes.iter().find(|(_, n)| n.cpus.contains(&cpu)).map(|(id, _)| *id)
    }
}

fn error<T>(text: impl Into<String>) -> Result<T> {
    Err(Error::generic(text))
}

#[cfg(test)]
mod tests;

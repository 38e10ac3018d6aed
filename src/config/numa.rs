//! `-numa`: nodes, their CPUs, distances and speeds as they were written. Whether they fit the machine is decided where it is put together.

use hw::core::numa::hmat::{Associativity, DataType, Hierarchy, HmatCache, HmatLb, WritePolicy};
use hw::core::{NumaCpuOptions, NumaNodeOptions};
use qapi::{Error, Result};
use qom::options::{self, Options};

use crate::cli::Raw;

/// One `-numa` option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Numa {
    /// `-numa node`
    Node(NumaNodeOptions),
    /// `-numa dist`
    Distance { src: u16, dst: u16, val: u8 },
    /// `-numa cpu`
    Cpus(NumaCpuOptions),
    /// `-numa hmat-lb`
    HmatLb(HmatLb),
    /// `-numa hmat-cache`
    HmatCache(HmatCache),
}

const NODE_KEYS: [&str; 6] = ["type", "nodeid", "cpus", "mem", "memdev", "initiator"];
/// Levels of a CPU's place, as [`NumaCpuOptions::place`] has them.
const PLACE: [&str; 5] = ["socket-id", "die-id", "module-id", "core-id", "thread-id"];

/// Parses one option.
///
/// # Errors
/// QEMU's, without the option's prefix.
pub(crate) fn parse(raw: &Raw) -> Result<Numa> {
    let parsed = options::options(&raw.text, Some("type"));
    let kind = parsed.get("type");
    if parsed.help && kind.is_some() {
        return Err(options::invalid_parameter("help"));
    }
    match if parsed.help { "help" } else { kind.unwrap_or("") } {
        "node" => node(&parsed).map(Numa::Node),
        "dist" => {
            parsed.only(&["type", "src", "dst", "val"])?;
            let get = |k| uint(&parsed, k, 16)?.ok_or_else(|| missing(k));
            let (src, dst) = (get("src")?, get("dst")?);
            let val = uint(&parsed, "val", 8)?.ok_or_else(|| missing("val"))?;
            Ok(Numa::Distance { src, dst, val: val as u8 })
        }
        "cpu" => cpus(&parsed).map(Numa::Cpus),
        "hmat-lb" => hmat_lb(&parsed).map(Numa::HmatLb),
        "hmat-cache" => hmat_cache(&parsed).map(Numa::HmatCache),
        "" => Err(missing("type")),
        other => Err(Error::generic(format!("Parameter 'type' does not accept value '{other}'"))),
    }
}

fn node(parsed: &Options) -> Result<NumaNodeOptions> {
    parsed.only(&NODE_KEYS)?;
    let mut cpus = Vec::new();
    // The key may be repeated: every occurrence adds.
    for (_, text) in parsed.pairs.iter().filter(|(k, _)| k == "cpus") {
        if text.is_empty() {
            return Err(Error::generic("Parameter 'cpus' expects a uint64 value or range"));
        }
        cpus.extend(qom::Input::Keyval(text).to_u16_list("cpus")?);
    }
    Ok(NumaNodeOptions {
        nodeid: uint(parsed, "nodeid", 16)?,
        cpus,
        mem: parsed.get("mem").map(node_size).transpose()?,
        memdev: parsed.get("memdev").map(str::to_owned),
        initiator: uint(parsed, "initiator", 16)?,
    })
}

fn cpus(parsed: &Options) -> Result<NumaCpuOptions> {
    // Two of the names are of machines that are no PCs; QEMU takes them and asks for nothing then.
    let others = ["type", "node-id", "cluster-id", "drawer-id", "book-id"];
    parsed.only(&[others.as_slice(), &PLACE].concat())?;
    let mut place = [None; PLACE.len()];
    for (number, name) in place.iter_mut().zip(PLACE) {
        *number = int(parsed, name)?;
    }
    for name in ["drawer-id", "book-id"] {
        int(parsed, name)?;
    }
    Ok(NumaCpuOptions { node_id: int(parsed, "node-id")?, place, cluster_id: int(parsed, "cluster-id")? })
}

fn hmat_lb(parsed: &Options) -> Result<HmatLb> {
    let known = ["type", "initiator", "target", "hierarchy", "data-type", "latency", "bandwidth"];
    let lb = HmatLb {
        initiator: required(parsed, "initiator", 16)?,
        target: required(parsed, "target", 16)?,
        hierarchy: Hierarchy::ALL[choice(parsed, "hierarchy", &Hierarchy::NAMES)?],
        data_type: DataType::ALL[choice(parsed, "data-type", &DataType::NAMES)?],
        latency: parsed.get("latency").map(|text| qom::Input::Keyval(text).to_u64("latency")).transpose()?,
        bandwidth: parsed.get("bandwidth").map(|text| size("bandwidth", text, 1)).transpose()?,
    };
    // What is missing is told before what is too much.
    parsed.only(&known)?;
    Ok(lb)
}

fn hmat_cache(parsed: &Options) -> Result<HmatCache> {
    let known = ["type", "node-id", "size", "level", "associativity", "policy", "line"];
    let cache = HmatCache {
        node_id: required(parsed, "node-id", 32)?,
        size: parsed.get("size").ok_or_else(|| missing("size")).and_then(|text| size("size", text, 1))?,
        level: required(parsed, "level", 8)? as u8,
        associativity: Associativity::ALL[choice(parsed, "associativity", &Associativity::NAMES)?],
        policy: WritePolicy::ALL[choice(parsed, "policy", &WritePolicy::NAMES)?],
        line: required(parsed, "line", 16)?,
    };
    parsed.only(&known)?;
    Ok(cache)
}

/// Memory of a node; older command lines mean MiB by a bare number.
fn node_size(text: &str) -> Result<u64> {
    let unit = if text.bytes().all(|b| b.is_ascii_digit()) { 1 << 20 } else { 1 };
    size("mem", text, unit)
}

fn size(key: &str, text: &str, unit: u64) -> Result<u64> {
    qom::size::parse(text, unit)
        .map_err(|_| Error::generic(format!("Parameter '{key}' expects a size value")))
}

fn int(parsed: &Options, key: &str) -> Result<Option<i64>> {
    let bad = |_| Error::generic(format!("Parameter '{key}' expects an int64 value"));
    parsed.get(key).map(|text| qom::Input::Keyval(text).to_int(key, 64).map_err(bad)).transpose()
}

/// One of `names`, by its number.
fn choice(parsed: &Options, key: &str, names: &[&str]) -> Result<usize> {
    let text = parsed.get(key).ok_or_else(|| missing(key))?;
    qom::Input::Keyval(text).to_enum(key, names)
}

fn required(parsed: &Options, key: &str, bits: u32) -> Result<u16> {
    let text = parsed.get(key).ok_or_else(|| missing(key))?;
    let value = qom::Input::Keyval(text).to_uint(key, bits)?;
    // No node has a number that large.
    Ok(u16::try_from(value).unwrap_or(u16::MAX))
}

/// A number of `bits` bits, 16 at most.
fn uint(parsed: &Options, key: &str, bits: u32) -> Result<Option<u16>> {
    let value = |text| qom::Input::Keyval(text).to_uint(key, bits).map(|value| value as u16);
    parsed.get(key).map(value).transpose()
}

fn missing(key: &str) -> Error {
    Error::generic(format!("Parameter '{key}' is missing"))
}

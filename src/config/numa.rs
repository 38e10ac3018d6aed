//! `-numa`: nodes and distances as they were written. Whether they fit the machine is decided where it is put together.

use hw::core::NumaNodeOptions;
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
}

const NODE_KEYS: [&str; 5] = ["type", "nodeid", "cpus", "mem", "memdev"];

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
        kind @ ("cpu" | "hmat-lb" | "hmat-cache") => {
            Err(Error::generic(format!("-numa {kind} is not supported yet")))
        }
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
    })
}

/// Memory of a node; older command lines mean MiB by a bare number.
fn node_size(text: &str) -> Result<u64> {
    let unit = if text.bytes().all(|b| b.is_ascii_digit()) { 1 << 20 } else { 1 };
    qom::size::parse(text, unit).map_err(|_| Error::generic("Parameter 'mem' expects a size value"))
}

/// A number of `bits` bits, 16 at most.
fn uint(parsed: &Options, key: &str, bits: u32) -> Result<Option<u16>> {
    let value = |text| qom::Input::Keyval(text).to_uint(key, bits).map(|value| value as u16);
    parsed.get(key).map(value).transpose()
}

fn missing(key: &str) -> Error {
    Error::generic(format!("Parameter '{key}' is missing"))
}

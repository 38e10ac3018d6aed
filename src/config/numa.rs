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
    match if parsed.help { "help" } else { parsed.get("type").unwrap_or("") } {
        "node" => node(&parsed).map(Numa::Node),
        "dist" => {
            parsed.only(&["type", "src", "dst", "val"])?;
            let get = |k| uint(&parsed, k, u16::MAX.into())?.ok_or_else(|| missing(k));
            let val = uint(&parsed, "val", u8::MAX.into())?.ok_or_else(|| missing("val"))?;
            Ok(Numa::Distance { src: get("src")?, dst: get("dst")?, val: val as u8 })
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
        cpus.extend(qom::Input::Keyval(text).to_u16_list("cpus")?);
    }
    Ok(NumaNodeOptions {
        nodeid: uint(parsed, "nodeid", u16::MAX.into())?,
        cpus,
        mem: parsed.get("mem").map(node_size).transpose()?,
        memdev: parsed.get("memdev").map(str::to_owned),
    })
}

/// Memory of a node; older command lines mean MiB by a bare number.
fn node_size(text: &str) -> Result<u64> {
    let unit = if text.bytes().all(|b| b.is_ascii_digit()) { 1 << 20 } else { 1 };
    qom::size::parse(text, unit).map_err(|_| {
        Error::generic("Parameter 'mem' expects a size value representible as a non-negative int64")
    })
}

fn uint(parsed: &Options, key: &str, max: u64) -> Result<Option<u16>> {
    let bad = || Error::generic(format!("Parameter '{key}' expects a uint64 value"));
    let Some(text) = parsed.get(key) else { return Ok(None) };
    let value: u64 = text.parse().map_err(|_| bad())?;
    // Numbers beyond any node are refused with the text of those that are just beyond.
    if value > max { Err(bad()) } else { Ok(Some(value as u16)) }
}

fn missing(key: &str) -> Error {
    Error::generic(format!("Parameter '{key}' is missing"))
}

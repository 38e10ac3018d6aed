//! `-numa`: nodes, distances and the nodes of single CPUs, as they were written. Whether they fit the machine is
//! decided where the machine is put together.

use qapi::{Error, Result};

use crate::cli::Raw;
use qom::options::{Options, invalid_parameter};

/// One `-numa` option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Numa {
    /// `-numa node`
    Node { nodeid: Option<u32>, cpus: Vec<u16>, mem: Option<u64>, memdev: Option<String> },
    /// `-numa dist`
    Distance { src: u32, dst: u32, val: u32 },
    /// `-numa cpu`
    Cpu {
        node: u32,
        socket: Option<i64>,
        die: Option<i64>,
        module: Option<i64>,
        core: Option<i64>,
        thread: Option<i64>,
    },
}

/// Parses one option.
///
/// # Errors
/// QEMU's, without the option's prefix.
pub(crate) fn parse(raw: &Raw) -> Result<Numa> {
    let options = qom::options::options(&raw.text, Some("type"));
    let kind = if options.help { "help" } else { options.get("type").unwrap_or("") };
    match kind {
        "node" => node(&options),
        "dist" => {
            options.only(&["type", "src", "dst", "val"])?;
            let get = |k| uint(&options, k)?.ok_or_else(|| missing(k));
            Ok(Numa::Distance { src: get("src")?, dst: get("dst")?, val: get("val")? })
        }
        "cpu" => {
            const KEYS: [&str; 7] =
                ["type", "node-id", "socket-id", "die-id", "module-id", "core-id", "thread-id"];
            options.only(&KEYS)?;
            let id = |k| uint(&options, k).map(|v| v.map(i64::from));
            Ok(Numa::Cpu {
                node: uint(&options, "node-id")?.ok_or_else(|| missing("node-id"))?,
                socket: id("socket-id")?,
                die: id("die-id")?,
                module: id("module-id")?,
                core: id("core-id")?,
                thread: id("thread-id")?,
            })
        }
        "hmat-lb" | "hmat-cache" => Err(Error::generic(format!("-numa {kind} is not supported"))),
        "" => Err(missing("type")),
        other => Err(Error::generic(format!("Parameter 'type' does not accept value '{other}'"))),
    }
}

fn node(options: &Options) -> Result<Numa> {
    options.only(&["type", "nodeid", "cpus", "mem", "memdev"]).map_err(|_| {
        let known = ["type", "nodeid", "cpus", "mem", "memdev"];
        let key = options.pairs.iter().find(|(k, _)| !known.contains(&k.as_str()));
        invalid_parameter(key.map_or("", |(k, _)| k))
    })?;
    let mut cpus = Vec::new();
    // The key may be repeated: every occurrence adds.
    for (_, text) in options.pairs.iter().filter(|(k, _)| k == "cpus") {
        cpus.extend(qom::Input::Keyval(text).to_u16_list("cpus")?);
    }
    let mem = match options.get("mem") {
        None => None,
        Some(text) => {
            // Older command lines mean MiB by a bare number.
            let unit = if text.bytes().all(|b| b.is_ascii_digit()) { 1 << 20 } else { 1 };
            Some(qom::size::parse(text, unit).map_err(|_| {
                Error::generic("Parameter 'mem' expects a size value representible as a non-negative int64")
            })?)
        }
    };
    Ok(Numa::Node {
        nodeid: uint(options, "nodeid")?,
        cpus,
        mem,
        memdev: options.get("memdev").map(str::to_owned),
    })
}

fn uint(options: &Options, key: &str) -> Result<Option<u32>> {
    let bad = || Error::generic(format!("Parameter '{key}' expects a uint64 value"));
    options.get(key).map(|t| t.parse().map_err(|_| bad())).transpose()
}

fn missing(key: &str) -> Error {
    Error::generic(format!("Parameter '{key}' is missing"))
}

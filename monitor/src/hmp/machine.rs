//! What the machine is made of: memory, memory devices, NUMA nodes, buses.

use qapi::{Dict, Result, Value};

use super::args::{Args, Kind};
use super::command::{Command, command};
use super::{Execute, flag, items, member, memory_map, number, text};

/// Its `info` sub-commands.
pub(super) const INFOS: &[Command] = &[
    command("iothreads", &[], "", "show iothreads", &[], |x, _| iothreads(x)),
    command("memdev", &[], "", "show memory backends", &[], |x, _| memdev(x)),
    command("memory-devices", &[("map", Kind::Flag('m'))], "[-m]", "show memory devices", &[], |x, args| {
        if args.flag("map") { memory_map::draw(x) } else { memory_devices(x) }
    }),
    command(
        "memory_size_summary",
        &[],
        "",
        "show the amount of initially allocated and present hotpluggable (if enabled) memory in bytes.",
        &[],
        |x, _| memory_size_summary(x),
    ),
    command(
        "memslots",
        &[],
        "",
        "show memory slots of memory devices, the hypervisor and back ends",
        &[],
        |x, _| memslots(x),
    ),
    command(
        "mtree",
        &[
            ("flatview", Kind::Flag('f')),
            ("dispatch-tree", Kind::Flag('d')),
            ("owner", Kind::Flag('o')),
            ("disabled", Kind::Flag('D')),
        ],
        "[-f][-d][-o][-D]",
        "show memory tree (-f: dump flat view for address spaces;-d: dump dispatch tree, valid with -f only);-o: dump region owners/parents;-D: dump disabled regions",
        &[],
        mtree,
    ),
    command("numa", &[], "", "show NUMA information", &[], |x, _| human(x, "x-query-numa")),
    command("ramblock", &[], "", "Display system ramblock information", &[], |x, _| {
        human(x, "x-query-ramblock")
    }),
    command(
        "qtree",
        &[("brief", Kind::Flag('b'))],
        "[-b]",
        "show device tree (-b: brief, omit properties)",
        &[],
        qtree,
    ),
];

/// Prints a `HumanReadableText` reply.
pub(super) fn human(x: &dyn Execute, command: &str) -> Result<String> {
    Ok(text(&x.query(command)?, "human-readable-text").to_owned())
}

fn iothreads(x: &dyn Execute) -> Result<String> {
    let reply = x.query("query-iothreads")?;
    let mut out = String::new();
    for thread in items(&reply) {
        out.push_str(&format!("{}:\n  thread_id={}\n", text(thread, "id"), number(thread, "thread-id")));
        for name in ["poll-max-ns", "poll-grow", "poll-shrink", "aio-max-batch"] {
            out.push_str(&format!("  {name}={}\n", number(thread, name)));
        }
    }
    Ok(out)
}

fn memdev(x: &dyn Execute) -> Result<String> {
    let reply = x.query("query-memdev")?;
    let mut out = String::new();
    for m in items(&reply) {
        out.push_str(&format!("memory backend: {}\n", text(m, "id")));
        out.push_str(&format!("  size:  {}\n", number(m, "size")));
        for name in ["merge", "dump", "prealloc", "share"] {
            out.push_str(&format!("  {name}: {}\n", flag(m, name)));
        }
        if member(m, "reserve").is_some() {
            out.push_str(&format!("  reserve: {}\n", flag(m, "reserve")));
        }
        out.push_str(&format!("  policy: {}\n", text(m, "policy")));
        let nodes: Vec<u64> =
            member(m, "host-nodes").map(items).unwrap_or_default().iter().filter_map(Value::as_u64).collect();
        out.push_str(&format!("  host nodes: {}\n", ranges(&nodes)));
    }
    out.push('\n');
    Ok(out)
}

/// `0-2,5` for 0, 1, 2, 5.
pub(super) fn ranges(numbers: &[u64]) -> String {
    let mut parts: Vec<(u64, u64)> = Vec::new();
    for n in numbers {
        match parts.last_mut() {
            Some((_, end)) if end.checked_add(1) == Some(*n) => *end = *n,
            _ => parts.push((*n, *n)),
        }
    }
    let part = |(a, b): &(u64, u64)| if a == b { a.to_string() } else { format!("{a}-{b}") };
    parts.iter().map(part).collect::<Vec<_>>().join(",")
}

fn memory_devices(x: &dyn Execute) -> Result<String> {
    let reply = x.query("query-memory-devices")?;
    let mut out = String::new();
    for device in items(&reply) {
        let kind = text(device, "type");
        let Some(data) = member(device, "data") else { continue };
        out.push_str(&format!("Memory device [{kind}]: \"{}\"\n", text(data, "id")));
        match kind {
            "dimm" | "nvdimm" => {
                out.push_str(&format!("  addr: 0x{:x}\n", number(data, "addr")));
                for name in ["slot", "node", "size"] {
                    out.push_str(&format!("  {name}: {}\n", number(data, name)));
                }
                out.push_str(&format!("  memdev: {}\n", text(data, "memdev")));
                for name in ["hotplugged", "hotpluggable"] {
                    out.push_str(&format!("  {name}: {}\n", flag(data, name)));
                }
            }
            _ => {
                out.push_str(&format!("  memaddr: 0x{:x}\n", number(data, "memaddr")));
                let names: &[&str] = match kind {
                    "virtio-mem" => &["node", "requested-size", "size", "max-size", "block-size"],
                    _ => &["size"],
                };
                for name in names {
                    out.push_str(&format!("  {name}: {}\n", number(data, name)));
                }
                out.push_str(&format!("  memdev: {}\n", text(data, "memdev")));
            }
        }
    }
    Ok(out)
}

fn memory_size_summary(x: &dyn Execute) -> Result<String> {
    let reply = x.query("query-memory-size-summary")?;
    let mut out = format!("base memory: {}\n", number(&reply, "base-memory"));
    if member(&reply, "plugged-memory").is_some() {
        out.push_str(&format!("plugged memory: {}\n", number(&reply, "plugged-memory")));
    }
    Ok(out)
}

/// Two tables: who has slots, and the devices with the parts that take them.
fn memslots(x: &dyn Execute) -> Result<String> {
    let plan = x.query("x-pliant-query-memslots")?;
    let of =
        |v: &Value, names: &[&str]| names.iter().map(|name| number(v, name).to_string()).collect::<Vec<_>>();
    let row = |name: &str, numbers: Vec<String>| [vec![name.to_owned()], numbers].concat();
    let numbers = ["limit", "used", "reserved", "free"];
    let mut users =
        vec![row("user", numbers.map(str::to_owned).to_vec()), row("memory devices", of(&plan, &numbers))];
    for user in member(&plan, "users").map(items).unwrap_or_default() {
        users.push(row(text(user, "name"), of(user, &numbers)));
    }
    let mut devices =
        vec![row("device", ["parts", "used", "reserved", "part size"].map(str::to_owned).to_vec())];
    for device in member(&plan, "devices").map(items).unwrap_or_default() {
        let id = text(device, "id");
        let name = if id.is_empty() { text(device, "qom-path") } else { id };
        let mut cells = of(device, &["parts", "used", "reserved"]);
        cells.push(size(number(device, "part-size")));
        devices.push(row(name, cells));
    }
    let devices = if devices.len() == 1 { String::new() } else { format!("\n{}", table(&devices)) };
    Ok(table(&users) + &devices)
}

/// Rows of equal length with aligned columns: the first to the left, the others to the right.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let mut out = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let width = width(column);
            out += &if column == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
        }
        out.push('\n');
    }
    out
}

/// A size in the largest unit that it is a whole number of.
fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit =
        (1..units.len()).rev().find(|unit| bytes != 0 && bytes.is_multiple_of(1 << (10 * unit))).unwrap_or(0);
    format!("{} {}", bytes >> (10 * unit), units[unit])
}

fn mtree(x: &dyn Execute, args: &Args) -> Result<String> {
    let mut arguments = Dict::new();
    for name in ["flatview", "dispatch-tree", "owner", "disabled"] {
        if args.flag(name) {
            arguments.insert(name, true);
        }
    }
    Ok(text(&x.execute("x-pliant-query-mtree", arguments)?, "human-readable-text").to_owned())
}

fn qtree(x: &dyn Execute, args: &Args) -> Result<String> {
    let mut arguments = Dict::new();
    if args.flag("brief") {
        arguments.insert("brief", true);
    }
    Ok(text(&x.execute("x-pliant-query-qtree", arguments)?, "human-readable-text").to_owned())
}

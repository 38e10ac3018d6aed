//! What of a monitor command's output must equal the oracle's.
//!
//! Much of what the `info` commands print is about devices that this program does not have, about addresses in the host, or in
//! the order of a hash table. A view of an output is the part that has to be the same, in an order of our own. A
//! command without a view is not compared. Our own properties are no part of a view.

use std::collections::BTreeSet;

use serde_json::Value;

use super::own;

/// The comparable part of what a command printed, or nothing if that is not compared.
pub fn view(command: &str, output: &str) -> Option<String> {
    let words: Vec<&str> = command.split_whitespace().collect();
    match words.as_slice() {
        ["info", "memdev"] => Some(blocks(output, "memory backend: ")),
        ["info", "mtree", options @ ..] if options.contains(&"-f") => {
            let trees = options.contains(&"-d").then(|| dispatch_trees(output));
            Some(flat_views(output) + &trees.unwrap_or_default())
        }
        ["info", "mtree", ..] => Some(memory_trees(output)),
        ["info", "qtree"] => Some(own::without_property_lines(&devices(output))),
        ["info", "pci"] => Some(pci_functions(output)),
        ["info", "ramblock"] => Some(ram_blocks(output)),
        ["info", "qom-tree"] => Some(objects(output)),
        ["device_add", what] if what.ends_with(",help") => {
            Some(own::without_property_lines(output.trim_end()))
        }
        ["qom-list", ..] => Some(sorted_lines(&own::without_property_lines(output))),
        ["info", what, ..] => COMPARED.contains(what).then(|| output.trim_end().to_owned()),
        _ => Some(output.trim_end().to_owned()),
    }
}

/// The comparable form of a QMP reply, or nothing if that is not compared.
///
/// Members of objects have no order in JSON anyway; here lists lose theirs where it is a hash table's.
pub fn json_view(request: &Value, reply: &Value) -> Option<Value> {
    let mut reply = reply.clone();
    let command = request["execute"].as_str().unwrap_or_default();
    let key = match command {
        // What the host, the other devices of the board or the package are.
        "query-version" | "query-cpus-fast" | "query-migrate" | "query-pci" | "x-query-ramblock"
        | "x-query-roms" => {
            return None;
        }
        // Addresses that the guest's driver chose.
        "x-query-virtio-queue-status" => return None,
        "qom-list" if request["arguments"]["path"] == "/machine" => return None,
        "qom-list" | "qom-list-properties" | "device-list-properties" => "name",
        "query-memdev" => "id",
        "query-chardev" => "label",
        _ => return Some(reply),
    };
    if let Some(list) = reply.get_mut("return").and_then(Value::as_array_mut) {
        if key == "name" {
            own::remove_properties(list);
        }
        list.sort_by_key(|member| member[key].to_string());
    }
    Some(reply)
}

/// The `info` commands whose whole output is compared.
const COMPARED: [&str; 12] = [
    "mem",
    "registers",
    "tlb",
    "status",
    "kvm",
    "numa",
    "memory-devices",
    "memory_size_summary",
    "name",
    "uuid",
    "virtio",
    "virtio-status",
];

/// Names of memory regions that belong to memory devices, and so are the same in both programs.
fn of_memory_device(line: &str) -> bool {
    const NAMES: [&str; 9] = [
        "device-memory",
        "mem0",
        "mem1",
        "memslot-",
        "virtio-mem",
        "virtio-pci-",
        ": virtio-pci",
        "ram0",
        "ram1",
    ];
    // The bus master's region is named after the device and is about the board; where the MSI-X table is mapped is a driver's
    // choice; a part of RAM is overlaid by the firmware of an interrupt controller.
    const OTHERS: [&str; 3] = ["address-space: virtio-mem-pci", "virtio-mem-pci-msix", "kvmvapic"];
    NAMES.iter().any(|name| line.contains(name)) && !OTHERS.iter().any(|other| line.contains(other))
}

/// Lines in the order of the alphabet.
fn sorted_lines(output: &str) -> String {
    let mut lines: Vec<&str> = output.trim_end().lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// Of `info mtree`: the lines of the region `device-memory` in the address space `memory`, as they are.
pub fn device_memory(output: &str) -> String {
    let memory = output.split("\n\n").find(|tree| tree.contains("address-space: memory\n")).unwrap_or(output);
    let trees = subtrees(memory, |line| line.ends_with(": device-memory"));
    trees.first().cloned().unwrap_or_default()
}

/// Paragraphs that each begin with a word, sorted.
fn blocks(output: &str, begin: &str) -> String {
    let mut blocks: Vec<&str> = output.split(begin).map(str::trim_end).collect();
    blocks.sort_unstable();
    blocks.join(&format!("\n{begin}"))
}

/// Of `info mtree`: the address space `device-memory`, and where its region is in `memory`; the regions of the virtio
/// devices. Indentation is kept within a tree.
fn memory_trees(output: &str) -> String {
    // The board's other address spaces may show the same by other ways (SMM, PCI bus masters).
    const OURS: [&str; 3] =
        ["address-space: memory", "address-space: device-memory", "address-space: virtio-pci-cfg-mem-as"];
    let mut trees = BTreeSet::new();
    for tree in output.split("\n\n") {
        // Address spaces with the same root share a tree below their names.
        let head = tree
            .lines()
            .take_while(|line| line.starts_with("address-space: "))
            .find(|line| OURS.contains(line));
        let kept: Vec<&str> =
            tree.lines().filter(|line| line.starts_with(' ') && of_memory_device(line)).collect();
        if let (Some(head), false) = (head, kept.is_empty()) {
            trees.insert(format!("{head}\n{}\n", kept.join("\n")));
        }
    }
    trees.into_iter().collect::<Vec<_>>().join("\n")
}

/// Of `info mtree -f`: the ranges of memory devices, whichever flat view they are in.
fn flat_views(output: &str) -> String {
    let ranges: BTreeSet<String> = output
        .lines()
        .filter(|line| line.contains(" (prio ") && of_memory_device(line))
        .filter_map(without_firmware_area)
        .collect();
    ranges.into_iter().collect::<Vec<_>>().join("\n")
}

/// Of `info mtree -f`: the flat view of an address space.
pub fn flat_view(output: &str, space: &str) -> String {
    let of_space = |view: &&str| view.contains(&format!("\n AS \"{space}\", "));
    output.split_inclusive("\n\n").find(of_space).unwrap_or_default().to_owned()
}

/// Of `info mtree -f -d`: the physical sections of memory devices, whichever flat view they are in and whatever number they
/// have there, and the whole dispatch trees of address spaces that hold nothing else, with their names on each line.
fn dispatch_trees(output: &str) -> String {
    const OURS: [&str; 2] = ["device-memory", "virtio-pci-cfg-mem-as"];
    let mut told: BTreeSet<String> =
        output.lines().filter_map(section).filter_map(without_firmware_area).collect();
    for flat_view in output.split("\n\n") {
        let Some((head, tree)) = flat_view.split_once("  Dispatch\n") else { continue };
        if let Some(name) = OURS.iter().find(|name| head.contains(&format!(" AS \"{name}\", "))) {
            let lines = without_last_lookup(tree.trim_end());
            told.insert(lines.lines().map(|line| format!("{name}: {line}\n")).collect());
        }
    }
    told.into_iter().map(|text| format!("\n{text}")).collect()
}

/// The physical section of a memory device on a line of a dispatch tree, written like a range of a flat view.
fn section(line: &str) -> Option<String> {
    let (bounds, name) = line.strip_prefix("      #")?.split_once(" @")?.1.split_once(' ')?;
    let (name, kind) = (name.split(" [").next()?, if name.starts_with("ram") { "ram" } else { "section" });
    let line = format!("  {} ({kind}): {name}", bounds.replace("..", "-"));
    of_memory_device(&line).then_some(line)
}

/// A dispatch tree without the mark of the section that the last lookup found, which depends on what ran when.
pub fn without_last_lookup(tree: &str) -> String {
    tree.replace(" [MRU]", "")
}

/// A range of RAM without its part in the first mebibyte, which QEMU's firmware covers and cuts in two.
fn without_firmware_area(line: impl AsRef<str>) -> Option<String> {
    let line = line.as_ref();
    const AREA_END: u64 = 1 << 20;
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let parse = || {
        let (start, rest) = line.trim_start().split_once('-')?;
        let (last, rest) = rest.split_once(' ')?;
        Some((number(start)?, number(last)?, last, rest))
    };
    let Some((start, last, last_text, rest)) = parse().filter(|range| range.3.contains("ram): ram")) else {
        return Some(line.to_owned());
    };
    // Without the offset in the region, which is that of the part.
    let (name, behind) = rest.split_once(" @").unwrap_or((rest, ""));
    let rest = format!("{name}{}", behind.find(' ').map_or("", |end| &behind[end..]));
    match start {
        ..=AREA_END if last < AREA_END => None,
        ..=AREA_END => Some(format!("  (behind the first MiB)-{last_text} {rest}")),
        _ => Some(line.to_owned()),
    }
}

/// Of `info qtree`: the virtio-mem devices with all below them, sorted, without the indentation of the board around them.
fn devices(output: &str) -> String {
    let mut found = subtrees(output, |line| line.starts_with("dev: virtio-mem-pci,"));
    found.sort();
    found.concat()
}

/// Of `info qom-tree`: the backends and the virtio-mem devices with all below them.
fn objects(output: &str) -> String {
    subtrees(output, |line| {
        line.ends_with("(virtio-mem-pci)")
            || line.ends_with("(memory-backend-ram)")
            || line == "/objects (container)"
    })
    .concat()
}

/// The lines that satisfy a condition, each with the lines that are indented deeper below it.
fn subtrees(output: &str, begins: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut depth = None;
    for line in output.lines() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        if depth.is_some_and(|depth| indent <= depth) {
            depth = None;
        }
        if depth.is_none() && begins(text) {
            depth = Some(indent);
            found.push(String::new());
        }
        if let (Some(depth), Some(tree)) = (depth, found.last_mut()) {
            tree.push_str(&line[depth..]);
            tree.push('\n');
        }
    }
    found
}

/// Of `info pci`: the virtio-mem functions.
fn pci_functions(output: &str) -> String {
    let functions = output.split_inclusive('\n').fold(Vec::new(), |mut functions: Vec<String>, line| {
        if line.starts_with("  Bus") || functions.is_empty() {
            functions.push(String::new());
        }
        functions.last_mut().expect("there is one now").push_str(line);
        functions
    });
    functions.into_iter().filter(|function| function.contains("PCI device 1af4:1058")).collect()
}

/// Of `info ramblock`: the heading and the blocks of backends, with the digits of addresses replaced.
fn ram_blocks(output: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for (index, line) in output.lines().enumerate() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let ours = ["mem0", "mem1", "ram0", "ram1"].iter().any(|backend| name.ends_with(backend));
        if index == 0 || ours {
            lines.push(line.split(' ').map(hide_number).collect::<Vec<_>>().join(" "));
        }
    }
    lines[1..].sort_unstable();
    lines.join("\n")
}

/// Offsets and host addresses depend on the other blocks; sizes are 32-bit numbers with zeros before them here.
fn hide_number(word: &str) -> String {
    match word.strip_prefix("0x") {
        Some(digits) => format!("0x{}", "-".repeat(digits.len())),
        None => word.to_owned(),
    }
}

#[cfg(test)]
mod tests;

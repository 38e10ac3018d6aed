//! `info pci`.

use qapi::{Result, Value};

use super::command::{Command, command};
use super::{Execute, flag, items, member, number, text};

/// Its `info` sub-commands.
pub(super) const INFOS: &[Command] = &[command("pci", &[], "", "show PCI info", &[], |x, _| pci(x))];

/// Prints all buses.
pub(super) fn pci(x: &dyn Execute) -> Result<String> {
    let reply = x.query("query-pci")?;
    let mut out = String::new();
    for bus in items(&reply) {
        for device in member(bus, "devices").map(items).unwrap_or_default() {
            print_device(device, &mut out);
        }
    }
    Ok(out)
}

fn print_device(device: &Value, out: &mut String) {
    out.push_str(&format!(
        "  Bus {:2}, device {:3}, function {}:\n",
        number(device, "bus"),
        number(device, "slot"),
        number(device, "function")
    ));
    let class = member(device, "class_info");
    let title = match class.map(|c| text(c, "desc")) {
        Some(desc) if !desc.is_empty() => desc.to_owned(),
        _ => format!("Class {:04}", class.map_or(0, |c| number(c, "class"))),
    };
    let id = |name: &str| member(device, "id").map_or(0, |i| number(i, name));
    out.push_str(&format!("    {title}: PCI device {:04x}:{:04x}\n", id("vendor"), id("device")));
    let has_subsystem = member(device, "id").is_some_and(|i| member(i, "subsystem-vendor").is_some());
    if has_subsystem {
        out.push_str(&format!(
            "      PCI subsystem {:04x}:{:04x}\n",
            id("subsystem-vendor"),
            id("subsystem")
        ));
    }
    if member(device, "irq").is_some() {
        let pin = char::from(b'A' + (number(device, "irq_pin").clamp(1, 4) - 1) as u8);
        out.push_str(&format!("      IRQ {}, pin {pin}\n", number(device, "irq")));
    }
    if let Some(bridge) = member(device, "pci_bridge") {
        print_bridge(bridge, out);
    }
    for region in member(device, "regions").map(items).unwrap_or_default() {
        print_region(region, out);
    }
    out.push_str(&format!("      id \"{}\"\n", text(device, "qdev_id")));
    let behind = member(device, "pci_bridge").and_then(|b| member(b, "devices"));
    for device in behind.map(items).unwrap_or_default() {
        print_device(device, out);
    }
}

fn print_bridge(bridge: &Value, out: &mut String) {
    let Some(bus) = member(bridge, "bus") else { return };
    out.push_str(&format!("      BUS {}.\n", number(bus, "number")));
    out.push_str(&format!("      secondary bus {}.\n", number(bus, "secondary")));
    out.push_str(&format!("      subordinate bus {}.\n", number(bus, "subordinate")));
    for (name, title) in [
        ("io_range", "IO range"),
        ("memory_range", "memory range"),
        ("prefetchable_range", "prefetchable memory range"),
    ] {
        if let Some(range) = member(bus, name) {
            let (base, limit) = (number(range, "base"), number(range, "limit"));
            let width = if name == "io_range" { 4 } else { 8 };
            out.push_str(&format!("      {title} [0x{base:0width$x}, 0x{limit:0width$x}]\n"));
        }
    }
}

fn print_region(region: &Value, out: &mut String) {
    let (bar, addr, size) = (number(region, "bar"), number(region, "address"), number(region, "size"));
    // All ones, which is -1 on the wire, is where nothing decodes.
    let mapped = member(region, "address").and_then(Value::as_i64) != Some(-1);
    let end = addr.wrapping_add(size.wrapping_sub(1));
    let place = |width: usize| {
        if mapped { format!("at 0x{addr:0width$x} [0x{end:0width$x}]") } else { "(not mapped)".to_owned() }
    };
    if text(region, "type") == "io" {
        out.push_str(&format!("      BAR{bar}: I/O {}\n", place(4)));
        return;
    }
    let bits = if flag(region, "mem_type_64") { 64 } else { 32 };
    let prefetchable = if flag(region, "prefetch") { " prefetchable" } else { "" };
    out.push_str(&format!("      BAR{bar}: {bits} bit{prefetchable} memory {}\n", place(8)));
}

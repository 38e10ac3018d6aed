//! The text of `info qtree`: buses, devices on them, their configuration.

use std::fmt::Write as _;
use std::sync::Arc;

use qapi::Value;
use qom::{ObjectRef, Property, size};

use super::bus::Bus;
use super::device::{Device, DeviceClass};
use super::machine::Machine;

/// The whole tree; `brief` leaves everything but names out (`info qtree -b`).
pub fn text(machine: &Arc<Machine>, brief: bool) -> String {
    let mut out = String::new();
    print_bus(&mut out, &machine.main_bus(), 0, !brief);
    out
}

fn print_bus(out: &mut String, bus: &Arc<dyn Bus>, indent: usize, details: bool) {
    line(out, indent, format_args!("bus: {}", bus.bus().name()));
    line(out, indent + 2, format_args!("type {}", bus.bus().type_name()));
    for device in bus.bus().children() {
        print_device(out, &device, indent + 2, details);
    }
}

fn print_device(out: &mut String, device: &Arc<dyn Device>, indent: usize, details: bool) {
    let dev = device.dev();
    line(out, indent, format_args!("dev: {}, id \"{}\"", dev.type_name(), dev.id().unwrap_or_default()));
    let indent = indent + 2;
    if details {
        for text in device.qtree_gpios() {
            line(out, indent, format_args!("{text}"));
        }
        print_properties(out, device, indent);
        for text in device.qtree_bus_info() {
            line(out, indent, format_args!("{text}"));
        }
    }
    // Newest first, as the devices on a bus.
    for bus in dev.buses().iter().rev() {
        print_bus(out, bus, indent, details);
    }
}

fn print_properties(out: &mut String, device: &Arc<dyn Device>, indent: usize) {
    let object = Arc::clone(device) as ObjectRef;
    let class = object.core().class();
    let hidden = class.extension::<DeviceClass>().map_or(&[][..], |c| c.hidden);
    let base: Vec<&str> = ["realized", "hotplugged", "hotpluggable", "parent_bus"].to_vec();
    for property in class.properties() {
        let name = property.name();
        let elsewhere =
            property.is_alias() || property.is_link() || property.is_child() || property.is_legacy();
        if elsewhere || hidden.contains(&name) || base.contains(&name) {
            continue;
        }
        let Ok(value) = object.get(name) else { continue };
        line(out, indent, format_args!("{name} = {}", print_value(property, &value)));
    }
}

/// A value the way qdev prints it: numbers in decimal and hexadecimal, sizes for people, strings in quotes.
fn print_value(property: &Property, value: &Value) -> String {
    match value {
        Value::Bool(b) => b.to_string(),
        Value::Int(_) | Value::UInt(_) if property.type_name() == "size" => {
            let bytes = value.as_u64().unwrap_or_default();
            format!("{bytes} ({})", size::human(bytes))
        }
        // Slot and function, shown as they are written.
        Value::Int(i) if property.name() == "addr" && property.type_name() == "str" => {
            crate::pci::addr_text(*i)
        }
        Value::Int(i) => format!("{i} ({i:#x})"),
        Value::UInt(u) => format!("{u} ({u:#x})"),
        Value::String(s) => format!("\"{s}\""),
        _ => "<null>".into(),
    }
}

fn line(out: &mut String, indent: usize, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{:indent$}{text}", "");
}

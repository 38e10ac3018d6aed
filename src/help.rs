//! Lists and help texts: what `-help`, `-version` and `help` as an argument print, read from the registry of classes.

use std::fmt::Write;

use hw::core::{Category, DeviceClass};
use memory::Memory;
use qapi::{Error, Result, Value};
use qom::{Class, Property, Registry, options};

use crate::chars::Chars;
use crate::cli::{CommandLine, Info, usage};
use crate::start::register_all;

/// The text the command line asks for instead of a virtual machine.
///
/// # Errors
/// Help about something that does not exist.
pub(crate) fn requested(line: &CommandLine) -> Result<Option<String>> {
    match line.info {
        Some(Info::Usage) => return Ok(Some(usage("pliant"))),
        Some(Info::Version) => return Ok(Some(crate::vm::version_text())),
        None => {}
    }
    let kind = |pairs: &options::Pairs| pairs.iter().find(|(k, _)| k == "type").map(|(_, v)| v.clone());
    if line.machine_help {
        return match kind(&line.machine) {
            None => Ok(Some(hw::core::machine_types::help())),
            Some(name) => machine_options(&name).map(Some),
        };
    }
    if line.accel.iter().any(|raw| raw.options("accel").help) {
        return Ok(Some(accel::help()));
    }
    if line.cpu.as_deref().is_some_and(|c| c == "help" || c == "?") {
        return Ok(Some(accel::cpu::help()));
    }
    if line.smp_help {
        return Ok(Some(smp_options()));
    }
    if let Some(text) = Chars::help(&line.chardevs) {
        return Ok(Some(text));
    }
    for raw in line.objects.iter().filter(|r| !r.is_json()) {
        if let Ok(parsed) = options::keyval(&raw.text, Some("qom-type"))
            && parsed.help
        {
            let kind = parsed.pairs.iter().find(|(k, _)| k == "qom-type").map(|(_, v)| v.as_str());
            return object_help(kind).map(Some).map_err(|e| e.prefixed(&raw.prefix()));
        }
    }
    for raw in line.devices.iter().filter(|r| !r.is_json()) {
        let parsed = raw.options("driver");
        if parsed.help {
            return device_help(parsed.get("driver")).map(Some).map_err(|e| e.prefixed(&raw.prefix()));
        }
    }
    Ok(None)
}

fn classes() -> Registry {
    let mut registry = Registry::new();
    register_all(&mut registry, &Memory::new());
    registry
}

/// `-device help` and `-device X,help`.
fn device_help(driver: Option<&str>) -> Result<String> {
    let registry = classes();
    let Some(driver) = driver else { return Ok(device_list(&registry)) };
    let class = registry
        .lookup(driver)
        .filter(|c| c.is_a("device"))
        .ok_or_else(|| Error::generic(format!("'{driver}' is not a valid device model name")))?;
    let hidden = ["type", "realized", "hotpluggable", "hotplugged", "parent_bus", "id"];
    let listed = class.properties().into_iter().filter(|p| !hidden.contains(&p.name()) && !p.is_legacy());
    Ok(property_list(driver, listed, true))
}

fn device_list(registry: &Registry) -> String {
    let mut rows: Vec<(Category, String)> = registry
        .iter()
        .filter(|c| c.is_a("device") && !c.is_abstract())
        .filter_map(|c| Some((c, c.extension::<DeviceClass>()?)))
        .filter(|(_, info)| info.user_creatable)
        .map(|(class, info)| (info.category, device_row(class, info)))
        .collect();
    rows.sort();
    let mut out = String::new();
    let mut heading = None;
    for (category, row) in rows {
        if heading != Some(category) {
            let blank = if heading.is_some() { "\n" } else { "" };
            // Writing to a String cannot fail, here and below.
            let _ = writeln!(out, "{blank}{}", category.heading());
            heading = Some(category);
        }
        let _ = writeln!(out, "{row}");
    }
    out
}

fn device_row(class: &Class, info: &DeviceClass) -> String {
    let mut row = format!("name \"{}\"", class.name());
    if let Some(bus) = info.bus {
        let _ = write!(row, ", bus {bus}");
    }
    if let Some(text) = class.description() {
        let _ = write!(row, ", desc \"{text}\"");
    }
    row
}

/// `-object help` and `-object X,help`.
fn object_help(kind: Option<&str>) -> Result<String> {
    let registry = classes();
    let creatable = |c: &Class| c.is_a("user-creatable") && !c.is_abstract();
    let Some(kind) = kind else {
        let mut out = "List of user creatable objects:\n".to_owned();
        for class in registry.iter().filter(|c| creatable(c)) {
            let _ = writeln!(out, "  {}", class.name());
        }
        return Ok(out);
    };
    let class = registry
        .lookup(kind)
        .filter(|c| creatable(c))
        .ok_or_else(|| Error::generic(format!("Parameter 'qom-type' does not accept value '{kind}'")))?;
    Ok(property_list(kind, class.properties(), false))
}

/// `-machine X,help`
fn machine_options(name: &str) -> Result<String> {
    let kind = hw::core::machine_types::MachineType::find(Some(name)).ok_or_else(|| {
        Error::generic(format!("unsupported machine type: \"{name}\""))
            .with_hint("Use -machine help to list supported machines")
    })?;
    let registry = classes();
    let class = registry.lookup(kind.class);
    Ok(property_list(kind.class, class.map(|c| c.properties()).unwrap_or_default(), false))
}

fn smp_options() -> String {
    let keys =
        ["books", "clusters", "cores", "cpus", "dies", "drawers", "maxcpus", "modules", "sockets", "threads"];
    keys.iter().fold("smp-opts options:\n".to_owned(), |out, k| out + &format!("  {k}=<num>\n"))
}

fn property_list<'p>(of: &str, list: impl IntoIterator<Item = &'p Property>, defaults: bool) -> String {
    let mut rows: Vec<(&str, String)> =
        list.into_iter().filter(|p| p.is_writable()).map(|p| (p.name(), property_row(p, defaults))).collect();
    rows.sort();
    let mut out = format!("{of} options:\n");
    if rows.is_empty() {
        return format!("There are no options for {of}.\n");
    }
    for (_, row) in rows {
        let _ = writeln!(out, "{row}");
    }
    out
}

fn property_row(p: &Property, defaults: bool) -> String {
    let head = format!("  {}", format_args!("{}=<{}>", p.name(), p.type_name()));
    let default = p.default_value().filter(|_| defaults).map(|v| format!(" (default: {})", default_text(v)));
    if p.help().is_none() && default.is_none() {
        return head;
    }
    format!("{head:<24} - {}{}", p.help().unwrap_or(""), default.unwrap_or_default())
}

fn default_text(value: &Value) -> String {
    match value {
        Value::Bool(on) => if *on { "on" } else { "off" }.to_owned(),
        Value::String(text) => text.clone(),
        other => qapi::json::to_string(other),
    }
}

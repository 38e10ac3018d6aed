//! Lists and help texts: what `-help`, `-version` and `help` as an argument print, read from the registry of classes.

use accel::AccelSpec;
use hw::core::help::{device_help, device_list};
use hw::core::machine_types::MachineType;
use memory::Memory;
use qapi::Result;
use qom::help::{object_help, property_list, writable};
use qom::{Registry, options};

use crate::chars::Chars;
use crate::cli::{CommandLine, Info, Raw, usage};
use crate::log::{self, Wanted};
use crate::report::Reporter;
use crate::start::register_all;

/// The text the command line asks for instead of a virtual machine, and the exit status.
///
/// # Errors
/// Help about something that does not exist.
pub(crate) fn requested(line: &CommandLine, report: &Reporter) -> Result<Option<(String, i32)>> {
    match &line.info {
        Some(Info::Usage) => return Ok(Some((usage("pliant"), 0))),
        Some(Info::Version) => return Ok(Some((crate::vm::version_text(), 0))),
        Some(Info::Keys(keys)) => return Ok(Some((keys.clone(), 1))),
        None => {}
    }
    match line.log_items.as_deref().map(log::wanted) {
        // Help about the log is a wrong command line, as in QEMU.
        Some(Wanted::Help) => return Ok(Some((log::item_help(), 1))),
        Some(Wanted::Events) => return Ok(Some((log::events().names(), 0))),
        Some(Wanted::Log { .. }) | None => {}
    }
    Ok(list_requested(line, report)?.map(|text| (text, 0)))
}

fn list_requested(line: &CommandLine, report: &Reporter) -> Result<Option<String>> {
    if line.machine_help {
        let kind = options::value(&line.machine, "type");
        return Ok(Some(machine_help(kind)));
    }
    if line.accel.iter().any(|raw| AccelSpec::option(&raw.text).wants_help()) {
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
    if let Some(text) = line.netdevs.iter().find_map(|raw| net::help(&raw.text)) {
        return Ok(Some(text));
    }
    let lists = |raw: &Raw| {
        raw.text
            .strip_prefix("enable=")
            .unwrap_or(&raw.text)
            .split(',')
            .next()
            .is_some_and(|first| first == "help" || first == "?")
    };
    if line.trace.iter().any(lists) {
        return Ok(Some(log::events().names()));
    }
    for raw in line.objects.iter().filter(|r| !r.is_json()) {
        if let Ok(parsed) = options::keyval(&raw.text, Some("qom-type"))
            && parsed.help
        {
            let kind = options::value(&parsed.pairs, "qom-type");
            return object_help(&classes(), kind).map(Some).map_err(|e| e.prefixed(&raw.prefix()));
        }
    }
    for raw in line.devices.iter().filter(|r| !r.is_json()) {
        let parsed = raw.options("driver");
        if !parsed.help {
            continue;
        }
        let Some(driver) = parsed.get("driver") else { return Ok(Some(device_list(&classes()))) };
        let text = device_help(&classes(), driver).unwrap_or_else(|e| {
            // An answer all the same: the exit status is 0 in QEMU.
            report.error(&e.prefixed(&raw.prefix()));
            String::new()
        });
        return Ok(Some(text));
    }
    Ok(None)
}

fn classes() -> Registry {
    let mut registry = Registry::new();
    register_all(&mut registry, &Memory::new(), false);
    registry
}

/// `-machine X,help`; the list of types where there is no `kind`.
fn machine_help(kind: Option<&str>) -> String {
    let Some(kind) = kind.and_then(|name| MachineType::find(Some(name))) else {
        return hw::core::machine_types::help();
    };
    match classes().lookup(kind.class) {
        Some(class) => property_list(kind.class, writable(class), false),
        None => property_list(kind.class, [], false),
    }
}

fn smp_options() -> String {
    let keys =
        ["books", "clusters", "cores", "cpus", "dies", "drawers", "maxcpus", "modules", "sockets", "threads"];
    keys.iter().fold("smp-opts options:\n".to_owned(), |out, k| out + &format!("  {k}=<num>\n"))
}

//! Lists and help texts: what `-help`, `-version` and `help` as an argument print, read from the registry of classes.

use hw::core::help::{device_help, device_list};
use memory::Memory;
use qapi::{Error, Result};
use qom::help::{object_help, property_list};
use qom::{Registry, options};

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
            return object_help(&classes(), kind).map(Some).map_err(|e| e.prefixed(&raw.prefix()));
        }
    }
    for raw in line.devices.iter().filter(|r| !r.is_json()) {
        let parsed = raw.options("driver");
        if parsed.help {
            let text = match parsed.get("driver") {
                Some(driver) => device_help(&classes(), driver).map_err(|e| e.prefixed(&raw.prefix()))?,
                None => device_list(&classes()),
            };
            return Ok(Some(text));
        }
    }
    Ok(None)
}

fn classes() -> Registry {
    let mut registry = Registry::new();
    register_all(&mut registry, &Memory::new());
    registry
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

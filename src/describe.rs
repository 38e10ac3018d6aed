//! `query-command-line-options`: the command line's own tables, as clients ask for them.

use std::sync::Arc;

use qapi::commands::CommandLineCommands;
use qapi::types::{CommandLineOptionInfo, CommandLineParameterInfo, CommandLineParameterType};
use qapi::{Error, Result};
use qom::{Property, Tree};

use crate::cli::keys::{self, SWITCH};
use crate::config::smp;

/// Options whose parameters belong to what they make, or depend on one of them.
const OPEN: [&str; 6] = ["accel", "device", "netdev", "numa", "object", "smbios"];

/// The answers; properties of machines are in the tree's classes.
pub(crate) struct Description(pub(crate) Arc<Tree>);

impl CommandLineCommands for Description {
    fn query_command_line_options(&self, option: Option<String>) -> Result<Vec<CommandLineOptionInfo>> {
        let mut all =
            vec![info("machine", self.machine()), info("chardev", chardev()), info("smp-opts", topology())];
        all.extend(keys::LISTS.iter().map(|list| info(list.name, list.keys.iter().map(key).collect())));
        all.extend(OPEN.map(|name| info(name, Vec::new())));
        let Some(wanted) = option else { return Ok(all) };
        all.retain(|info| info.option == wanted);
        if all.is_empty() {
            return Err(Error::generic(format!("invalid option name: {wanted}")));
        }
        Ok(all)
    }
}

impl Description {
    /// What any machine type takes.
    fn machine(&self) -> Vec<CommandLineParameterInfo> {
        let registry = self.0.registry();
        let mut list = vec![parameter("type", CommandLineParameterType::String, "machine type")];
        let classes = registry.iter().filter(|class| class.is_a("machine"));
        for property in classes.flat_map(|class| class.own_properties()).filter(|p| p.is_writable()) {
            if list.iter().all(|known| known.name != property.name()) {
                list.push(parameter(property.name(), type_of(property), property.help().unwrap_or_default()));
            }
        }
        list
    }
}

fn chardev() -> Vec<CommandLineParameterInfo> {
    use chardev::KeyKind;
    let parameter = |(name, kind): (&str, KeyKind)| {
        let kind = match kind {
            KeyKind::Text => CommandLineParameterType::String,
            KeyKind::Bool => CommandLineParameterType::Boolean,
            KeyKind::Number => CommandLineParameterType::Number,
            KeyKind::Size => CommandLineParameterType::Size,
        };
        parameter(name, kind, "")
    };
    chardev::option_keys().map(parameter).collect()
}

fn topology() -> Vec<CommandLineParameterInfo> {
    smp::KEYS.iter().map(|name| parameter(name, CommandLineParameterType::Number, "")).collect()
}

fn info(option: &str, parameters: Vec<CommandLineParameterInfo>) -> CommandLineOptionInfo {
    CommandLineOptionInfo { option: option.to_owned(), parameters }
}

fn parameter(name: &str, type_: CommandLineParameterType, help: &str) -> CommandLineParameterInfo {
    let help = (!help.is_empty()).then(|| help.trim_end().to_owned());
    CommandLineParameterInfo { name: name.to_owned(), type_, help, default: None }
}

fn key((name, kind, help): &(&str, &str, &str)) -> CommandLineParameterInfo {
    let kind = match *kind {
        SWITCH => CommandLineParameterType::Boolean,
        "num" => CommandLineParameterType::Number,
        "size" => CommandLineParameterType::Size,
        _ => CommandLineParameterType::String,
    };
    parameter(name, kind, help)
}

fn type_of(property: &Property) -> CommandLineParameterType {
    match property.type_name() {
        "bool" | "OnOffAuto" => CommandLineParameterType::Boolean,
        "size" => CommandLineParameterType::Size,
        "int" | "uint8" | "uint16" | "uint32" | "uint64" => CommandLineParameterType::Number,
        _ => CommandLineParameterType::String,
    }
}

#[cfg(test)]
mod tests;

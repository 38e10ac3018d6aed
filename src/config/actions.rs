//! `-action` and the options that are short for it: what a reset, a power-off, a panic and an expired watchdog do.

use hw::core::Actions;
use qapi::{Enum, Error, Result};
use qom::options;

use crate::cli::Raw;

/// The actions after `list`, of which each element is an option and the `-action` list that it stands for. What is said later counts.
///
/// # Errors
/// A key or a value that there is not, behind the option's name and text.
pub(crate) fn parse(list: &[(Raw, String)]) -> Result<Actions> {
    let mut actions = Actions::default();
    for (raw, text) in list {
        for (key, value) in &options::options(text, None).pairs {
            set(&mut actions, key, value).map_err(|e| e.prefixed(&raw.prefix()))?;
        }
    }
    Ok(actions)
}

fn set(actions: &mut Actions, key: &str, value: &str) -> Result<()> {
    match key {
        "reboot" => actions.reboot = named(key, value)?,
        "shutdown" => actions.shutdown = named(key, value)?,
        "panic" => actions.panic = named(key, value)?,
        "watchdog" => actions.watchdog = named(key, value)?,
        _ => return Err(options::invalid_parameter(key)),
    }
    Ok(())
}

fn named<E: Enum>(key: &str, value: &str) -> Result<E> {
    E::from_name(value)
        .ok_or_else(|| Error::generic(format!("Parameter '{key}' does not accept value '{value}'")))
}

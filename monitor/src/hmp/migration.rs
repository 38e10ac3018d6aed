//! How a migration is to be done.

use qapi::{Dict, Result, Value};

use super::args::{Args, Kind};
use super::command::{Command, command};
use super::complete::Source;
use super::{Execute, flag, items, member, text};

/// Commands of this room.
pub(super) const COMMANDS: &[Command] = &[
    command(
        "migrate_set_capability",
        &[("capability", Kind::Word), ("state", Kind::Switch)],
        "capability state",
        "Enable/Disable the usage of a capability for migration",
        &[Source::MigrationCapabilities],
        set_capability,
    ),
    command(
        "migrate_set_parameter",
        &[("parameter", Kind::Word), ("value", Kind::Word)],
        "parameter value",
        "Set the parameter for migration",
        &[Source::MigrationParameters],
        set_parameter,
    ),
];

/// Its `info` sub-commands.
pub(super) const INFOS: &[Command] = &[
    command("migrate", &[], "", "show migration status", &[], |x, _| migrate(x)),
    command("migrate_capabilities", &[], "", "show current migration capabilities", &[], |x, _| {
        capabilities(x)
    }),
    command("migrate_parameters", &[], "", "show current migration parameters", &[], |x, _| parameters(x)),
];

/// Parameters in the order in which they are shown, with their units.
const PARAMETERS: &[(&str, &str)] = &[
    ("throttle-trigger-threshold", ""),
    ("cpu-throttle-initial", ""),
    ("cpu-throttle-increment", ""),
    ("cpu-throttle-tailslow", ""),
    ("max-cpu-throttle", ""),
    ("max-bandwidth", " bytes/second"),
    ("avail-switchover-bandwidth", " bytes/second"),
    ("downtime-limit", " ms"),
    ("multifd-channels", ""),
    ("multifd-compression", ""),
    ("max-postcopy-bandwidth", ""),
];

fn set_capability(x: &dyn Execute, args: &Args) -> Result<String> {
    let name = args.word("capability");
    // The console has a sentence of its own for a name that there is not.
    if !capability_names(x).iter().any(|known| known == name) {
        return Err(qapi::Error::generic(format!("invalid parameter value: {name}")));
    }
    let status = Dict::new().with("capability", name).with("state", args.flag("state"));
    let list = Value::List(vec![status.into()]);
    x.execute("migrate-set-capabilities", Dict::new().with("capabilities", list)).map(|_| String::new())
}

fn set_parameter(x: &dyn Execute, args: &Args) -> Result<String> {
    let arguments = Dict::new().with("parameter", args.word("parameter")).with("value", args.word("value"));
    x.execute("x-pliant-migrate-set-parameter-text", arguments).map(|_| String::new())
}

fn migrate(x: &dyn Execute) -> Result<String> {
    let reply = x.query("query-migrate")?;
    let status = member(&reply, "status").and_then(Value::as_str);
    Ok(status.map(|s| format!("Migration status: {s}\n")).unwrap_or_default())
}

fn capabilities(x: &dyn Execute) -> Result<String> {
    let reply = x.query("query-migrate-capabilities")?;
    let line =
        |c: &Value| format!("{}: {}\n", text(c, "capability"), if flag(c, "state") { "on" } else { "off" });
    Ok(items(&reply).iter().map(line).collect())
}

fn parameters(x: &dyn Execute) -> Result<String> {
    let reply = x.query("query-migrate-parameters")?;
    let line = |(name, unit): &(&str, &str)| {
        let value = match member(&reply, name)? {
            Value::Bool(on) => if *on { "on" } else { "off" }.to_owned(),
            Value::String(word) => word.clone(),
            other => other.as_u64()?.to_string(),
        };
        Some(format!("{name}: {value}{unit}\n"))
    };
    Ok(PARAMETERS.iter().filter_map(line).collect())
}

/// Names of the capabilities.
pub(super) fn capability_names(x: &dyn Execute) -> Vec<String> {
    let reply = x.query("query-migrate-capabilities").unwrap_or(Value::Null);
    items(&reply).iter().map(|c| text(c, "capability").to_owned()).collect()
}

/// Names of the parameters.
pub(super) fn parameter_names(x: &dyn Execute) -> Vec<String> {
    let reply = x.query("query-migrate-parameters").unwrap_or(Value::Null);
    reply.as_dict().into_iter().flat_map(Dict::iter).map(|(name, _)| name.to_owned()).collect()
}

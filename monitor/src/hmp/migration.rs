//! Migrations, and how they are to be done.

use qapi::Enum as _;
use qapi::types::MigrationStatus;
use qapi::{Dict, Error, Result, Value};

use super::args::{Args, Kind};
use super::command::{Command, command};
use super::complete::Source;
use super::{End, Execute, Job, flag, items, member, number, text};

/// Commands of this room.
pub(super) const COMMANDS: &[Command] = &[
    command(
        "migrate",
        &[("detach", Kind::Flag('d')), ("resume", Kind::Flag('r')), ("uri", Kind::Word)],
        "[-d] [-r] uri",
        "migrate to URI (using -d to not wait for completion)\n\t\t\t -r to resume a paused postcopy migration",
        &[],
        begin,
    ),
    command("migrate_cancel", &[], "", "cancel the current VM migration", &[], |x, _| {
        x.query("migrate_cancel").map(|_| String::new())
    }),
    command(
        "migrate_continue",
        &[("state", Kind::Word)],
        "state",
        "Continue migration from the given paused state",
        &[],
        go_on,
    ),
    command(
        "migrate_incoming",
        &[("uri", Kind::Word)],
        "uri",
        "Continue an incoming migration from an -incoming defer",
        &[],
        |x, args| {
            let arguments = Dict::new().with("uri", args.word("uri"));
            x.execute("migrate-incoming", arguments).map(|_| String::new())
        },
    ),
    command("migrate_pause", &[], "", "Pause an ongoing migration (postcopy-only)", &[], |x, _| {
        x.query("migrate-pause").map(|_| String::new())
    }),
    command(
        "migrate_recover",
        &[("uri", Kind::Word)],
        "uri",
        "Continue a paused incoming postcopy migration",
        &[],
        |x, args| {
            let arguments = Dict::new().with("uri", args.word("uri"));
            x.execute("migrate-recover", arguments).map(|_| String::new())
        },
    ),
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
    command(
        "migrate_start_postcopy",
        &[],
        "",
        "Followup to a migration command to switch the migration to postcopy mode. The postcopy-ram capability must be set on both \
         source and destination before the original migration command .",
        &[],
        |x, _| x.query("migrate-start-postcopy").map(|_| String::new()),
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
        return Err(Error::generic(format!("invalid parameter value: {name}")));
    }
    let status = Dict::new().with("capability", name).with("state", args.flag("state"));
    let list = Value::List(vec![status.into()]);
    x.execute("migrate-set-capabilities", Dict::new().with("capabilities", list)).map(|_| String::new())
}

fn set_parameter(x: &dyn Execute, args: &Args) -> Result<String> {
    let arguments = Dict::new().with("parameter", args.word("parameter")).with("value", args.word("value"));
    x.execute("x-pliant-migrate-set-parameter-text", arguments).map(|_| String::new())
}

/// A migration that somebody at a terminal waits for.
const JOB: Job = Job {
    title: "migrate",
    end: End::Asked(|x| {
        let reply = x.query("query-migrate").ok()?;
        match text(&reply, "status") {
            "failed" => Some(Err(Error::generic(text(&reply, "error-desc")))),
            "completed" | "cancelled" | "" => Some(Ok(String::new())),
            _ => None,
        }
    }),
    progress: |x| {
        let reply = x.query("query-migrate").ok()?;
        let ram = member(&reply, "ram")?;
        let (total, left) = (number(ram, "total"), number(ram, "remaining"));
        Some((total.saturating_sub(left), total)).filter(|(_, total)| *total > 0)
    },
};

fn begin(x: &dyn Execute, args: &Args) -> Result<String> {
    let detach = args.flag("detach");
    let waits = !detach && x.wait_for(JOB);
    let arguments = Dict::new().with("uri", args.word("uri")).with("resume", args.flag("resume"));
    x.execute("migrate", arguments)?;
    Ok(if detach || waits {
        String::new()
    } else {
        "terminal does not allow synchronous migration, continuing detached\n".to_owned()
    })
}

fn go_on(x: &dyn Execute, args: &Args) -> Result<String> {
    let state = args.word("state");
    if !MigrationStatus::NAMES.contains(&state) {
        return Err(Error::generic(format!("invalid parameter value: {state}")));
    }
    x.execute("migrate-continue", Dict::new().with("state", state)).map(|_| String::new())
}

/// What holds for every stream; names are QEMU's.
const GLOBALS: &str = "globals:\nstore-global-state: on\nonly-migratable: off\nsend-configuration: on\n\
    send-section-footer: on\nsend-switchover-start: on\nclear-bitmap-shift: 18\n";

fn migrate(x: &dyn Execute) -> Result<String> {
    let reply = x.query("query-migrate")?;
    let mut out = GLOBALS.to_owned();
    let Some(status) = member(&reply, "status").and_then(Value::as_str) else { return Ok(out) };
    let error = text(&reply, "error-desc");
    let error = if error.is_empty() { String::new() } else { format!(" ({error})") };
    out.push_str(&format!("Migration status: {status}{error}\n"));
    let mut line = |name: &str, from: &Value, member_name: &str, divisor: u64, unit: &str| {
        if let Some(value) = member(from, member_name).and_then(Value::as_u64) {
            out.push_str(&format!("{name}: {}{unit}\n", value / divisor));
        }
    };
    let total = number(&reply, "total-time");
    line("total time", &Dict::new().with("t", total).into(), "t", 1, " ms");
    line("expected downtime", &reply, "expected-downtime", 1, " ms");
    line("downtime", &reply, "downtime", 1, " ms");
    line("setup", &reply, "setup-time", 1, " ms");
    let Some(ram) = member(&reply, "ram") else { return Ok(out) };
    line("transferred ram", ram, "transferred", 1024, " kbytes");
    let mbps = member(ram, "mbps").and_then(Value::as_f64).unwrap_or_default();
    out.push_str(&format!("throughput: {mbps:.2} mbps\n"));
    let mut line = |name: &str, member_name: &str, divisor: u64, unit: &str| {
        out.push_str(&format!("{name}: {}{unit}\n", number(ram, member_name) / divisor));
    };
    line("remaining ram", "remaining", 1024, " kbytes");
    line("total ram", "total", 1024, " kbytes");
    line("duplicate", "duplicate", 1, " pages");
    line("normal", "normal", 1, " pages");
    line("normal bytes", "normal-bytes", 1024, " kbytes");
    line("dirty sync count", "dirty-sync-count", 1, "");
    line("page size", "page-size", 1024, " kbytes");
    line("multifd bytes", "multifd-bytes", 1024, " kbytes");
    line("pages-per-second", "pages-per-second", 1, "");
    for (name, member, unit) in [
        ("dirty pages rate", "dirty-pages-rate", " pages"),
        ("postcopy request count", "postcopy-requests", ""),
    ] {
        if number(ram, member) != 0 {
            line(name, member, 1, unit);
        }
    }
    for (name, member) in [
        ("precopy ram", "precopy-bytes"),
        ("downtime ram", "downtime-bytes"),
        ("postcopy ram", "postcopy-bytes"),
    ] {
        if number(ram, member) != 0 {
            line(name, member, 1024, " kbytes");
        }
    }
    if let Some(percent) = member(&reply, "cpu-throttle-percentage").and_then(Value::as_u64) {
        out.push_str(&format!("cpu throttle percentage: {percent}\n"));
    }
    Ok(out)
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

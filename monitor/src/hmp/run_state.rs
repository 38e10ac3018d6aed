//! The run state of the machine, and what it and the program are.

use qapi::types::WatchdogAction;
use qapi::{Dict, Enum, Error, Result, Value};

use super::args::{Args, Kind};
use super::command::{Command, command};
use super::complete::Source;
use super::{Execute, flag, member, number, text};

/// Commands of this room.
pub(super) const COMMANDS: &[Command] = &[
    command("cont|c", &[], "", "resume emulation", &[], |x, _| simple(x, "cont")),
    command("quit|q", &[], "", "quit the emulator", &[], |x, _| simple(x, "quit")),
    command("stop|s", &[], "", "stop emulation", &[], |x, _| simple(x, "stop")),
    command("system_powerdown", &[], "", "send system power down event", &[], |x, _| {
        simple(x, "system_powerdown")
    }),
    command("system_reset", &[], "", "reset the system", &[], |x, _| simple(x, "system_reset")),
    command("system_wakeup", &[], "", "wakeup guest from suspend", &[], |x, _| simple(x, "system_wakeup")),
    command(
        "watchdog_action",
        &[("action", Kind::Word)],
        "[reset|shutdown|poweroff|pause|debug|none|inject-nmi]",
        "change watchdog action",
        &[Source::Names(WatchdogAction::NAMES)],
        watchdog_action,
    ),
];

/// Its `info` sub-commands.
pub(super) const INFOS: &[Command] = &[
    command("kvm", &[], "", "show KVM information", &[], |x, _| kvm(x)),
    command("name", &[], "", "show the current VM name", &[], |x, _| name(x)),
    command("status", &[], "", "show the current VM status (running|paused)", &[], |x, _| status(x)),
    command("uuid", &[], "", "show the current VM UUID", &[], |x, _| uuid(x)),
    command("version", &[], "", "show the version of QEMU", &[], |x, _| version(x)),
    command("vm-generation-id", &[], "", "Show Virtual Machine Generation ID", &[], |x, _| generation(x)),
];

fn simple(x: &dyn Execute, name: &str) -> Result<String> {
    x.execute(name, Dict::new()).map(|_| String::new())
}

fn watchdog_action(x: &dyn Execute, args: &Args) -> Result<String> {
    // The console has a sentence of its own for a name that there is not.
    let name = args.word("action");
    WatchdogAction::from_name(name)
        .ok_or_else(|| Error::generic(format!("invalid parameter value: {name}")))?;
    x.execute("watchdog-set-action", Dict::new().with("action", name)).map(|_| String::new())
}

fn kvm(x: &dyn Execute) -> Result<String> {
    let reply = x.query("query-kvm")?;
    let state = match (flag(&reply, "present"), flag(&reply, "enabled")) {
        (true, true) => "enabled",
        (true, false) => "disabled",
        (false, _) => "not compiled",
    };
    Ok(format!("kvm support: {state}\n"))
}

fn name(x: &dyn Execute) -> Result<String> {
    let reply = x.query("query-name")?;
    Ok(member(&reply, "name").and_then(Value::as_str).map(|n| format!("{n}\n")).unwrap_or_default())
}

fn uuid(x: &dyn Execute) -> Result<String> {
    Ok(format!("{}\n", text(&x.query("query-uuid")?, "UUID")))
}

fn generation(x: &dyn Execute) -> Result<String> {
    Ok(format!("{}\n", text(&x.query("query-vm-generation-id")?, "guid")))
}

fn version(x: &dyn Execute) -> Result<String> {
    let reply = x.query("query-version")?;
    let part = |n| member(&reply, "qemu").map_or(0, |q| number(q, n));
    Ok(format!("{}.{}.{}{}\n", part("major"), part("minor"), part("micro"), text(&reply, "package")))
}

fn status(x: &dyn Execute) -> Result<String> {
    let reply = x.query("query-status")?;
    let running = flag(&reply, "running");
    let mut line = format!("VM status: {}", if running { "running" } else { "paused" });
    let state = text(&reply, "status");
    if !running && state != "paused" {
        line.push_str(&format!(" ({state})"));
    }
    Ok(line + "\n")
}

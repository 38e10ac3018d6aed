//! Keys that are typed for a guest, and its mice.

use qapi::types::QKeyCode;
use qapi::{Dict, Enum, Value};

use super::args::{Args, Kind};
use super::command::{Command, command};
use super::complete::Source;
use super::{Execute, flag, items, number, text};

/// Commands of this room.
pub(super) const COMMANDS: &[Command] = &[command(
    "sendkey",
    &[("keys", Kind::Word), ("hold_time", Kind::OptionalNumber)],
    "keys [hold_ms]",
    "send keys to the VM (e.g. 'sendkey ctrl-alt-f1', default hold time=100 ms)",
    &[Source::Names(QKeyCode::NAMES)],
    sendkey,
)];

/// Its `info` sub-commands.
pub(super) const INFOS: &[Command] =
    &[command("mice", &[], "", "show which guest mouse is receiving events", &[], |x, _| mice(x))];

fn sendkey(x: &dyn Execute, args: &Args) -> qapi::Result<String> {
    let keys: Result<Vec<Value>, &str> =
        args.word("keys").split('-').map(|word| key(word).ok_or(word)).collect();
    let keys = match keys {
        Ok(keys) => keys,
        // A line of its own, not the command's error.
        Err(word) => return Ok(format!("invalid parameter: {word}\n")),
    };
    let mut arguments = Dict::new().with("keys", Value::List(keys));
    if let Some(hold) = args.number("hold_time") {
        arguments = arguments.with("hold-time", hold);
    }
    x.execute("send-key", arguments).map(|_| String::new())
}

/// A name, `<`, or a number in hexadecimal digits.
fn key(word: &str) -> Option<Value> {
    let name = if word == "<" { "less" } else { word };
    let digits = name.strip_prefix("0x").filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    if let Some(number) = digits.and_then(|digits| i32::from_str_radix(digits, 16).ok()) {
        return Some(Dict::new().with("type", "number").with("data", i64::from(number)).into());
    }
    QKeyCode::from_name(name).map(|_| Dict::new().with("type", "qcode").with("data", name).into())
}

fn mice(x: &dyn Execute) -> qapi::Result<String> {
    let reply = x.query("query-mice")?;
    if items(&reply).is_empty() {
        return Ok("No mouse devices connected\n".to_owned());
    }
    let line = |mouse: &Value| {
        let mark = if flag(mouse, "current") { '*' } else { ' ' };
        let absolute = if flag(mouse, "absolute") { " (absolute)" } else { "" };
        format!("{mark} Mouse #{}: {}{absolute}\n", number(mouse, "index"), text(mouse, "name"))
    };
    Ok(items(&reply).iter().map(line).collect())
}

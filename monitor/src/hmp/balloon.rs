//! The balloon.

use qapi::{Dict, Result};

use super::args::{Args, Kind};
use super::command::{Command, command};
use super::{Execute, number};

/// Commands of this room.
pub(super) const COMMANDS: &[Command] = &[command(
    "balloon",
    &[("target", Kind::Mebibytes)],
    "target",
    "request VM to change its memory allocation (in MB)",
    &[],
    balloon,
)];

/// Its `info` sub-commands.
pub(super) const INFOS: &[Command] =
    &[command("balloon", &[], "", "show balloon information", &[], |x, _| info(x))];

fn balloon(x: &dyn Execute, args: &Args) -> Result<String> {
    let bytes = args.number("target").unwrap_or_default();
    x.execute("balloon", Dict::new().with("value", bytes)).map(|_| String::new())
}

fn info(x: &dyn Execute) -> Result<String> {
    Ok(format!("balloon: actual={}\n", number(&x.query("query-balloon")?, "actual") >> 20))
}

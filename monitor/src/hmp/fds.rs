//! Commands on descriptors that came over the console's socket.

use qapi::{Dict, Result};

use super::Execute;
use super::args::{Args, Kind};
use super::command::{Command, command};

/// Commands of this room.
pub(super) const COMMANDS: &[Command] = &[
    command(
        "closefd",
        &[("fdname", Kind::Word)],
        "closefd name",
        "close a file descriptor previously passed via SCM rights",
        &[],
        |x, a| with_name(x, "closefd", a),
    ),
    command(
        "getfd",
        &[("fdname", Kind::Word)],
        "getfd name",
        "receive a file descriptor via SCM rights and assign it a name",
        &[],
        |x, a| with_name(x, "getfd", a),
    ),
];

fn with_name(x: &dyn Execute, name: &str, args: &Args) -> Result<String> {
    x.execute(name, Dict::new().with("fdname", args.word("fdname"))).map(|_| String::new())
}

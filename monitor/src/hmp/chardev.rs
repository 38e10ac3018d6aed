//! Commands on character devices.

use qapi::{Dict, Result};

use super::args::{Args, Kind};
use super::command::{Command, command};
use super::complete::Source;
use super::{Execute, items, text};

/// Commands of this room.
pub(super) const COMMANDS: &[Command] = &[
    command("chardev-remove", &[("id", Kind::Word)], "id", "remove chardev", &[Source::Chardevs], |x, a| {
        with_id(x, "chardev-remove", a)
    }),
    command(
        "chardev-send-break",
        &[("id", Kind::Word)],
        "id",
        "send a break on chardev",
        &[Source::Chardevs],
        |x, a| with_id(x, "chardev-send-break", a),
    ),
    command(
        "ringbuf_read",
        &[("device", Kind::Word), ("size", Kind::Number)],
        "device size",
        "Read from a ring buffer character device",
        &[Source::Chardevs],
        ringbuf_read,
    ),
    command(
        "ringbuf_write",
        &[("device", Kind::Word), ("data", Kind::Word)],
        "device data",
        "Write to a ring buffer character device",
        &[Source::Chardevs],
        ringbuf_write,
    ),
];

/// Its `info` sub-commands.
pub(super) const INFOS: &[Command] =
    &[command("chardev", &[], "", "show the character devices", &[], |x, _| chardev(x))];

fn with_id(x: &dyn Execute, name: &str, args: &Args) -> Result<String> {
    x.execute(name, Dict::new().with("id", args.word("id"))).map(|_| String::new())
}

fn chardev(x: &dyn Execute) -> Result<String> {
    let reply = x.query("query-chardev")?;
    Ok(items(&reply)
        .iter()
        .map(|c| format!("{}: filename={}\n", text(c, "label"), text(c, "filename")))
        .collect())
}

fn ringbuf_read(x: &dyn Execute, args: &Args) -> Result<String> {
    let size = args.number("size").unwrap_or(0);
    let arguments = Dict::new().with("device", args.word("device")).with("size", size);
    let reply = x.execute("ringbuf-read", arguments)?;
    let mut out = String::new();
    for c in reply.as_str().unwrap_or("").chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            c if (c < ' ' && c != '\n' && c != '\t') || c == '\x7f' => {
                out.push_str(&format!("\\u{:04X}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    Ok(out + "\n")
}

fn ringbuf_write(x: &dyn Execute, args: &Args) -> Result<String> {
    let arguments = Dict::new().with("device", args.word("device")).with("data", args.word("data"));
    x.execute("ringbuf-write", arguments)?;
    Ok(String::new())
}

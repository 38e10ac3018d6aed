//! Commands on character devices.

use qapi::{Dict, Error, Result};

use super::args::{Args, Kind};
use super::command::{Command, command};
use super::complete::Source;
use super::{Execute, error_text, items, text};

/// Commands of this room.
pub(super) const COMMANDS: &[Command] = &[
    command(
        "chardev-add",
        &[("args", Kind::Word)],
        "args",
        "add chardev",
        &[Source::ChardevKinds],
        |x, a| written(x, "x-pliant-chardev-add-text", Dict::new().with("options", a.word("args"))),
    ),
    command(
        "chardev-change",
        &[("id", Kind::Word), ("args", Kind::Word)],
        "id args",
        "change chardev",
        &[Source::Chardevs, Source::ChardevKinds],
        |x, a| {
            let arguments = Dict::new().with("id", a.word("id")).with("options", a.word("args"));
            written(x, "x-pliant-chardev-change-text", arguments)
        },
    ),
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

/// A device written as behind `-chardev`. What is wrong with the text comes before the command's own error, as in QEMU.
fn written(x: &dyn Execute, command: &str, arguments: Dict) -> Result<String> {
    match x.execute(command, arguments) {
        Ok(reply) => Ok(text(&reply, "human-readable-text").to_owned()),
        Err(error) if error.desc() == "Parsing chardev args failed" => {
            let mut lines: String = error.hint().iter().map(|line| format!("{line}\n")).collect();
            lines.push_str(&error_text(&Error::generic(error.desc())));
            Ok(lines)
        }
        Err(error) => Err(error),
    }
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

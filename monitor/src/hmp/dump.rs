//! `dump-guest-memory` and `info dump`.

use qapi::{Dict, Error, Result, Value};

use super::args::{Args, Kind};
use super::command::{Command, command};
use super::complete::Source;
use super::{End, Execute, Job, number, text};

/// Commands of this room.
pub(super) const COMMANDS: &[Command] = &[command(
    "dump-guest-memory",
    &[
        ("paging", Kind::Flag('p')),
        ("detach", Kind::Flag('d')),
        ("windmp", Kind::Flag('w')),
        ("zlib", Kind::Flag('z')),
        ("lzo", Kind::Flag('l')),
        ("snappy", Kind::Flag('s')),
        ("raw", Kind::Flag('R')),
        ("filename", Kind::Filename),
        ("begin", Kind::OptionalLong),
        ("length", Kind::OptionalLong),
    ],
    "[-p] [-d] [-z|-l|-s|-w] [-R] filename [begin length]",
    HELP,
    &[Source::Files],
    dump_guest_memory,
)];

/// Its `info` sub-commands.
pub(super) const INFOS: &[Command] =
    &[command("dump", &[], "", "Display the latest dump status", &[], |x, _| info(x))];

/// What `help` says; layout and names are QEMU's.
pub(super) const HELP: &str = "dump guest memory into file 'filename'.\n\t\t\t\
    -p: do paging to get guest's memory mapping.\n\t\t\t\
    -d: return immediately (do not wait for completion).\n\t\t\t\
    -z: dump in kdump-compressed format, with zlib compression.\n\t\t\t\
    -l: dump in kdump-compressed format, with lzo compression.\n\t\t\t\
    -s: dump in kdump-compressed format, with snappy compression.\n\t\t\t\
    -R: when using kdump (-z, -l, -s), use raw rather than makedumpfile-flattened\n\t\t\t    format\n\t\t\t\
    -w: dump in Windows crashdump format (can be used instead of ELF-dump converting),\n\t\t\t    \
    for Windows x86 and x64 guests with vmcoreinfo driver only.\n\t\t\t\
    begin: the starting physical address.\n\t\t\t\
    length: the memory size, in bytes.";

/// A dump in the background, for whoever waits for it.
const JOB: Job = Job {
    title: "dump",
    end: End::Event("DUMP_COMPLETED", |data| match data.get("error").and_then(Value::as_str) {
        Some(error) => Err(Error::generic(error)),
        None => Ok(String::new()),
    }),
    progress: |x| {
        let reply = x.query("query-dump").ok()?;
        Some((number(&reply, "completed"), number(&reply, "total"))).filter(|(_, total)| *total > 0)
    },
};

pub(super) fn dump_guest_memory(x: &dyn Execute, args: &Args) -> Result<String> {
    const FORMATS: [(&str, &str, &str); 4] = [
        ("zlib", "kdump-zlib", "kdump-raw-zlib"),
        ("lzo", "kdump-lzo", "kdump-raw-lzo"),
        ("snappy", "kdump-snappy", "kdump-raw-snappy"),
        ("windmp", "win-dmp", "win-dmp"),
    ];
    let mut chosen = FORMATS.into_iter().filter(|(flag, ..)| args.flag(flag));
    let (format, second) = (chosen.next(), chosen.next());
    if second.is_some() {
        return Err(Error::generic("only one of '-z|-l|-s|-w' can be set"));
    }
    let format = format.map_or("elf", |(_, flat, raw)| if args.flag("raw") { raw } else { flat });
    let mut arguments = Dict::new()
        .with("paging", args.flag("paging"))
        .with("protocol", format!("file:{}", args.word("filename")))
        .with("detach", args.flag("detach") || x.wait_for(JOB))
        .with("format", format);
    for name in ["begin", "length"] {
        if let Some(value) = args.number(name) {
            arguments.insert(name, value);
        }
    }
    x.execute("dump-guest-memory", arguments).map(|_| String::new())
}

pub(super) fn info(x: &dyn Execute) -> Result<String> {
    let reply = x.query("query-dump")?;
    let status = text(&reply, "status");
    let mut out = format!("Status: {status}\n");
    if status == "active" {
        let percent = 100.0 * number(&reply, "completed") as f64 / number(&reply, "total").max(1) as f64;
        out.push_str(&format!("Finished: {percent:.2} %\n"));
    }
    Ok(out)
}

//! The one table of console commands: names, arguments, help, completion and what each does.

use std::ops::Range;

use qapi::{Dict, Error, Result};

use super::args::{self, Args, Env, Kind, Spec};
use super::complete::Source;
use super::{Execute, Session, dump, error_text, info, memory, objects, virtio};

/// A console command.
pub(crate) struct Command {
    /// Name and aliases, separated by `|`.
    names: &'static str,
    pub(crate) args: &'static [Spec],
    /// How its arguments look in `help`.
    params: &'static str,
    help: &'static str,
    /// Candidates for each argument that is a word.
    pub(crate) sources: &'static [Source],
    run: fn(&dyn Execute, &Args) -> Result<String>,
}

const fn command(
    names: &'static str,
    args: &'static [Spec],
    params: &'static str,
    help: &'static str,
    sources: &'static [Source],
    run: fn(&dyn Execute, &Args) -> Result<String>,
) -> Command {
    Command { names, args, params, help, sources, run }
}

impl Command {
    /// Names it can be called by.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.names.split('|')
    }

    fn is(&self, name: &str) -> bool {
        self.names().any(|n| n == name)
    }

    fn help_line(&self, prefix: &str) -> String {
        format!("{prefix}{} {} -- {}\n", self.names, self.params, self.help)
    }
}

/// Commands by name. `help`, `info` and `info history` are handled by [`run_line`] itself: they read this table.
pub(crate) const COMMANDS: &[Command] = &[
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
    command("cont|c", &[], "", "resume emulation", &[], |x, _| simple(x, "cont")),
    command(
        "device_add",
        &[("device", Kind::Options)],
        "driver[,prop=value][,...]",
        "add device, like -device on the command line",
        &[Source::Drivers],
        objects::device_add,
    ),
    command(
        "device_del",
        &[("id", Kind::Word)],
        "device",
        "remove device",
        &[Source::Devices],
        objects::device_del,
    ),
    command(
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
        dump::HELP,
        &[],
        dump::dump_guest_memory,
    ),
    command(
        "help|?",
        &[("name", Kind::OptionalRest)],
        "[cmd]",
        "show the help",
        &[Source::Commands, Source::Infos],
        |_, a| help(a.word("name")),
    ),
    command(
        "info",
        &[("item", Kind::Rest)],
        "[subcommand]",
        "show various information about the system state",
        &[Source::Infos],
        |_, _| help("info"),
    ),
    command(
        "memsave",
        &[("val", Kind::Long), ("size", Kind::Number), ("filename", Kind::Word)],
        "addr size file",
        "save to disk virtual memory dump starting at 'addr' of size 'size'",
        &[],
        memory::memsave,
    ),
    command(
        "object_add",
        &[("object", Kind::Rest)],
        "[qom-type=]type,id=str[,prop=value][,...]",
        "create QOM object",
        &[Source::ObjectTypes],
        objects::object_add,
    ),
    command(
        "object_del",
        &[("id", Kind::Word)],
        "id",
        "destroy QOM object",
        &[Source::Objects],
        objects::object_del,
    ),
    command(
        "pmemsave",
        &[("val", Kind::Long), ("size", Kind::Number), ("filename", Kind::Word)],
        "addr size file",
        "save to disk physical memory dump starting at 'addr' of size 'size'",
        &[],
        memory::pmemsave,
    ),
    command(
        "print|p",
        &[("fmt", Kind::Format), ("expr", Kind::Long)],
        "/fmt expr",
        "print expression value (use $reg for CPU register access)",
        &[],
        memory::print,
    ),
    command(
        "qom-get",
        &[("path", Kind::Word), ("property", Kind::Word)],
        "path property",
        "print QOM property",
        &[Source::Paths, Source::Properties],
        objects::qom_get,
    ),
    command(
        "qom-list",
        &[("path", Kind::OptionalWord)],
        "path",
        "list QOM properties",
        &[Source::Paths],
        objects::qom_list,
    ),
    command(
        "qom-set",
        &[("json", Kind::Flag('j')), ("path", Kind::Word), ("property", Kind::Word), ("value", Kind::Rest)],
        "[-j] path property value",
        "set QOM property.\n\t\t\t-j: the value is specified in json format.",
        &[Source::Paths, Source::Properties],
        objects::qom_set,
    ),
    command("quit|q", &[], "", "quit the emulator", &[], |x, _| simple(x, "quit")),
    command(
        "ringbuf_read",
        &[("device", Kind::Word), ("size", Kind::Number)],
        "device size",
        "Read from a ring buffer character device",
        &[Source::Chardevs],
        objects::ringbuf_read,
    ),
    command(
        "ringbuf_write",
        &[("device", Kind::Word), ("data", Kind::Word)],
        "device data",
        "Write to a ring buffer character device",
        &[Source::Chardevs],
        objects::ringbuf_write,
    ),
    command("stop|s", &[], "", "stop emulation", &[], |x, _| simple(x, "stop")),
    command("system_powerdown", &[], "", "send system power down event", &[], |x, _| {
        simple(x, "system_powerdown")
    }),
    command("system_reset", &[], "", "reset the system", &[], |x, _| simple(x, "system_reset")),
    command(
        "x",
        &[("fmt", Kind::Format), ("addr", Kind::Long)],
        "/fmt addr",
        "virtual memory dump starting at 'addr'",
        &[],
        memory::x,
    ),
    command(
        "xp",
        &[("fmt", Kind::Format), ("addr", Kind::Long)],
        "/fmt addr",
        "physical memory dump starting at 'addr'",
        &[],
        memory::xp,
    ),
];

/// `info` sub-commands by name.
pub(crate) const INFOS: &[Command] = &[
    command("chardev", &[], "", "show the character devices", &[], |x, _| info::chardev(x)),
    command("cpus", &[], "", "show infos for each CPU", &[], |x, _| info::cpus(x)),
    command("dump", &[], "", "Display the latest dump status", &[], |x, _| dump::info(x)),
    command("history", &[], "", "show the command line history", &[], |_, _| Ok(String::new())),
    command("hotpluggable-cpus", &[], "", "Show information about hotpluggable CPUs", &[], |x, _| {
        info::hotpluggable_cpus(x)
    }),
    command("kvm", &[], "", "show KVM information", &[], |x, _| info::kvm(x)),
    command("memdev", &[], "", "show memory backends", &[], |x, _| info::memdev(x)),
    command("memory-devices", &[], "", "show memory devices", &[], |x, _| info::memory_devices(x)),
    command(
        "memory_size_summary",
        &[],
        "",
        "show the amount of initially allocated and present hotpluggable (if enabled) memory in bytes.",
        &[],
        |x, _| info::memory_size_summary(x),
    ),
    command(
        "memslots",
        &[],
        "",
        "show memory slots of memory devices, the hypervisor and back ends",
        &[],
        |x, _| info::memslots(x),
    ),
    command(
        "mtree",
        &[
            ("flatview", Kind::Flag('f')),
            ("dispatch-tree", Kind::Flag('d')),
            ("owner", Kind::Flag('o')),
            ("disabled", Kind::Flag('D')),
        ],
        "[-f][-d][-o][-D]",
        "show memory tree (-f: dump flat view for address spaces;-d: dump dispatch tree, valid with -f only);-o: dump region owners/parents;-D: dump disabled regions",
        &[],
        info::mtree,
    ),
    command("name", &[], "", "show the current VM name", &[], |x, _| info::name(x)),
    command("numa", &[], "", "show NUMA information", &[], |x, _| info::human(x, "x-query-numa")),
    command("pci", &[], "", "show PCI info", &[], |x, _| super::pci::pci(x)),
    command(
        "qom-tree",
        &[("path", Kind::OptionalWord)],
        "[path]",
        "show QOM composition tree",
        &[Source::Paths],
        objects::qom_tree,
    ),
    command(
        "qtree",
        &[("brief", Kind::Flag('b'))],
        "[-b]",
        "show device tree (-b: brief, omit properties)",
        &[],
        info::qtree,
    ),
    command("ramblock", &[], "", "Display system ramblock information", &[], |x, _| {
        info::human(x, "x-query-ramblock")
    }),
    command("status", &[], "", "show the current VM status (running|paused)", &[], |x, _| info::status(x)),
    command("uuid", &[], "", "show the current VM UUID", &[], |x, _| info::uuid(x)),
    command("version", &[], "", "show the version of QEMU", &[], |x, _| info::version(x)),
    command("virtio", &[], "", "List all available virtio devices", &[], |x, _| virtio::list(x)),
    command(
        "virtio-status",
        &[("path", Kind::Word)],
        "path",
        "Display status of a given virtio device",
        &[Source::Paths],
        virtio::status,
    ),
];

fn with_id(x: &dyn Execute, name: &str, args: &Args) -> Result<String> {
    x.execute(name, Dict::new().with("id", args.word("id"))).map(|_| String::new())
}

fn simple(x: &dyn Execute, name: &str) -> Result<String> {
    x.execute(name, Dict::new()).map(|_| String::new())
}

/// The command called `name`.
pub(crate) fn find(table: &'static [Command], name: &str) -> Option<&'static Command> {
    table.iter().find(|c| c.is(name))
}

/// What to print for `help [name [subcommand]]`; a broken quotation is an error.
fn help(text: &str) -> Result<String> {
    let all = |table: &[Command], prefix: &str| table.iter().map(|c| c.help_line(prefix)).collect();
    let words = args::words(text).ok_or_else(|| Error::generic("unterminated string"))?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Ok(match words.as_slice() {
        [] => all(COMMANDS, ""),
        ["info"] => all(INFOS, "info "),
        ["info", sub, ..] => {
            find(INFOS, sub).map_or_else(|| unknown(&format!("info {sub}")), |c| c.help_line("info "))
        }
        [name, ..] => find(COMMANDS, name).map_or_else(|| unknown(name), |c| c.help_line("")),
    })
}

fn unknown(name: &str) -> String {
    format!("unknown command: '{name}'\n")
}

/// Runs one line and gives the text to print, lines ended by `\n`.
pub(crate) fn run_line(x: &dyn Execute, line: &str, session: &Session<'_>) -> String {
    let name = command_name(line, 0);
    if name.end == 0 {
        return String::new();
    }
    let Some(command) = find(COMMANDS, &line[name.clone()]) else { return unknown(&line[name]) };
    let rest = &line[name.end..];
    if !command.is("info") {
        return run(x, command, &line[name.clone()], rest, session);
    }
    if rest.trim_start().is_empty() {
        return help("info").unwrap_or_else(|e| error_text(&e));
    }
    // Complaints quote the line up to the name's end, blanks and all.
    let sub = command_name(line, name.end);
    match find(INFOS, &line[sub.clone()]) {
        None => unknown(&line[..sub.end]),
        Some(command) if command.is("history") && line[sub.end..].trim().is_empty() => {
            session.history.iter().enumerate().map(|(i, l)| format!("{i}: '{l}'\n")).collect()
        }
        Some(command) => run(x, command, &line[..sub.end], &line[sub.end..], session),
    }
}

/// Runs `command`, called by what is `typed`, with what follows on the line.
fn run(x: &dyn Execute, command: &Command, typed: &str, rest: &str, session: &Session<'_>) -> String {
    let registers = |name: &str| memory::register(x, session.cpu, name);
    let env = Env { registers: &registers, format: session.format, cpu: session.cpu };
    match args::parse(command.names, command.args, rest, &env) {
        Ok(args) => (command.run)(x, &args).unwrap_or_else(|e| error_text(&e)),
        Err(message) => format!("{message}Try \"help {typed}\" for more information\n"),
    }
}

/// The name in `line` at `from`, behind blanks: it ends at a blank or at the slash of a `/format`.
fn command_name(line: &str, from: usize) -> Range<usize> {
    let start = line[from..].find(|c: char| !c.is_whitespace()).map_or(line.len(), |at| from + at);
    let end = line[start..].find(|c: char| c.is_whitespace() || c == '/').map_or(line.len(), |at| start + at);
    if start == line.len() { 0..0 } else { start..end }
}

//! The one table of console commands: names, arguments, help, completion and what each does.

use qapi::{Dict, Result};

use super::args::{self, Args, Kind, Spec};
use super::complete::Source;
use super::{Execute, error_text, info, objects};

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
    command("cont|c", &[], "", "let the vCPUs run", &[], |x, _| simple(x, "cont")),
    command(
        "device_add",
        &[("device", Kind::Options)],
        "driver[,prop=value][,...]",
        "add a device, written as behind -device",
        &[Source::Drivers],
        objects::device_add,
    ),
    command(
        "device_del",
        &[("id", Kind::Word)],
        "device",
        "ask the guest to give a device up, then remove it",
        &[Source::Devices],
        objects::device_del,
    ),
    command(
        "help|?",
        &[("name", Kind::OptionalWord), ("subcommand", Kind::OptionalWord)],
        "[cmd]",
        "show the help",
        &[Source::Commands, Source::Infos],
        |_, a| Ok(help(a.optional("name"), a.optional("subcommand"))),
    ),
    command(
        "info",
        &[("item", Kind::Rest)],
        "[subcommand]",
        "show a part of the state",
        &[Source::Infos],
        |_, _| Ok(help(Some("info"), None)),
    ),
    command(
        "object_add",
        &[("object", Kind::Options)],
        "[qom-type=]type,id=str[,prop=value][,...]",
        "make an object, written as behind -object",
        &[Source::ObjectTypes],
        objects::object_add,
    ),
    command(
        "object_del",
        &[("id", Kind::Word)],
        "id",
        "remove an object made by object_add or -object",
        &[Source::Objects],
        objects::object_del,
    ),
    command(
        "qom-get",
        &[("path", Kind::Word), ("property", Kind::Word)],
        "path property",
        "print a property of an object",
        &[Source::Paths, Source::Properties],
        objects::qom_get,
    ),
    command(
        "qom-list",
        &[("path", Kind::OptionalWord)],
        "path",
        "list the properties of an object",
        &[Source::Paths],
        objects::qom_list,
    ),
    command(
        "qom-set",
        &[("json", Kind::Flag('j')), ("path", Kind::Word), ("property", Kind::Word), ("value", Kind::Rest)],
        "[-j] path property value",
        "set a property of an object (-j: the value is JSON)",
        &[Source::Paths, Source::Properties],
        objects::qom_set,
    ),
    command("quit|q", &[], "", "end the virtual machine", &[], |x, _| simple(x, "quit")),
    command(
        "ringbuf_read",
        &[("device", Kind::Word), ("size", Kind::Number)],
        "device size",
        "read from a ring buffer character device",
        &[Source::Chardevs],
        objects::ringbuf_read,
    ),
    command(
        "ringbuf_write",
        &[("device", Kind::Word), ("data", Kind::Word)],
        "device data",
        "write to a ring buffer character device",
        &[Source::Chardevs],
        objects::ringbuf_write,
    ),
    command("stop|s", &[], "", "stop the vCPUs", &[], |x, _| simple(x, "stop")),
    command("system_powerdown", &[], "", "press the power button", &[], |x, _| simple(x, "system_powerdown")),
    command("system_reset", &[], "", "press the reset button", &[], |x, _| simple(x, "system_reset")),
];

/// `info` sub-commands by name.
pub(crate) const INFOS: &[Command] = &[
    command("chardev", &[], "", "show the character devices", &[], |x, _| info::chardev(x)),
    command("cpus", &[], "", "show the vCPUs and their threads", &[], |x, _| info::cpus(x)),
    command("history", &[], "", "show the lines entered so far", &[], |_, _| Ok(String::new())),
    command("hotpluggable-cpus", &[], "", "show the CPU slots", &[], |x, _| info::hotpluggable_cpus(x)),
    command("kvm", &[], "", "show whether KVM is in use", &[], |x, _| info::kvm(x)),
    command("memdev", &[], "", "show the memory backends", &[], |x, _| info::memdev(x)),
    command("memory-devices", &[], "", "show the memory devices", &[], |x, _| info::memory_devices(x)),
    command(
        "memory_size_summary",
        &[],
        "",
        "show how much memory there is at start, and how much is plugged beyond it",
        &[],
        |x, _| info::memory_size_summary(x),
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
        "show the memory tree (-f: flat views; -d: with -f, the dispatch tree; -o: owners; -D: disabled regions too)",
        &[],
        info::mtree,
    ),
    command("name", &[], "", "show the name of the virtual machine", &[], |x, _| info::name(x)),
    command("numa", &[], "", "show the NUMA nodes", &[], |x, _| info::human(x, "x-query-numa")),
    command("pci", &[], "", "show the PCI devices", &[], |x, _| super::pci::pci(x)),
    command(
        "qom-tree",
        &[("path", Kind::OptionalWord)],
        "[path]",
        "show the object tree",
        &[Source::Paths],
        objects::qom_tree,
    ),
    command(
        "qtree",
        &[("brief", Kind::Flag('b'))],
        "[-b]",
        "show the devices by bus (-b: without properties)",
        &[],
        info::qtree,
    ),
    command("ramblock", &[], "", "show the RAM blocks", &[], |x, _| info::human(x, "x-query-ramblock")),
    command("status", &[], "", "show whether the virtual machine runs", &[], |x, _| info::status(x)),
    command("uuid", &[], "", "show the UUID of the virtual machine", &[], |x, _| info::uuid(x)),
    command("version", &[], "", "show the version", &[], |x, _| info::version(x)),
    command("virtio", &[], "", "list the virtio devices", &[], |x, _| info::virtio(x)),
];

fn simple(x: &dyn Execute, name: &str) -> Result<String> {
    x.execute(name, Dict::new()).map(|_| String::new())
}

/// The command called `name`.
pub(crate) fn find(table: &'static [Command], name: &str) -> Option<&'static Command> {
    table.iter().find(|c| c.is(name))
}

/// What to print for `help [name [subcommand]]`.
fn help(name: Option<&str>, sub: Option<&str>) -> String {
    let all = |table: &[Command], prefix: &str| table.iter().map(|c| c.help_line(prefix)).collect();
    match (name, sub) {
        (None, _) => all(COMMANDS, ""),
        (Some("info"), None) => all(INFOS, "info "),
        (Some("info"), Some(sub)) => {
            find(INFOS, sub).map_or_else(|| unknown(&format!("info {sub}")), |c| c.help_line("info "))
        }
        (Some(name), _) => find(COMMANDS, name).map_or_else(|| unknown(name), |c| c.help_line("")),
    }
}

fn unknown(name: &str) -> String {
    format!("unknown command: '{name}'\n")
}

/// Runs one line and gives the text to print, lines ended by `\n`. `history` is for `info history`.
pub(crate) fn run_line(x: &dyn Execute, line: &str, history: &[String]) -> String {
    let line = line.trim_start();
    let (name, rest) = split_word(line);
    if name.is_empty() {
        return String::new();
    }
    if name == "info" {
        let (sub, rest) = split_word(rest.trim_start());
        return match (sub, find(INFOS, sub)) {
            ("", _) => help(Some("info"), None),
            ("history", _) if rest.trim().is_empty() => {
                history.iter().enumerate().map(|(i, l)| format!("{i}: '{l}'\n")).collect()
            }
            (_, None) => unknown(&format!("info {sub}")),
            (_, Some(command)) => run(x, command, sub, &format!("info {sub}"), rest),
        };
    }
    match find(COMMANDS, name) {
        Some(command) => run(x, command, name, name, rest),
        None => unknown(name),
    }
}

fn run(x: &dyn Execute, command: &Command, name: &str, help: &str, rest: &str) -> String {
    match args::parse(name, command.args, rest) {
        Ok(args) => (command.run)(x, &args).unwrap_or_else(|e| error_text(&e)),
        Err(message) => format!("{message}\nTry \"help {help}\" for more information\n"),
    }
}

fn split_word(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| c.is_whitespace()).unwrap_or(text.len());
    text.split_at(end)
}

//! The one table of console commands: names, arguments, help, completion and what each does.

use std::ops::Range;
use std::sync::LazyLock;

use qapi::Error;

use super::args::{self, Args, Env, Kind, Spec};
use super::complete::Source;
use super::lexis::{name, words};
use super::{
    Execute, Session, address, balloon, block, chardev, cpu, dirty, dump, error_text, fds, has_cpu, input,
    interrupts, logging, machine, memory, migration, net, objects, pci, registers, run_state, stats, virtio,
};

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
    run: fn(&dyn Execute, &Args) -> qapi::Result<String>,
}

pub(super) const fn command(
    names: &'static str,
    args: &'static [Spec],
    params: &'static str,
    help: &'static str,
    sources: &'static [Source],
    run: fn(&dyn Execute, &Args) -> qapi::Result<String>,
) -> Command {
    Command { names, args, params, help, sources, run }
}

impl Command {
    /// Names it can be called by.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.names.split('|')
    }

    /// How its arguments look in `help`.
    pub(super) fn params(&self) -> &'static str {
        self.params
    }

    fn is(&self, name: &str) -> bool {
        self.names().any(|n| n == name)
    }

    fn help_line(&self, prefix: &str) -> String {
        format!("{prefix}{} {} -- {}\n", self.names, self.params, self.help)
    }
}

/// Commands of this room, `cpu`, `help` and `info`; like `info history` they are run by [`run_line`] itself, for they need the tables or the session.
const OWN: &[Command] = &[
    command("cpu", &[("index", Kind::Number)], "index", "set the default CPU", &[], |_, _| Ok(String::new())),
    command(
        "help|?",
        &[("name", Kind::OptionalRest)],
        "[cmd]",
        "show the help",
        &[Source::Commands, Source::Infos],
        |x, a| match a.word("name").trim() {
            // What it takes is what it does.
            "log" => logging::log_help(x),
            name => help(name),
        },
    ),
    command(
        "info",
        &[("item", Kind::Rest)],
        "[subcommand]",
        "show various information about the system state",
        &[Source::Infos],
        |_, _| help("info"),
    ),
];

/// Its `info` sub-commands.
const OWN_INFOS: &[Command] =
    &[command("history", &[], "", "show the command line history", &[], |_, _| Ok(String::new()))];

/// Console commands by name: each room declares its own.
pub(crate) static COMMANDS: LazyLock<Table> = LazyLock::new(|| {
    table(&[
        OWN,
        address::COMMANDS,
        balloon::COMMANDS,
        chardev::COMMANDS,
        dirty::COMMANDS,
        dump::COMMANDS,
        fds::COMMANDS,
        input::COMMANDS,
        interrupts::COMMANDS,
        logging::COMMANDS,
        memory::COMMANDS,
        migration::COMMANDS,
        net::COMMANDS,
        objects::COMMANDS,
        run_state::COMMANDS,
    ])
});

/// `info` sub-commands by name.
pub(crate) static INFOS: LazyLock<Table> = LazyLock::new(|| {
    table(&[
        OWN_INFOS,
        address::INFOS,
        balloon::INFOS,
        block::INFOS,
        chardev::INFOS,
        cpu::INFOS,
        dirty::INFOS,
        dump::INFOS,
        input::INFOS,
        interrupts::INFOS,
        machine::INFOS,
        migration::INFOS,
        net::INFOS,
        objects::INFOS,
        pci::INFOS,
        registers::INFOS,
        run_state::INFOS,
        stats::INFOS,
        logging::INFOS,
        virtio::INFOS,
    ])
});

/// Commands by name.
pub(crate) type Table = Vec<&'static Command>;

fn table(rooms: &[&'static [Command]]) -> Table {
    let mut all: Table = rooms.iter().copied().flatten().collect();
    all.sort_by_key(|command| command.names);
    all
}

/// The command called `name`.
pub(crate) fn find(table: &[&'static Command], name: &str) -> Option<&'static Command> {
    table.iter().copied().find(|c| c.is(name))
}

/// What to print for `help [name [subcommand]]`; a broken quotation is an error.
fn help(text: &str) -> qapi::Result<String> {
    let all = |table: &Table, prefix: &str| table.iter().map(|c| c.help_line(prefix)).collect();
    let words = words(text).ok_or_else(|| Error::generic("unterminated string"))?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Ok(match words.as_slice() {
        [] => all(&COMMANDS, ""),
        ["info"] => all(&INFOS, "info "),
        ["info", sub, ..] => {
            find(&INFOS, sub).map_or_else(|| unknown(&format!("info {sub}")), |c| c.help_line("info "))
        }
        [name, ..] => find(&COMMANDS, name).map_or_else(|| unknown(name), |c| c.help_line("")),
    })
}

fn unknown(name: &str) -> String {
    format!("unknown command: '{name}'\n")
}

/// Runs one line and gives the text to print, lines ended by `\n`.
pub(crate) fn run_line(x: &dyn Execute, line: &str, session: &Session<'_>) -> String {
    let (Ok(text) | Err(text)) = answer(x, line, session);
    text
}

/// As [`run_line`], for whoever shows errors in another colour.
pub(crate) fn answer(x: &dyn Execute, line: &str, session: &Session<'_>) -> Result<String, String> {
    let name = command_name(line, 0);
    if name.end == 0 {
        return Ok(String::new());
    }
    let Some(command) = find(&COMMANDS, &line[name.clone()]) else { return Err(unknown(&line[name])) };
    let rest = &line[name.end..];
    if !command.is("info") {
        return run(x, command, &line[name.clone()], rest, session);
    }
    if rest.trim_start().is_empty() {
        return help("info").map_err(|e| error_text(&e));
    }
    // Complaints quote the line up to the name's end, blanks and all.
    let sub = command_name(line, name.end);
    match find(&INFOS, &line[sub.clone()]) {
        None => Err(unknown(&line[..sub.end])),
        Some(command) if command.is("history") && line[sub.end..].trim().is_empty() => {
            Ok(session.history.iter().enumerate().map(|(i, l)| format!("{i}: '{l}'\n")).collect())
        }
        Some(command) => run(x, command, &line[..sub.end], &line[sub.end..], session),
    }
}

/// Runs `command`, called by what is `typed`, with what follows on the line.
fn run(
    x: &dyn Execute,
    command: &Command,
    typed: &str,
    rest: &str,
    session: &Session<'_>,
) -> Result<String, String> {
    let cpu = chosen_cpu(x, session);
    let registers = |name: &str| memory::register(x, cpu, name);
    let env = Env { registers: &registers, format: session.format, cpu };
    match args::parse(command.names, command.args, rest, &env) {
        Ok(args) if command.is("cpu") => choose_cpu(x, &args, session).map_err(|e| error_text(&e)),
        Ok(args) => (command.run)(x, &args).map_err(|e| error_text(&e)),
        Err(message) => Err(format!("{message}Try \"help {typed}\" for more information\n")),
    }
}

/// The CPU that a line looks at. One that was chosen and is gone is so no more.
fn chosen_cpu(x: &dyn Execute, session: &Session<'_>) -> Option<i64> {
    let cpu = session.cpu.get()?;
    let is_gone = x.query("query-cpus-fast").is_ok_and(|cpus| !has_cpu(&cpus, cpu));
    if is_gone {
        session.cpu.set(None);
    }
    session.cpu.get()
}

/// Has later lines look at another CPU.
fn choose_cpu(x: &dyn Execute, args: &Args, session: &Session<'_>) -> qapi::Result<String> {
    let index = args.number("index");
    let cpus = x.query("query-cpus-fast")?;
    if !index.is_some_and(|index| has_cpu(&cpus, index)) {
        return Ok("invalid CPU index\n".to_owned());
    }
    session.cpu.set(index);
    Ok(String::new())
}

/// The name in `line` at `from`, behind blanks; nowhere if nothing else is there.
fn command_name(line: &str, from: usize) -> Range<usize> {
    let text = line[from..].trim_start();
    let start = line.len() - text.len();
    // What begins with the slash of a format has no name, which is a name that nothing is called by.
    let length = name(text).map_or(0, |(_, name)| name.len());
    if text.is_empty() { 0..0 } else { start..start + length }
}

//! What Tab offers: commands, sub-commands, paths, properties and their values, ids, types, names of files.

mod files;
mod options;

use qapi::{Dict, Value};

use super::args::Kind;
use super::command::{COMMANDS, Command, INFOS, Table, find};
use super::objects::names;
use super::{Execute, items, logging, migration, text};

/// Where the candidates of an argument come from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source {
    /// Nowhere: an address, a number.
    Nothing,
    /// Console commands.
    Commands,
    /// `info` sub-commands.
    Infos,
    /// Object paths, component by component; ids of devices and objects as partial paths.
    Paths,
    /// Properties of the object named by the word before.
    Properties,
    /// Values of the property named by the word before, of the object named by the one before that.
    Values,
    /// Device types; behind one, properties to give it and their values.
    Drivers,
    /// Ids of devices.
    Devices,
    /// User-creatable types; behind one, properties to give it and their values.
    ObjectTypes,
    /// Ids of user-created objects.
    Objects,
    /// Ids of character devices.
    Chardevs,
    /// Migration capabilities.
    MigrationCapabilities,
    /// Migration parameters.
    MigrationParameters,
    /// Kinds of character devices.
    ChardevKinds,
    /// What the log can have.
    LogItems,
    /// These words.
    Names(&'static [&'static str]),
    /// The words that this function finds.
    Found(fn(&dyn Execute) -> Vec<String>),
    /// Files of the host.
    Files,
}

/// What may stand in the place of the last word of a line, or of the end of that word.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Candidates {
    /// The words.
    pub(crate) found: Vec<String>,
    /// Bytes of them that are typed already.
    pub(crate) typed: usize,
    /// Whether the word may go on behind a candidate.
    pub(crate) goes_on: bool,
}

impl Candidates {
    /// Those of `found` that begin with `typed`.
    fn new(found: impl IntoIterator<Item = String>, typed: &str) -> Self {
        let found = found.into_iter().filter(|c| c.starts_with(typed)).collect();
        Self { found, typed: typed.len(), goes_on: false }
    }
}

/// An argument that is being written: what is typed of it, and the words before it, flags apart.
#[derive(Clone, Copy)]
struct Place<'a> {
    typed: &'a str,
    before: &'a [&'a str],
    flags: &'a [&'a str],
}

/// Candidates for the last word of `line`.
pub(crate) fn candidates(x: &dyn Execute, line: &str) -> Candidates {
    let mut words: Vec<&str> = line.split_ascii_whitespace().collect();
    if line.is_empty() || line.ends_with([' ', '\t']) {
        words.push("");
    }
    let typed = words.pop().unwrap_or("");
    let place = Place { typed, before: &[], flags: &[] };
    match words.as_slice() {
        [] => offer(x, Source::Commands, place),
        ["info", rest @ ..] => match rest {
            [] => offer(x, Source::Infos, place),
            [name, args @ ..] => find(&INFOS, name).map(|c| argument(x, c, args, typed)).unwrap_or_default(),
        },
        ["help" | "?", "info"] => offer(x, Source::Infos, place),
        ["help" | "?"] => offer(x, Source::Commands, place),
        [name, args @ ..] => find(&COMMANDS, name).map(|c| argument(x, c, args, typed)).unwrap_or_default(),
    }
}

/// Candidates for the argument that follows `before`.
fn argument(x: &dyn Execute, command: &Command, before: &[&str], typed: &str) -> Candidates {
    let (flags, words): (Vec<&str>, Vec<&str>) = before.iter().partition(|w| w.starts_with('-'));
    let takes = command.args.iter().filter(|(_, k)| !matches!(k, Kind::Flag(_))).count();
    match command.sources.get(words.len()) {
        Some(source) if words.len() < takes => {
            offer(x, *source, Place { typed, before: &words, flags: &flags })
        }
        _ => Candidates::default(),
    }
}

fn offer(x: &dyn Execute, source: Source, place: Place<'_>) -> Candidates {
    let Place { typed, before, flags } = place;
    let table = |t: &Table| t.iter().flat_map(|c| c.names()).map(str::to_owned).collect();
    let last = before.last().copied().unwrap_or("");
    let found: Vec<String> = match source {
        Source::Nothing => Vec::new(),
        Source::Commands => table(&COMMANDS),
        Source::Infos => table(&INFOS),
        Source::Paths => paths(x, typed),
        Source::Properties => list(x, last),
        Source::Values => {
            let path = before.iter().rev().nth(1).copied().unwrap_or("");
            let values = options::values_of(x, path, last, flags.contains(&"-j"));
            // The rest of the line is the value, a blank at its end included.
            return Candidates { goes_on: true, ..Candidates::new(values, typed) };
        }
        Source::Drivers => return options::list(x, &options::DEVICE, typed),
        Source::ObjectTypes => return options::list(x, &options::OBJECT, typed),
        Source::Devices => children(x, "/machine/peripheral"),
        Source::Objects => children(x, "/objects"),
        Source::ChardevKinds => {
            let reply = x.query("query-chardev-backends").unwrap_or(Value::Null);
            items(&reply).iter().map(|c| text(c, "name").to_owned()).collect()
        }
        Source::LogItems => {
            // Another item may follow a comma.
            let items = logging::log_candidates(x, typed);
            return Candidates { goes_on: true, ..Candidates::new(items, typed) };
        }
        Source::MigrationCapabilities => migration::capability_names(x),
        Source::MigrationParameters => migration::parameter_names(x),
        Source::Chardevs => chardevs(x),
        Source::Names(names) => names.iter().map(|n| (*n).to_owned()).collect(),
        Source::Found(find) => find(x),
        Source::Files => files::list(typed),
    };
    Candidates::new(found, typed)
}

fn list(x: &dyn Execute, path: &str) -> Vec<String> {
    let reply = x.execute("qom-list", Dict::new().with("path", path)).unwrap_or(Value::Null);
    names(&reply).map(str::to_owned).collect()
}

/// Children of an object: names and classes.
fn classed_children(x: &dyn Execute, path: &str) -> Vec<(String, String)> {
    let reply = x.execute("qom-list", Dict::new().with("path", path)).unwrap_or(Value::Null);
    let child = |p: &Value| {
        let class = text(p, "type").strip_prefix("child<")?.strip_suffix('>')?;
        Some((text(p, "name").to_owned(), class.to_owned()))
    };
    items(&reply).iter().filter_map(child).collect()
}

fn children(x: &dyn Execute, path: &str) -> Vec<String> {
    classed_children(x, path).into_iter().map(|(name, _)| name).collect()
}

fn types(x: &dyn Execute, implements: &str) -> Vec<String> {
    let arguments = Dict::new().with("implements", implements).with("abstract", false);
    let reply = x.execute("qom-list-types", arguments).unwrap_or(Value::Null);
    names(&reply).map(str::to_owned).collect()
}

fn chardevs(x: &dyn Execute) -> Vec<String> {
    let reply = x.query("query-chardev").unwrap_or(Value::Null);
    items(&reply).iter().map(|c| text(c, "label").to_owned()).collect()
}

/// An absolute path grows by one component; a bare word may be an id.
fn paths(x: &dyn Execute, typed: &str) -> Vec<String> {
    let Some(slash) = typed.rfind('/') else {
        let mut ids = children(x, "/machine/peripheral");
        ids.extend(children(x, "/objects"));
        if typed.is_empty() {
            ids.push("/".to_owned());
        }
        return ids;
    };
    let parent = if slash == 0 { "/" } else { &typed[..slash] };
    let prefix = &typed[..=slash];
    children(x, parent)
        .into_iter()
        .map(|child| {
            let path = format!("{prefix}{child}");
            // A trailing slash keeps the cursor behind it, ready for the next component.
            if children(x, &path).is_empty() { path } else { path + "/" }
        })
        .collect()
}

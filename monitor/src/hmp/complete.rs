//! What Tab offers: commands, sub-commands, paths, properties, ids and types.

use qapi::{Dict, Value};

use super::args::Kind;
use super::command::{COMMANDS, Command, INFOS, Table, find};
use super::objects::names;
use super::{Execute, items, migration, text};

/// Where the candidates of an argument come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Console commands.
    Commands,
    /// `info` sub-commands.
    Infos,
    /// Object paths, component by component; ids of devices and objects as partial paths.
    Paths,
    /// Properties of the object named by the word before.
    Properties,
    /// Device types.
    Drivers,
    /// Ids of devices.
    Devices,
    /// User-creatable types.
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
    /// These words.
    Names(&'static [&'static str]),
}

/// Candidates for the last word of `line`, and how many bytes of it are typed.
pub(crate) fn candidates(x: &dyn Execute, line: &str) -> (Vec<String>, usize) {
    let mut words: Vec<&str> = line.split_ascii_whitespace().collect();
    if line.is_empty() || line.ends_with([' ', '\t']) {
        words.push("");
    }
    let typed = words.pop().unwrap_or("");
    let found = match words.as_slice() {
        [] => offer(x, Source::Commands, typed, ""),
        ["info", rest @ ..] => match rest {
            [] => offer(x, Source::Infos, typed, ""),
            [name, args @ ..] => find(&INFOS, name).map(|c| argument(x, c, args, typed)).unwrap_or_default(),
        },
        ["help" | "?", "info"] => offer(x, Source::Infos, typed, ""),
        ["help" | "?"] => offer(x, Source::Commands, typed, ""),
        [name, args @ ..] => find(&COMMANDS, name).map(|c| argument(x, c, args, typed)).unwrap_or_default(),
    };
    let matching = found.into_iter().filter(|c| c.starts_with(typed)).collect();
    (matching, typed.len())
}

/// Candidates for the argument that follows `before`.
fn argument(x: &dyn Execute, command: &Command, before: &[&str], typed: &str) -> Vec<String> {
    let words: Vec<&&str> = before.iter().filter(|w| !w.starts_with('-')).collect();
    let takes = command.args.iter().filter(|(_, k)| !matches!(k, Kind::Flag(_))).count();
    match command.sources.get(words.len()) {
        Some(source) if words.len() < takes => offer(x, *source, typed, words.last().map_or("", |w| **w)),
        _ => Vec::new(),
    }
}

fn offer(x: &dyn Execute, source: Source, typed: &str, before: &str) -> Vec<String> {
    let table = |t: &Table| t.iter().flat_map(|c| c.names()).map(str::to_owned).collect();
    match source {
        Source::Commands => table(&COMMANDS),
        Source::Infos => table(&INFOS),
        Source::Paths => paths(x, typed),
        Source::Properties => list(x, before),
        Source::Drivers => types(x, "device"),
        Source::ObjectTypes => types(x, "user-creatable"),
        Source::Devices => children(x, "/machine/peripheral"),
        Source::Objects => children(x, "/objects"),
        Source::ChardevKinds => {
            let reply = x.query("query-chardev-backends").unwrap_or(Value::Null);
            items(&reply).iter().map(|c| text(c, "name").to_owned()).collect()
        }
        Source::Chardevs => {
            let reply = x.query("query-chardev").unwrap_or(Value::Null);
            items(&reply).iter().map(|c| text(c, "label").to_owned()).collect()
        }
        Source::MigrationCapabilities => migration::capability_names(x),
        Source::MigrationParameters => migration::parameter_names(x),
        Source::Names(names) => names.iter().map(|n| (*n).to_owned()).collect(),
    }
}

fn list(x: &dyn Execute, path: &str) -> Vec<String> {
    let reply = x.execute("qom-list", Dict::new().with("path", path)).unwrap_or(Value::Null);
    names(&reply).map(str::to_owned).collect()
}

fn children(x: &dyn Execute, path: &str) -> Vec<String> {
    let reply = x.execute("qom-list", Dict::new().with("path", path)).unwrap_or(Value::Null);
    let child = |p: &&Value| text(p, "type").starts_with("child<");
    items(&reply).iter().filter(child).map(|p| text(p, "name").to_owned()).collect()
}

fn types(x: &dyn Execute, implements: &str) -> Vec<String> {
    let arguments = Dict::new().with("implements", implements).with("abstract", false);
    let reply = x.execute("qom-list-types", arguments).unwrap_or(Value::Null);
    names(&reply).map(str::to_owned).collect()
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

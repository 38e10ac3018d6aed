//! Commands on objects, devices and character devices.

use qapi::{Dict, Result, Value, json};

use super::args::{Args, Kind};
use super::command::{Command, command};
use super::complete::Source;
use super::{Execute, items, pretty, text};

/// Commands of this room.
pub(super) const COMMANDS: &[Command] = &[
    command(
        "device_add",
        &[("device", Kind::Options)],
        "driver[,prop=value][,...]",
        "add device, like -device on the command line",
        &[Source::Drivers],
        device_add,
    ),
    command("device_del", &[("id", Kind::Word)], "device", "remove device", &[Source::Devices], device_del),
    command(
        "object_add",
        &[("object", Kind::Rest)],
        "[qom-type=]type,id=str[,prop=value][,...]",
        "create QOM object",
        &[Source::ObjectTypes],
        object_add,
    ),
    command("object_del", &[("id", Kind::Word)], "id", "destroy QOM object", &[Source::Objects], object_del),
    command(
        "qom-get",
        &[("path", Kind::Word), ("property", Kind::Word)],
        "path property",
        "print QOM property",
        &[Source::Paths, Source::Properties],
        qom_get,
    ),
    command(
        "qom-list",
        &[("path", Kind::OptionalWord)],
        "path",
        "list QOM properties",
        &[Source::Paths],
        qom_list,
    ),
    command(
        "qom-set",
        &[("json", Kind::Flag('j')), ("path", Kind::Word), ("property", Kind::Word), ("value", Kind::Rest)],
        "[-j] path property value",
        "set QOM property.\n\t\t\t-j: the value is specified in json format.",
        &[Source::Paths, Source::Properties, Source::Values],
        qom_set,
    ),
];

/// Its `info` sub-commands.
pub(super) const INFOS: &[Command] = &[command(
    "qom-tree",
    &[("path", Kind::OptionalWord)],
    "[path]",
    "show QOM composition tree",
    &[Source::Paths],
    qom_tree,
)];

pub(super) fn qom_get(x: &dyn Execute, args: &Args) -> Result<String> {
    let arguments = Dict::new().with("path", args.word("path")).with("property", args.word("property"));
    Ok(pretty(&x.execute("qom-get", arguments)?))
}

pub(super) fn qom_set(x: &dyn Execute, args: &Args) -> Result<String> {
    let arguments = Dict::new().with("path", args.word("path")).with("property", args.word("property"));
    if args.flag("json") {
        let value = json::parse(args.word("value"))?;
        x.execute("qom-set", arguments.with("value", value))?;
    } else {
        // Text is the dialect of people: sizes with a suffix, on and off.
        x.execute("x-pliant-qom-set-text", arguments.with("value", args.word("value")))?;
    }
    Ok(String::new())
}

pub(super) fn qom_list(x: &dyn Execute, args: &Args) -> Result<String> {
    let Some(path) = args.optional("path") else { return Ok("/\n".to_owned()) };
    let reply = x.execute("qom-list", Dict::new().with("path", path))?;
    Ok(items(&reply).iter().map(|p| format!("{} ({})\n", text(p, "name"), text(p, "type"))).collect())
}

pub(super) fn qom_tree(x: &dyn Execute, args: &Args) -> Result<String> {
    let path = args.optional("path").unwrap_or("/machine");
    let class = x.execute("qom-get", Dict::new().with("path", path).with("property", "type"));
    let Ok(class) = class else { return Ok(format!("Path '{path}' could not be resolved.\n")) };
    let mut out = String::new();
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or("");
    // A partial path shows the object it resolved to; its name is the last component all the same.
    tree(x, path, name, class.as_str().unwrap_or(""), 0, &mut out);
    Ok(out)
}

/// Prints an object and what is below it. The depth is bounded by the tree's own, which devices make.
fn tree(x: &dyn Execute, path: &str, name: &str, class: &str, depth: usize, out: &mut String) {
    out.push_str(&format!("{:1$}/{name} ({class})\n", "", depth * 2));
    let Ok(reply) = x.execute("qom-list", Dict::new().with("path", path)) else { return };
    let mut children: Vec<(&str, &str)> = items(&reply)
        .iter()
        .filter_map(|p| Some((text(p, "name"), text(p, "type").strip_prefix("child<")?.strip_suffix('>')?)))
        .collect();
    children.sort_unstable();
    for (child, class) in children {
        tree(x, &format!("{}/{child}", path.trim_end_matches('/')), child, class, depth + 1, out);
    }
}

pub(super) fn object_add(x: &dyn Execute, args: &Args) -> Result<String> {
    let reply = x.execute("x-pliant-object-add-text", Dict::new().with("options", args.word("object")))?;
    Ok(text(&reply, "human-readable-text").to_owned())
}

pub(super) fn object_del(x: &dyn Execute, args: &Args) -> Result<String> {
    x.execute("object-del", Dict::new().with("id", args.word("id")))?;
    Ok(String::new())
}

pub(super) fn device_add(x: &dyn Execute, args: &Args) -> Result<String> {
    let reply = x.execute("x-pliant-device-add-text", Dict::new().with("options", args.word("device")))?;
    Ok(text(&reply, "human-readable-text").to_owned())
}

pub(super) fn device_del(x: &dyn Execute, args: &Args) -> Result<String> {
    x.execute("device_del", Dict::new().with("id", args.word("id")))?;
    Ok(String::new())
}

/// Names of a list reply's `name` members.
pub(super) fn names(reply: &Value) -> impl Iterator<Item = &str> {
    items(reply).iter().map(|i| text(i, "name"))
}

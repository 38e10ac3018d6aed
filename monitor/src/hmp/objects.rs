//! Commands on objects, devices and character devices.

use qapi::{Dict, Result, Value, json};

use super::args::Args;
use super::{Execute, items, pretty, text};

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

pub(super) fn ringbuf_read(x: &dyn Execute, args: &Args) -> Result<String> {
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

pub(super) fn ringbuf_write(x: &dyn Execute, args: &Args) -> Result<String> {
    let arguments = Dict::new().with("device", args.word("device")).with("data", args.word("data"));
    x.execute("ringbuf-write", arguments)?;
    Ok(String::new())
}

/// Names of a list reply's `name` members.
pub(super) fn names(reply: &Value) -> impl Iterator<Item = &str> {
    items(reply).iter().map(|i| text(i, "name"))
}

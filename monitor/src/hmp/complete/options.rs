//! `TYPE,property=value,…`: types, the properties that one can be given, and values.

use qapi::{Dict, Value};

use super::{Candidates, chardevs, classed_children, types};
use crate::hmp::{Execute, items, text};

/// A kind of such lists.
pub(super) struct Kind {
    /// What the first part may be called.
    type_key: &'static str,
    /// Class of the types.
    implements: &'static str,
    /// The command that lists properties.
    properties: &'static str,
    /// Keys that are no properties.
    keys: &'static [&'static str],
}

/// Behind `device_add`.
pub(super) const DEVICE: Kind = Kind {
    type_key: "driver=",
    implements: "device",
    properties: "device-list-properties",
    keys: &["id", "bus"],
};

/// Behind `object_add`.
pub(super) const OBJECT: Kind = Kind {
    type_key: "qom-type=",
    implements: "user-creatable",
    properties: "qom-list-properties",
    keys: &["id"],
};

/// Candidates for the last part of a list.
pub(super) fn list(x: &dyn Execute, kind: &Kind, typed: &str) -> Candidates {
    let parts: Vec<&str> = typed.split(',').collect();
    let Some((part, before)) = parts.split_last() else { return Candidates::default() };
    let Some(first) = before.first() else { return Candidates::new(types(x, kind.implements), typed) };
    let class = first.strip_prefix(kind.type_key).unwrap_or(first);
    let reply = x.execute(kind.properties, Dict::new().with("typename", class));
    let Ok(properties) = reply else { return Candidates::default() };
    let found = match part.split_once('=') {
        Some((key, value)) => {
            let property = items(&properties).iter().find(|p| text(p, "name") == key);
            let values = property.map(|p| values(x, class, key, text(p, "type"), false)).unwrap_or_default();
            Candidates::new(values, value)
        }
        None => {
            let given = |name: &&str| before.iter().any(|part| part.split('=').next() == Some(name));
            let own = items(&properties).iter().map(|p| text(p, "name")).filter(|name| *name != "type");
            let keys = own.chain(kind.keys.iter().copied()).filter(|name| !given(name));
            // What is for developers is shown to whoever asks for it, as hidden files are.
            let keys = keys.filter(|name| !name.starts_with("x-") || part.starts_with('x'));
            Candidates::new(keys.map(|name| format!("{name}=")), part)
        }
    };
    Candidates { goes_on: true, ..found }
}

/// Values that a property of an object may be set to.
pub(super) fn values_of(x: &dyn Execute, path: &str, property: &str, is_json: bool) -> Vec<String> {
    let arguments = || Dict::new().with("path", path);
    let reply = x.execute("qom-list", arguments()).unwrap_or(Value::Null);
    let Some(found) = items(&reply).iter().find(|p| text(p, "name") == property) else { return Vec::new() };
    let class = x.execute("qom-get", arguments().with("property", "type")).unwrap_or(Value::Null);
    values(x, class.as_str().unwrap_or(""), property, text(found, "type"), is_json)
}

/// Values of a property, by its type.
fn values(x: &dyn Execute, class: &str, property: &str, kind: &str, is_json: bool) -> Vec<String> {
    let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect();
    let found: Vec<String> = if kind == "bool" {
        return if is_json { words(&["true", "false"]) } else { words(&["on", "off"]) };
    } else if let Some(target) = kind.strip_prefix("link<").and_then(|k| k.strip_suffix('>')) {
        let fitting = types(x, target);
        let objects = classed_children(x, "/objects").into_iter();
        objects.filter(|(_, class)| fitting.contains(class)).map(|(name, _)| name).collect()
    } else if property == "chardev" {
        chardevs(x)
    } else {
        let arguments = Dict::new().with("typename", class).with("property", property);
        let reply = x.execute("x-pliant-list-property-values", arguments).unwrap_or(Value::Null);
        items(&reply).iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    if is_json { found.into_iter().map(|value| format!("\"{value}\"")).collect() } else { found }
}

//! What `help` in an option list prints: the classes a user can make, and the properties of one.
//!
//! Layout and words are QEMU's; the descriptions are the properties' own.

use std::fmt::Write;

use qapi::{Error, Result, Value};

use crate::{Class, Property, Registry};

/// `-object help`: all user-creatable classes. `-object TYPE,help`: the options of one.
///
/// # Errors
/// `Parameter 'qom-type' does not accept value 'TYPE'`.
pub fn object_help(registry: &Registry, kind: Option<&str>) -> Result<String> {
    let Some(kind) = kind else { return Ok(object_list(registry)) };
    let class = registry
        .lookup(kind)
        .ok_or_else(|| Error::generic(format!("Parameter 'qom-type' does not accept value '{kind}'")))?;
    Ok(property_list(kind, writable(class), false))
}

/// The properties of a class that can be set.
pub fn writable(class: &Class) -> impl Iterator<Item = &Property> {
    class.properties().into_iter().filter(|p| p.is_writable())
}

fn creatable(class: &Class) -> bool {
    class.is_a("user-creatable") && !class.is_abstract()
}

/// The list of user-creatable classes.
pub fn object_list(registry: &Registry) -> String {
    let mut out = "List of user creatable objects:\n".to_owned();
    for class in registry.iter().filter(|c| creatable(c)) {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(out, "  {}", class.name());
    }
    out
}

/// Some properties by name, under the heading `OF options:`.
pub fn property_list<'p>(of: &str, list: impl IntoIterator<Item = &'p Property>, defaults: bool) -> String {
    let mut rows: Vec<String> = list.into_iter().map(|p| property_row(p, defaults)).collect();
    // The rows are sorted, not the names: `a-b=` comes before `a=`.
    rows.sort();
    let mut out = format!("{of} options:\n");
    if rows.is_empty() {
        return format!("There are no options for {of}.\n");
    }
    for row in rows {
        let _ = writeln!(out, "{row}");
    }
    out
}

fn property_row(p: &Property, defaults: bool) -> String {
    let head = format!("  {}", format_args!("{}=<{}>", p.name(), p.type_name()));
    let default = p.default_value().filter(|_| defaults).map(|v| format!(" (default: {})", default_text(v)));
    if p.help().is_none() && default.is_none() {
        return head;
    }
    format!("{head:<24} - {}{}", p.help().unwrap_or(""), default.unwrap_or_default())
}

fn default_text(value: &Value) -> String {
    match value {
        Value::Bool(on) => if *on { "on" } else { "off" }.to_owned(),
        Value::String(text) => text.clone(),
        other => qapi::json::to_string(other),
    }
}

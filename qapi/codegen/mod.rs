//! Schema to Rust: the types, the events, one trait a module, the dispatcher. Runs in the build script only.
//!
//! The output is meant for the compiler; `cargo doc` shows it readably.

mod commands;
mod echo;
mod types;
mod unions;

use super::schema::{Kind, Member, Schema, TypeRef};

/// The whole generated text.
pub(crate) fn generate(schema: &Schema) -> String {
    let mut out = data(schema);
    commands::generate(schema, &mut out);
    out
}

pub(crate) use echo::echo;

/// Types and events only.
pub(crate) fn data(schema: &Schema) -> String {
    let mut out = String::new();
    types::generate(schema, &mut out);
    commands::events(schema, &mut out);
    out
}

/// Words of a name, split at `-` and `_`.
fn words(name: &str) -> impl Iterator<Item = &str> {
    name.split(['-', '_']).filter(|w| !w.is_empty())
}

/// `query-status` as `QueryStatus`; digits next to each other stay apart (`x86_64` as `X86_64`).
fn camel(name: &str) -> String {
    let mut out = String::new();
    for word in words(name) {
        let first = word.chars().next().unwrap_or_default();
        if first.is_ascii_digit() && out.ends_with(|c: char| c.is_ascii_digit()) {
            out.push('_');
        }
        out.push(first.to_ascii_uppercase());
        let rest = &word[first.len_utf8()..];
        // SHOUTED event names become words; names with capitals of their own keep them.
        if name.chars().any(|c| c.is_ascii_lowercase()) {
            out.push_str(rest);
        } else {
            out.push_str(&rest.to_ascii_lowercase());
        }
    }
    if out.starts_with(|c: char| c.is_ascii_digit()) {
        out.insert(0, 'N');
    }
    out
}

/// Names that Rust keeps for itself.
const KEYWORDS: &[&str] = &[
    "abstract", "enum", "if", "in", "match", "mod", "move", "priv", "ref", "static", "struct", "type",
    "virtual",
];

/// `query-status` as `query_status`; keywords get an underscore.
fn snake(name: &str) -> String {
    let mut out = words(name).map(str::to_ascii_lowercase).collect::<Vec<_>>().join("_");
    if KEYWORDS.contains(&out.as_str()) {
        out.push('_');
    }
    out
}

/// The Rust type of a reference; `module` is the path to the generated types, `super::types::` outside of them.
fn rust_type(ty: &TypeRef, module: &str) -> String {
    let name = match ty.name.as_str() {
        "str" => "String".to_owned(),
        "number" => "f64".to_owned(),
        "int" | "int64" => "i64".to_owned(),
        "int8" | "int16" | "int32" => ty.name.replacen("int", "i", 1),
        "uint8" | "uint16" | "uint32" | "uint64" => ty.name.replacen("uint", "u", 1),
        "size" => "u64".to_owned(),
        "bool" => "bool".to_owned(),
        "null" => "()".to_owned(),
        "any" => "crate::Value".to_owned(),
        defined => format!("{module}{defined}"),
    };
    if ty.array { format!("Vec<{name}>") } else { name }
}

/// The Rust type of a member or argument.
fn member_type(member: &Member, module: &str) -> String {
    let name = rust_type(&member.ty, module);
    if member.optional { format!("Option<{name}>") } else { name }
}

/// A documentation comment; `text` may have several paragraphs.
fn doc(out: &mut String, indent: &str, text: &str) {
    for line in text.lines() {
        let blank = if line.is_empty() { "" } else { " " };
        out.push_str(&format!("{indent}///{blank}{line}\n"));
    }
}

/// Whether a type can have a default value: everything absent, empty, zero or false.
fn has_default(schema: &Schema, ty: &TypeRef) -> bool {
    if ty.array || ty.name == "any" {
        return ty.array;
    }
    match schema.find(&ty.name).map(|t| &t.kind) {
        None => true,
        Some(Kind::Struct { .. }) => all_default(schema, &ty.name),
        Some(_) => false,
    }
}

/// Whether all members of a structure have a default value.
fn all_default(schema: &Schema, name: &str) -> bool {
    schema.members(name).iter().all(|m| m.optional || has_default(schema, &m.ty))
}

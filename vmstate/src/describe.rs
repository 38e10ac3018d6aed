//! The description of saved bytes that follows a stream, for programs that take it apart.

use std::fmt::Write as _;

/// One entry: a value, an array of values, a struct, or a (sub)section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described(String);

impl Described {
    pub(crate) fn scalar(name: &str, kind: &str, size: usize, count: Option<usize>) -> Self {
        let len = count.map_or_else(String::new, |n| format!(",\"array_len\":{n}"));
        Self(format!("{{\"name\":{},\"type\":\"{kind}\",\"size\":{size}{len}}}", quoted(name)))
    }

    pub(crate) fn structure(
        name: &str,
        (state, version): (&str, u32),
        index: Option<usize>,
        size: usize,
        fields: Vec<Self>,
        subsections: Vec<Self>,
    ) -> Self {
        let index = index.map_or_else(String::new, |i| format!(",\"index\":{i}"));
        let mut text = format!("{{\"name\":{}{index},\"type\":\"struct\",\"struct\":", quoted(name));
        text.push_str(&Self::section((state, version), fields, subsections).0);
        let _ = write!(text, ",\"size\":{size}}}");
        Self(text)
    }

    pub(crate) fn section((name, version): (&str, u32), fields: Vec<Self>, subsections: Vec<Self>) -> Self {
        Self(format!(
            "{{\"vmsd_name\":{},\"version\":{version},{}}}",
            quoted(name),
            members(&fields, &subsections)
        ))
    }

    /// A section of a stream.
    pub fn device(
        (id, instance): (&str, u32),
        (name, version): (&str, u32),
        fields: &[Self],
        subsections: &[Self],
    ) -> Self {
        Self(format!(
            "{{\"name\":{},\"instance_id\":{instance},\"vmsd_name\":{},\"version\":{version},{}}}",
            quoted(id),
            quoted(name),
            members(fields, subsections)
        ))
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn members(fields: &[Described], subsections: &[Described]) -> String {
    let subsections = match subsections {
        [] => String::new(),
        some => format!(",\"subsections\":[{}]", list(some)),
    };
    format!("\"fields\":[{}]{subsections}", list(fields))
}

fn list(entries: &[Described]) -> String {
    entries.iter().map(Described::as_str).collect::<Vec<_>>().join(",")
}

/// A JSON string. Names may hold what a user wrote, an `id` for one.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

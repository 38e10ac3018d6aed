//! The description of saved bytes that follows a stream, for programs that take it apart.
//!
//! While devices are saved nobody's guest runs, so that what they wrote is only noted then; texts are made of it later.

use std::fmt::Write as _;

/// What a section of a stream consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    id: String,
    instance: u32,
    section: Part,
}

impl Described {
    /// What was saved for a device of this path, as a state of this name and version.
    pub fn device(id: (&str, u32), name: (&'static str, u32), layout: Layout) -> Self {
        Self { id: id.0.to_owned(), instance: id.1, section: Part { state: name, layout } }
    }
}

/// The JSON text.
impl std::fmt::Display for Described {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { id, instance, section: Part { state: (name, version), layout } } = self;
        write!(out, "{{\"name\":{},\"instance_id\":{instance},\"vmsd_name\":{}", quoted(id), quoted(name))?;
        write!(out, ",\"version\":{version},{layout}}}")
    }
}

/// The fields and subsections of a struct.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    pub(crate) fields: Vec<Entry>,
    pub(crate) subsections: Vec<Part>,
}

/// A struct or a subsection, by its name and version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) state: (&'static str, u32),
    pub(crate) layout: Layout,
}

/// A field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    /// Bytes of it, or of each if there are several.
    pub(crate) size: usize,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A value, or an array of so many.
    Scalar(&'static str, Option<usize>),
    /// A struct, and which of several it is.
    Struct(Option<usize>, Part),
}

impl std::fmt::Display for Layout {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        list(out, "\"fields\":[", &self.fields)?;
        if self.subsections.is_empty() { Ok(()) } else { list(out, ",\"subsections\":[", &self.subsections) }
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { state: (name, version), layout } = self;
        write!(out, "{{\"vmsd_name\":{},\"version\":{version},{layout}}}", quoted(name))
    }
}

impl std::fmt::Display for Entry {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, size, kind } = self;
        write!(out, "{{\"name\":{}", quoted(name))?;
        match kind {
            Kind::Scalar(kind, None) => write!(out, ",\"type\":\"{kind}\",\"size\":{size}}}"),
            Kind::Scalar(kind, Some(count)) => {
                write!(out, ",\"type\":\"{kind}\",\"size\":{size},\"array_len\":{count}}}")
            }
            Kind::Struct(index, part) => {
                if let Some(index) = index {
                    write!(out, ",\"index\":{index}")?;
                }
                write!(out, ",\"type\":\"struct\",\"struct\":{part},\"size\":{size}}}")
            }
        }
    }
}

fn list<T: std::fmt::Display>(
    out: &mut std::fmt::Formatter<'_>,
    open: &str,
    entries: &[T],
) -> std::fmt::Result {
    out.write_str(open)?;
    for (at, entry) in entries.iter().enumerate() {
        write!(out, "{}{entry}", if at > 0 { "," } else { "" })?;
    }
    out.write_char(']')
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

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
        write!(out, "{{\"name\":{},\"instance_id\":{instance},\"vmsd_name\":{}", Quoted(id), Quoted(name))?;
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
    Struct(Option<usize>, Box<Part>),
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
        write!(out, "{{\"vmsd_name\":{},\"version\":{version},{layout}}}", Quoted(name))
    }
}

impl std::fmt::Display for Entry {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, size, kind } = self;
        write!(out, "{{\"name\":{}", Quoted(name))?;
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
        if at > 0 {
            out.write_char(',')?;
        }
        std::fmt::Display::fmt(entry, out)?;
    }
    out.write_char(']')
}

/// A JSON string. Names may hold what a user wrote, an `id` for one.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl std::fmt::Display for Quoted<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_char('"')?;
        let mut rest = self.0;
        // Bytes, since all that are looked for are one byte long.
        while let Some(at) = rest.bytes().position(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
            let (plain, special) = rest.split_at(at);
            out.write_str(plain)?;
            match special.as_bytes()[0] {
                control @ ..b' ' => write!(out, "\\u{control:04x}")?,
                escaped => write!(out, "\\{}", char::from(escaped))?,
            }
            rest = &special[1..];
        }
        out.write_str(rest)?;
        out.write_char('"')
    }
}

//! What is declared, without values: the contract with earlier and later versions of this program.

use std::fmt::Write as _;

use crate::describe::Quoted;

/// A declared state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateShape {
    /// Its name.
    pub name: &'static str,
    /// The version that is saved.
    pub version: u32,
    /// The oldest that can be loaded.
    pub oldest: u32,
    /// In order of the stream.
    pub fields: Vec<FieldShape>,
    /// Those that there may be, in order.
    pub subsections: Vec<StateShape>,
}

/// A field of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldShape {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub shape: Shape,
    /// The version that brought it.
    pub since: u32,
}

/// What a field is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// A number or a `bool`: kind and bytes.
    Scalar(&'static str, usize),
    /// So many of one kind.
    Array(Box<Shape>, usize),
    /// As many of one kind as the stream says.
    List(Box<Shape>),
    /// One or none, which the stream says.
    Optional(Box<Shape>),
    /// A struct.
    Struct(StateShape),
}

impl StateShape {
    /// JSON text, indented by `depth` steps, that a line-by-line comparison finds its way in.
    pub fn to_json(&self, depth: usize) -> String {
        let pad = "  ".repeat(depth);
        let mut out = format!(
            "{{\n{pad}  \"name\": {},\n{pad}  \"version\": {},\n{pad}  \"oldest\": {},\n{pad}  \"fields\": [",
            Quoted(self.name),
            self.version,
            self.oldest
        );
        for (at, field) in self.fields.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let _ = write!(
                out,
                "{comma}\n{pad}    {{\"name\": {}, \"since\": {}, {}}}",
                Quoted(field.name),
                field.since,
                field.shape.members(depth + 2)
            );
        }
        let _ = write!(out, "\n{pad}  ],\n{pad}  \"subsections\": [");
        for (at, state) in self.subsections.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            let _ = write!(out, "{comma}{}", state.to_json(depth + 1));
        }
        let _ = write!(out, "]\n{pad}}}");
        out
    }
}

impl Shape {
    /// The same as what another one consists of; an object of its own if both have members of the same names.
    fn within(&self, depth: usize) -> String {
        match self {
            Self::Scalar(..) | Self::Struct(_) => self.members(depth),
            Self::Array(..) | Self::List(_) | Self::Optional(_) => {
                format!("\"of\": {{{}}}", self.members(depth))
            }
        }
    }

    fn members(&self, depth: usize) -> String {
        match self {
            Self::Scalar(kind, size) => format!("\"type\": \"{kind}\", \"size\": {size}"),
            Self::Array(of, len) => format!("\"array\": {len}, {}", of.within(depth)),
            Self::List(of) => format!("\"array\": \"variable\", {}", of.within(depth)),
            Self::Optional(of) => format!("\"optional\": true, {}", of.within(depth)),
            Self::Struct(state) => format!("\"type\": \"struct\", \"struct\": {}", state.to_json(depth)),
        }
    }
}

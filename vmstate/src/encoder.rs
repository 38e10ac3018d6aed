//! Writing state: bytes, and at the same time what the bytes are.

use crate::describe::{Entry, Kind, Layout, Part};

/// Collects the bytes of one section together with what describes them.
#[derive(Debug, Default)]
pub struct Encoder {
    bytes: Vec<u8>,
    /// Of the struct that is being written, so far.
    layout: Layout,
}

impl Encoder {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The bytes and what they are.
    pub fn finish(self) -> (Vec<u8>, Layout) {
        (self.bytes, self.layout)
    }

    /// Writes `count` equal values of the kind `kind` under one name.
    pub(crate) fn scalar(
        &mut self,
        name: &'static str,
        kind: &'static str,
        count: Option<usize>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let before = self.bytes.len();
        write(&mut self.bytes);
        let size = (self.bytes.len() - before) / count.unwrap_or(1).max(1);
        // An array of nothing has no place in a description: a reader unfolds it to one element at least.
        if count != Some(0) {
            self.layout.fields.push(Entry { name, size, kind: Kind::Scalar(kind, count) });
        }
    }

    /// Writes a struct under a name; `index` tells which of several it is.
    pub(crate) fn structure(
        &mut self,
        name: &'static str,
        state: (&'static str, u32),
        index: Option<usize>,
        write: impl FnOnce(&mut Self),
    ) {
        let (layout, size) = self.nested(write);
        self.layout.fields.push(Entry {
            name,
            size,
            kind: Kind::Struct(index, Box::new(Part { state, layout })),
        });
    }

    /// Writes a subsection.
    pub fn subsection(&mut self, name: &'static str, version: u32, write: impl FnOnce(&mut Self)) {
        self.bytes.push(crate::SUBSECTION);
        // Names are a program's own and short.
        self.bytes.push(name.len() as u8);
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(&version.to_be_bytes());
        let (layout, _) = self.nested(write);
        self.layout.subsections.push(Part { state: (name, version), layout });
    }

    fn nested(&mut self, write: impl FnOnce(&mut Self)) -> (Layout, usize) {
        let outer = std::mem::take(&mut self.layout);
        let before = self.bytes.len();
        write(self);
        (std::mem::replace(&mut self.layout, outer), self.bytes.len() - before)
    }
}

//! Writing state: bytes, and at the same time what the bytes are.

use crate::describe::Described;

/// Collects the bytes of one section together with their description.
#[derive(Debug, Default)]
pub struct Encoder {
    bytes: Vec<u8>,
    /// What was described so far of the struct that is being written.
    fields: Vec<Described>,
    subsections: Vec<Described>,
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

    /// The bytes and what describes them: fields, subsections.
    pub fn finish(self) -> (Vec<u8>, Vec<Described>, Vec<Described>) {
        (self.bytes, self.fields, self.subsections)
    }

    /// Writes `count` equal values of the kind `kind` under one name.
    pub(crate) fn scalar(
        &mut self,
        name: &str,
        kind: &'static str,
        count: Option<usize>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let before = self.bytes.len();
        write(&mut self.bytes);
        let size = (self.bytes.len() - before) / count.unwrap_or(1).max(1);
        // An array of nothing has no place in a description: a reader unfolds it to one element at least.
        if count != Some(0) {
            self.fields.push(Described::scalar(name, kind, size, count));
        }
    }

    /// Writes a struct under a name; `index` tells which of several it is.
    pub(crate) fn structure(
        &mut self,
        name: &str,
        state: (&'static str, u32),
        index: Option<usize>,
        write: impl FnOnce(&mut Self),
    ) {
        let (fields, subsections, size) = self.nested(write);
        self.fields.push(Described::structure(name, state, index, size, fields, subsections));
    }

    /// Writes a subsection.
    pub fn subsection(&mut self, name: &'static str, version: u32, write: impl FnOnce(&mut Self)) {
        self.bytes.push(crate::SUBSECTION);
        // Names are a program's own and short.
        self.bytes.push(name.len() as u8);
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(&version.to_be_bytes());
        let (fields, subsections, _) = self.nested(write);
        self.subsections.push(Described::section((name, version), fields, subsections));
    }

    fn nested(&mut self, write: impl FnOnce(&mut Self)) -> (Vec<Described>, Vec<Described>, usize) {
        let outer = (std::mem::take(&mut self.fields), std::mem::take(&mut self.subsections));
        let before = self.bytes.len();
        write(self);
        let size = self.bytes.len() - before;
        let fields = std::mem::replace(&mut self.fields, outer.0);
        let subsections = std::mem::replace(&mut self.subsections, outer.1);
        (fields, subsections, size)
    }
}

//! What items consist of, and the list of files.

use std::sync::Arc;

use super::{NAME_MAX, key};

/// Bytes that are read when they are asked for.
pub trait Source: Send + Sync {
    /// All there are.
    fn size(&self) -> u64;
    /// Fills `out` with those from `at` on; whether they were there.
    fn read(&self, at: u64, out: &mut [u8]) -> bool;
}

/// The bytes of an item.
#[derive(Clone)]
pub enum Contents {
    /// In memory.
    Bytes(Arc<Vec<u8>>),
    /// Elsewhere.
    Source(Arc<dyn Source>),
}

impl Contents {
    /// How many.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Source(source) => source.size(),
        }
    }

    /// Fills `out` with those from `at` on; whether they are there.
    pub(super) fn read(&self, at: u64, out: &mut [u8]) -> bool {
        let bytes = match self {
            Self::Bytes(bytes) => bytes,
            Self::Source(source) => return source.read(at, out),
        };
        let part = usize::try_from(at).ok().and_then(|at| bytes.get(at..at.checked_add(out.len())?));
        part.map(|part| out.copy_from_slice(part)).is_some()
    }
}

impl From<Vec<u8>> for Contents {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(Arc::new(bytes))
    }
}

impl<const N: usize> From<[u8; N]> for Contents {
    fn from(bytes: [u8; N]) -> Self {
        bytes.to_vec().into()
    }
}

/// Gets what a guest has written, all of it.
pub type Written = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// An item.
#[derive(Clone)]
pub(super) struct Item {
    pub(super) contents: Contents,
    /// Who is told of writes; none may be made without.
    pub(super) written: Option<Written>,
}

impl Item {
    /// One that can only be read.
    pub(super) fn of(contents: Contents) -> Self {
        Self { contents, written: None }
    }

    /// Replaces the bytes from `at` on, which are there, and gives all of them with who is told. `None`: it cannot be written.
    pub(super) fn write(&mut self, at: u64, data: &[u8]) -> Option<(Arc<Vec<u8>>, Written)> {
        let written = self.written.clone()?;
        let Contents::Bytes(bytes) = &mut self.contents else { return None };
        let at = usize::try_from(at).ok()?;
        Arc::make_mut(bytes).get_mut(at..at.checked_add(data.len())?)?.copy_from_slice(data);
        Some((Arc::clone(bytes), written))
    }
}

/// How many files there are, and for each size, key and name; numbers are big-endian.
pub(super) fn directory<'a>(files: impl ExactSizeIterator<Item = (&'a String, &'a Item)>) -> Vec<u8> {
    let mut out = (files.len() as u32).to_be_bytes().to_vec();
    for (key, (name, item)) in (key::FILE_FIRST..).zip(files) {
        out.extend(u32::try_from(item.contents.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend(key.to_be_bytes());
        out.extend([0; 2]);
        let end = out.len() + NAME_MAX + 1;
        out.extend(name.as_bytes());
        out.resize(end, 0);
    }
    out
}

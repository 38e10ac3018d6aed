//! Reading state.

use std::io::{self, Read};

use crate::SUBSECTION;
use crate::error::Result;

/// Longest subsection header: the byte, a length, a name.
const AHEAD: usize = 2 + 255;

/// Reads a stream with a look ahead at whether a subsection follows.
pub struct Decoder<'a> {
    source: Box<dyn Read + 'a>,
    /// Bytes that were looked at and not read yet.
    ahead: Vec<u8>,
}

impl std::fmt::Debug for Decoder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("ahead", &self.ahead).finish_non_exhaustive()
    }
}

impl<'a> Decoder<'a> {
    /// Reads from `source`. What was looked at and not read is lost to others when the decoder goes: see [`Decoder::into_ahead`].
    pub fn new(source: impl Read + 'a) -> Self {
        Self { source: Box::new(source), ahead: Vec::new() }
    }

    /// What was looked at and not read.
    pub fn into_ahead(self) -> Vec<u8> {
        self.ahead
    }

    /// Fills `bytes`.
    ///
    /// # Errors
    /// The stream ended or broke.
    pub fn bytes(&mut self, bytes: &mut [u8]) -> Result<()> {
        let ready = self.ahead.len().min(bytes.len());
        bytes[..ready].copy_from_slice(&self.ahead[..ready]);
        self.ahead.drain(..ready);
        self.source.read_exact(&mut bytes[ready..])?;
        Ok(())
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// The stream ended or broke.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.bytes(&mut bytes)?;
        Ok(bytes)
    }

    /// A number of four bytes.
    ///
    /// # Errors
    /// The stream ended or broke.
    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// Reads the head of a subsection of the state `owner`, if one follows; gives its name, without the owner's, and version.
    ///
    /// # Errors
    /// The stream broke. That it ends here is no error: sections may be last.
    pub fn subsection_of(&mut self, owner: &str) -> Result<Option<(String, u32)>> {
        if self.look(1)? < 1 || self.ahead[0] != SUBSECTION || self.look(2)? < 2 {
            return Ok(None);
        }
        let len = usize::from(self.ahead[1]);
        if self.look(2 + len)? < 2 + len {
            return Ok(None);
        }
        let Ok(name) = std::str::from_utf8(&self.ahead[2..2 + len]) else { return Ok(None) };
        let Some(name) = name.strip_prefix(owner).and_then(|rest| rest.strip_prefix('/')) else {
            return Ok(None);
        };
        let name = name.to_owned();
        self.ahead.drain(..2 + len);
        Ok(Some((name, self.u32()?)))
    }

    /// Has `wanted` bytes at hand if the stream goes on for that long; says how many there are.
    fn look(&mut self, wanted: usize) -> Result<usize> {
        debug_assert!(wanted <= AHEAD);
        while self.ahead.len() < wanted {
            let mut byte = [0];
            match self.source.read(&mut byte) {
                Ok(0) => break,
                Ok(_) => self.ahead.push(byte[0]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.ahead.len())
    }
}

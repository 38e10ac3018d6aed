//! A file that is written from start to end, and in which zeroes are holes where files can have them.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};

use rustix::event::{PollFd, PollFlags, poll};

/// Zeroes for what has no holes.
static ZEROES: [u8; 1 << 16] = [0; 1 << 16];

/// See the module.
#[derive(Debug)]
pub(crate) struct Output {
    file: File,
    /// Whether what is left out reads as zero: a regular file with nothing in it yet.
    sparse: bool,
    /// Bytes at the end that are left out so far.
    hole: u64,
}

impl Output {
    /// Writes to `file`, which is new or was emptied, or is no file in the first place.
    pub(crate) fn new(file: File) -> Self {
        let sparse = file.metadata().is_ok_and(|meta| meta.is_file() && meta.len() == 0);
        Self { file, sparse, hole: 0 }
    }

    /// # Errors
    /// The host's, `WriteZero` of a file that takes nothing.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        if self.hole > 0 {
            let hole = i64::try_from(std::mem::take(&mut self.hole));
            let hole = hole.map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
            self.file.seek(SeekFrom::Current(hole))?;
        }
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A descriptor of a client's may be non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(&self.file, PollFlags::OUT)], None)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes `len` zeroes, or a hole.
    ///
    /// # Errors
    /// As [`Self::write`]; of a hole later.
    pub(crate) fn zeroes(&mut self, mut len: u64) -> io::Result<()> {
        if self.sparse {
            self.hole = self.hole.saturating_add(len);
            return Ok(());
        }
        while len > 0 {
            let part = ZEROES.len().min(usize::try_from(len).unwrap_or(usize::MAX));
            self.write(&ZEROES[..part])?;
            len -= part as u64;
        }
        Ok(())
    }

    /// Writes bytes, those that are zero for long as [`Self::zeroes`].
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(crate) fn write_sparse(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.sparse {
            return self.write(bytes);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let is_zero = |piece: &[u8]| piece == &ZEROES[..piece.len()];
            let pieces = rest.chunks(PIECE);
            let zero = pieces.clone().take_while(|piece| is_zero(piece)).count() * PIECE;
            let (zero, tail) = rest.split_at(zero.min(rest.len()));
            self.zeroes(zero.len() as u64)?;
            let data = tail.chunks(PIECE).take_while(|piece| !is_zero(piece)).count() * PIECE;
            let (data, tail) = tail.split_at(data.min(tail.len()));
            self.write(data)?;
            rest = tail;
        }
        Ok(())
    }

    /// Ends the file: a hole at its end becomes part of it.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(crate) fn finish(mut self) -> io::Result<()> {
        if self.hole == 0 {
            return Ok(());
        }
        let len = self.file.stream_position()?.checked_add(self.hole);
        self.file.set_len(len.ok_or_else(|| io::Error::from_raw_os_error(libc::EFBIG))?)
    }
}

/// Zeroes are looked for in pieces of this many bytes.
const PIECE: usize = 4096;

#[cfg(test)]
mod tests;

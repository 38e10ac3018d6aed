//! Reading the stream, through a buffer that fits into the processor's cache.

#![expect(unsafe_code, reason = "guest memory is read from files without a copy of ours")]

use std::io::{self, Read};
use std::sync::Arc;

use memory::RamBlock;

use crate::channel::Channel;

const BUFFER: usize = 256 << 10;

/// Reads a channel.
#[derive(Debug)]
pub struct Input {
    channel: Arc<Channel>,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Bytes that come before those in the buffer: a look ahead that was not used.
    pushed_back: Vec<u8>,
}

impl Input {
    /// Reads from where `channel` is.
    pub fn new(channel: Arc<Channel>) -> Self {
        Self { channel, buffer: vec![0; BUFFER].into(), start: 0, end: 0, pushed_back: Vec::new() }
    }

    /// The channel.
    pub fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }

    /// Puts bytes back that come next.
    pub fn push_back(&mut self, mut bytes: Vec<u8>) {
        bytes.append(&mut self.pushed_back);
        self.pushed_back = bytes;
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// The stream ended or broke.
    pub fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// A byte.
    ///
    /// # Errors
    /// The stream ended or broke.
    pub fn u8(&mut self) -> io::Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    /// A number.
    ///
    /// # Errors
    /// The stream ended or broke.
    pub fn u32(&mut self) -> io::Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// A number.
    ///
    /// # Errors
    /// The stream ended or broke.
    pub fn u64(&mut self) -> io::Result<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A text behind its length in a byte; what is not UTF-8 is replaced.
    ///
    /// # Errors
    /// The stream ended or broke.
    pub fn text(&mut self) -> io::Result<String> {
        let len = self.u8()?;
        let mut bytes = vec![0; len.into()];
        self.read_exact(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Fills guest memory with what comes next. `false` if the memory is not accessible; the bytes are taken all the same.
    ///
    /// # Errors
    /// The stream ended or broke.
    pub fn guest(&mut self, block: &RamBlock, offset: u64, len: u64) -> io::Result<bool> {
        let (mut at, mut all) = (0, true);
        while at < len {
            if self.start == self.end && self.pushed_back.is_empty() {
                self.fill()?;
            }
            let mut small = Vec::new();
            let ready = if self.pushed_back.is_empty() {
                let count = (self.end - self.start).min((len - at) as usize);
                self.start += count;
                &self.buffer[self.start - count..self.start]
            } else {
                let count = self.pushed_back.len().min((len - at) as usize);
                small.extend(self.pushed_back.drain(..count));
                &small[..]
            };
            all &= block.write(offset + at, ready).is_ok();
            at += ready.len() as u64;
        }
        Ok(all)
    }

    /// Where the next byte comes from in a file.
    ///
    /// # Errors
    /// The system's.
    pub fn position(&self) -> io::Result<u64> {
        let ahead = self.end - self.start + self.pushed_back.len();
        Ok(self.channel.position()? - ahead as u64)
    }

    /// Goes on at another place of a file.
    ///
    /// # Errors
    /// The system's.
    pub fn jump(&mut self, offset: u64) -> io::Result<()> {
        (self.start, self.end) = (0, 0);
        self.pushed_back.clear();
        self.channel.seek(offset)
    }

    /// Fills bytes from a place in a file, wherever the stream is.
    ///
    /// # Errors
    /// The file is shorter, or the system's.
    pub fn read_at(&self, bytes: &mut [u8], place: u64) -> io::Result<()> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &mut bytes[at..];
            // SAFETY: the bytes are borrowed for the call.
            match unsafe { self.channel.read_at(rest.as_mut_ptr(), rest.len(), place + at as u64)? } {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => at += read,
            }
        }
        Ok(())
    }

    /// Fills guest memory from a place in a file, wherever the stream is. The range was checked to be in the block and plugged.
    ///
    /// # Errors
    /// The file is shorter, the memory cannot be written, or the system's.
    pub fn guest_at(&self, block: &RamBlock, offset: u64, len: u64, place: u64) -> io::Result<()> {
        if offset.checked_add(len).is_none_or(|end| end > block.max_size()) {
            return Err(io::Error::other("memory outside of its block"));
        }
        let mut at = 0;
        while at < len {
            let base = block.host_address().wrapping_add((offset + at) as usize);
            // SAFETY: inside of the block, which is borrowed; guest memory is never referred to.
            match unsafe { self.channel.read_at(base, (len - at) as usize, place + at)? } {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => at += read as u64,
            }
        }
        Ok(())
    }

    fn fill(&mut self) -> io::Result<()> {
        let count = self.channel.read(&mut self.buffer)?;
        (self.start, self.end) = (0, count);
        if count == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

impl Read for Input {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if !self.pushed_back.is_empty() {
            let count = self.pushed_back.len().min(buf.len());
            buf[..count].copy_from_slice(&self.pushed_back[..count]);
            self.pushed_back.drain(..count);
            return Ok(count);
        }
        if self.start == self.end {
            match self.fill() {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => other?,
            }
        }
        let count = (self.end - self.start).min(buf.len());
        buf[..count].copy_from_slice(&self.buffer[self.start..self.start + count]);
        self.start += count;
        Ok(count)
    }
}

//! Reading the stream, through a buffer that fits into the processor's cache.

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

    /// Bytes that are there without waiting.
    pub fn ready(&self) -> &[u8] {
        if self.pushed_back.is_empty() { &self.buffer[self.start..self.end] } else { &[] }
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

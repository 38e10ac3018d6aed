//! Reading the stream, through a buffer that fits into the processor's cache.

#![expect(unsafe_code, reason = "guest memory is filled without a copy of ours")]

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use memory::RamBlock;

use super::PAGE;
use crate::channel::Channel;

const BUFFER: usize = 256 << 10;
/// Pages that are guessed at most: those of a wrong guess fit into the buffer.
pub const AHEAD: usize = 60;
/// Bytes of a page's head.
const HEAD: usize = 8;

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

    /// What comes next and was read already; there may be nothing.
    pub fn ready(&self) -> &[u8] {
        if self.pushed_back.is_empty() { &self.buffer[self.start..self.end] } else { &self.pushed_back }
    }

    /// Leaves out so many bytes of what is [ready](Self::ready), at most all.
    pub fn skip(&mut self, count: usize) {
        if self.pushed_back.is_empty() {
            self.start = (self.start + count).min(self.end);
        } else {
            self.pushed_back.drain(..count.min(self.pushed_back.len()));
        }
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

    /// Fills pages from `offset` on with what comes next, each under the head that `head` gives for it, as long as they follow and at most
    /// as many as `ahead` allows when it is asked. `begun` says that the first one's head was read: it comes, and is not counted by `ahead`.
    /// Says how many pages are filled. Of pages that are not, `spoiled` is told those which hold something else now; what belonged
    /// elsewhere comes next.
    ///
    /// What is in the buffer is copied. All else goes where it belongs without: the head of the next page is guessed, and if something
    /// else comes, it is taken back.
    ///
    /// # Errors
    /// The stream ended or broke, or the memory is not accessible.
    pub fn pages(
        &mut self,
        block: &RamBlock,
        offset: u64,
        begun: bool,
        ahead: impl FnOnce() -> usize,
        head: impl Fn(u64) -> u64,
        mut spoiled: impl FnMut(Range<u64>),
    ) -> io::Result<u64> {
        let mut at = if begun { self.buffered(block, offset, PAGE)? } else { 0 };
        if at == PAGE {
            return Ok(1);
        }
        if !begun && !self.ready().is_empty() {
            return Ok(0);
        }
        let most = u64::from(begun) + ahead().min(AHEAD) as u64;
        let inside = offset.checked_add(most * PAGE).is_some_and(|end| end <= block.max_size());
        if !inside {
            return Err(io::Error::other("memory outside of its block"));
        }
        let mut begun = begun;
        // Bytes of the page `full` that are there.
        let (mut full, mut heads) = (0, [[0; HEAD]; AHEAD]);
        loop {
            let place = |page: u64, at: u64| {
                let base = block.host_address().wrapping_add((offset + page * PAGE + at) as usize);
                libc::iovec { iov_base: base.cast(), iov_len: (PAGE - at) as usize }
            };
            let mut iov = Vec::with_capacity(1 + 2 * AHEAD);
            if begun {
                iov.push(place(full, at));
            }
            for (page, bytes) in (full + u64::from(begun)..most).zip(&mut heads) {
                iov.push(libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: HEAD });
                iov.push(place(page, 0));
            }
            if iov.is_empty() {
                return Ok(full);
            }
            // SAFETY: guest memory inside of the block, which is borrowed and never referred to; the heads are borrowed until they are
            // looked at.
            let mut count = unsafe { self.channel.read_some(&iov)? } as u64;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if begun {
                if count < PAGE - at {
                    at += count;
                    continue;
                }
                count -= PAGE - at;
                full += 1;
            }
            let mut heads = heads.iter();
            loop {
                let Some(found) = heads.next().filter(|_| count > 0) else { return Ok(full) };
                let came = &found[..count.min(HEAD as u64) as usize];
                if came != &head(offset + full * PAGE).to_be_bytes()[..came.len()] {
                    self.take_back(block, offset + full * PAGE, came, heads.as_slice(), count, &mut spoiled);
                    return Ok(full);
                }
                if count <= HEAD as u64 {
                    self.take_back(block, 0, came, &[], count, &mut spoiled);
                    return Ok(full);
                }
                count -= HEAD as u64;
                if count < PAGE {
                    (begun, at) = (true, count);
                    break;
                }
                count -= PAGE;
                full += 1;
            }
        }
    }

    /// Puts `count` bytes back that were read as if they were a head (`begun`), the page at `page`, and the `heads` and pages behind it.
    fn take_back(
        &mut self,
        block: &RamBlock,
        page: u64,
        begun: &[u8],
        heads: &[[u8; HEAD]],
        count: u64,
        spoiled: &mut impl FnMut(Range<u64>),
    ) {
        // The buffer is empty, and has room for that much.
        self.buffer[..begun.len()].copy_from_slice(begun);
        (self.start, self.end) = (0, begun.len());
        let (mut at, mut heads) = (page, heads.iter());
        while self.end < count as usize {
            let rest = (count as usize - self.end).min(PAGE as usize);
            // It was just written.
            let _ = block.read(at, &mut self.buffer[self.end..self.end + rest]);
            self.end += rest;
            at += PAGE;
            let rest = (count as usize - self.end).min(HEAD);
            if let Some(head) = heads.next().filter(|_| rest > 0) {
                self.buffer[self.end..self.end + rest].copy_from_slice(&head[..rest]);
                self.end += rest;
            }
        }
        if at > page {
            spoiled(page..at);
        }
    }

    /// Fills guest memory from the buffer; says how many bytes of `len` were there.
    fn buffered(&mut self, block: &RamBlock, offset: u64, len: u64) -> io::Result<u64> {
        let mut at = 0;
        while at < len {
            let ready = self.ready();
            let count = ready.len().min((len - at) as usize);
            if count == 0 {
                break;
            }
            let put = block.write(offset + at, &ready[..count]);
            put.map_err(|_| io::Error::other("memory is not accessible"))?;
            self.skip(count);
            at += count as u64;
        }
        Ok(at)
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
        if self.ready().is_empty() {
            match self.fill() {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => other?,
            }
        }
        let ready = self.ready();
        let count = ready.len().min(buf.len());
        buf[..count].copy_from_slice(&ready[..count]);
        self.skip(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests;

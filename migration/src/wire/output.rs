//! Writing the stream. Guest memory goes from where it is into the channel, without a copy of ours; into a local socket, without any.

#![expect(unsafe_code, reason = "writev of guest memory")]

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memory::RamBlock;

use super::splice::Splicer;
use crate::channel::Channel;

/// Bytes that are gathered before they are written.
const GATHER: usize = 1 << 20;
/// Guest memory of at least so many bytes is handed over by reference.
const SPLICED: usize = 64 << 10;
/// Pieces that one call takes.
const PIECES: usize = libc::UIO_MAXIOV as usize;

#[derive(Debug)]
enum Piece {
    /// Bytes of `own`.
    Own(Range<usize>),
    /// Bytes of a block in `blocks`.
    Guest { block: usize, offset: u64, len: usize },
}

/// Gathers what is to be written, and writes it in large calls.
#[derive(Debug)]
pub struct Output {
    channel: Arc<Channel>,
    own: Vec<u8>,
    pieces: Vec<Piece>,
    /// Keeps what pieces name mapped.
    blocks: Vec<Arc<RamBlock>>,
    gathered: usize,
    sent: Arc<AtomicU64>,
    /// Hands pages over without a copy: found out when there are some, `None` within if that cannot be.
    splicer: Option<Option<Splicer>>,
}

impl Output {
    /// Writes into `channel` and counts in `sent` what it was given.
    pub fn new(channel: Arc<Channel>, sent: Arc<AtomicU64>) -> Self {
        Self {
            channel,
            own: Vec::new(),
            pieces: Vec::new(),
            blocks: Vec::new(),
            gathered: 0,
            sent,
            splicer: None,
        }
    }

    /// The channel.
    pub fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }

    /// Gives the channel back.
    ///
    /// # Errors
    /// What was gathered could not be written.
    pub fn into_channel(mut self) -> io::Result<Arc<Channel>> {
        self.flush()?;
        Ok(self.channel)
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// The channel's.
    pub fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let start = self.own.len();
        self.own.extend_from_slice(bytes);
        match self.pieces.last_mut() {
            Some(Piece::Own(range)) if range.end == start => range.end = self.own.len(),
            _ => self.pieces.push(Piece::Own(start..self.own.len())),
        }
        self.added(bytes.len())
    }

    /// Adds a byte.
    ///
    /// # Errors
    /// The channel's.
    pub fn u8(&mut self, value: u8) -> io::Result<()> {
        self.bytes(&[value])
    }

    /// Adds a number.
    ///
    /// # Errors
    /// The channel's.
    pub fn u32(&mut self, value: u32) -> io::Result<()> {
        self.bytes(&value.to_be_bytes())
    }

    /// Adds a number.
    ///
    /// # Errors
    /// The channel's.
    pub fn u64(&mut self, value: u64) -> io::Result<()> {
        self.bytes(&value.to_be_bytes())
    }

    /// Adds a text of at most 255 bytes behind its length.
    ///
    /// # Errors
    /// The channel's, or the text is longer.
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        self.u8(u8::try_from(text.len()).map_err(io::Error::other)?)?;
        self.bytes(text.as_bytes())
    }

    /// Adds guest memory. What is written is what is there when that happens, at the latest in [`flush`](Self::flush).
    ///
    /// # Errors
    /// The channel's; the range is outside of the block.
    pub fn guest(&mut self, block: &Arc<RamBlock>, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.checked_add(len).filter(|end| *end <= block.max_size());
        let (Some(_), Ok(len)) = (end, usize::try_from(len)) else {
            return Err(io::Error::other("memory outside of its block"));
        };
        if !self.blocks.last().is_some_and(|last| Arc::ptr_eq(last, block)) {
            self.blocks.push(Arc::clone(block));
        }
        self.pieces.push(Piece::Guest { block: self.blocks.len() - 1, offset, len });
        self.added(len)
    }

    fn added(&mut self, len: usize) -> io::Result<()> {
        self.gathered += len;
        self.sent.fetch_add(len as u64, Ordering::Relaxed);
        // A page and its head belong into one call.
        if self.gathered >= GATHER || self.pieces.len() >= PIECES - 1 { self.flush() } else { Ok(()) }
    }

    /// Where the next byte goes in a file.
    ///
    /// # Errors
    /// The channel's.
    pub fn position(&mut self) -> io::Result<u64> {
        self.flush()?;
        self.channel.position()
    }

    /// Goes on at another place of a file.
    ///
    /// # Errors
    /// The channel's.
    pub fn jump(&mut self, offset: u64) -> io::Result<()> {
        self.flush()?;
        self.channel.seek(offset)
    }

    /// Writes guest memory to a place in a file, at once.
    ///
    /// # Errors
    /// The channel's; the range is outside of the block.
    pub fn guest_at(&mut self, block: &RamBlock, offset: u64, len: u64, place: u64) -> io::Result<()> {
        if offset.checked_add(len).is_none_or(|end| end > block.max_size()) {
            return Err(io::Error::other("memory outside of its block"));
        }
        let mut at = 0;
        while at < len {
            let base = block.host_address().wrapping_add((offset + at) as usize);
            // SAFETY: inside of the block, which is borrowed.
            match unsafe { self.channel.write_at(base, (len - at) as usize, place + at)? } {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => at += written as u64,
            }
        }
        self.sent.fetch_add(len, Ordering::Relaxed);
        Ok(())
    }

    /// Writes what is gathered.
    ///
    /// # Errors
    /// The channel's.
    pub fn flush(&mut self) -> io::Result<()> {
        let guest = self.gathered - self.own.len();
        let spliced = guest >= SPLICED && self.splice()?;
        if !spliced {
            self.copy()?;
        }
        self.own.clear();
        self.pieces.clear();
        self.blocks.clear();
        self.gathered = 0;
        Ok(())
    }

    /// The pieces, with our own bytes at `own`.
    fn iov(&self, own: *const u8) -> Vec<libc::iovec> {
        let entry = |piece: &Piece| match piece {
            Piece::Own(range) => libc::iovec {
                iov_base: own.wrapping_add(range.start).cast_mut().cast(),
                iov_len: range.end - range.start,
            },
            Piece::Guest { block, offset, len } => {
                let base = self.blocks[*block].host_address().wrapping_add(*offset as usize);
                libc::iovec { iov_base: base.cast(), iov_len: *len }
            }
        };
        self.pieces.iter().map(entry).collect()
    }

    fn copy(&mut self) -> io::Result<()> {
        let mut iov = self.iov(self.own.as_ptr());
        let mut left = &mut iov[..];
        while !left.is_empty() {
            // SAFETY: our own bytes are not touched until the call returns; guest memory is inside of blocks that `self.blocks` keeps
            // mapped.
            match unsafe { self.channel.write_some(left)? } {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => left = advance(left, written),
            }
        }
        Ok(())
    }

    /// Writes without a copy, if that can be; `false`: nothing was written.
    fn splice(&mut self) -> io::Result<bool> {
        let channel = &self.channel;
        // Over TCP each page and each head would be a fragment of its own in packets that hold few of them, which takes longer than copies.
        let new = || if channel.is_local() { Splicer::new() } else { None };
        let splicer = self.splicer.get_or_insert_with(new);
        let Some(own) = splicer.as_mut().and_then(|splicer| splicer.keep(&self.own)) else {
            return Ok(false);
        };
        let mut iov = self.iov(own);
        if let Some(Some(splicer)) = &mut self.splicer {
            // SAFETY: our own bytes are where they were just put; guest memory is inside of blocks that `self.blocks` keeps mapped.
            unsafe { splicer.write_all(&self.channel, &mut iov)? };
        }
        Ok(true)
    }
}

/// What is left of `iov` behind the first `done` bytes.
pub(super) fn advance(mut iov: &mut [libc::iovec], mut done: usize) -> &mut [libc::iovec] {
    while let Some(first) = iov.first_mut() {
        if done < first.iov_len {
            first.iov_base = first.iov_base.cast::<u8>().wrapping_add(done).cast();
            first.iov_len -= done;
            break;
        }
        done -= first.iov_len;
        iov = &mut iov[1..];
    }
    iov
}

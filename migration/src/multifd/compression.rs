//! Contents of packets that are compressed: a stream for each channel, from its first packet to its last.
//!
//! A packet's part of the stream ends at a byte, and with it come all bytes of its pages, so that a packet can be taken in as soon as it
//! is there. The flags in a packet's head say how it is compressed; both sides must have been told the same.
//!
//! Guests write while their pages are compressed, and what reads a page twice must find the same: pages are copied first. On the other
//! side nothing is written into the guest before all of a packet has been expanded into a buffer as long as its pages.

use std::io;
use std::ops::Range;

use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};
use memory::RamBlock;
use qapi::types::{MigrationParameters, MultiFDCompression as Kind};
use vmstate::{LoadError, Result};
use zstd_safe::zstd_sys::ZSTD_EndDirective;
use zstd_safe::{CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer};

use super::{PACKET_PAGES, flag};
use crate::wire::PAGE;

/// Bytes of a packet's pages at most.
const PLAIN: usize = (PACKET_PAGES * PAGE) as usize;
/// Bytes of a packet's compressed contents at most: pages that cannot be compressed become a little longer.
pub(super) const PACKED: usize = 2 * PLAIN;
/// How far zstd looks back, as a power of two: as far as a packet is long. The receiver keeps so much for each channel, and refuses more.
const WINDOW: u32 = PLAIN.ilog2();

/// How contents are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    /// Not at all.
    None,
    /// With zlib, and how hard it tries.
    Zlib(u8),
    /// With zstd, and how hard it tries.
    Zstd(u8),
}

impl Compression {
    /// What was asked for.
    pub(crate) fn of(parameters: &MigrationParameters) -> Self {
        match parameters.multifd_compression.unwrap_or(Kind::None) {
            Kind::None => Self::None,
            Kind::Zlib => Self::Zlib(parameters.multifd_zlib_level.unwrap_or(1)),
            Kind::Zstd => Self::Zstd(parameters.multifd_zstd_level.unwrap_or(1)),
        }
    }

    /// Its bits in a packet's flags.
    pub(super) fn flag(self) -> u32 {
        match self {
            Self::None => flag::PLAIN,
            Self::Zlib(_) => flag::ZLIB,
            Self::Zstd(_) => flag::ZSTD,
        }
    }
}

/// How many bytes a step of a stream took and gave.
type Moved = (usize, usize);

enum Compressor {
    Zlib(Box<Compress>),
    Zstd(CCtx<'static>),
}

impl Compressor {
    /// Compresses some of `input` into `output`; all of it has arrived once a step leaves room.
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<Moved> {
        match self {
            Self::Zlib(stream) => {
                let before = (stream.total_in(), stream.total_out());
                stream.compress(input, output, FlushCompress::Sync).map_err(io::Error::other)?;
                Ok(((stream.total_in() - before.0) as usize, (stream.total_out() - before.1) as usize))
            }
            Self::Zstd(stream) => {
                let (mut from, mut to) = (InBuffer::around(input), OutBuffer::around(output));
                let step = stream.compress_stream2(&mut to, &mut from, ZSTD_EndDirective::ZSTD_e_flush);
                step.map_err(|code| io::Error::other(zstd_safe::get_error_name(code)))?;
                Ok((from.pos(), to.pos()))
            }
        }
    }
}

/// Compresses the packets of a channel.
pub(super) struct Packer {
    stream: Compressor,
    plain: Vec<u8>,
    packed: Vec<u8>,
}

impl Packer {
    /// For a channel; nothing if it is not compressed.
    ///
    /// # Errors
    /// There is no memory, or no such level.
    pub(super) fn new(compression: Compression) -> io::Result<Option<Self>> {
        let stream = match compression {
            Compression::None => return Ok(None),
            Compression::Zlib(level) => {
                let level = flate2::Compression::new(u32::from(level).min(9));
                Compressor::Zlib(Box::new(Compress::new(level, true)))
            }
            Compression::Zstd(level) => {
                let mut stream = CCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
                for parameter in [CParameter::CompressionLevel(level.into()), CParameter::WindowLog(WINDOW)] {
                    let set = stream.set_parameter(parameter);
                    set.map_err(|code| io::Error::other(zstd_safe::get_error_name(code)))?;
                }
                Compressor::Zstd(stream)
            }
        };
        Ok(Some(Self { stream, plain: vec![0; PLAIN], packed: vec![0; PACKED] }))
    }

    /// The contents of a packet with these pages of a block, at most [`PACKET_PAGES`].
    ///
    /// # Errors
    /// The memory cannot be read.
    pub(super) fn pack(&mut self, block: &RamBlock, runs: &[Range<u64>]) -> io::Result<&[u8]> {
        let mut len = 0;
        for run in runs {
            let end = len + (run.end - run.start) as usize;
            let part =
                self.plain.get_mut(len..end).ok_or_else(|| io::Error::other("a packet of too many pages"))?;
            block.read(run.start, part).map_err(|_| io::Error::other("memory that cannot be read"))?;
            len = end;
        }
        let (mut at, mut out) = (0, 0);
        // No pages are no contents.
        let mut more = len > 0;
        while more {
            let (read, written) = self.stream.step(&self.plain[at..len], &mut self.packed[out..])?;
            (at, out) = (at + read, out + written);
            more = out == PACKED || at < len;
            if more && (out == PACKED || (read, written) == (0, 0)) {
                return Err(io::Error::other("a packet became too long"));
            }
        }
        Ok(&self.packed[..out])
    }
}

enum Expander {
    Zlib(Box<Decompress>),
    Zstd(DCtx<'static>),
}

impl Expander {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> std::result::Result<Moved, String> {
        match self {
            Self::Zlib(stream) => {
                let before = (stream.total_in(), stream.total_out());
                let status = stream.decompress(input, output, FlushDecompress::Sync);
                match status.map_err(|error| error.to_string())? {
                    Status::StreamEnd => Err("the stream ends".to_owned()),
                    Status::Ok | Status::BufError => Ok((
                        (stream.total_in() - before.0) as usize,
                        (stream.total_out() - before.1) as usize,
                    )),
                }
            }
            Self::Zstd(stream) => {
                let (mut from, mut to) = (InBuffer::around(input), OutBuffer::around(output));
                let step = stream.decompress_stream(&mut to, &mut from);
                step.map_err(|code| zstd_safe::get_error_name(code).to_owned())?;
                Ok((from.pos(), to.pos()))
            }
        }
    }
}

/// Expands the packets of a channel.
pub(super) struct Unpacker {
    stream: Expander,
    packed: Vec<u8>,
    plain: Vec<u8>,
}

impl Unpacker {
    /// For a channel; nothing if it is not compressed.
    ///
    /// # Errors
    /// There is no memory.
    pub(super) fn new(compression: Compression) -> io::Result<Option<Self>> {
        let stream = match compression {
            Compression::None => return Ok(None),
            Compression::Zlib(_) => Expander::Zlib(Box::new(Decompress::new(true))),
            Compression::Zstd(_) => {
                let mut stream = DCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
                let set = stream.set_parameter(DParameter::WindowLogMax(WINDOW));
                set.map_err(|code| io::Error::other(zstd_safe::get_error_name(code)))?;
                Expander::Zstd(stream)
            }
        };
        Ok(Some(Self { stream, packed: vec![0; PACKED], plain: vec![0; PLAIN] }))
    }

    /// Room for the compressed contents of a packet, to be filled before [`unpack`](Self::unpack). `len` is at most [`PACKED`].
    pub(super) fn room(&mut self, len: usize) -> &mut [u8] {
        &mut self.packed[..len]
    }

    /// The pages that `len` bytes of contents stand for: `pages` of them, no more and no fewer.
    ///
    /// # Errors
    /// They stand for others, or for nothing.
    pub(super) fn unpack(&mut self, len: usize, pages: usize) -> Result<&[u8]> {
        let wanted = pages * PAGE as usize;
        let (mut at, mut out) = (0, 0);
        while at < len || out < wanted {
            let moved = self.stream.step(&self.packed[at..len], &mut self.plain[out..wanted]);
            let (read, written) =
                moved.map_err(|why| LoadError::invalid(format!("contents of a packet: {why}")))?;
            (at, out) = (at + read, out + written);
            if (read, written) == (0, 0) {
                let text = if at < len { "more than its pages" } else { "less than its pages" };
                return Err(LoadError::invalid(format!("contents of a packet: {text}")));
            }
        }
        Ok(&self.plain[..wanted])
    }
}

#[cfg(test)]
mod tests;

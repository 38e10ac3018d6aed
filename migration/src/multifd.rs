//! Several channels (capability `multifd`): memory goes over channels of its own, each with a thread on both sides, and all else over the
//! main one.
//!
//! A channel begins with what it is: magic, version (4 bytes each), UUID (16), its number (1), 39 bytes of nothing. Packets follow:
//!
//! | bytes | what |
//! | --- | --- |
//! | 4 + 4 | magic, version |
//! | 4 | flags: 1 for a packet after which the channel waits for the others; the compression in bits 1 to 3 |
//! | 4 + 4 | room for offsets (at least what is used); pages with contents |
//! | 4 | bytes of the contents, as they follow |
//! | 8 | number of the packet |
//! | 4 + 4 + 24 | pages of zeroes; nothing |
//! | 256 | name of the block, filled up with zeroes |
//! | 8 each | offsets of the pages with contents, then of those of zeroes |
//!
//! The contents follow. A page is sent at most once between two flushes of all channels, which the main channel asks for, so that the
//! order of channels does not matter.

use std::io;

use vmstate::{LoadError, Result};

use crate::wire::PAGE;

pub(crate) mod compression;
pub(crate) mod recv;
pub(crate) mod send;

/// The first number of a channel and of each packet.
#[doc(alias = "MULTIFD_MAGIC")]
pub const MAGIC: u32 = 0x1122_3344;
const VERSION: u32 = 1;
/// Bytes of a channel's beginning.
const BEGIN: usize = 64;
/// Bytes of a packet's head before the offsets.
const HEAD: usize = 320;
/// Pages of a packet at most.
pub const PACKET_PAGES: u64 = 256;
/// Flags of a packet.
mod flag {
    /// The channel waits for the others.
    #[doc(alias = "MULTIFD_FLAG_SYNC")]
    pub(super) const SYNC: u32 = 1;
    /// How the contents are compressed.
    #[doc(alias = "MULTIFD_FLAG_COMPRESSION_MASK")]
    pub(super) const COMPRESSION: u32 = 7 << 1;
    /// Not at all.
    #[doc(alias = "MULTIFD_FLAG_NOCOMP")]
    pub(super) const PLAIN: u32 = 0;
    #[doc(alias = "MULTIFD_FLAG_ZLIB")]
    pub(super) const ZLIB: u32 = 1 << 1;
    #[doc(alias = "MULTIFD_FLAG_ZSTD")]
    pub(super) const ZSTD: u32 = 2 << 1;
}
/// Bytes of a block's name.
const NAME: usize = 256;

/// A packet's head.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Head {
    sync: bool,
    /// How the contents are compressed: bits of the flags.
    compression: u32,
    number: u64,
    /// Bytes of the contents.
    size: u32,
    block: String,
    /// Offsets of pages.
    normal: Vec<u64>,
    zero: Vec<u64>,
}

impl Head {
    fn to_bytes(&self) -> Vec<u8> {
        let Self { sync, compression, number, size, block, normal, zero } = self;
        let mut out = Vec::with_capacity(HEAD + 8 * (normal.len() + zero.len()));
        let flags = compression | if *sync { flag::SYNC } else { 0 };
        for value in [MAGIC, VERSION, flags, PACKET_PAGES as u32, normal.len() as u32, *size] {
            out.extend_from_slice(&value.to_be_bytes());
        }
        out.extend_from_slice(&number.to_be_bytes());
        out.extend_from_slice(&(zero.len() as u32).to_be_bytes());
        out.extend_from_slice(&[0; 28]);
        let mut name = [0; NAME];
        let len = block.len().min(NAME - 1);
        name[..len].copy_from_slice(&block.as_bytes()[..len]);
        out.extend_from_slice(&name);
        debug_assert_eq!(out.len(), HEAD);
        normal.iter().chain(zero).for_each(|offset| out.extend_from_slice(&offset.to_be_bytes()));
        out
    }

    /// Reads one; `read` fills bytes.
    fn read(mut read: impl FnMut(&mut [u8]) -> io::Result<()>) -> Result<Self> {
        let mut head = [0; HEAD];
        read(&mut head)?;
        let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        if word(0) != MAGIC {
            return Err(LoadError::invalid(format!(
                "multifd: received packet magic {:x} expected magic {MAGIC:x}",
                word(0)
            )));
        }
        if word(4) != VERSION {
            let text = format!("multifd: received packet version {} expected version {VERSION}", word(4));
            return Err(LoadError::invalid(text));
        }
        let (flags, normal, size, zero) = (word(8), word(16), word(20), word(32));
        let most = PACKET_PAGES as u32;
        let compression = flags & flag::COMPRESSION;
        if flags & !(flag::SYNC | flag::COMPRESSION) != 0 {
            return Err(LoadError::invalid(format!("multifd: flags received {flags:#x} are not expected")));
        }
        if normal > most || zero > most - normal {
            let text = format!(
                "multifd: received packet with {normal} normal pages and {zero} zero pages, expected maximum {most}"
            );
            return Err(LoadError::invalid(text));
        }
        let plain = normal * PAGE as u32;
        let fits = match compression {
            flag::PLAIN => size == plain,
            _ => (size == 0) == (plain == 0) && size as usize <= compression::PACKED,
        };
        if !fits {
            return Err(LoadError::invalid(format!("multifd: {size} bytes for {normal} pages")));
        }
        let mut offsets = vec![0; 8 * (normal + zero) as usize];
        read(&mut offsets)?;
        let mut offsets = offsets.chunks_exact(8).map(|bytes| {
            let mut raw = [0; 8];
            raw.copy_from_slice(bytes);
            u64::from_be_bytes(raw)
        });
        let name = &head[HEAD - NAME..];
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let number = (u64::from(word(24)) << 32) | u64::from(word(28));
        let normal: Vec<u64> = offsets.by_ref().take(normal as usize).collect();
        Ok(Self {
            sync: flags & flag::SYNC != 0,
            compression,
            number,
            size,
            block: String::from_utf8_lossy(name).into_owned(),
            normal,
            zero: offsets.collect(),
        })
    }
}

/// What a channel begins with.
fn begin(uuid: [u8; 16], number: u8) -> [u8; BEGIN] {
    let mut bytes = [0; BEGIN];
    bytes[..4].copy_from_slice(&MAGIC.to_be_bytes());
    bytes[4..8].copy_from_slice(&VERSION.to_be_bytes());
    bytes[8..24].copy_from_slice(&uuid);
    bytes[24] = number;
    bytes
}

#[cfg(test)]
mod tests;

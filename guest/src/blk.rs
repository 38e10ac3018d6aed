//! The virtio block device (virtio 1.3 §5.2): configuration, requests, and a driver with several requests in flight.
//!
//! Buffers may lie anywhere in guest RAM, memory that was plugged later included. [`Driver::submit`] and [`Driver::poll`] never wait,
//! so that a device that does not answer costs nobody anything.
//!
//! Left out: discard, write zeroes, secure erase, zoned devices, requests with more than one data buffer, switching the write cache.
//!
//! ```no_run
//! # fn drive(bus: &mut impl guest::Bus, function: guest::pci::Function, arena: &mut guest::arena::Arena)
//! # -> Result<(), guest::virtio::VirtioError> {
//! use guest::blk::{Driver, Memory, Request, Status};
//! use guest::virtio::VirtioError;
//!
//! let memory = Memory::take(arena)?;
//! let buffer = arena.take(4096, 4096).ok_or(VirtioError::NoMemory)?;
//! let mut driver = Driver::open(bus, function, memory)?;
//! bus.pattern_write(buffer, 4096, 1);
//! let write = Request::Write { sector: 0, addr: buffer, len: 4096 };
//! assert_eq!(driver.request(bus, write)?, Status::Ok);
//! # Ok(())
//! # }
//! ```

mod driver;

pub use driver::{CHAINS, Done, Driver, MAX_QUEUES, Memory, Tag};

use crate::bus::Bus;
use crate::virtio::{DEVICE_BASE, Transport};

/// PCI device ID of a modern block device (device type 2).
pub const PCI_DEVICE: u16 = DEVICE_BASE + 2;
/// PCI device ID of a transitional one, which this driver uses through its modern registers.
pub const PCI_DEVICE_TRANSITIONAL: u16 = 0x1001;

/// Bytes of a sector, whatever the device's block size is (§5.2.6).
pub const SECTOR: u64 = 512;
/// Bytes of a device's identification string.
pub const ID_SIZE: u32 = 20;

/// `VIRTIO_BLK_F_SIZE_MAX`: a buffer has at most `size_max` bytes.
pub const F_SIZE_MAX: u64 = 1 << 1;
/// `VIRTIO_BLK_F_RO`: the device cannot be written.
pub const F_RO: u64 = 1 << 5;
/// `VIRTIO_BLK_F_BLK_SIZE`: `blk_size` is valid.
pub const F_BLK_SIZE: u64 = 1 << 6;
/// `VIRTIO_BLK_F_FLUSH`: the device takes [`Request::Flush`].
pub const F_FLUSH: u64 = 1 << 9;
/// `VIRTIO_BLK_F_MQ`: the device has `num_queues` queues.
pub const F_MQ: u64 = 1 << 12;

/// What of the device configuration (§5.2.4) matters here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Sectors of 512 bytes.
    pub capacity: u64,
    /// Bytes of a buffer at most; `u32::MAX` where the device does not say.
    pub size_max: u32,
    /// Bytes of a block as the device likes to be asked for them; 512 where it does not say.
    pub blk_size: u32,
    /// Request queues; 1 where the device does not say.
    pub num_queues: u16,
}

impl Config {
    /// Reads a [consistent](Transport::consistent_config) configuration, and its generation.
    pub fn read(bus: &mut impl Bus, transport: &Transport, features: u64) -> (Self, u8) {
        transport.consistent_config(bus, |bus| {
            let mut config = Self { size_max: u32::MAX, blk_size: SECTOR as u32, num_queues: 1, capacity: 0 };
            config.capacity = transport.config64(bus, 0);
            if features & F_SIZE_MAX != 0 {
                // QEMU's storage daemon offers the feature with 0 for "no limit", and Linux takes it so.
                config.size_max = match transport.config32(bus, 8) {
                    0 => u32::MAX,
                    size => size,
                };
            }
            if features & F_BLK_SIZE != 0 {
                config.blk_size = transport.config32(bus, 20);
            }
            if features & F_MQ != 0 {
                // At 34, the upper half of the word.
                config.num_queues = (transport.config32(bus, 32) >> 16) as u16;
            }
            config
        })
    }

    /// Whether a driver can work with it: a buffer must be able to hold a sector, and there must be a queue.
    #[must_use]
    pub fn is_sane(&self) -> bool {
        u64::from(self.size_max) >= SECTOR && self.num_queues > 0
    }
}

/// A request (§5.2.6). `addr` is the guest-physical start of the buffer, `len` its bytes; a multiple of [`SECTOR`] if the device is to
/// like it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Read from this sector on.
    Read {
        /// The first sector.
        sector: u64,
        /// Where the data goes.
        addr: u64,
        /// Bytes.
        len: u32,
    },
    /// Write from this sector on.
    Write {
        /// The first sector.
        sector: u64,
        /// Where the data is.
        addr: u64,
        /// Bytes.
        len: u32,
    },
    /// Have all that was written stay written. Only with [`F_FLUSH`].
    Flush,
    /// Put the identification string of [`ID_SIZE`] bytes, padded with NUL, to this address.
    GetId {
        /// Where it goes.
        addr: u64,
    },
}

/// Bytes of a request's header.
pub const HEADER_SIZE: u32 = 16;

impl Request {
    /// The header as the device reads it: le32 type, four bytes of nothing, le64 sector.
    #[must_use]
    pub fn header(&self) -> [u8; HEADER_SIZE as usize] {
        let (kind, sector) = match *self {
            Self::Read { sector, .. } => (0u32, sector),
            Self::Write { sector, .. } => (1, sector),
            Self::Flush => (4, 0),
            Self::GetId { .. } => (8, 0),
        };
        let mut bytes = [0; HEADER_SIZE as usize];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[8..].copy_from_slice(&sector.to_le_bytes());
        bytes
    }

    /// The data buffer: address, bytes, whether the device writes it.
    #[must_use]
    pub const fn data(&self) -> Option<(u64, u32, bool)> {
        match *self {
            Self::Read { addr, len, .. } => Some((addr, len, true)),
            Self::Write { addr, len, .. } => Some((addr, len, false)),
            Self::GetId { addr } => Some((addr, ID_SIZE, true)),
            Self::Flush => None,
        }
    }
}

/// A device's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Ok,
    /// It failed.
    IoError,
    /// The device does not know this type of request.
    Unsupported,
    /// No status that there is, or none written at all (which leaves 0xff).
    Nonsense(u8),
}

impl Status {
    /// The meaning of a status byte.
    #[must_use]
    pub const fn decode(byte: u8) -> Self {
        match byte {
            0 => Self::Ok,
            1 => Self::IoError,
            2 => Self::Unsupported,
            other => Self::Nonsense(other),
        }
    }
}

#[cfg(test)]
mod tests;

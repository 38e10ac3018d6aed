//! The virtio memory device (virtio 1.3 §5.15): configuration, requests, and a driver that keeps the plugged size at the
//! requested size.
//!
//! [`Driver::step`] never waits: it submits a request, or looks whether the last one is done, and says what happened.
//!
//! ```no_run
//! # fn drive(bus: &mut impl guest::Bus, function: guest::pci::Function, arena: &mut guest::arena::Arena)
//! # -> Result<(), guest::virtio::VirtioError> {
//! use guest::mem::{Driver, Step, Touch};
//!
//! let mut driver = Driver::open(bus, function, arena, Touch::Page)?;
//! while driver.step(bus)? != Step::Idle {}
//! assert_eq!(driver.plugged(), driver.config().requested_size);
//! # Ok(())
//! # }
//! ```
//!
//! Not waiting keeps the serial line answering while a device takes its time, and lets several devices work at once.

mod blocks;
mod contents;
mod driver;
mod garbage;
mod trespass;

pub use blocks::BlockMap;
pub use contents::CheckResult;
pub use driver::{Driver, Event, Step};
pub use garbage::GarbageResult;
pub use trespass::TrespassResult;

use crate::bus::Bus;
use crate::virtio::{DEVICE_BASE, Transport};

/// PCI device ID of a virtio memory device (device type 24).
pub const PCI_DEVICE: u16 = DEVICE_BASE + 24;
/// `VIRTIO_MEM_F_ACPI_PXM`: `node_id` is valid.
pub const F_ACPI_PXM: u64 = 1 << 0;
/// `VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE`: the driver promises not to touch unplugged memory.
pub const F_UNPLUGGED_INACCESSIBLE: u64 = 1 << 1;

/// Blocks that one request can name.
pub const MAX_BLOCKS: u64 = u16::MAX as u64;

/// What the driver writes to each newly plugged block, and verifies before it unplugs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Touch {
    /// Nothing: memory stays untouched.
    None,
    /// The first 4 KiB of the block.
    #[default]
    Page,
    /// Every byte.
    All,
}

impl Touch {
    /// The value of the command line option `touch=`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "none" => Self::None,
            "page" => Self::Page,
            "all" => Self::All,
            _ => return None,
        })
    }

    /// The command line's word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Page => "page",
            Self::All => "all",
        }
    }

    /// Bytes written at the start of a block of `block_size` bytes.
    pub(crate) fn len(self, block_size: u64) -> u64 {
        match self {
            Self::None => 0,
            Self::Page => block_size.min(4096),
            Self::All => block_size,
        }
    }
}

/// The device configuration (§5.15.4), sizes and addresses in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Bytes of a block; power of two.
    pub block_size: u64,
    /// Proximity domain; valid with [`F_ACPI_PXM`].
    pub node_id: u16,
    /// Guest-physical start of the region.
    pub addr: u64,
    /// Bytes of the region.
    pub region_size: u64,
    /// Bytes from `addr` that may be plugged at the moment.
    pub usable_region_size: u64,
    /// Bytes plugged, as the device counts.
    pub plugged_size: u64,
    /// Bytes the device wants plugged.
    pub requested_size: u64,
}

impl Config {
    /// Reads a [consistent](Transport::consistent_config) configuration, and its generation.
    pub fn read(bus: &mut impl Bus, transport: &Transport) -> (Self, u8) {
        transport.consistent_config(bus, |bus| Self {
            block_size: transport.config64(bus, 0),
            node_id: transport.config32(bus, 8) as u16,
            addr: transport.config64(bus, 16),
            region_size: transport.config64(bus, 24),
            usable_region_size: transport.config64(bus, 32),
            plugged_size: transport.config64(bus, 40),
            requested_size: transport.config64(bus, 48),
        })
    }

    /// Whether a driver can work with it.
    #[must_use]
    pub fn is_sane(&self) -> bool {
        self.block_size.is_power_of_two()
            && self.block_size >= 4096
            && self.addr.is_multiple_of(self.block_size)
            && self.addr.checked_add(self.region_size).is_some()
    }

    /// Whole blocks in the usable region.
    #[must_use]
    pub fn usable_blocks(&self) -> u64 {
        self.usable_region_size.min(self.region_size) / self.block_size
    }
}

/// A request (§5.15.6). Blocks count from the start of the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Plug this run of blocks.
    Plug(Run),
    /// Unplug this run of blocks.
    Unplug(Run),
    /// Unplug everything.
    UnplugAll,
    /// Ask for the state of this run.
    State(Run),
}

/// Consecutive blocks of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first block's number.
    pub first: u64,
    /// How many, 1–65535 in a request.
    pub count: u64,
}

/// Bytes of a request.
pub const REQUEST_SIZE: usize = 24;
/// Bytes of a response.
pub const RESPONSE_SIZE: u32 = 10;

impl Request {
    /// The request as the device reads it: le16 type, le64 addr at 8, le16 nb_blocks at 16.
    #[must_use]
    pub fn encode(&self, config: &Config) -> [u8; REQUEST_SIZE] {
        let (kind, run) = match *self {
            Self::Plug(run) => (0u16, run),
            Self::Unplug(run) => (1, run),
            Self::UnplugAll => (2, Run { first: 0, count: 0 }),
            Self::State(run) => (3, run),
        };
        let mut bytes = [0; REQUEST_SIZE];
        bytes[..2].copy_from_slice(&kind.to_le_bytes());
        if kind != 2 {
            let addr = config.addr.wrapping_add(run.first.wrapping_mul(config.block_size));
            bytes[8..16].copy_from_slice(&addr.to_le_bytes());
            bytes[16..18].copy_from_slice(&(run.count as u16).to_le_bytes());
        }
        bytes
    }
}

/// State of a run of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockState {
    /// All are plugged.
    Plugged,
    /// None is plugged.
    Unplugged,
    /// Some are.
    Mixed,
}

/// A device's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// Done. The state has a meaning after [`Request::State`] only.
    Ack(BlockState),
    /// Refused: more than requested.
    Nack,
    /// Not now.
    Busy,
    /// The request makes no sense to the device.
    Error,
}

impl Response {
    /// Reads a response of which the device wrote `len` bytes. What is too short or unknown is an error.
    #[must_use]
    pub fn decode(bytes: &[u8; RESPONSE_SIZE as usize], len: u32) -> Self {
        match u16::from_le_bytes([bytes[0], bytes[1]]) {
            0 if len >= RESPONSE_SIZE => Self::Ack(match u16::from_le_bytes([bytes[8], bytes[9]]) {
                0 => BlockState::Plugged,
                1 => BlockState::Unplugged,
                _ => BlockState::Mixed,
            }),
            1 if len >= 2 => Self::Nack,
            2 if len >= 2 => Self::Busy,
            _ => Self::Error,
        }
    }
}

#[cfg(test)]
mod tests;

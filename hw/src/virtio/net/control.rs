//! The control queue (virtio 1.3 §5.1.6.5): the driver's requests, parsed into what they can be, and judged.

use ::net::MacAddr;

use super::features::{
    CTRL_GUEST_OFFLOADS, CTRL_MAC_ADDR, CTRL_RX, CTRL_RX_EXTRA, CTRL_VLAN, GUEST_ANNOUNCE, MQ,
};
use super::filter::{Addresses, MAX_ADDRESSES, MODES, Mode, TAGS};
use crate::virtio::ring::Chain;

/// Classes of requests.
const CLASS_RX: u8 = 0;
const CLASS_MAC: u8 = 1;
const CLASS_VLAN: u8 = 2;
const CLASS_ANNOUNCE: u8 = 3;
const CLASS_PAIRS: u8 = 4;
const CLASS_OFFLOADS: u8 = 5;
/// Answers.
pub(super) const OK: u8 = 0;
pub(super) const FAILED: u8 = 1;
/// Bytes of class and command.
pub(super) const HEAD: u64 = 2;

/// What a driver can ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    Mode(Mode, bool),
    Tables { receivers: Addresses, groups: Addresses },
    Mac(MacAddr),
    Tag { tag: u16, through: bool },
    AnnounceSeen,
    Pairs(u16),
    Offloads(u64),
}

impl Request {
    /// Reads one. `None` if it is none, or not whole.
    pub(super) fn read(buffer: &Chain<'_>) -> Option<Self> {
        let mut reader = Reader { buffer, at: 0 };
        let [class, command] = reader.take()?;
        Some(match (class, command) {
            (CLASS_RX, command) => {
                let mode = *MODES.get(usize::from(command))?;
                let [on] = reader.take()?;
                Self::Mode(mode, on != 0)
            }
            (CLASS_MAC, 0) => {
                let receivers = reader.addresses(MAX_ADDRESSES)?;
                let groups = reader.addresses(MAX_ADDRESSES - receivers.len())?;
                Self::Tables { receivers, groups }
            }
            (CLASS_MAC, 1) => Self::Mac(MacAddr(reader.take()?)),
            (CLASS_VLAN, command @ (0 | 1)) => {
                let tag = u16::from_le_bytes(reader.take()?);
                (usize::from(tag) < TAGS).then_some(Self::Tag { tag, through: command == 0 })?
            }
            (CLASS_ANNOUNCE, 0) => Self::AnnounceSeen,
            (CLASS_PAIRS, 0) => Self::Pairs(u16::from_le_bytes(reader.take()?)),
            (CLASS_OFFLOADS, 0) => Self::Offloads(u64::from_le_bytes(reader.take()?)),
            _ => return None,
        })
    }

    /// The feature without which a driver may not ask for it.
    pub(super) fn needs(&self) -> u64 {
        match self {
            Self::Mode(Mode::Promiscuous | Mode::AllGroups, _) | Self::Tables { .. } => CTRL_RX,
            Self::Mode(..) => CTRL_RX_EXTRA,
            Self::Mac(_) => CTRL_MAC_ADDR,
            Self::Tag { .. } => CTRL_VLAN,
            Self::AnnounceSeen => GUEST_ANNOUNCE,
            Self::Pairs(_) => MQ,
            Self::Offloads(_) => CTRL_GUEST_OFFLOADS,
        }
    }
}

/// Reads a request from its start to its end.
struct Reader<'a, 'c> {
    buffer: &'a Chain<'c>,
    at: u64,
}

impl Reader<'_, '_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        let whole = self.buffer.read_at(self.at, &mut bytes) == N;
        self.at += N as u64;
        whole.then_some(bytes)
    }

    /// A table, of which `room` addresses are kept at most.
    fn addresses(&mut self, room: usize) -> Option<Addresses> {
        let count = u32::from_le_bytes(self.take()?);
        let end = self.at.checked_add(u64::from(count) * 6)?;
        if end > self.buffer.readable_len() {
            return None;
        }
        let table = match usize::try_from(count) {
            Ok(count) if count <= room => {
                let list: Option<Vec<_>> = (0..count).map(|_| self.take().map(MacAddr)).collect();
                Addresses::These(list?)
            }
            _ => Addresses::TooMany,
        };
        self.at = end;
        Some(table)
    }
}

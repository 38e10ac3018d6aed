//! What every kind of host end does.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

/// What the other end may leave to whoever receives its packets; all of it is told in the virtio-net header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads {
    /// Checksums that are not computed.
    pub csum: bool,
    /// TCP over IPv4 that is not segmented.
    pub tso4: bool,
    /// TCP over IPv6.
    pub tso6: bool,
    /// Segments of connections with congestion notification.
    pub ecn: bool,
    /// UDP that is not fragmented.
    pub ufo: bool,
    /// UDP over IPv4 that is not segmented.
    pub uso4: bool,
    /// UDP over IPv6.
    pub uso6: bool,
}

/// What a host end can do whose packets have a header. Checksums and TCP are a matter of course.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// UDP that is not fragmented.
    pub ufo: bool,
    /// UDP that is not segmented.
    pub uso: bool,
}

/// A host end. None of its functions blocks.
pub(crate) trait HostEnd: Send + Sync {
    /// What is watched.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Sends a packet.
    ///
    /// # Errors
    /// `AGAIN`: not now, and a watch tells when. Any other: the packet is lost.
    fn send(&self, packet: &[u8]) -> Result<(), Errno>;

    /// Takes a packet; gives its length. What does not fit is cut off.
    ///
    /// # Errors
    /// `AGAIN`: there is none. Any other is about this packet, if [`is_broken`](Self::is_broken) does not know better.
    fn receive(&self, room: &mut [u8]) -> Result<usize, Errno>;

    /// Whether nothing will come any more after an error.
    fn is_broken(&self, _error: Errno) -> bool {
        false
    }

    /// What its packets' headers may say; `None` if they have none.
    fn header(&self) -> Option<Header> {
        None
    }

    /// What the device takes.
    fn set_offloads(&self, _offloads: Offloads) {}
}

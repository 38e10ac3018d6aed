//! The guest's requests and our answers (virtio 1.3 §5.15.6): bytes into an enum that cannot hold nonsense, and back.

/// Bytes of a request; a longer buffer is fine, a shorter one is a protocol violation.
pub const REQUEST_SIZE: usize = 24;
/// Bytes of a response; the used length is always this.
pub const RESPONSE_SIZE: usize = 10;

/// Blocks a request names: a guest-physical address and a count. Not checked against any device yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Guest-physical address of the first block, as the guest wrote it.
    pub addr: u64,
    /// Number of blocks, 0 to 65535.
    pub blocks: u16,
}

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[doc(alias = "VIRTIO_MEM_REQ_PLUG")]
pub enum Request {
    /// Make the blocks usable.
    Plug(Span),
    /// Give the blocks back.
    Unplug(Span),
    /// Give everything back; the address and count of the request are ignored.
    UnplugAll,
    /// Tell whether the blocks are plugged.
    State(Span),
}

/// A request type that the specification does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown request type: {0}")]
pub struct UnknownType(pub u16);

impl Request {
    /// Reads a request; total over all byte patterns.
    pub fn parse(bytes: &[u8; REQUEST_SIZE]) -> Result<Self, UnknownType> {
        let [t0, t1, _, _, _, _, _, _, a0, a1, a2, a3, a4, a5, a6, a7, n0, n1, ..] = *bytes;
        let span = Span {
            addr: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            blocks: u16::from_le_bytes([n0, n1]),
        };
        match u16::from_le_bytes([t0, t1]) {
            0 => Ok(Self::Plug(span)),
            1 => Ok(Self::Unplug(span)),
            2 => Ok(Self::UnplugAll),
            3 => Ok(Self::State(span)),
            other => Err(UnknownType(other)),
        }
    }
}

/// Whether the blocks of a `STATE` request are plugged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockState {
    /// All of them.
    Plugged,
    /// None of them.
    Unplugged,
    /// Some of them.
    Mixed,
}

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[doc(alias = "VIRTIO_MEM_RESP_ACK")]
pub enum Response {
    /// Done.
    Ack,
    /// Done; the state asked for.
    State(BlockState),
    /// Not now and not later, until the requested size changes.
    Nack,
    /// Not now.
    Busy,
    /// The request makes no sense.
    Error,
}

impl Response {
    /// The bytes the guest gets.
    pub fn to_bytes(self) -> [u8; RESPONSE_SIZE] {
        let (kind, state) = match self {
            Self::Ack => (0u16, 0u16),
            Self::State(BlockState::Plugged) => (0, 0),
            Self::State(BlockState::Unplugged) => (0, 1),
            Self::State(BlockState::Mixed) => (0, 2),
            Self::Nack => (1, 0),
            Self::Busy => (2, 0),
            Self::Error => (3, 0),
        };
        let mut bytes = [0; RESPONSE_SIZE];
        bytes[0..2].copy_from_slice(&kind.to_le_bytes());
        bytes[8..10].copy_from_slice(&state.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests;

//! Messages of the control queues (virtio 1.3 §5.3.6.2): a port, what happened, a value, and for a name its bytes.

/// Bytes of a message without a name.
pub(super) const SIZE: usize = 8;

/// Guest: the driver is ready (1) or failed (0).
pub(super) const DEVICE_READY: u16 = 0;
/// Device: there is a port.
#[doc(alias = "VIRTIO_CONSOLE_PORT_ADD")]
pub(super) const DEVICE_ADD: u16 = 1;
/// Device: it is gone.
pub(super) const DEVICE_REMOVE: u16 = 2;
/// Guest: it knows the port (1) or failed to (0).
pub(super) const PORT_READY: u16 = 3;
/// Device: it is a console.
pub(super) const CONSOLE_PORT: u16 = 4;
/// Either: the other end is open (1) or not (0).
pub(super) const PORT_OPEN: u16 = 6;
/// Device: what it is called.
pub(super) const PORT_NAME: u16 = 7;

/// A message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) port: u32,
    pub(super) event: u16,
    pub(super) value: u16,
}

impl Message {
    /// The first bytes of what the guest sent.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; SIZE] = bytes.get(..SIZE)?.try_into().ok()?;
        let [a, b, c, d, e, f, g, h] = bytes;
        Some(Self {
            port: u32::from_le_bytes([a, b, c, d]),
            event: u16::from_le_bytes([e, f]),
            value: u16::from_le_bytes([g, h]),
        })
    }

    /// As the guest gets it.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = self.port.to_le_bytes().to_vec();
        bytes.extend(self.event.to_le_bytes());
        bytes.extend(self.value.to_le_bytes());
        bytes
    }
}

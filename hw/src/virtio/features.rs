//! Feature and status bits (virtio 1.3 §2.1, §6), and the sentences QEMU's `info virtio-status` has for them.

/// Buffers may be described by a table elsewhere in memory.
pub const RING_INDIRECT_DESC: u64 = 1 << 28;
/// Notifications are suppressed by ring index.
pub const RING_EVENT_IDX: u64 = 1 << 29;
/// The driver keeps to the virtio 1.x specification.
pub const VERSION_1: u64 = 1 << 32;
/// Addresses go through the platform's translation.
#[doc(alias = "VIRTIO_F_IOMMU_PLATFORM")]
pub const ACCESS_PLATFORM: u64 = 1 << 33;
/// Rings are packed (§2.8).
pub const RING_PACKED: u64 = 1 << 34;
/// Buffers are used in the order in which they were made available.
pub const IN_ORDER: u64 = 1 << 35;
/// One queue can be reset alone.
pub const RING_RESET: u64 = 1 << 40;

/// Legacy bits that QEMU's devices count among their host features, but that a modern transport does not offer.
pub const NOTIFY_ON_EMPTY: u64 = 1 << 24;
/// See [`NOTIFY_ON_EMPTY`].
pub const ANY_LAYOUT: u64 = 1 << 27;
/// See [`NOTIFY_ON_EMPTY`]; the former `VIRTIO_F_BAD_FEATURE`.
pub const BAD_FEATURE: u64 = 1 << 30;

/// Bits of the device status.
pub mod status {
    /// The guest noticed the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// The guest can drive it.
    pub const DRIVER: u8 = 2;
    /// Set-up is complete.
    pub const DRIVER_OK: u8 = 4;
    /// Feature negotiation is complete.
    pub const FEATURES_OK: u8 = 8;
    /// The device cannot go on.
    pub const NEEDS_RESET: u8 = 0x40;
    /// The guest gave up.
    pub const FAILED: u8 = 0x80;
}

/// Status bits in the order in which QEMU lists them.
pub(super) const STATUS_TEXT: [(u8, &str); 6] = [
    (status::ACKNOWLEDGE, "VIRTIO_CONFIG_S_ACKNOWLEDGE: Valid virtio device found"),
    (status::DRIVER, "VIRTIO_CONFIG_S_DRIVER: Guest OS compatible with device"),
    (status::FEATURES_OK, "VIRTIO_CONFIG_S_FEATURES_OK: Feature negotiation complete"),
    (status::DRIVER_OK, "VIRTIO_CONFIG_S_DRIVER_OK: Driver setup and ready"),
    (status::NEEDS_RESET, "VIRTIO_CONFIG_S_NEEDS_RESET: Irrecoverable error, device needs reset"),
    (status::FAILED, "VIRTIO_CONFIG_S_FAILED: Error in guest, device failed"),
];

/// Transport features in the order in which QEMU lists them.
pub(super) const TRANSPORT_TEXT: [(u64, &str); 9] = [
    (RING_EVENT_IDX, "VIRTIO_RING_F_EVENT_IDX: Used & avail. event fields enabled"),
    (RING_INDIRECT_DESC, "VIRTIO_RING_F_INDIRECT_DESC: Indirect descriptors supported"),
    (RING_RESET, "VIRTIO_F_RING_RESET: Driver can reset a queue individually"),
    (IN_ORDER, "VIRTIO_F_IN_ORDER: Device uses buffers in same order as made available by driver"),
    (RING_PACKED, "VIRTIO_F_RING_PACKED: Device supports packed VQ layout"),
    (ACCESS_PLATFORM, "VIRTIO_F_IOMMU_PLATFORM: Device can be used on IOMMU platform"),
    (VERSION_1, "VIRTIO_F_VERSION_1: Device compliant for v1 spec (legacy)"),
    (ANY_LAYOUT, "VIRTIO_F_ANY_LAYOUT: Device accepts arbitrary desc. layouts"),
    (NOTIFY_ON_EMPTY, "VIRTIO_F_NOTIFY_ON_EMPTY: Notify when device runs out of avail. descs. on VQ"),
];

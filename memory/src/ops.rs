//! What a device does with an access, and which accesses it takes.
//!
//! Little endian throughout. Splitting and widening to the implemented sizes is the dispatcher's work
//! ([`crate::AddressSpace`]); a device sees only sizes it implements.

/// Outcome of an access to an address space.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[doc(alias = "MemTxResult")]
pub enum MemTx {
    /// Done.
    #[default]
    Ok,
    /// The device was reached and refused.
    #[doc(alias = "MEMTX_ERROR")]
    Error,
    /// Nothing is there, the size is not taken, or the memory is read-only.
    #[doc(alias = "MEMTX_DECODE_ERROR")]
    DecodeError,
}

impl MemTx {
    /// Whether the access succeeded.
    pub fn is_ok(self) -> bool {
        self == Self::Ok
    }

    /// The first failure of two outcomes.
    pub fn and(self, next: Self) -> Self {
        if self.is_ok() { next } else { self }
    }
}

/// Sizes (bytes, powers of two up to 8) and alignment that a device takes and implements.
///
/// ```
/// use memory::AccessConstraints;
/// // Any access of 1 to 8 bytes is taken; the device itself only implements 4.
/// const C: AccessConstraints = AccessConstraints::new().valid(1, 8).implemented(4, 4);
/// assert_eq!(C.valid_max, 8);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessConstraints {
    /// Smallest access taken.
    pub valid_min: u8,
    /// Largest access taken; larger ones are split.
    pub valid_max: u8,
    /// Whether unaligned accesses are taken.
    pub valid_unaligned: bool,
    /// Smallest access implemented; smaller ones are widened.
    pub impl_min: u8,
    /// Largest access implemented; larger ones are split.
    pub impl_max: u8,
    /// Whether unaligned accesses reach the device whole.
    pub impl_unaligned: bool,
}

impl AccessConstraints {
    /// 1 to 4 bytes taken and implemented, aligned only.
    pub const fn new() -> Self {
        Self {
            valid_min: 1,
            valid_max: 4,
            valid_unaligned: false,
            impl_min: 1,
            impl_max: 4,
            impl_unaligned: false,
        }
    }

    /// Takes accesses of `min..=max` bytes.
    #[must_use]
    pub const fn valid(mut self, min: u8, max: u8) -> Self {
        (self.valid_min, self.valid_max) = (min, max);
        self
    }

    /// Implements accesses of `min..=max` bytes.
    #[must_use]
    pub const fn implemented(mut self, min: u8, max: u8) -> Self {
        (self.impl_min, self.impl_max) = (min, max);
        self
    }

    /// Takes and implements unaligned accesses.
    #[must_use]
    pub const fn unaligned(mut self) -> Self {
        (self.valid_unaligned, self.impl_unaligned) = (true, true);
        self
    }
}

impl Default for AccessConstraints {
    fn default() -> Self {
        Self::new()
    }
}

/// Behaviour of an I/O region. Called on whichever thread makes the access (vCPU threads, the main loop), with no
/// lock of this crate held; it may start a [`crate::Transaction`].
#[doc(alias = "MemoryRegionOps")]
pub trait RegionOps: Send + Sync {
    /// Reads `size` bytes at `offset` of the region.
    fn read(&self, offset: u64, size: u8) -> u64;

    /// Writes the low `size` bytes of `value` at `offset` of the region.
    fn write(&self, offset: u64, size: u8, value: u64);

    /// Sizes and alignment.
    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new()
    }

    /// Like [`read`](Self::read), for devices that can fail an access.
    fn try_read(&self, offset: u64, size: u8) -> (u64, MemTx) {
        (self.read(offset, size), MemTx::Ok)
    }

    /// Like [`write`](Self::write), for devices that can fail an access.
    fn try_write(&self, offset: u64, size: u8, value: u64) -> MemTx {
        self.write(offset, size, value);
        MemTx::Ok
    }
}

/// I/O ports that no device answers: reads give all ones, writes are lost. The root of the port address space is
/// an I/O region with these operations.
#[derive(Debug, Clone, Copy, Default)]
#[doc(alias = "unassigned_io_ops")]
pub struct UnassignedIo;

impl RegionOps for UnassignedIo {
    fn read(&self, _offset: u64, _size: u8) -> u64 {
        u64::MAX
    }

    fn write(&self, _offset: u64, _size: u8, _value: u64) {}

    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(1, 8).implemented(1, 8).unaligned()
    }
}

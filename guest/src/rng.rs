//! The virtio entropy device (virtio 1.3 §5.4): a driver with one request in flight.
//!
//! It has no configuration and no features of its own, so that a request is as little as a queue can do: a doorbell, a chain,
//! an interrupt. That is what it is measured for.
//!
//! ```no_run
//! # fn drive(bus: &mut impl guest::Bus, function: guest::pci::Function, arena: &mut guest::arena::Arena)
//! # -> Result<(), guest::virtio::VirtioError> {
//! use guest::rng::Driver;
//! use guest::virtio::queue::QueueMemory;
//!
//! let mut driver = Driver::open(bus, function, QueueMemory::take(arena)?)?;
//! driver.request(bus, 64);
//! while driver.poll(bus)?.is_none() {
//!     bus.relax();
//! }
//! # Ok(())
//! # }
//! ```

use crate::bus::Bus;
use crate::pci::Function;
use crate::virtio::queue::{Buffer, Queue, QueueMemory};
use crate::virtio::{DEVICE_BASE, Transport, VENDOR, VirtioError};

/// PCI device ID of a modern entropy device (device type 4).
pub const PCI_DEVICE: u16 = DEVICE_BASE + 4;
/// PCI device ID of a transitional one, which this driver uses through its modern registers.
pub const PCI_DEVICE_TRANSITIONAL: u16 = 0x1005;
/// Bytes of a request at most: the queue's scratch page.
pub const MAX_REQUEST: u32 = 4096;

/// Whether a function is an entropy device.
#[must_use]
pub const fn is_rng(vendor: u16, device: u16) -> bool {
    vendor == VENDOR && matches!(device, PCI_DEVICE | PCI_DEVICE_TRANSITIONAL)
}

/// One entropy device at work.
#[derive(Clone, Copy, Debug)]
pub struct Driver {
    transport: Transport,
    queue: Queue,
    asked: u32,
}

impl Driver {
    /// Initialises the device behind `function` with its queue in `memory`.
    ///
    /// # Errors
    /// When the device cannot be used.
    pub fn open(bus: &mut impl Bus, function: Function, memory: QueueMemory) -> Result<Self, VirtioError> {
        let transport = Transport::open(bus, function)?;
        transport.negotiate(bus, 0)?;
        let queue = transport.setup_queue(bus, 0, memory)?;
        transport.driver_ok(bus);
        Ok(Self { transport, queue, asked: 0 })
    }

    /// Asks for `len` bytes, 1 to [`MAX_REQUEST`]. One request at a time: call again only after [`Driver::poll`] gave an answer.
    pub fn request(&mut self, bus: &mut impl Bus, len: u32) {
        self.asked = len.clamp(1, MAX_REQUEST);
        let addr = self.queue.scratch();
        self.queue.submit(bus, &[Buffer { addr, len: self.asked, device_writes: true }]);
    }

    /// How many bytes of [`Driver::buffer`] the device filled, once it answered.
    ///
    /// # Errors
    /// When the device breaks down, or says that it wrote nothing or more than there is room for (§5.4.6.2).
    pub fn poll(&mut self, bus: &mut impl Bus) -> Result<Option<u32>, VirtioError> {
        if self.transport.uses_pin() {
            // Before the look at what it announced: what comes later raises the pin again.
            self.transport.isr(bus);
        }
        match self.queue.poll(bus)? {
            Some(len) if len == 0 || len > self.asked => Err(VirtioError::BadUsedRing),
            answer => Ok(answer),
        }
    }

    /// Guest-physical address of what the device writes.
    #[must_use]
    pub const fn buffer(&self) -> u64 {
        self.queue.scratch()
    }

    /// Whether [`Bus::idle`] wakes when a request is done.
    #[must_use]
    pub const fn has_interrupts(&self) -> bool {
        self.queue.has_interrupts()
    }

    /// Resets the device, so that it leaves the queue's memory alone.
    ///
    /// # Errors
    /// [`VirtioError::ResetTimeout`].
    pub fn close(self, bus: &mut impl Bus) -> Result<(), VirtioError> {
        self.transport.reset(bus)
    }
}

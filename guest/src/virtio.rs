//! The modern virtio transport over PCI (virtio 1.3 §4.1): finding the configuration structures, device initialisation
//! (§3.1.1), feature negotiation, status, configuration generation, interrupts.
//!
//! Left out: legacy devices, `VIRTIO_PCI_CAP_PCI_CFG` windows, shared memory.

pub mod queue;

use crate::bus::Bus;
use crate::pci::{Function, Msix, PciError};
use queue::{Queue, QueueMemory};

/// Vendor of all virtio devices.
pub const VENDOR: u16 = 0x1af4;
/// Device ID of a modern virtio device is this plus the virtio device type.
pub const DEVICE_BASE: u16 = 0x1040;
/// `VIRTIO_F_VERSION_1`.
pub const F_VERSION_1: u64 = 1 << 32;
/// `VIRTIO_F_ACCESS_PLATFORM`: accepted when offered, because this guest has no IOMMU and physical addresses are right.
pub const F_ACCESS_PLATFORM: u64 = 1 << 33;
/// `VIRTIO_MSI_NO_VECTOR`.
pub const NO_VECTOR: u16 = 0xffff;

const STATUS_ACKNOWLEDGE: u8 = 1;
const STATUS_DRIVER: u8 = 2;
const STATUS_DRIVER_OK: u8 = 4;
const STATUS_FEATURES_OK: u8 = 8;
const STATUS_NEEDS_RESET: u8 = 0x40;
const STATUS_FAILED: u8 = 0x80;

const CAP_VENDOR: u8 = 9;
const CFG_COMMON: u8 = 1;
const CFG_NOTIFY: u8 = 2;
const CFG_ISR: u8 = 3;
const CFG_DEVICE: u8 = 4;

// struct virtio_pci_common_cfg (§4.1.4.3).
const DEVICE_FEATURE_SELECT: u64 = 0;
const DEVICE_FEATURE: u64 = 4;
const DRIVER_FEATURE_SELECT: u64 = 8;
const DRIVER_FEATURE: u64 = 12;
const CONFIG_MSIX_VECTOR: u64 = 16;
const NUM_QUEUES: u64 = 18;
const DEVICE_STATUS: u64 = 20;
const CONFIG_GENERATION: u64 = 21;
const QUEUE_SELECT: u64 = 22;
const QUEUE_SIZE: u64 = 24;
const QUEUE_MSIX_VECTOR: u64 = 26;
const QUEUE_ENABLE: u64 = 28;
const QUEUE_NOTIFY_OFF: u64 = 30;
const QUEUE_DESC: u64 = 32;
const QUEUE_DRIVER: u64 = 40;
const QUEUE_DEVICE: u64 = 48;
const COMMON_SIZE: u32 = 56;

/// How long a reset is waited for, in nanoseconds. A device that is not reset by then is broken.
const RESET_PATIENCE_NS: u64 = 10_000_000_000;

/// What can go wrong between driver and device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VirtioError {
    /// The PCI function cannot be used.
    Pci(PciError),
    /// This configuration structure (`cfg_type`) is missing, too short or misplaced.
    NoStructure(u8),
    /// The status register did not go to zero after a reset.
    ResetTimeout,
    /// The device does not offer `VIRTIO_F_VERSION_1`.
    NotModern,
    /// FEATURES_OK did not stick after these features were accepted.
    FeaturesRefused(u64),
    /// The device does not have this queue.
    NoQueue(u16),
    /// The device set DEVICE_NEEDS_RESET.
    NeedsReset,
    /// The used ring names a descriptor that was not given, or moved on by itself.
    BadUsedRing,
    /// Guest RAM for queue or block map is used up.
    NoMemory,
    /// The device configuration makes no sense, or another one than before.
    BadConfig,
    /// The bus was [stopped](Bus::stopped) during a wait.
    Stopped,
}

impl From<PciError> for VirtioError {
    fn from(error: PciError) -> Self {
        Self::Pci(error)
    }
}

impl core::fmt::Display for VirtioError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Pci(error) => error.fmt(f),
            Self::NoStructure(kind) => write!(f, "no usable virtio structure of type {kind}"),
            Self::ResetTimeout => f.write_str("reset does not end"),
            Self::NotModern => f.write_str("VERSION_1 is not offered"),
            Self::FeaturesRefused(features) => write!(f, "features {features:#x} were refused"),
            Self::NoQueue(index) => write!(f, "queue {index} does not exist"),
            Self::NeedsReset => f.write_str("device needs reset"),
            Self::BadUsedRing => f.write_str("used ring is broken"),
            Self::NoMemory => f.write_str("out of guest memory"),
            Self::Stopped => f.write_str("stopped while waiting"),
            Self::BadConfig => f.write_str("device configuration makes no sense"),
        }
    }
}

/// A virtio device's registers.
#[derive(Clone, Copy, Debug)]
pub struct Transport {
    function: Function,
    common: u64,
    notify: u64,
    notify_len: u32,
    notify_multiplier: u32,
    isr: u64,
    device: u64,
    device_len: u32,
    msix: Option<Msix>,
}

impl Transport {
    /// Finds the structures of `function` and enables it. The device is not touched yet.
    ///
    /// # Errors
    /// When a structure is missing or its BAR has no address.
    pub fn open<B: Bus>(bus: &mut B, function: Function) -> Result<Self, VirtioError> {
        // Offset of the first capability of each type; §4.1.4: the first that the driver supports is preferred.
        let mut caps = [0u8; 5];
        function.capabilities(bus, |bus, offset, id| {
            let kind = if id == CAP_VENDOR { usize::from(function.read8(bus, offset + 3)) } else { 0 };
            if (1..5).contains(&kind) && caps[kind] == 0 && offset <= 0xec {
                caps[kind] = offset;
            }
            false
        });
        let mut place = |kind: u8, least: u32| -> Result<(u64, u32, u8), VirtioError> {
            let cap = caps[usize::from(kind)];
            if cap == 0 {
                return Err(VirtioError::NoStructure(kind));
            }
            let bar_number = function.read8(bus, cap + 4);
            let bar = function.bar(bus, bar_number)?;
            let (offset, len) = (function.read32(bus, cap + 8), function.read32(bus, cap + 12));
            let start = bar.checked_add(u64::from(offset)).filter(|_| len >= least);
            Ok((start.ok_or(VirtioError::NoStructure(kind))?, len, cap))
        };
        let (common, ..) = place(CFG_COMMON, COMMON_SIZE)?;
        let (notify, notify_len, notify_cap) = place(CFG_NOTIFY, 2)?;
        let (isr, ..) = place(CFG_ISR, 1)?;
        let (device, device_len, _) = place(CFG_DEVICE, 1)?;
        let notify_multiplier = function.read32(bus, notify_cap + 16);
        function.enable(bus);
        let msix = function.msix(bus);
        Ok(Self { function, common, notify, notify_len, notify_multiplier, isr, device, device_len, msix })
    }

    /// The PCI function.
    #[must_use]
    pub const fn function(&self) -> Function {
        self.function
    }

    /// Device initialisation up to FEATURES_OK: accepts those of `wanted` that are offered, always VERSION_1. Returns
    /// the accepted features.
    ///
    /// # Errors
    /// When the device does not reset, is not modern, or refuses; its status is FAILED then.
    pub fn negotiate(&self, bus: &mut impl Bus, wanted: u64) -> Result<u64, VirtioError> {
        self.reset(bus)?;
        self.add_status(bus, STATUS_ACKNOWLEDGE);
        self.add_status(bus, STATUS_DRIVER);
        let offered = self.device_features(bus);
        if offered & F_VERSION_1 == 0 {
            return Err(self.fail(bus, VirtioError::NotModern));
        }
        let features = offered & (wanted | F_VERSION_1 | F_ACCESS_PLATFORM);
        for half in 0..2 {
            bus.mmio_write32(self.common + DRIVER_FEATURE_SELECT, half);
            bus.mmio_write32(self.common + DRIVER_FEATURE, (features >> (32 * half)) as u32);
        }
        self.add_status(bus, STATUS_FEATURES_OK);
        if self.status(bus) & STATUS_FEATURES_OK == 0 {
            return Err(self.fail(bus, VirtioError::FeaturesRefused(features)));
        }
        Ok(features)
    }

    /// Queues that the device has.
    pub fn queues(&self, bus: &mut impl Bus) -> u16 {
        bus.mmio_read16(self.common + NUM_QUEUES)
    }

    /// Sets up queue `index` in `memory`, with MSI-X if the bus takes messages.
    ///
    /// # Errors
    /// When the device has no such queue; its status is FAILED then.
    pub fn setup_queue(
        &self,
        bus: &mut impl Bus,
        index: u16,
        memory: QueueMemory,
    ) -> Result<Queue, VirtioError> {
        bus.mmio_write16(self.common + QUEUE_SELECT, index);
        let size = bus.mmio_read16(self.common + QUEUE_SIZE).min(queue::MAX_SIZE);
        // The size is a power of two (§4.1.4.3); one that is not would put ring slots elsewhere than the device does.
        if !size.is_power_of_two() {
            return Err(self.fail(bus, VirtioError::NoQueue(index)));
        }
        bus.mmio_write16(self.common + QUEUE_SIZE, size);
        let notify_off = bus.mmio_read16(self.common + QUEUE_NOTIFY_OFF);
        let doorbell = u64::from(notify_off) * u64::from(self.notify_multiplier);
        if doorbell + 2 > u64::from(self.notify_len) {
            return Err(self.fail(bus, VirtioError::NoStructure(CFG_NOTIFY)));
        }
        let queue = Queue::new(bus, index, size, memory, self.notify + doorbell);
        for (register, address) in
            [(QUEUE_DESC, memory.desc()), (QUEUE_DRIVER, memory.avail()), (QUEUE_DEVICE, memory.used())]
        {
            bus.mmio_write32(self.common + register, address as u32);
            bus.mmio_write32(self.common + register + 4, (address >> 32) as u32);
        }
        let interrupts = self.setup_interrupts(bus, index);
        bus.mmio_write16(self.common + QUEUE_ENABLE, 1);
        Ok(queue.with_interrupts(interrupts))
    }

    /// Routes the selected queue, which is number `index`, and configuration changes to MSI-X vectors; a function without them has
    /// its pin. False: nothing wakes the bus.
    fn setup_interrupts(&self, bus: &mut impl Bus, index: u16) -> bool {
        let Some(msix) = self.msix else { return self.setup_pin(bus) };
        // One vector each as long as there are enough; the last queues share one.
        let queue_vector = (index.saturating_add(1)).min(msix.vectors() - 1);
        let (Some(config), Some(queue)) = (bus.msi(0), bus.msi(queue_vector)) else {
            msix.enable(bus, false);
            return false;
        };
        msix.set(bus, 0, config);
        msix.set(bus, queue_vector, queue);
        msix.enable(bus, true);
        bus.mmio_write16(self.common + CONFIG_MSIX_VECTOR, 0);
        bus.mmio_write16(self.common + QUEUE_MSIX_VECTOR, queue_vector);
        bus.mmio_read16(self.common + CONFIG_MSIX_VECTOR) != NO_VECTOR
            && bus.mmio_read16(self.common + QUEUE_MSIX_VECTOR) != NO_VECTOR
    }

    /// The driver is ready: the device may use its queues from here on.
    pub fn driver_ok(&self, bus: &mut impl Bus) {
        self.add_status(bus, STATUS_DRIVER_OK);
    }

    /// Resets the device and waits until it is reset (§4.1.4.3.1).
    ///
    /// # Errors
    /// [`VirtioError::ResetTimeout`].
    pub fn reset(&self, bus: &mut impl Bus) -> Result<(), VirtioError> {
        bus.mmio_write8(self.common + DEVICE_STATUS, 0);
        let end = bus.now_ns().saturating_add(RESET_PATIENCE_NS);
        loop {
            if self.status(bus) == 0 {
                return Ok(());
            }
            if bus.stopped() || bus.now_ns() >= end {
                return Err(VirtioError::ResetTimeout);
            }
            bus.relax();
        }
    }

    /// The device's feature bits.
    pub fn device_features(&self, bus: &mut impl Bus) -> u64 {
        (0..2).fold(0, |bits, half| {
            bus.mmio_write32(self.common + DEVICE_FEATURE_SELECT, half);
            bits | u64::from(bus.mmio_read32(self.common + DEVICE_FEATURE)) << (32 * half)
        })
    }

    /// The status register.
    pub fn status(&self, bus: &mut impl Bus) -> u8 {
        bus.mmio_read8(self.common + DEVICE_STATUS)
    }

    /// Whether the driver was made ready and the device not reset since.
    pub fn is_driver_ok(&self, bus: &mut impl Bus) -> bool {
        self.status(bus) & STATUS_DRIVER_OK != 0
    }

    /// Whether the device gave up (DEVICE_NEEDS_RESET). A device that is gone reads as all ones and counts too.
    pub fn needs_reset(&self, bus: &mut impl Bus) -> bool {
        self.status(bus) & STATUS_NEEDS_RESET != 0
    }

    /// The configuration generation (§4.1.4.3): changes with the device configuration.
    pub fn config_generation(&self, bus: &mut impl Bus) -> u8 {
        bus.mmio_read8(self.common + CONFIG_GENERATION)
    }

    /// Reads a device configuration that belongs together: again if the generation changed meanwhile (§2.5.1). After a few changes in
    /// a row the last reading is returned; the generation that comes with it will be seen to differ.
    pub fn consistent_config<B: Bus, C>(&self, bus: &mut B, mut read: impl FnMut(&mut B) -> C) -> (C, u8) {
        let mut generation = self.config_generation(bus);
        let mut tries = 0;
        loop {
            let config = read(bus);
            let after = self.config_generation(bus);
            tries += 1;
            if after == generation || tries == 8 {
                return (config, generation);
            }
            generation = after;
        }
    }

    /// Has the bus wake on the line that the function's interrupt pin ends at (PCI 3.0 §6.2.4).
    fn setup_pin(&self, bus: &mut impl Bus) -> bool {
        let [line, pin] = self.function.read16(bus, 0x3c).to_le_bytes();
        pin != 0 && bus.wake_on_line(line)
    }

    /// Whether interrupts come over the pin, which stays raised until [`Transport::isr`] is read.
    #[must_use]
    pub const fn uses_pin(&self) -> bool {
        self.msix.is_none()
    }

    /// Reads and clears the ISR status (§4.1.4.5); lowers the interrupt pin.
    pub fn isr(&self, bus: &mut impl Bus) -> u8 {
        bus.mmio_read8(self.isr)
    }

    /// Reads 8 bytes of device configuration as two 32-bit accesses (§4.1.3.1), all ones beyond its end.
    pub fn config64(&self, bus: &mut impl Bus, offset: u32) -> u64 {
        u64::from(self.config32(bus, offset)) | u64::from(self.config32(bus, offset + 4)) << 32
    }

    /// Reads 4 bytes of device configuration, all ones beyond its end.
    pub fn config32(&self, bus: &mut impl Bus, offset: u32) -> u32 {
        if offset + 4 > self.device_len {
            return u32::MAX;
        }
        bus.mmio_read32(self.device + u64::from(offset))
    }

    /// Gives the device up.
    pub fn set_failed(&self, bus: &mut impl Bus) {
        self.add_status(bus, STATUS_FAILED);
    }

    fn add_status(&self, bus: &mut impl Bus, bit: u8) {
        let status = self.status(bus);
        bus.mmio_write8(self.common + DEVICE_STATUS, status | bit);
    }

    fn fail(&self, bus: &mut impl Bus, error: VirtioError) -> VirtioError {
        self.set_failed(bus);
        error
    }
}

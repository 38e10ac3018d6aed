//! A virtio-mem driver that lives in the test and drives the device through qtest: virtio 1.3 over PCI, sections 4.1 and 5.15.
//!
//! It does what a transcript says, right or wrong: requests of any type and size, unusual features, vectors out of range. The
//! ring and the buffers are in low guest memory; one request is in flight at a time and completion is polled for.

use crate::pci::Function;
use crate::{Qtest, wire};

/// Vendor and device ID of virtio-mem on PCI.
pub const IDS: (u16, u16) = (0x1af4, 0x1058);
/// Where the recordings have BAR 4 of the first device; the others follow in steps of 64 KiB.
pub const BAR4: u64 = 0xfe00_0000;
/// Where the recordings have BAR 1 (the MSI-X table) of the first device; the others follow in steps of 4 KiB.
pub const BAR1: u64 = 0xfe80_0000;
/// `VIRTIO_F_VERSION_1`.
pub const VERSION_1: u64 = 1 << 32;
/// `VIRTIO_F_RING_PACKED`.
pub const RING_PACKED: u64 = 1 << 34;
/// `VIRTIO_F_RING_EVENT_IDX`.
pub const RING_EVENT_IDX: u64 = 1 << 29;
/// `VIRTIO_MEM_F_ACPI_PXM`.
pub const ACPI_PXM: u64 = 1 << 0;
/// `VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE`.
pub const UNPLUGGED_INACCESSIBLE: u64 = 1 << 1;
/// `VIRTIO_MEM_F_PERSISTENT_SUSPEND`.
pub const PERSISTENT_SUSPEND: u64 = 1 << 2;

const ACKNOWLEDGE_DRIVER: u64 = 3;
const FEATURES_OK: u64 = 8;
const DRIVER_OK: u64 = 4;
/// Guest memory for the first device's ring and buffers; the others follow in steps of 64 KiB.
const RING: u64 = 0x10_0000;
/// Offsets in it; the descriptors are at its start.
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const REQUEST: u64 = 0x3000;
const RESPONSE: u64 = 0x4000;

/// The types of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// Plug blocks.
    Plug = 0,
    /// Unplug blocks.
    Unplug = 1,
    /// Unplug all blocks.
    UnplugAll = 2,
    /// Tell the state of blocks.
    State = 3,
}

/// The device's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Bytes in a block.
    pub block_size: u64,
    /// The proximity domain.
    pub node_id: u16,
    /// The first guest physical address.
    pub addr: u64,
    /// Bytes of address space.
    pub region_size: u64,
    /// Bytes from `addr` on in which blocks may be plugged now.
    pub usable_region_size: u64,
    /// Bytes that are plugged.
    pub plugged_size: u64,
    /// Bytes that should be plugged.
    pub requested_size: u64,
}

impl std::fmt::Display for Config {
    /// As the recordings have it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "block_size={:#x} node_id={:#x} addr={:#x} region_size={:#x} usable_region_size={:#x} plugged_size={:#x} \
             requested_size={:#x}",
            self.block_size,
            self.node_id,
            self.addr,
            self.region_size,
            self.usable_region_size,
            self.plugged_size,
            self.requested_size
        )
    }
}

/// The driver of one device.
#[derive(Debug)]
pub struct VirtioMem {
    /// The device's PCI function.
    pub function: Function,
    common: u64,
    isr: u64,
    device: u64,
    notify: u64,
    ring: u64,
    available: u16,
    /// Whether the ring is a packed one.
    packed: bool,
    /// Where a notification goes that names its queue, if not to the queue's register.
    port: Option<u16>,
    /// The length that the device gave with the last used element.
    pub used_len: u32,
}

impl VirtioMem {
    /// Maps the BARs of a device where the recordings have them for the `nth` one, and finds the structures in BAR 4.
    ///
    /// # Panics
    ///
    /// If there is no virtio-mem device or it lacks a structure.
    pub fn map(qtest: &mut Qtest, function: Function, nth: u64) -> Self {
        Self::map_as(qtest, function, nth, IDS)
    }

    /// The same for another device with one queue, by its vendor and device ID: [`VirtioMem::request_raw`] is for any.
    ///
    /// # Panics
    ///
    /// As above.
    pub fn map_as(qtest: &mut Qtest, function: Function, nth: u64, (vendor, device): (u16, u16)) -> Self {
        let ids = function.read(qtest, 0, 4);
        assert_eq!(ids, u64::from(vendor) | u64::from(device) << 16, "what {function:?} is");
        let bar = BAR4 + 0x1_0000 * nth;
        function.assign(qtest, bar, BAR1 + 0x1000 * nth);
        let mut structures = [0; 5];
        for (at, id) in function.capabilities(qtest) {
            let kind = function.read(qtest, at + 3, 1) as usize;
            if id == 9 && (1..5).contains(&kind) && function.read(qtest, at + 4, 1) == 4 {
                structures[kind] = bar + function.read(qtest, at + 8, 4);
            }
        }
        let [_, common, notify, isr, device] = structures;
        assert!(
            structures[1..].iter().all(|&s| s != 0),
            "a modern device has all structures: {structures:x?}"
        );
        let ring = RING + 0x1_0000 * nth;
        Self {
            function,
            common,
            isr,
            device,
            notify,
            ring,
            available: 0,
            packed: false,
            port: None,
            used_len: 0,
        }
    }

    /// Has the next initialisation put the queue and its buffers at `addr`.
    pub fn place_ring(&mut self, addr: u64) {
        self.ring = addr;
    }

    /// Has notifications go to a port.
    pub fn notify_through(&mut self, port: u16) {
        self.port = Some(port);
    }

    /// The features that the device offers.
    pub fn features(&self, qtest: &mut Qtest) -> u64 {
        let mut half = |select| {
            qtest.write(self.common, 4, select);
            qtest.read(self.common + 4, 4)
        };
        half(0) | half(1) << 32
    }

    /// Resets and initialises the device with these features; whether it took them. On success the queue is ready.
    pub fn init(&mut self, qtest: &mut Qtest, features: u64) -> bool {
        self.set_status(qtest, 0);
        self.set_status(qtest, 1);
        self.set_status(qtest, ACKNOWLEDGE_DRIVER);
        for select in 0..2 {
            qtest.write(self.common + 8, 4, select);
            qtest.write(self.common + 12, 4, features >> (32 * select) & 0xffff_ffff);
        }
        self.set_status(qtest, ACKNOWLEDGE_DRIVER | FEATURES_OK);
        if self.status(qtest) & FEATURES_OK == 0 {
            return false;
        }
        self.packed = features & RING_PACKED != 0;
        self.enable_queue(qtest);
        self.set_status(qtest, ACKNOWLEDGE_DRIVER | FEATURES_OK | DRIVER_OK);
        true
    }

    /// Resets the queue alone, and enables it again.
    pub fn reset_queue(&mut self, qtest: &mut Qtest) {
        qtest.write(self.common + 22, 2, 0);
        qtest.write(self.common + 58, 2, 1);
        assert_eq!(qtest.read(self.common + 28, 2), 0, "it is off");
        self.enable_queue(qtest);
    }

    fn enable_queue(&mut self, qtest: &mut Qtest) {
        qtest.memset(self.ring, 0x5000, 0);
        self.available = 0;
        qtest.write(self.common + 22, 2, 0);
        for (offset, address) in [(32, self.ring), (40, self.ring + AVAILABLE), (48, self.ring + USED)] {
            qtest.write(self.common + offset, 4, address & 0xffff_ffff);
            qtest.write(self.common + offset + 4, 4, address >> 32);
        }
        qtest.write(self.common + 28, 2, 1);
    }

    /// Initialises with what the recorder's driver took: version 1, and all of the device's own features that are offered.
    pub fn init_usual(&mut self, qtest: &mut Qtest) -> bool {
        let own = ACPI_PXM | UNPLUGGED_INACCESSIBLE | PERSISTENT_SUSPEND;
        let features = self.features(qtest) & (VERSION_1 | own);
        self.init(qtest, features)
    }

    /// The device status.
    pub fn status(&self, qtest: &mut Qtest) -> u64 {
        qtest.read(self.common + 20, 1)
    }

    /// Writes the device status.
    pub fn set_status(&self, qtest: &mut Qtest, status: u64) {
        qtest.write(self.common + 20, 1, status);
    }

    /// Reads the common configuration structure.
    pub fn common(&self, qtest: &mut Qtest, offset: u64, size: usize) -> u64 {
        qtest.read(self.common + offset, size)
    }

    /// Writes the common configuration structure.
    pub fn set_common(&self, qtest: &mut Qtest, offset: u64, size: usize, value: u64) {
        qtest.write(self.common + offset, size, value);
    }

    /// Reads the device's own configuration.
    pub fn device(&self, qtest: &mut Qtest, offset: u64, size: usize) -> u64 {
        qtest.read(self.device + offset, size)
    }

    /// Writes the device's own configuration, which it ignores.
    pub fn set_device(&self, qtest: &mut Qtest, offset: u64, size: usize, value: u64) {
        qtest.write(self.device + offset, size, value);
    }

    /// Reads (and so clears) the interrupt status.
    pub fn isr(&self, qtest: &mut Qtest) -> u64 {
        qtest.read(self.isr, 1)
    }

    /// The configuration generation.
    pub fn generation(&self, qtest: &mut Qtest) -> u64 {
        qtest.read(self.common + 21, 1)
    }

    /// The device's whole configuration.
    pub fn config(&self, qtest: &mut Qtest) -> Config {
        Config {
            block_size: self.device(qtest, 0, 8),
            node_id: self.device(qtest, 8, 2) as u16,
            addr: self.device(qtest, 16, 8),
            region_size: self.device(qtest, 24, 8),
            usable_region_size: self.device(qtest, 32, 8),
            plugged_size: self.device(qtest, 40, 8),
            requested_size: self.device(qtest, 48, 8),
        }
    }

    /// Makes a request; the answer as the recordings name it: `ACK`, `NACK`, `BUSY`, `ERROR`, `ACK/MIXED`...
    pub fn request(&mut self, qtest: &mut Qtest, kind: Kind, addr: u64, blocks: u16) -> String {
        match self.request_raw(qtest, &bytes(kind as u16, addr, blocks), Some(10)) {
            Some(response) => name(kind, &response),
            None => "NO-RESPONSE".into(),
        }
    }

    /// Puts any bytes on the queue, with room for so many bytes of a response (`None`: no buffer for it at all).
    ///
    /// Nothing comes back when the device has stopped working. That is not waited for: the device has had the notification
    /// when it answers the next read of its status, and a device that needs a reset processes nothing more.
    ///
    /// # Panics
    ///
    /// If the device neither answers nor stops in time.
    pub fn request_raw(&mut self, qtest: &mut Qtest, request: &[u8], room: Option<usize>) -> Option<Vec<u8>> {
        const NEXT: u64 = 1;
        const WRITE: u64 = 2;
        if self.packed {
            return self.packed_request(qtest, request, room);
        }
        let [available, used, out, answer] =
            [AVAILABLE, USED, REQUEST, RESPONSE].map(|offset| self.ring + offset);
        if !request.is_empty() {
            qtest.write_bytes(out, request);
        }
        qtest.memset(answer, 64, 0xff);
        descriptor(qtest, self.ring, 0, out, request.len(), if room.is_some() { NEXT } else { 0 });
        if let Some(room) = room {
            descriptor(qtest, self.ring, 1, answer, room, WRITE);
        }
        qtest.write(available + 4 + 2 * u64::from(self.available % 128), 2, 0);
        let before = qtest.read(used + 2, 2) as u16;
        self.available = self.available.wrapping_add(1);
        qtest.write(available + 2, 2, self.available.into());
        if !self.notify_and_wait(qtest, |qtest| qtest.read(used + 2, 2) as u16 != before) {
            return None;
        }
        self.used_len = qtest.read(used + 4 + 8 * u64::from(before % 128) + 4, 4) as u32;
        Some(room.map(|room| qtest.bytes(answer, room)).unwrap_or_default())
    }

    /// The same with a packed ring: the two descriptors of a request, the second one first.
    fn packed_request(&mut self, qtest: &mut Qtest, request: &[u8], room: Option<usize>) -> Option<Vec<u8>> {
        const SIZE: u16 = 128;
        const USED_BITS: u64 = 1 << 7 | 1 << 15;
        let [out, answer] = [REQUEST, RESPONSE].map(|offset| self.ring + offset);
        let id = u64::from(self.available) + 1000;
        qtest.write_bytes(out, request);
        qtest.memset(answer, 64, 0xff);
        let mut pieces = vec![(out, request.len(), 0)];
        pieces.extend(room.map(|room| (answer, room, 2)));
        let count = pieces.len() as u16;
        let round = |number: u16, first: u64, second: u64| {
            if (number / SIZE).is_multiple_of(2) { first } else { second }
        };
        for (i, (address, len, flags)) in (0..count).zip(pieces).rev() {
            let number = self.available + i;
            let at = self.ring + 16 * u64::from(number % SIZE);
            let next = if i + 1 == count { 0 } else { 1 };
            qtest.write(at, 8, address);
            qtest.write(at + 8, 4, len as u64);
            qtest.write(at + 12, 2, id);
            qtest.write(at + 14, 2, flags | next | round(number, 1 << 7, 1 << 15));
        }
        let at = self.ring + 16 * u64::from(self.available % SIZE);
        let used = round(self.available, USED_BITS, 0);
        if !self.notify_and_wait(qtest, |qtest| qtest.read(at + 14, 2) & USED_BITS == used) {
            return None;
        }
        assert_eq!(qtest.read(at + 12, 2), id, "the id of the buffer");
        self.available += count;
        self.used_len = qtest.read(at + 8, 4) as u32;
        Some(room.map(|room| qtest.bytes(answer, room)).unwrap_or_default())
    }

    /// Notifies the device; whether it was done before it broke.
    fn notify_and_wait(&self, qtest: &mut Qtest, mut done: impl FnMut(&mut Qtest) -> bool) -> bool {
        const NEEDS_RESET: u64 = 0x40;
        match self.port {
            Some(port) => qtest.out(port, 2, 0),
            None => qtest.write(self.notify, 2, 0),
        }
        let until = std::time::Instant::now() + wire::patience();
        while !done(qtest) {
            if self.status(qtest) & NEEDS_RESET != 0 {
                return false;
            }
            assert!(std::time::Instant::now() < until, "neither an answer nor a broken device");
        }
        true
    }
}

/// The bytes of a request.
pub fn bytes(kind: u16, addr: u64, blocks: u16) -> Vec<u8> {
    let mut bytes = vec![0; 24];
    bytes[0..2].copy_from_slice(&kind.to_le_bytes());
    bytes[8..16].copy_from_slice(&addr.to_le_bytes());
    bytes[16..18].copy_from_slice(&blocks.to_le_bytes());
    bytes
}

/// The name of a response.
fn name(kind: Kind, response: &[u8]) -> String {
    let word = |at: usize| u16::from_le_bytes([response[at], response[at + 1]]);
    let answer = match word(0) {
        0 => "ACK",
        1 => "NACK",
        2 => "BUSY",
        3 => "ERROR",
        other => return format!("unknown response {other}"),
    };
    match (kind, answer, word(8)) {
        (Kind::State, "ACK", 0) => "ACK/PLUGGED".into(),
        (Kind::State, "ACK", 1) => "ACK/UNPLUGGED".into(),
        (Kind::State, "ACK", 2) => "ACK/MIXED".into(),
        (Kind::State, "ACK", other) => format!("ACK/{other}"),
        _ => answer.into(),
    }
}

/// Writes a descriptor; one that has a next one has the following one.
fn descriptor(qtest: &mut Qtest, ring: u64, index: u64, address: u64, len: usize, flags: u64) {
    let at = ring + 16 * index;
    qtest.write(at, 8, address);
    qtest.write(at + 8, 4, len as u64);
    qtest.write(at + 12, 2, flags);
    qtest.write(at + 14, 2, index + 1);
}

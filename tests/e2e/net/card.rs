//! A driver for one network card, that reaches the machine by qtest: two split rings, a buffer each way at a time.

use std::time::Instant;

use tests::Vm;
use tests::pci::Function;
use tests::virtio_mem::{BAR4, VERSION_1, VirtioMem};

pub(super) const OWN: [u8; 6] = [0x52, 0x54, 0, 0, 0, 7];
const IDS: (u16, u16) = (0x1af4, 0x1041);
/// Bytes of the header before every packet.
const HEADER: usize = 12;
/// Where the rings are; that of packets to the guest first.
const RINGS: [u64; 2] = [0x20_0000, 0x21_0000];
const AVAIL: u64 = 0x1000;
const USED: u64 = 0x2000;
const DATA: u64 = 0x3000;
const SIZE: u64 = 16;
const ROOM: u64 = 2048;
const NOTIFY: u64 = 0x3000;

/// A packet to `to` with a type that nobody knows.
pub(super) fn frame(to: [u8; 6], text: &[u8]) -> Vec<u8> {
    let mut bytes = to.to_vec();
    bytes.extend([2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    bytes.extend(text);
    bytes.resize(60, 0);
    bytes
}

pub(super) struct Card {
    /// Buffers offered in each ring.
    offered: [u16; 2],
    taken: u16,
    sent: u16,
}

impl Card {
    /// Finds the card in slot 3 and starts it without any feature that it could do without.
    pub(super) fn start(vm: &mut Vm) -> Self {
        let qtest = vm.qtest();
        let registers = VirtioMem::map_as(qtest, Function::at(3), 0, IDS);
        registers.set_status(qtest, 0);
        registers.set_status(qtest, 3);
        registers.set_common(qtest, 8, 4, 1);
        registers.set_common(qtest, 12, 4, VERSION_1 >> 32);
        registers.set_status(qtest, 0xb);
        assert_eq!(registers.status(qtest), 0xb);
        for (queue, ring) in (0..).zip(RINGS) {
            qtest.memset(ring, DATA, 0);
            registers.set_common(qtest, 22, 2, queue);
            registers.set_common(qtest, 24, 2, SIZE);
            for (offset, part) in [(32, 0), (40, AVAIL), (48, USED)] {
                registers.set_common(qtest, offset, 4, ring + part);
                registers.set_common(qtest, offset + 4, 4, 0);
            }
            registers.set_common(qtest, 28, 2, 1);
        }
        registers.set_status(qtest, 0xf);
        Self { offered: [0; 2], taken: 0, sent: 0 }
    }

    fn put(&mut self, vm: &mut Vm, queue: usize, length: u64, flags: u64) {
        let (ring, offered) = (RINGS[queue], u64::from(self.offered[queue]));
        let slot = offered % SIZE;
        let qtest = vm.qtest();
        qtest.write(ring + 16 * slot, 8, Self::data(queue, slot));
        qtest.write(ring + 16 * slot + 8, 4, length);
        qtest.write(ring + 16 * slot + 12, 4, flags);
        qtest.write(ring + AVAIL + 4 + 2 * slot, 2, slot);
        self.offered[queue] += 1;
        qtest.write(ring + AVAIL + 2, 2, offered + 1);
        qtest.write(BAR4 + NOTIFY + 4 * queue as u64, 2, queue as u64);
    }

    fn data(queue: usize, slot: u64) -> u64 {
        RINGS[queue] + DATA + ROOM * slot
    }

    /// Sends a packet; the device has it when this returns.
    pub(super) fn send(&mut self, vm: &mut Vm, packet: &[u8]) {
        let slot = u64::from(self.offered[1]) % SIZE;
        let bytes = [&[0; HEADER], packet].concat();
        vm.qtest().write_bytes(Self::data(1, slot), &bytes);
        self.put(vm, 1, bytes.len() as u64, 0);
        self.sent += 1;
        until(vm, "the packet is taken", 1, self.sent);
    }

    /// Offers room for a packet.
    pub(super) fn offer(&mut self, vm: &mut Vm) {
        self.put(vm, 0, ROOM, 2);
    }

    /// Whether a packet is there.
    pub(super) fn has_received(&self, vm: &mut Vm) -> bool {
        vm.qtest().read(RINGS[0] + USED + 2, 2) != u64::from(self.taken)
    }

    /// Waits for the next packet.
    pub(super) fn receive(&mut self, vm: &mut Vm) -> Vec<u8> {
        let entry = RINGS[0] + USED + 4 + 8 * (u64::from(self.taken) % SIZE);
        self.taken += 1;
        until(vm, "a packet comes", 0, self.taken);
        let (slot, length) = (vm.qtest().read(entry, 4), vm.qtest().read(entry + 4, 4) as usize);
        let bytes = vm.qtest().bytes(Self::data(0, slot), length);
        assert_eq!(bytes[..HEADER], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], "one buffer, nothing left to do");
        bytes[HEADER..].to_vec()
    }
}

/// Waits for the device to have used so many buffers.
fn until(vm: &mut Vm, what: &str, queue: usize, count: u16) {
    let deadline = Instant::now() + tests::wire::patience();
    // There may be more by then. No test gets so far that the index is at its start again.
    while vm.qtest().read(RINGS[queue] + USED + 2, 2) < u64::from(count) {
        assert!(Instant::now() < deadline, "{what}: it never happens");
    }
}

//! Malformed requests, to see that a device survives them: wrong types and sizes, broken chains, bad addresses, ring
//! indices that jump. Device-writable buffers stay inside the queue's own scratch page or outside of RAM, so that an
//! honest device cannot be led to overwrite the guest.

use super::Driver;
use crate::bus::Bus;
use crate::virtio::VirtioError;
use crate::virtio::queue::Descriptor;

/// How long a device may think about garbage before it is taken to ignore it.
const PATIENCE_NS: u64 = 20_000_000;

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GarbageResult {
    /// Requests sent.
    pub sent: u64,
    /// Requests the device answered.
    pub answered: u64,
    /// Requests after which the device needed a reset.
    pub resets: u64,
    /// Requests without an answer.
    pub ignored: u64,
}

/// Marsaglia's xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

impl Driver {
    /// Sends `count` pseudo-random requests (the same for the same seed), re-initialising the device as often as needed
    /// and once at the end, so that it follows its requested size from scratch afterwards.
    ///
    /// # Errors
    /// When the device does not come back from a reset.
    pub fn garbage(
        &mut self,
        bus: &mut impl Bus,
        count: u64,
        seed: u64,
    ) -> Result<GarbageResult, VirtioError> {
        let mut random = Random(seed | 1);
        let mut result = GarbageResult::default();
        self.restart(bus)?;
        for _ in 0..count {
            if bus.stopped() {
                break;
            }
            self.send_garbage(bus, &mut random);
            result.sent += 1;
            match self.await_garbage(bus) {
                Ok(true) => result.answered += 1,
                Ok(false) => {
                    result.ignored += 1;
                    self.restart(bus)?;
                }
                Err(_) => {
                    result.resets += 1;
                    self.restart(bus)?;
                }
            }
        }
        self.restart(bus)?;
        Ok(result)
    }

    fn send_garbage(&mut self, bus: &mut impl Bus, random: &mut Random) {
        let scratch = self.queue.scratch();
        let mut bytes = [0; 64];
        for chunk in bytes.chunks_exact_mut(8) {
            chunk.copy_from_slice(&random.next().to_le_bytes());
        }
        if random.below(2) == 0 {
            // Nearly right: a known type, an address in or near the region, some number of blocks.
            let block = random.below(self.config.region_size / self.config.block_size * 2 + 1);
            let skew = if random.below(4) == 0 { random.below(4096) } else { 0 };
            let addr =
                self.config.addr.wrapping_add(block.wrapping_mul(self.config.block_size)).wrapping_add(skew);
            bytes[..2].copy_from_slice(&(random.below(5) as u16).to_le_bytes());
            bytes[8..16].copy_from_slice(&addr.to_le_bytes());
        }
        bus.ram_write(scratch, &bytes);
        let plain = random.below(2) == 0;
        for index in 0..4u16 {
            let descriptor = if plain { Self::plain(scratch, index) } else { Self::wild(scratch, random) };
            self.queue.write_descriptor(bus, index, descriptor);
        }
        let jump = if random.below(32) == 0 { random.next() as u16 } else { 0 };
        let head = if random.below(32) == 0 { random.next() as u16 } else { 0 };
        self.queue.publish_ahead(bus, head, jump);
    }

    /// A well-formed chain of two descriptors, so that the contents are looked at.
    fn plain(scratch: u64, index: u16) -> Descriptor {
        match index {
            0 => Descriptor { addr: scratch, len: 24, flags: 1, next: 1 },
            _ => Descriptor { addr: scratch + 64, len: 10, flags: 2, next: 0 },
        }
    }

    fn wild(scratch: u64, random: &mut Random) -> Descriptor {
        let writable = random.below(2) as u16 * 2;
        let addr = match random.below(6) {
            0 => u64::MAX - random.below(64),
            1 => 1 << 60 | random.next() >> 8,
            2 if writable == 0 => random.next(),
            _ => scratch + random.below(1024),
        };
        let len = match random.below(6) {
            0 => random.below(10) as u32,
            1 if writable == 0 => random.next() as u32,
            2 => 0,
            _ => 10 + random.below(64) as u32,
        };
        let rest = random.next();
        // NEXT mostly leads somewhere in the four; INDIRECT is set now and then although it was not negotiated.
        let indirect = if rest.is_multiple_of(16) { 4 } else { 0 };
        let next = if rest >> 8 & 15 == 0 { (rest >> 16) as u16 } else { (rest >> 16) as u16 & 3 };
        Descriptor { addr, len, flags: (rest >> 40) as u16 & 1 | writable | indirect, next }
    }

    /// True: answered. False: no answer.
    fn await_garbage(&mut self, bus: &mut impl Bus) -> Result<bool, VirtioError> {
        self.forget();
        let end = bus.now_ns().saturating_add(PATIENCE_NS);
        loop {
            if self.queue.poll(bus)?.is_some() {
                return Ok(true);
            }
            if self.transport.needs_reset(bus) {
                return Err(VirtioError::NeedsReset);
            }
            if bus.now_ns() >= end || bus.stopped() {
                return Ok(false);
            }
            bus.relax();
        }
    }
}

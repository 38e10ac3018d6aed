//! A driver for tests of whole devices: it does what it is told, sensible or not.

use std::sync::Arc;
use std::time::Duration;

use mainloop::Clock;

use crate::core::Device;
use crate::testing::{Rig, carry};
use crate::virtio::features::VERSION_1;

/// Where the rings are, a stride for each queue: descriptors, available ring, used ring, data.
const RINGS: u64 = 0x40_0000;
const STRIDE: u64 = 0x2_0000;
const AVAIL: u64 = 0x2000;
const USED: u64 = 0x3000;
const DATA: u64 = 0x4000;
/// Bytes of data a descriptor has.
const SLOT: u64 = 0x800;
/// Where BAR 4 goes.
const BAR: u64 = 0xc0_0000_0000;
/// Entries of the rings, or fewer if the device has fewer.
const SIZE: u16 = 16;

/// A piece of a buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Piece<'a> {
    /// What the driver says.
    Out(&'a [u8]),
    /// Room for so many bytes.
    In(u32),
}

pub(crate) struct Driver {
    pub(crate) rig: Rig,
    slot: u32,
    /// By queue: entries, buffers offered, buffers taken back, the next descriptor.
    queues: Vec<(u16, u16, u16, u16)>,
}

impl Driver {
    /// A q35 machine that runs, with `device` of the command line text `text` in it.
    pub(crate) fn new(texts: &[&str]) -> Self {
        let rig = Rig::build(crate::testing::config("q35")).unwrap();
        for text in texts {
            rig.add(text).unwrap();
        }
        Self::with(rig)
    }

    /// Of the first device in `rig`.
    pub(crate) fn with(rig: Rig) -> Self {
        rig.machine.finish().unwrap();
        rig.machine.start();
        let mut driver = Self { rig, slot: 1, queues: Vec::new() };
        driver.turn();
        // That it runs.
        driver.rig.events();
        driver.assign();
        driver
    }

    /// Stops the machine, and goes on in `to`, a like one that was not finished yet, with the guest's memory and the state of all devices.
    pub(crate) fn carried(self, to: Rig) -> Self {
        self.carried_with(to, true)
    }

    /// The same; `alike` has the machines compared before it runs.
    pub(crate) fn carried_with(self, to: Rig, alike: bool) -> Self {
        to.machine.finish().unwrap();
        self.rig.machine.stop();
        carry::copy_ram(&self.rig.machine, &to.machine, RINGS, 16 * STRIDE as usize);
        let clock = to.main.handle().virtual_clock();
        clock.set_manual();
        clock.advance_to(self.rig.main.handle().now_ns(Clock::Virtual));
        match alike {
            true => carry::carry(&self.rig.machine, &to.machine),
            false => carry::load(&to.machine, &carry::save(&self.rig.machine)).unwrap(),
        }
        let mut driver = Self { rig: to, slot: self.slot, queues: self.queues };
        assert!(driver.rig.events().is_empty(), "nobody is told of anything");
        driver.rig.machine.start();
        driver.turn();
        driver
    }

    /// Gives BAR 4 its address and has the device decode it.
    pub(crate) fn assign(&mut self) {
        let (low, high) = (BAR as u32, (BAR >> 32) as u32);
        self.rig.config_write(self.slot, 0, 0x20, low);
        self.rig.config_write(self.slot, 0, 0x24, high);
        self.rig.config_write(self.slot, 0, 4, 6);
    }

    pub(crate) fn turn(&mut self) {
        for _ in 0..4 {
            self.rig.turn();
        }
    }

    /// Turns the main loop until `done`, which must come.
    pub(crate) fn until<T>(&mut self, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        for _ in 0..1000 {
            if let Some(value) = done(self) {
                return value;
            }
            self.rig.main.turn(Some(Duration::from_millis(10))).unwrap();
        }
        panic!("it never came");
    }

    pub(crate) fn write(&self, offset: u64, size: u8, value: u64) {
        let _ = self.rig.machine.system_space().write_uint(BAR + offset, size, value);
    }

    pub(crate) fn read(&self, offset: u64, size: u8) -> u64 {
        self.rig.machine.system_space().read_uint(BAR + offset, size).0
    }

    pub(crate) fn ram(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let _ = self.rig.machine.system_space().read(addr, &mut bytes);
        bytes
    }

    pub(crate) fn set_ram(&self, addr: u64, bytes: &[u8]) {
        let _ = self.rig.machine.system_space().write(addr, bytes);
    }

    pub(crate) fn status(&self) -> u8 {
        self.read(20, 1) as u8
    }

    /// Reads the causes of the interrupt, which are gone then.
    pub(crate) fn isr(&self) -> u8 {
        self.read(0x1000, 1) as u8
    }

    pub(crate) fn config(&self, offset: u64, size: u8) -> u64 {
        self.read(0x2000 + offset, size)
    }

    pub(crate) fn set_config(&self, offset: u64, size: u8, value: u64) {
        self.write(0x2000 + offset, size, value);
    }

    pub(crate) fn offered(&self) -> u64 {
        (0..2).fold(0, |features, half| {
            self.write(0, 4, half);
            features | self.read(4, 4) << (32 * half)
        })
    }

    pub(crate) fn reset(&mut self) {
        self.write(20, 1, 0);
        self.queues.clear();
    }

    /// Negotiates `features` and what every driver needs, and starts `queues` queues.
    pub(crate) fn start(&mut self, features: u64, queues: u16) {
        self.reset();
        self.write(20, 1, 3);
        for half in 0..2 {
            self.write(8, 4, half);
            self.write(12, 4, (features | VERSION_1) >> (32 * half) & 0xffff_ffff);
        }
        self.write(20, 1, 0xb);
        assert_eq!(self.status(), 0xb, "the device refuses the features");
        for queue in 0..queues {
            let base = RINGS + STRIDE * u64::from(queue);
            self.set_ram(base, &[0; DATA as usize]);
            self.write(22, 2, queue.into());
            let size = (self.read(24, 2) as u16).min(SIZE);
            self.write(24, 2, size.into());
            for (register, part) in [(32, 0), (40, AVAIL), (48, USED)] {
                self.write(register, 4, base + part);
                self.write(register + 4, 4, 0);
            }
            self.write(28, 2, 1);
            self.queues.push((size, 0, 0, 0));
        }
        self.write(20, 1, 0xf);
        self.turn();
    }

    /// Makes a buffer available without a word to the device; gives its first descriptor.
    pub(crate) fn offer(&mut self, queue: u16, pieces: &[Piece<'_>]) -> u16 {
        let base = RINGS + STRIDE * u64::from(queue);
        let (size, offered, _, mut next) = self.queues[usize::from(queue)];
        let head = next;
        for (number, piece) in pieces.iter().enumerate() {
            let data = base + DATA + SLOT * u64::from(next);
            let (len, mut flags) = match piece {
                Piece::Out(bytes) => {
                    self.set_ram(data, bytes);
                    (bytes.len() as u32, 0u16)
                }
                Piece::In(room) => (*room, 2),
            };
            let after = (next + 1) % size;
            if number + 1 < pieces.len() {
                flags |= 1;
            }
            let mut descriptor = data.to_le_bytes().to_vec();
            descriptor.extend(len.to_le_bytes());
            descriptor.extend(flags.to_le_bytes());
            descriptor.extend(after.to_le_bytes());
            self.set_ram(base + 16 * u64::from(next), &descriptor);
            next = after;
        }
        self.set_ram(base + AVAIL + 4 + 2 * u64::from(offered % size), &head.to_le_bytes());
        let offered = offered.wrapping_add(1);
        self.set_ram(base + AVAIL + 2, &offered.to_le_bytes());
        let state = &mut self.queues[usize::from(queue)];
        (state.1, state.3) = (offered, next);
        head
    }

    /// The first descriptor of the buffer that came back last.
    pub(crate) fn last_head(&self, queue: u16) -> u16 {
        let base = RINGS + STRIDE * u64::from(queue);
        let (size, _, taken, _) = self.queues[usize::from(queue)];
        let entry = self.ram(base + USED + 4 + 8 * u64::from(taken.wrapping_sub(1) % size), 2);
        u16::from_le_bytes([entry[0], entry[1]])
    }

    /// Where descriptor `head` of a queue has its data.
    pub(crate) fn data(queue: u16, head: u16) -> u64 {
        RINGS + STRIDE * u64::from(queue) + DATA + SLOT * u64::from(head)
    }

    /// Writes the register alone: who hears of it is not waited for.
    pub(crate) fn ring(&self, queue: u16) {
        self.write(0x3000 + 4 * u64::from(queue), 2, queue.into());
    }

    pub(crate) fn notify(&mut self, queue: u16) {
        self.ring(queue);
        self.turn();
    }

    pub(crate) fn put(&mut self, queue: u16, pieces: &[Piece<'_>]) -> u16 {
        let head = self.offer(queue, pieces);
        self.notify(queue);
        head
    }

    /// The next buffer that came back: what was written into its first piece, or so many bytes of nothing.
    pub(crate) fn take(&mut self, queue: u16) -> Option<Vec<u8>> {
        let base = RINGS + STRIDE * u64::from(queue);
        let (size, _, taken, _) = self.queues[usize::from(queue)];
        let used = self.ram(base + USED + 2, 2);
        if u16::from_le_bytes([used[0], used[1]]) == taken {
            return None;
        }
        let entry = self.ram(base + USED + 4 + 8 * u64::from(taken % size), 8);
        self.queues[usize::from(queue)].2 = taken.wrapping_add(1);
        let len = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]) as usize;
        Some(self.ram(Self::data(queue, u16::from_le_bytes([entry[0], entry[1]])), len))
    }

    /// Puts a buffer that must be served at once.
    pub(crate) fn send(&mut self, queue: u16, pieces: &[Piece<'_>]) -> Vec<u8> {
        self.put(queue, pieces);
        self.take(queue).expect("served")
    }

    /// The error of a device that was not added.
    pub(crate) fn error(result: qapi::Result<Arc<dyn Device>>) -> String {
        result.err().expect("refused").desc().to_owned()
    }
}

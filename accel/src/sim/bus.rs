//! The machine as the hosted program sees it: every access goes to the address spaces, and every access is a place where
//! the vCPU can be paused or told to end.

use std::time::Instant;

use guest::{Bus, MsiMessage};
use memory::{AddressSpace, MemTx};

use super::{Shared, Spaces};
use crate::VcpuEvents;
use crate::control::{Step, StopFlag};

/// Messages of the program: its one local APIC, vectors from here.
const MSI_ADDRESS: u64 = 0xfee0_0000;
const FIRST_VECTOR: u32 = 0x40;

pub(super) struct SimBus<'a> {
    shared: &'a Shared,
    spaces: &'a Spaces,
    events: &'a dyn VcpuEvents,
    cpu: usize,
    stop: &'a StopFlag,
    start: Instant,
    /// The vCPU was told to reset or to end: no access has an effect any more.
    end: Option<Step>,
}

impl<'a> SimBus<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        spaces: &'a Spaces,
        events: &'a dyn VcpuEvents,
        cpu: usize,
        stop: &'a StopFlag,
    ) -> Self {
        Self { shared, spaces, events, cpu, stop, start: Instant::now(), end: None }
    }

    /// Why the program was stopped, if it was.
    pub(super) fn end(&self) -> Option<Step> {
        self.end
    }

    /// Waits while paused; whether the program goes on.
    fn gate(&mut self) -> bool {
        while self.end.is_none() && self.stop.is_set() {
            match self.shared.control.next(self.cpu) {
                Step::Run | Step::Nmi => {}
                Step::Report => self.shared.control.report(self.cpu, None),
                Step::Save => self.shared.control.save_done(self.cpu),
                Step::Load => self.shared.control.load_done(self.cpu, false),
                step @ (Step::Reset | Step::Leave | Step::Exit) => self.end = Some(step),
            }
        }
        self.end.is_none()
    }

    fn load<const N: usize>(&mut self, space: fn(&Spaces) -> &AddressSpace, addr: u64) -> [u8; N] {
        let mut bytes = [0xff; N];
        if self.gate() {
            let result = space(self.spaces).read(addr, &mut bytes);
            self.note(space, addr, false, result);
        }
        bytes
    }

    fn store(&mut self, space: fn(&Spaces) -> &AddressSpace, addr: u64, bytes: &[u8]) {
        if self.gate() {
            let result = space(self.spaces).write(addr, bytes);
            self.note(space, addr, true, result);
        }
    }

    /// Tells the board of a failed access to memory.
    fn note(&self, space: fn(&Spaces) -> &AddressSpace, addr: u64, write: bool, result: MemTx) {
        if !result.is_ok() && std::ptr::eq(space(self.spaces), system(self.spaces)) {
            self.events.failed_access(0, addr, write);
        }
    }
}

fn system(spaces: &Spaces) -> &AddressSpace {
    &spaces.system
}

fn ports(spaces: &Spaces) -> &AddressSpace {
    &spaces.io
}

macro_rules! accesses {
    ($($int:ident $port:ident $address:ty, $space:ident: $read:ident $write:ident;)+) => {
        $(
            fn $read(&mut self, $port: $address) -> $int {
                $int::from_le_bytes(self.load($space, u64::from($port)))
            }
            fn $write(&mut self, $port: $address, value: $int) {
                self.store($space, u64::from($port), &value.to_le_bytes());
            }
        )+
    };
}

impl Bus for SimBus<'_> {
    accesses! {
        u8 port u16, ports: in8 out8;
        u16 port u16, ports: in16 out16;
        u32 port u16, ports: in32 out32;
        u8 addr u64, system: mmio_read8 mmio_write8;
        u16 addr u64, system: mmio_read16 mmio_write16;
        u32 addr u64, system: mmio_read32 mmio_write32;
        u64 addr u64, system: mmio_read64 mmio_write64;
    }

    fn ram_read(&mut self, addr: u64, buf: &mut [u8]) {
        if self.gate() {
            let result = self.spaces.system.read(addr, buf);
            self.note(system, addr, false, result);
        } else {
            buf.fill(0xff);
        }
    }

    fn ram_write(&mut self, addr: u64, buf: &[u8]) {
        self.store(system, addr, buf);
    }

    fn idle(&mut self) {
        if self.gate() {
            self.shared.wake.wait();
        }
    }

    fn relax(&mut self) {
        self.gate();
        std::thread::yield_now();
    }

    fn now_ns(&mut self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn stopped(&mut self) -> bool {
        !self.gate()
    }

    fn msi(&mut self, index: u16) -> Option<MsiMessage> {
        Some(MsiMessage { address: MSI_ADDRESS, data: FIRST_VECTOR + u32::from(index % 128) })
    }

    fn wake_on_line(&mut self, _line: u8) -> bool {
        // Every line does.
        true
    }
}

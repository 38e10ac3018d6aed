//! `rng`: round trips through the queue of an entropy device, for measuring doorbells and interrupts.

use super::Program;
use super::console::say;
use crate::bus::Bus;
use crate::pci::{self, Function};
use crate::rng::{self, Driver};
use crate::virtio::VirtioError;
use crate::virtio::queue::QueueMemory;

/// Round trips at most: the program does nothing else meanwhile.
const MAX_TRIPS: u64 = 1_000_000;
/// An answer that takes longer ends the run.
const PATIENCE_NS: u64 = 5_000_000_000;
/// Looks at the used ring between two looks at the clock.
const LOOKS: u32 = 10_000;

/// How the program waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// It looks at the ring.
    Poll,
    /// It sleeps until the interrupt.
    Sleep,
}

/// What a run came to.
struct Run {
    bytes: u64,
    ns: u64,
}

impl Program {
    /// `rng COUNT SIZE [poll|sleep]`: asks the first entropy device `count` times for `size` bytes, one request after the other.
    pub(super) fn entropy(&mut self, bus: &mut impl Bus, count: u64, size: u64, wait: Option<&str>) {
        let wait = match wait {
            None | Some("sleep") => Wait::Sleep,
            Some("poll") => Wait::Poll,
            Some(word) => {
                return say!(self.console, bus, "error: rng waits by poll or sleep, not {word}");
            }
        };
        let size = u32::try_from(size).ok().filter(|size| (1..=rng::MAX_REQUEST).contains(size));
        let (Some(size), 1..=MAX_TRIPS) = (size, count) else {
            return say!(self.console, bus, "error: bad arguments for rng");
        };
        let mut found = None;
        pci::scan(bus, |_, function, vendor, device| {
            if found.is_none() && rng::is_rng(vendor, device) {
                found = Some(function);
            }
        });
        let Some(function) = found else { return say!(self.console, bus, "error: no entropy device") };
        match self.round_trips(bus, function, count, size, wait) {
            Ok(Run { bytes, ns }) => {
                let rate = u128::from(count) * 1_000_000_000 / u128::from(ns.max(1));
                say!(
                    self.console,
                    bus,
                    "rng: ok: {count} requests, {bytes} bytes, {ns} ns, {rate} requests a second"
                );
            }
            Err(error) => say!(self.console, bus, "rng: FAILED: pci {function}: {error}"),
        }
    }

    fn round_trips(
        &mut self,
        bus: &mut impl Bus,
        function: Function,
        count: u64,
        size: u32,
        wait: Wait,
    ) -> Result<Run, VirtioError> {
        let memory = match self.entropy {
            Some(memory) => memory,
            None => *self.entropy.insert(QueueMemory::take(&mut self.arena)?),
        };
        let mut driver = Driver::open(bus, function, memory)?;
        let (start, mut bytes) = (bus.now_ns(), 0);
        for _ in 0..count {
            driver.request(bus, size);
            match answer(bus, &mut driver, wait) {
                Ok(len) => bytes += u64::from(len),
                Err(error) => {
                    // The queue is used again: the device must have let go of it, or is lost for good.
                    driver.close(bus)?;
                    return Err(error);
                }
            }
        }
        let ns = bus.now_ns().saturating_sub(start);
        driver.close(bus)?;
        Ok(Run { bytes, ns })
    }
}

/// Waits for the answer to one request.
fn answer(bus: &mut impl Bus, driver: &mut Driver, wait: Wait) -> Result<u32, VirtioError> {
    let (sleeps, mut deadline, mut looks) = (wait == Wait::Sleep && driver.has_interrupts(), None, 0u32);
    loop {
        if let Some(len) = driver.poll(bus)? {
            return Ok(len);
        }
        looks += 1;
        if sleeps {
            bus.idle();
        } else {
            bus.relax();
        }
        if sleeps || looks.is_multiple_of(LOOKS) {
            let now = bus.now_ns();
            if bus.stopped() || now > *deadline.get_or_insert(now.saturating_add(PATIENCE_NS)) {
                return Err(VirtioError::Stopped);
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! qtest over a character device: `-qtest CHARDEV`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use chardev::{CharEvent, Chardev, Frontend, Port};
use mainloop::VirtualClock;
use memory::AddressSpace;
use qapi::Result;

use super::log::Log;
use super::session::{Direction, Exchange, Machine, Session, Space, irq_line};
use crate::irq::{Interrupt, UserIrqChip};

/// Bytes taken from the client at a time.
const READ_SIZE: usize = 4096;

/// Whether the lines of the device at a path, in a direction, are the GSIs.
type IsGsis = Box<dyn Fn(&str, Direction) -> bool + Send>;

/// The machine that a client tests.
pub struct Target {
    /// Guest-physical memory.
    pub system: Arc<AddressSpace>,
    /// I/O ports.
    pub io: Arc<AddressSpace>,
    /// Guest time.
    pub clock: VirtualClock,
    /// The lines that can be reported, [`crate::Accel::user_chip`].
    pub chip: Option<Arc<UserIrqChip>>,
    /// Which paths of `irq_intercept_in` and `irq_intercept_out` mean these lines (the board's IOAPIC).
    pub is_gsis: IsGsis,
}

/// A running server. Dropping it gives the character device back.
pub struct Server {
    shared: Arc<Shared>,
}

struct Shared {
    port: Port,
    log: Mutex<Log>,
    intercepting: AtomicBool,
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, text: &str) {
        self.log().sent(text);
        self.port.write_all(text.as_bytes());
    }
}

impl Server {
    /// Serves the machine on `chardev`.
    ///
    /// # Errors
    /// The device is in use.
    pub fn start(chardev: &Arc<Chardev>, log: Log, target: Target) -> Result<Self> {
        let shared = Arc::new(Shared {
            port: chardev.reserve()?,
            log: Mutex::new(log),
            intercepting: AtomicBool::new(false),
        });
        if let Some(chip) = &target.chip {
            let listener = Arc::downgrade(&shared);
            chip.listen(move |interrupt| {
                if let (Some(shared), Interrupt::Line { gsi, level }) = (listener.upgrade(), interrupt)
                    && shared.intercepting.load(Ordering::SeqCst)
                {
                    shared.send(&irq_line(gsi, level));
                }
            });
        }
        let front = Front { shared: Arc::downgrade(&shared), session: Session::new(), target };
        shared.port.set_handler(Box::new(front));
        Ok(Self { shared })
    }

    /// The device it runs on.
    #[must_use]
    pub fn chardev(&self) -> Arc<Chardev> {
        self.shared.port.chardev()
    }
}

/// The handler, which the device owns.
struct Front {
    shared: Weak<Shared>,
    session: Session,
    target: Target,
}

impl Frontend for Front {
    fn can_read(&mut self) -> usize {
        match self.shared.upgrade() {
            Some(shared) if !shared.port.is_congested() => READ_SIZE,
            _ => 0,
        }
    }

    fn read(&mut self, data: &[u8]) {
        let Some(shared) = self.shared.upgrade() else { return };
        let mut machine = Under { target: &self.target, shared: &shared };
        self.session.feed(&mut machine, data, |exchange| match exchange {
            Exchange::Command(line) => shared.log().received(line),
            Exchange::Reply(reply) => shared.send(reply),
        });
    }

    fn event(&mut self, event: CharEvent) {
        let Some(shared) = self.shared.upgrade() else { return };
        match event {
            CharEvent::Opened => {
                self.session = Session::new();
                shared.intercepting.store(false, Ordering::SeqCst);
                shared.log().client_came();
            }
            CharEvent::Closed => {
                shared.intercepting.store(false, Ordering::SeqCst);
                shared.log().client_left();
            }
            CharEvent::Break | CharEvent::MuxIn | CharEvent::MuxOut => {}
        }
    }

    fn writable(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.port.accept_input();
        }
    }
}

/// The session's view of the machine.
struct Under<'a> {
    target: &'a Target,
    shared: &'a Shared,
}

impl Under<'_> {
    fn space(&self, space: Space) -> &AddressSpace {
        match space {
            Space::Memory => &self.target.system,
            Space::Ports => &self.target.io,
        }
    }
}

impl Machine for Under<'_> {
    fn read(&mut self, space: Space, addr: u64, bytes: &mut [u8]) {
        let _ = self.space(space).read(addr, bytes);
    }

    fn write(&mut self, space: Space, addr: u64, bytes: &[u8]) {
        let _ = self.space(space).write(addr, bytes);
    }

    fn clock_step(&mut self, ns: Option<i64>) -> i64 {
        let clock = &self.target.clock;
        match ns {
            Some(ns) => clock.advance_to(clock.now_ns().saturating_add(ns)),
            None => clock.step_to_next(),
        }
    }

    fn clock_set(&mut self, ns: i64) -> i64 {
        self.target.clock.advance_to(ns)
    }

    fn intercept(&mut self, path: &str, direction: Direction) -> std::result::Result<(), String> {
        if self.target.chip.is_none() || !(self.target.is_gsis)(path, direction) {
            return Err("Unknown device".to_owned());
        }
        self.shared.intercepting.store(true, Ordering::SeqCst);
        Ok(())
    }
}

#[cfg(test)]
mod tests;

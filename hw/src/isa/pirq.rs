//! Interrupt pins on their way to the controllers: eight lines PIRQA–PIRQH, routed to ISA interrupts by registers, and on
//! the ICH9 to IOAPIC inputs 16–23 as well.

use std::sync::{Arc, Mutex, PoisonError};

use accel::IrqChip;

use crate::pci::IntxRouter;

/// A routing register with this bit set routes nowhere.
const DISABLED: u8 = 0x80;

/// How slots are wired to lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wiring {
    /// 440FX: slot 1 pin A is PIRQA, and so on in a circle of four.
    Piix,
    /// ICH9: slots 0–24 in a circle over PIRQE–PIRQH, slots 25–31 (inside the chip) over PIRQA–PIRQD.
    Ich9,
}

impl Wiring {
    /// The line of pin `pin` (0 for INTA#) of `slot`.
    pub fn line(self, slot: u8, pin: u8) -> u8 {
        match self {
            Self::Piix => pin.wrapping_add(slot).wrapping_sub(1) & 3,
            Self::Ich9 if slot < 25 => (pin.wrapping_add(slot) & 3) + 4,
            Self::Ich9 => pin & 3,
        }
    }
}

/// The lines.
pub struct Pirq {
    irq: Arc<dyn IrqChip>,
    wiring: Wiring,
    state: Mutex<State>,
}

struct State {
    routes: [u8; 8],
    raised: [bool; 8],
    /// What ISA interrupts were set to.
    isa: u16,
}

impl Pirq {
    /// All lines low and routed nowhere.
    pub fn new(irq: Arc<dyn IrqChip>, wiring: Wiring) -> Arc<Self> {
        let state = State { routes: [DISABLED; 8], raised: [false; 8], isa: 0 };
        Arc::new(Self { irq, wiring, state: Mutex::new(state) })
    }

    /// Takes the routing registers over.
    pub fn set_routes(&self, routes: [u8; 8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.routes = routes;
        self.update_isa(&mut state);
    }

    /// An ISA interrupt is up while any line routed to it is.
    fn update_isa(&self, state: &mut State) {
        let up = state.raised.iter().zip(state.routes).filter(|(raised, route)| **raised && *route < 16);
        let isa = up.fold(0u16, |bits, (_, route)| bits | 1 << route);
        let changed = isa ^ state.isa;
        state.isa = isa;
        for irq in (0..16).filter(|irq| changed >> irq & 1 != 0) {
            self.irq.set_gsi(irq, isa >> irq & 1 != 0);
        }
    }
}

impl IntxRouter for Pirq {
    fn line(&self, slot: u8, pin: u8) -> u8 {
        self.wiring.line(slot, pin)
    }

    fn set(&self, line: u8, level: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.raised[usize::from(line & 7)] = level;
        self.update_isa(&mut state);
        if self.wiring == Wiring::Ich9 {
            self.irq.set_gsi(16 + u32::from(line & 7), level);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Chip(Mutex<Vec<(u32, bool)>>);

    impl IrqChip for Chip {
        fn set_gsi(&self, gsi: u32, level: bool) {
            self.0.lock().unwrap().push((gsi, level));
        }
        fn send_msi(&self, _message: accel::MsiMessage) {}
        fn msi_route(self: Arc<Self>, _message: accel::MsiMessage) -> qapi::Result<Box<dyn accel::MsiRoute>> {
            Err(qapi::Error::generic("none"))
        }
    }

    #[test]
    fn lines_that_share_an_interrupt_keep_it_up_together() {
        let chip = Arc::new(Chip::default());
        let pirq = Pirq::new(Arc::<Chip>::clone(&chip), Wiring::Piix);
        pirq.set(0, true);
        pirq.set_routes([10, 10, 11, DISABLED, DISABLED, DISABLED, DISABLED, DISABLED]);
        pirq.set(1, true);
        pirq.set(0, false);
        pirq.set(1, false);
        assert_eq!(*chip.0.lock().unwrap(), [(10, true), (10, false)]);
    }

    #[test]
    fn slots_are_swizzled() {
        let chip = || Arc::new(Chip::default());
        let piix = Pirq::new(chip(), Wiring::Piix);
        assert_eq!([piix.line(1, 0), piix.line(2, 0), piix.line(3, 0), piix.line(0, 0)], [0, 1, 2, 3]);
        let ich9 = Pirq::new(chip(), Wiring::Ich9);
        assert_eq!([ich9.line(1, 0), ich9.line(2, 0), ich9.line(31, 0)], [5, 6, 0]);
    }
}

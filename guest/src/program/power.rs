//! Power button, power off and reset: ACPI fixed hardware as on the PC boards (PM1a at 600h), the reset control register
//! (cf9h), the debug exit port (f4h).

use super::Program;
use super::console::say;
use crate::bus::Bus;

const PM1_STATUS: u16 = 0x600;
const PM1_ENABLE: u16 = 0x602;
const PM1_CONTROL: u16 = 0x604;
const PWRBTN_STS: u16 = 1 << 8;
/// SLP_EN with SLP_TYP 0, which is S5 on these boards.
const SLEEP_S5: u16 = 1 << 13;
const RESET_CONTROL: u16 = 0xcf9;
const DEBUG_EXIT: u16 = 0xf4;

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It powered the machine off.
    PowerOff,
    /// It reset the machine.
    Reset,
    /// The bus was [stopped](Bus::stopped).
    Stopped,
}

/// The power button.
#[derive(Debug)]
pub(super) struct Power {
    present: bool,
}

impl Power {
    pub(super) fn new(bus: &mut impl Bus) -> Self {
        let present = bus.in16(PM1_STATUS) != 0xffff;
        if present {
            // The boards latch the button only while its event is enabled; the interrupt itself (IRQ 9) stays masked.
            let enabled = bus.in16(PM1_ENABLE);
            bus.out16(PM1_ENABLE, enabled | PWRBTN_STS);
        }
        Self { present }
    }

    /// Whether the button was pressed since the last call.
    pub(super) fn button_pressed(&mut self, bus: &mut impl Bus) -> bool {
        let pressed = self.present && bus.in16(PM1_STATUS) & PWRBTN_STS != 0;
        if pressed {
            // Written ones clear status bits.
            bus.out16(PM1_STATUS, PWRBTN_STS);
        }
        pressed
    }
}

impl Program {
    /// Powers off through ACPI, or through the debug exit port if that did nothing.
    pub(super) fn power_off(&mut self, bus: &mut impl Bus) -> Exit {
        say!(self.console, bus, "powering off");
        self.console.flush(bus);
        bus.out16(PM1_CONTROL, SLEEP_S5);
        // The machine may take a moment to stop its vCPU; the port's exit status is for machines without ACPI only.
        for _ in 0..3 {
            if bus.stopped() {
                return Exit::PowerOff;
            }
            bus.idle();
        }
        bus.out8(DEBUG_EXIT, 0);
        Exit::PowerOff
    }

    /// Hard reset through the reset control register.
    pub(super) fn reset(&mut self, bus: &mut impl Bus) -> Exit {
        say!(self.console, bus, "rebooting");
        self.console.flush(bus);
        bus.out8(RESET_CONTROL, 0x02);
        bus.out8(RESET_CONTROL, 0x06);
        Exit::Reset
    }
}

//! The fixed hardware of ACPI: PM1 event and control registers, the power management timer, one general-purpose event block.
//!
//! ACPI 6.5 §4.8.3, §4.8.4. Left out: sleep states other than S5 (a guest that asks for one keeps running), the timer's
//! overflow interrupt (the status bit is set), SMI command port.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use mainloop::Clock;
use memory::{AccessConstraints, Owner, RegionDesc, RegionId, RegionOps};
use qapi::types::ShutdownCause;
use vmstate::vmstate;

use crate::core::irq::IrqLine;
use crate::core::machine::Machine;

/// The interrupt of the power management hardware (SCI).
pub const SCI: u32 = 9;
/// Where firmware puts the fixed registers.
pub const FIRMWARE_BASE: u16 = 0x600;
/// Offsets of the control register and the timer; the event registers are first.
pub const CONTROL: u64 = 4;
/// See [`CONTROL`].
pub const TIMER: u64 = 8;
/// ICH9: where the general-purpose events are among the ports.
pub const ICH9_GPE_OFFSET: u64 = 0x20;
/// ICH9: how many ports those take.
pub const ICH9_GPE_PORTS: u8 = 16;
const STS_TIMER: u16 = 1 << 0;
const STS_GLOBAL: u16 = 1 << 5;
const STS_POWER_BUTTON: u16 = 1 << 8;
const STS_RTC: u16 = 1 << 10;
/// Status bits that can interrupt.
const STS_ENABLED_BY: u16 = STS_TIMER | STS_GLOBAL | STS_POWER_BUTTON | STS_RTC;
const CNT_SCI_ENABLE: u16 = 1 << 0;
const CNT_SLEEP_ENABLE: u16 = 1 << 13;
const SLEEP_TYPE_S5: u16 = 0;
/// Hz.
const TIMER_FREQUENCY: i128 = 3_579_545;
/// The timer has 24 bits and its status bit follows the highest one.
const TIMER_BITS: u32 = 24;

/// The registers of one machine.
pub struct Pm {
    machine: Weak<Machine>,
    sci: IrqLine,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    status: u16,
    enable: u16,
    control: u16,
    /// Timer value, highest bit only, when the status bit was last brought up to date.
    timer_high: u64,
    gpe_status: u16,
    gpe_enable: u16,
}

vmstate! {
    /// What a migration takes along. The timer is the guest's time.
    pub struct PmState: "acpi-pm", version 1 {
        /// PM1 status.
        pm1_sts: u16,
        /// PM1 enable.
        pm1_en: u16,
        /// PM1 control.
        pm1_cnt: u16,
        /// How often the timer's highest bit had changed when the status was last looked at.
        tmr_changes: u64,
        /// General-purpose events, status.
        gpe_sts: u16,
        /// And enable.
        gpe_en: u16,
    }
}

impl Pm {
    /// Registers that interrupt on line `sci`.
    pub fn new(machine: &Arc<Machine>, sci: u32) -> Arc<Self> {
        Arc::new(Self {
            machine: Arc::downgrade(machine),
            sci: IrqLine::new(machine.irq(), sci),
            state: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Registers are assigned whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Power-on state; ACPI mode is on from the start, since there is no firmware to switch it on.
    pub fn reset(&self) {
        let mut state = self.lock();
        *state = State {
            control: CNT_SCI_ENABLE,
            timer_high: self.timer() >> (TIMER_BITS - 1),
            ..State::default()
        };
        self.update(&state);
    }

    /// What there is now.
    pub(crate) fn saved_state(&self) -> PmState {
        let State { status, enable, control, timer_high, gpe_status, gpe_enable } = &*self.lock();
        PmState {
            pm1_sts: *status,
            pm1_en: *enable,
            pm1_cnt: *control,
            tmr_changes: *timer_high,
            gpe_sts: *gpe_status,
            gpe_en: *gpe_enable,
        }
    }

    /// Takes that over, and drives the interrupt accordingly. Nothing can be wrong with it: a bit that a register has not means nothing.
    pub(crate) fn load_state(&self, state: &PmState) {
        let PmState { pm1_sts, pm1_en, pm1_cnt, tmr_changes, gpe_sts, gpe_en } = *state;
        let mut state = self.lock();
        *state = State {
            status: pm1_sts,
            enable: pm1_en,
            control: pm1_cnt,
            timer_high: tmr_changes,
            gpe_status: gpe_sts,
            gpe_enable: gpe_en,
        };
        self.update(&state);
    }

    /// The power button was pressed.
    pub fn power_button(&self) {
        let mut state = self.lock();
        state.status |= STS_POWER_BUTTON;
        self.update(&state);
    }

    /// Whether the interrupt is up.
    #[cfg(test)]
    pub(crate) fn sci_level(&self) -> bool {
        self.sci.level()
    }

    /// Raises general-purpose event `bit` (0 to 15).
    pub fn raise_gpe(&self, bit: u8) {
        let mut state = self.lock();
        state.gpe_status |= 1 << (bit & 15);
        self.update(&state);
    }

    fn update(&self, state: &State) {
        let fixed = state.status & state.enable & STS_ENABLED_BY != 0;
        let general = state.gpe_status & state.gpe_enable != 0;
        self.sci.set(state.control & CNT_SCI_ENABLE != 0 && (fixed || general));
    }

    /// Ticks since the guest's time began.
    fn timer(&self) -> u64 {
        let now = self.machine.upgrade().map_or(0, |m| m.mainloop().now_ns(Clock::Virtual));
        (i128::from(now) * TIMER_FREQUENCY / 1_000_000_000) as u64
    }

    fn read_event(&self, offset: u64) -> u16 {
        let mut state = self.lock();
        if offset >= 2 {
            return state.enable;
        }
        let high = self.timer() >> (TIMER_BITS - 1);
        if high != state.timer_high {
            state.timer_high = high;
            state.status |= STS_TIMER;
        }
        state.status
    }

    fn write_event(&self, offset: u64, value: u16) {
        let mut state = self.lock();
        if offset < 2 {
            state.status &= !value;
        } else {
            state.enable = value;
        }
        self.update(&state);
    }

    fn write_control(&self, value: u16) {
        {
            let mut state = self.lock();
            state.control = value & !CNT_SLEEP_ENABLE;
            self.update(&state);
        }
        if value & CNT_SLEEP_ENABLE == 0 {
            return;
        }
        let kind = value >> 10 & 7;
        match self.machine.upgrade() {
            Some(machine) if kind == SLEEP_TYPE_S5 => machine.request_shutdown(ShutdownCause::GuestShutdown),
            _ => tracing::warn!(kind, "the guest asks for a sleep state that does not exist"),
        }
    }

    /// Creates the regions `acpi-evt`, `acpi-cnt`, `acpi-tmr` in `parent` at 0, 4 and 8, and returns them.
    pub fn map_fixed(self: &Arc<Self>, machine: &Machine, owner: &Owner, parent: RegionId) -> Vec<RegionId> {
        let mut tx = machine.memory().transaction();
        let mut add = |name: &str, offset, size: u128, ops: Arc<dyn RegionOps>| {
            let region = tx.io(RegionDesc::new(name, size).owned_by(owner.clone()), ops);
            tx.add_subregion(parent, offset, region, 0);
            region
        };
        vec![
            add("acpi-evt", 0, 4, Arc::new(Event(Arc::clone(self)))),
            add("acpi-cnt", CONTROL, 2, Arc::new(Control(Arc::clone(self)))),
            add("acpi-tmr", TIMER, 4, Arc::new(Timer(Arc::clone(self)))),
        ]
    }

    /// Creates the region `acpi-gpe0` of `size` ports (half status, half enable) in `parent`.
    pub fn map_gpe(
        self: &Arc<Self>,
        machine: &Machine,
        owner: &Owner,
        parent: RegionId,
        offset: u64,
        size: u8,
    ) -> RegionId {
        let mut tx = machine.memory().transaction();
        let ops = Arc::new(Gpe { pm: Arc::clone(self), half: u64::from(size / 2) });
        let region = tx.io(RegionDesc::new("acpi-gpe0", size.into()).owned_by(owner.clone()), ops);
        tx.add_subregion(parent, offset, region, 0);
        region
    }
}

struct Event(Arc<Pm>);

impl RegionOps for Event {
    fn read(&self, offset: u64, _size: u8) -> u64 {
        self.0.read_event(offset).into()
    }
    fn write(&self, offset: u64, _size: u8, value: u64) {
        self.0.write_event(offset, value as u16);
    }
    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(1, 2).implemented(2, 2)
    }
}

struct Control(Arc<Pm>);

impl RegionOps for Control {
    fn read(&self, _offset: u64, _size: u8) -> u64 {
        self.0.lock().control.into()
    }
    fn write(&self, _offset: u64, _size: u8, value: u64) {
        self.0.write_control(value as u16);
    }
    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(1, 2).implemented(2, 2)
    }
}

struct Timer(Arc<Pm>);

impl RegionOps for Timer {
    fn read(&self, _offset: u64, _size: u8) -> u64 {
        self.0.timer() & ((1 << TIMER_BITS) - 1)
    }
    fn write(&self, _offset: u64, _size: u8, _value: u64) {}
    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(1, 4).implemented(4, 4)
    }
}

struct Gpe {
    pm: Arc<Pm>,
    half: u64,
}

impl RegionOps for Gpe {
    fn read(&self, offset: u64, _size: u8) -> u64 {
        let state = self.pm.lock();
        let (word, at) = if offset < self.half {
            (state.gpe_status, offset)
        } else {
            (state.gpe_enable, offset - self.half)
        };
        word.to_le_bytes().get(at as usize).copied().unwrap_or(0).into()
    }
    fn write(&self, offset: u64, _size: u8, value: u64) {
        let mut state = self.pm.lock();
        let shift = |at: u64| if at < 2 { Some(8 * at as u32) } else { None };
        if offset < self.half {
            if let Some(shift) = shift(offset) {
                state.gpe_status &= !(u16::from(value as u8) << shift);
            }
        } else if let Some(shift) = shift(offset - self.half) {
            state.gpe_enable = state.gpe_enable & !(0xff << shift) | u16::from(value as u8) << shift;
        }
        self.pm.update(&state);
    }
    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(1, 4).implemented(1, 1)
    }
}

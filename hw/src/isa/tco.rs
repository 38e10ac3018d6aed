//! The TCO watchdog of the ICH9 (Intel ICH9 datasheet §13.9) and the bit that holds it back (§10.1.75, GCS).
//!
//! A timer counts down in ticks of 0.6 s of the guest's time. When it has run out it sets TIMEOUT and starts over; when it has run out a second
//! time without the guest having written TCO_RLD, the machine's watchdog action follows, unless NO_REBOOT is set or the board is strapped so
//! (`noreboot`). As in QEMU, the timer stands still until the guest first writes TCO_RLD or TCO1_CNT. Left out: SMI and interrupts
//! of the first timeout and of the data registers, intruder detection. SMI_EN (§13.8.3.7) is storage: drivers look there whether firmware
//! serves the first timeout.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use mainloop::{Clock, Timer};
use memory::{AccessConstraints, RegionOps};
use vmstate::vmstate;

use crate::core::machine::Machine;

/// Bytes of the registers.
pub const SIZE: u64 = 0x20;
/// Where the registers are behind PMBASE.
pub const OFFSET: u64 = 0x60;
/// Where SMI_EN and SMI_STS are behind PMBASE, and how many bytes they have.
pub const SMI: (u64, u64) = (0x30, 8);
/// Where GCS is in the chipset's configuration space.
pub const GCS: u64 = 0x3410;
/// Nanoseconds of a tick.
pub const TICK: i64 = 600_000_000;
/// GCS: the second timeout does nothing.
const NO_REBOOT: u32 = 1 << 5;
/// Bits of the timer; fewer than two ticks do not start it.
const TIMER_MASK: u16 = 0x3ff;

/// TCO1_STS: the guest wrote TCO_DAT_IN, or TCO_DAT_OUT.
const SW_SMI: u16 = 1 << 1;
const INT: u16 = 1 << 2;
/// TCO1_STS: the timer ran out.
const TIMEOUT: u16 = 1 << 3;
/// TCO2_STS: it ran out a second time, and the machine is to be reset by it.
const SECOND_TIMEOUT: u16 = 1 << 1;
const BOOT: u16 = 1 << 2;
/// TCO1_CNT: the timer is halted; the register's bit that stays set until a reset; bits that there are.
const HALT: u16 = 1 << 11;
const LOCK: u16 = 1 << 12;
const CNT1_MASK: u16 = 0xfeff;

/// The register block, by byte, as it is after a reset.
const INITIAL: Registers = Registers {
    rld: 0,
    dat_in: 0,
    dat_out: 0,
    sts1: 0,
    sts2: 0,
    cnt1: 0,
    cnt2: 0x0008,
    message: [0, 0],
    wdcnt: 0,
    sw_irq_gen: 3,
    tmr: 4,
    gcs: NO_REBOOT,
    smi_en: 0,
    expired: false,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Registers {
    rld: u16,
    dat_in: u8,
    dat_out: u8,
    sts1: u16,
    sts2: u16,
    cnt1: u16,
    cnt2: u16,
    message: [u8; 2],
    wdcnt: u8,
    sw_irq_gen: u8,
    tmr: u16,
    gcs: u32,
    smi_en: u32,
    /// Whether the timer ran out since TCO_RLD was written.
    expired: bool,
}

vmstate! {
    /// What a migration takes along.
    pub struct TcoState: "ICH9LPC/tco", version 1 {
        /// TCO_RLD.
        rld: u16,
        /// TCO_DAT_IN.
        din: u8,
        /// TCO_DAT_OUT.
        dout: u8,
        /// TCO1_STS.
        sts1: u16,
        /// TCO2_STS.
        sts2: u16,
        /// TCO1_CNT.
        cnt1: u16,
        /// TCO2_CNT.
        cnt2: u16,
        /// TCO_MESSAGE1 and 2.
        msg: [u8; 2],
        /// TCO_WDCNT.
        wdcnt: u8,
        /// SW_IRQ_GEN.
        sw_irq_gen: u8,
        /// TCO_TMR.
        tmr: u16,
        /// GCS.
        gcs: u32,
        /// SMI_EN.
        smi_en: u32,
        /// How often the timer ran out: 0 or 1.
        timeouts_no: u8,
        /// When it runs out, nanoseconds of guest time; -1 while it stands still.
        expire_time: i64,
    }
}

/// The watchdog of one machine.
pub struct Tco {
    machine: Weak<Machine>,
    /// `noreboot`: the strap that holds the watchdog back whatever GCS says.
    strapped: AtomicBool,
    state: Mutex<State>,
}

struct State {
    registers: Registers,
    timer: Option<Timer>,
}

impl Tco {
    /// The watchdog of `machine`, which stands still.
    pub fn new(machine: &Arc<Machine>, strapped: bool) -> Arc<Self> {
        let state = Mutex::new(State { registers: INITIAL, timer: None });
        Arc::new(Self { machine: Arc::downgrade(machine), strapped: strapped.into(), state })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Registers are assigned whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reset of the platform. What tells of the last one is kept by the battery.
    pub fn reset(&self) {
        let mut state = self.lock();
        let kept = state.registers.sts2 & (SECOND_TIMEOUT | BOOT);
        *state = State { registers: Registers { sts2: kept, ..INITIAL }, timer: None };
    }

    /// What there is now.
    pub(crate) fn saved_state(&self) -> TcoState {
        let State { registers, timer } = &*self.lock();
        let Registers {
            rld,
            dat_in,
            dat_out,
            sts1,
            sts2,
            cnt1,
            cnt2,
            message,
            wdcnt,
            sw_irq_gen,
            tmr,
            gcs,
            smi_en,
            expired,
        } = *registers;
        TcoState {
            rld,
            din: dat_in,
            dout: dat_out,
            sts1,
            sts2,
            cnt1,
            cnt2,
            msg: message,
            wdcnt,
            sw_irq_gen,
            tmr,
            gcs,
            smi_en,
            timeouts_no: expired.into(),
            expire_time: timer.as_ref().map_or(-1, Timer::deadline_ns),
        }
    }

    /// Takes that over; of a machine that has none saved (`None`) it is as after a reset. A timer that is overdue runs out at once.
    pub(crate) fn load_state(self: &Arc<Self>, saved: Option<&TcoState>) {
        let mut state = self.lock();
        let Some(saved) = saved else {
            *state = State { registers: INITIAL, timer: None };
            return;
        };
        let TcoState {
            rld,
            din,
            dout,
            sts1,
            sts2,
            cnt1,
            cnt2,
            msg,
            wdcnt,
            sw_irq_gen,
            tmr,
            gcs,
            smi_en,
            timeouts_no,
            expire_time,
        } = *saved;
        state.registers = Registers {
            rld,
            dat_in: din,
            dat_out: dout,
            sts1,
            sts2,
            cnt1: cnt1 & CNT1_MASK,
            cnt2,
            message: msg,
            wdcnt,
            sw_irq_gen,
            tmr,
            gcs,
            smi_en,
            expired: timeouts_no != 0,
        };
        state.timer = (expire_time >= 0).then(|| self.arm(expire_time)).flatten();
    }

    /// Whether it is as it was after a reset, so that there is nothing to save.
    pub(crate) fn is_untouched(&self) -> bool {
        let state = self.lock();
        state.registers == INITIAL && state.timer.is_none()
    }

    fn now(&self) -> i64 {
        self.machine.upgrade().map_or(0, |machine| machine.mainloop().now_ns(Clock::Virtual))
    }

    fn arm(self: &Arc<Self>, deadline: i64) -> Option<Timer> {
        let (machine, weak) = (self.machine.upgrade()?, Arc::downgrade(self));
        Some(machine.mainloop().timer(Clock::Virtual, deadline, move || {
            if let Some(tco) = weak.upgrade() {
                tco.ran_out();
            }
        }))
    }

    /// Starts the timer anew, if it may run.
    fn reload(self: &Arc<Self>, state: &mut State) {
        let ticks = state.registers.tmr & TIMER_MASK;
        if state.registers.cnt1 & HALT == 0 && ticks > 1 {
            state.registers.rld = state.registers.tmr;
            state.timer = self.arm(self.now() + i64::from(ticks) * TICK);
        }
    }

    fn ran_out(self: &Arc<Self>) {
        let mut state = self.lock();
        if state.timer.as_ref().is_none_or(|timer| timer.is_pending()) {
            // Stopped, or started anew, while this was on its way.
            return;
        }
        state.timer = None;
        if !std::mem::replace(&mut state.registers.expired, true) {
            state.registers.sts1 |= TIMEOUT;
            return self.reload(&mut state);
        }
        state.registers.expired = false;
        state.registers.sts2 |= SECOND_TIMEOUT | BOOT;
        if self.strapped.load(Relaxed) || state.registers.gcs & NO_REBOOT != 0 {
            return self.reload(&mut state);
        }
        state.registers.rld = 0;
        drop(state);
        if let Some(machine) = self.machine.upgrade() {
            machine.watchdog_expired();
        }
    }

    /// What is left of the timer, in whole ticks; the value to reload while it stands still.
    fn remaining(&self, state: &State) -> u16 {
        let Some(timer) = &state.timer else { return state.registers.rld };
        let ticks = (timer.deadline_ns() - self.now()).max(0) / TICK;
        ticks as u16 & TIMER_MASK | state.registers.rld & !TIMER_MASK
    }

    /// The register block's 16 bits at an even offset.
    fn word(&self, state: &State, offset: u64) -> u16 {
        let r = &state.registers;
        match offset {
            0x00 => self.remaining(state),
            0x02 => u16::from_le_bytes([r.dat_in, r.dat_out]),
            0x04 => r.sts1,
            0x06 => r.sts2,
            0x08 => r.cnt1,
            0x0a => r.cnt2,
            0x0c => u16::from_le_bytes(r.message),
            0x0e => r.wdcnt.into(),
            0x10 => r.sw_irq_gen.into(),
            0x12 => r.tmr,
            _ => 0,
        }
    }

    /// Writes the bits of `mask` of the 16 at an even offset.
    fn write_word(self: &Arc<Self>, offset: u64, value: u16, mask: u16) {
        let mut state = self.lock();
        let merged = self.word(&state, offset) & !mask | value & mask;
        let [low, high] = merged.to_le_bytes();
        let r = &mut state.registers;
        match offset {
            0x00 => {
                r.expired = false;
                r.rld = merged;
                self.reload(&mut state);
            }
            0x02 => {
                if mask & 0x00ff != 0 {
                    r.dat_in = low;
                    r.sts1 |= SW_SMI;
                }
                if mask & 0xff00 != 0 {
                    r.dat_out = high;
                    r.sts1 |= INT;
                }
            }
            0x04 => r.sts1 &= !(value & mask),
            0x06 => r.sts2 &= !(value & mask),
            0x08 => {
                r.cnt1 = merged & CNT1_MASK | r.cnt1 & LOCK;
                if r.cnt1 & HALT != 0 {
                    r.rld = r.tmr;
                    state.timer = None;
                } else {
                    self.reload(&mut state);
                }
            }
            0x0a => r.cnt2 = merged,
            0x0c => r.message = [low, high],
            0x0e => r.wdcnt = low,
            0x10 => r.sw_irq_gen = low,
            0x12 => r.tmr = merged,
            _ => {}
        }
    }
}

/// The ports `sm-tco`.
pub(super) struct TcoPorts(pub(super) Arc<Tco>);

impl RegionOps for TcoPorts {
    fn read(&self, offset: u64, size: u8) -> u64 {
        let word = self.0.word(&self.0.lock(), offset & !1);
        if size == 1 { (word >> (8 * (offset & 1)) & 0xff).into() } else { word.into() }
    }
    fn write(&self, offset: u64, size: u8, value: u64) {
        let shift = 8 * (offset & 1);
        match size {
            1 => self.0.write_word(offset & !1, (value as u8 as u16) << shift, 0xff << shift),
            _ => self.0.write_word(offset, value as u16, 0xffff),
        }
    }
    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(1, 4).implemented(1, 2)
    }
}

/// The ports `acpi-smi`: SMI_EN, and SMI_STS, of which no bit is ever set.
pub(super) struct SmiPorts(pub(super) Arc<Tco>);

impl RegionOps for SmiPorts {
    fn read(&self, offset: u64, _size: u8) -> u64 {
        if offset == 0 { self.0.lock().registers.smi_en.into() } else { 0 }
    }
    fn write(&self, offset: u64, _size: u8, value: u64) {
        if offset == 0 {
            self.0.lock().registers.smi_en = value as u32;
        }
    }
    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(4, 4).implemented(4, 4)
    }
}

/// The chipset's configuration space `lpc-rcrb-mmio`, of which there is GCS.
pub(super) struct ChipsetConfig(pub(super) Arc<Tco>);

impl RegionOps for ChipsetConfig {
    fn read(&self, offset: u64, size: u8) -> u64 {
        let gcs = self.0.lock().registers.gcs.to_le_bytes();
        let byte = |at: u64| at.checked_sub(GCS).and_then(|at| gcs.get(at as usize)).copied().unwrap_or(0);
        (0..u64::from(size)).fold(0, |value, i| value | u64::from(byte(offset + i)) << (8 * i))
    }
    fn write(&self, offset: u64, size: u8, value: u64) {
        let mut state = self.0.lock();
        let mut gcs = state.registers.gcs.to_le_bytes();
        for i in 0..u64::from(size) {
            let at = (offset + i).checked_sub(GCS);
            if let Some(byte) = at.and_then(|at| gcs.get_mut(at as usize)) {
                *byte = (value >> (8 * i)) as u8;
            }
        }
        state.registers.gcs = u32::from_le_bytes(gcs);
    }
    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(1, 8).implemented(1, 8)
    }
}

#[cfg(test)]
mod tests;

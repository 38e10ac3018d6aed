//! Real-time clock and CMOS memory: Motorola MC146818A, ports 70h and 71h.
//!
//! The time is that of a clock of the host's (`-rtc clock=`) plus what the guest set, in whole seconds. Left out: alarm, periodic and update
//! interrupts (their enable bits read back), so that there are no ticks that `lost_tick_policy` could make up for; daylight saving, the
//! 244 µs in which an update is in progress.

mod clock;
mod migration;
mod source;

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use memory::RegionOps;
use qapi::events::Event;
use qapi::{Dict, Error, Result, Value};
use qom::{Class, ObjectRef, Property, Registry, TypeInfo};
use vmstate::{Saved, Section};

use super::Ports;
use crate::core::device::{Device, DeviceClass, DeviceState, ResetKind};
use crate::core::machine::Machine;
use clock::Clock;
pub use clock::unix_time;
use source::{Source, host_now};

const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const REG_A: u8 = 0x0a;
const REG_B: u8 = 0x0b;
const REG_C: u8 = 0x0c;
const REG_D: u8 = 0x0d;
const CENTURY: u8 = 0x32;
/// See [`Rtc::set_processors`].
const PROCESSORS: usize = 0x5f;
/// Register A: the divider, and the highest value of it with which time goes on.
const DIVIDER: u8 = 0x70;
const DIVIDER_RUNS: u8 = 0x20;
/// 32768 Hz time base, 1024 Hz periodic rate.
const REG_A_DEFAULT: u8 = 0x26;
/// Register A: an update is in progress.
const UPDATING: u8 = 0x80;
/// Register B: 24-hour mode.
const MODE_24: u8 = 0x02;
/// Register B: binary instead of BCD.
const MODE_BINARY: u8 = 0x04;
/// Register B: the guest is setting the time.
const SET: u8 = 0x80;
/// Register B: interrupts of updates, which there are none of while the time is set.
const UPDATE_INTERRUPT: u8 = 0x10;
/// What becomes of ticks that a guest missed.
const TICK_POLICIES: [&str; 4] = ["discard", "delay", "slew", "merge"];
const DISCARD: usize = 0;
const SLEW: usize = 2;
/// Register D: time and memory are valid.
const VALID: u8 = 0x80;
const PM: u8 = 0x80;

/// The device.
pub struct Rtc {
    dev: DeviceState,
    ports: Ports,
    state: Mutex<State>,
    /// Index into [`TICK_POLICIES`].
    tick_policy: Mutex<usize>,
    source: OnceLock<Source>,
}
crate::device_object!(Rtc, dev);

/// Where a machine keeps its device.
#[derive(Default)]
struct Known(OnceLock<Weak<Rtc>>);

struct State {
    index: u8,
    cmos: [u8; 128],
    /// Guest time minus the clock's, seconds.
    offset: i64,
    /// The time while it stands still: the guest is setting it, or holds the divider.
    setting: Option<Clock>,
}

pub(super) fn register(registry: &mut Registry) {
    registry.register(
        TypeInfo::new("mc146818rtc")
            .parent("device")
            .extension(DeviceClass::internal_on("ISA").hide(&["date"]))
            .property(Property::new("date", "struct tm").get(|d: &Rtc| Ok(d.date(d.now()))))
            .property(tick_policy())
            .instance(|class: &Arc<Class>| {
                let mut cmos = [0; 128];
                cmos[usize::from(REG_A)] = REG_A_DEFAULT;
                cmos[usize::from(REG_B)] = MODE_24;
                let state = State { index: 0, cmos, offset: 0, setting: None };
                Arc::new(Rtc {
                    dev: DeviceState::new(class),
                    ports: Ports::default(),
                    state: Mutex::new(state),
                    tick_policy: Mutex::new(DISCARD),
                    source: OnceLock::new(),
                })
            })
            .cast::<Rtc, dyn Device>(|d| d),
    );
}

impl Device for Rtc {
    fn dev(&self) -> &DeviceState {
        &self.dev
    }

    fn realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        let owner: ObjectRef = Arc::<Self>::clone(&self);
        let registers: Arc<dyn RegionOps> = Arc::new(Registers(Arc::downgrade(&self)));
        let both = self.ports.map(machine, &owner, "rtc", 0x70, 2, Arc::clone(&registers));
        // QEMU has the index by itself, to batch writes to it; here it only looks like that.
        self.ports.map_in(machine, both, &owner, "rtc-index", 0, 1, registers);
        if machine.config().rtc.slew {
            *self.policy() = SLEW;
        }
        if !matches!(*self.policy(), DISCARD | SLEW) {
            return Err(Error::generic("Invalid lost tick policy."));
        }
        let source = Source::new(machine);
        self.lock().offset = source.start - source.now();
        self.source.get_or_init(|| source);
        machine.extension(Known::default).0.get_or_init(|| Arc::downgrade(&self));
        let me = Arc::downgrade(&self);
        let time = Property::new("rtc-time", "struct tm")
            .get_any(move |_| Ok(me.upgrade().map_or(Value::Null, |rtc| rtc.date(rtc.now()))));
        machine.object().core().add_property(time);
        Ok(())
    }

    fn unrealize(self: Arc<Self>, machine: &Arc<Machine>) {
        self.ports.unmap(machine);
    }

    fn saved(self: Arc<Self>) -> Saved {
        let loaded = Arc::clone(&self);
        Saved::one(Section::new(move || self.saved_state(), move |state| loaded.load_state(state)))
    }

    fn reset(&self, _kind: ResetKind) {
        let mut state = self.lock();
        state.index = 0;
        // Interrupt enables and the square wave; the battery keeps the rest.
        state.cmos[usize::from(REG_B)] &= !0x78;
        state.cmos[usize::from(REG_C)] = 0;
    }
}

impl Rtc {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Bytes and whole values only.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the CMOS bytes in which PC firmware looks for the size of RAM.
    pub fn set_memory_size(&self, below_4g: u64, above_4g: u64) {
        let mut state = self.lock();
        let mut word = |at: usize, value: u64| {
            state.cmos[at..at + 2].copy_from_slice(&(value as u16).to_le_bytes());
        };
        word(0x15, (below_4g / 1024).min(640));
        let extended = (below_4g.saturating_sub(1 << 20) / 1024).min(65535);
        word(0x17, extended);
        word(0x30, extended);
        word(0x34, (below_4g.saturating_sub(16 << 20) / 65536).min(65535));
        let high = above_4g / 65536;
        word(0x5b, high);
        state.cmos[0x5d] = (high >> 16) as u8;
    }

    /// Writes the CMOS bytes in which PC firmware looks for the order of devices to boot from: 0x3d and 0x38.
    pub fn set_boot_order(&self, bytes: [u8; 2]) {
        let mut state = self.lock();
        [state.cmos[0x3d], state.cmos[0x38]] = bytes;
    }

    /// That of `machine`, if it has one.
    pub fn of(machine: &Machine) -> Option<Arc<Self>> {
        machine.extension(Known::default).0.get()?.upgrade()
    }

    /// Writes the CMOS byte in which PC firmware looks for the number of processors but one; 0 where it has to look elsewhere.
    pub fn set_processors(&self, count: u32) {
        let others = u8::try_from(count).map_or(0, |count| count.saturating_sub(1));
        self.lock().cmos[PROCESSORS] = others;
    }

    fn read(&self, now: i64) -> u8 {
        let mut state = self.lock();
        let index = state.index;
        let binary = state.cmos[usize::from(REG_B)] & MODE_BINARY != 0;
        let clock = state.setting.unwrap_or_else(|| Clock::from_unix(now + state.offset));
        let plain = |value: u32| if binary { value as u8 } else { bcd(value) };
        match index {
            SECONDS => plain(clock.second),
            MINUTES => plain(clock.minute),
            HOURS if state.cmos[usize::from(REG_B)] & MODE_24 != 0 => plain(clock.hour),
            HOURS => plain((clock.hour + 11) % 12 + 1) | if clock.hour >= 12 { PM } else { 0 },
            WEEKDAY => plain(clock.weekday() + 1),
            DAY => plain(clock.day),
            MONTH => plain(clock.month),
            YEAR => plain(clock.year.rem_euclid(100) as u32),
            CENTURY => plain(clock.year.div_euclid(100).clamp(0, 99) as u32),
            REG_C => std::mem::take(&mut state.cmos[usize::from(REG_C)]),
            REG_D => VALID,
            _ => state.cmos[usize::from(index)],
        }
    }

    fn policy(&self) -> std::sync::MutexGuard<'_, usize> {
        // One number.
        self.tick_policy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seconds of the clock that the time goes by.
    fn now(&self) -> i64 {
        self.source.get().map_or_else(host_now, Source::now)
    }

    /// Date and time as C's `struct tm` has them: months from 0, years from 1900.
    fn date(&self, now: i64) -> Value {
        let state = self.lock();
        let clock = state.setting.unwrap_or_else(|| Clock::from_unix(now + state.offset));
        Dict::new()
            .with("tm_year", clock.year - 1900)
            .with("tm_mon", i64::from(clock.month) - 1)
            .with("tm_mday", clock.day)
            .with("tm_hour", clock.hour)
            .with("tm_min", clock.minute)
            .with("tm_sec", clock.second)
            .into()
    }

    /// Writes the register that is selected. Gives the time that goes on from here, if that was set.
    fn write(&self, value: u8, now: i64) -> Option<Clock> {
        let mut state = self.lock();
        let index = state.index;
        match index {
            SECONDS | MINUTES | HOURS | DAY | MONTH | YEAR | CENTURY => state.set_part(index, value, now),
            WEEKDAY | REG_C | REG_D => None,
            REG_A => state.switch(REG_A, value & !UPDATING, now),
            REG_B if value & SET != 0 => state.switch(REG_B, value & !UPDATE_INTERRUPT, now),
            REG_B => state.switch(REG_B, value, now),
            _ => {
                state.cmos[usize::from(index)] = value;
                None
            }
        }
    }

    /// Tells management how far the guest's time now is from what it was given.
    fn tell(self: &Arc<Self>, clock: Clock) {
        let Some(source) = self.source.get() else { return };
        if let Some(machine) = source.machine() {
            let qom_path = (Arc::<Self>::clone(self) as ObjectRef).path();
            machine.send(Event::RtcChange { offset: source.difference(&clock), qom_path });
        }
    }
}

fn tick_policy() -> Property {
    Property::new("lost_tick_policy", "LostTickPolicy")
        .values(&TICK_POLICIES)
        .default(TICK_POLICIES[DISCARD])
        .get(|d: &Rtc| Ok(TICK_POLICIES[*d.policy()].into()))
        .set(|d: &Rtc, value, name| {
            *d.policy() = value.to_enum(name, &TICK_POLICIES)?;
            Ok(())
        })
}

impl State {
    /// Whether time goes on.
    fn is_running(&self) -> bool {
        self.cmos[usize::from(REG_B)] & SET == 0 && self.cmos[usize::from(REG_A)] & DIVIDER <= DIVIDER_RUNS
    }

    /// Writes a register that may stop time or let it go on.
    fn switch(&mut self, register: u8, value: u8, now: i64) -> Option<Clock> {
        let was_running = self.is_running();
        self.cmos[usize::from(register)] = value;
        match (was_running, self.is_running()) {
            (true, false) => {
                self.setting = Some(Clock::from_unix(now + self.offset));
                None
            }
            (false, true) => {
                let clock = self.setting.take()?;
                self.offset = clock.to_unix() - now;
                Some(clock)
            }
            _ => None,
        }
    }

    fn set_part(&mut self, index: u8, value: u8, now: i64) -> Option<Clock> {
        let mode = self.cmos[usize::from(REG_B)];
        let plain = |v: u8| if mode & MODE_BINARY != 0 { u32::from(v) } else { from_bcd(v) };
        let mut clock = self.setting.unwrap_or_else(|| Clock::from_unix(now + self.offset));
        match index {
            SECONDS => clock.second = plain(value),
            MINUTES => clock.minute = plain(value),
            HOURS if mode & MODE_24 != 0 => clock.hour = plain(value),
            HOURS => clock.hour = plain(value & !PM) % 12 + if value & PM != 0 { 12 } else { 0 },
            DAY => clock.day = plain(value),
            MONTH => clock.month = plain(value),
            YEAR => clock.year = clock.year.div_euclid(100) * 100 + i64::from(plain(value)),
            _ => clock.year = i64::from(plain(value)) * 100 + clock.year.rem_euclid(100),
        }
        if self.setting.is_some() {
            self.setting = Some(clock);
            return None;
        }
        self.offset = clock.to_unix() - now;
        Some(clock)
    }
}

fn bcd(value: u32) -> u8 {
    (((value / 10 % 10) << 4) | (value % 10)) as u8
}

fn from_bcd(value: u8) -> u32 {
    u32::from(value >> 4) * 10 + u32::from(value & 15)
}

struct Registers(Weak<Rtc>);

impl RegionOps for Registers {
    fn read(&self, offset: u64, _size: u8) -> u64 {
        match self.0.upgrade() {
            Some(rtc) if offset == 1 => rtc.read(rtc.now()).into(),
            _ => 0xff,
        }
    }
    fn write(&self, offset: u64, _size: u8, value: u64) {
        let Some(rtc) = self.0.upgrade() else { return };
        if offset == 0 {
            // Bit 7 masks NMIs, which there are none of.
            rtc.lock().index = value as u8 & 0x7f;
        } else if let Some(clock) = rtc.write(value as u8, rtc.now()) {
            rtc.tell(clock);
        }
    }
    fn constraints(&self) -> memory::AccessConstraints {
        memory::AccessConstraints::new().valid(1, 4).implemented(1, 1)
    }
}

#[cfg(test)]
mod tests;

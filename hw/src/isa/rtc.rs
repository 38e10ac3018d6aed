//! Real-time clock and CMOS memory: Motorola MC146818A, ports 70h and 71h.
//!
//! The time is the host's UTC plus what the guest set. Left out: alarm, periodic and update interrupts (their enable bits
//! read back), daylight saving, the 244 µs in which an update is in progress.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use memory::RegionOps;
use qapi::Result;
use qom::{Class, Registry, TypeInfo};

use super::Ports;
use crate::core::device::{Device, DeviceClass, DeviceState, ResetKind};
use crate::core::machine::Machine;

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
/// Register D: time and memory are valid.
const VALID: u8 = 0x80;
const PM: u8 = 0x80;

/// The device.
pub struct Rtc {
    dev: DeviceState,
    ports: Ports,
    state: Mutex<State>,
}
crate::device_object!(Rtc, dev);

struct State {
    index: u8,
    cmos: [u8; 128],
    /// Guest time minus host time, seconds.
    offset: i64,
    /// The time while the guest is setting it.
    setting: Option<Clock>,
}

pub(super) fn register(registry: &mut Registry) {
    registry.register(
        TypeInfo::new("mc146818rtc")
            .parent("device")
            .extension(DeviceClass::internal_on("ISA"))
            .instance(|class: &Arc<Class>| {
                let mut cmos = [0; 128];
                cmos[usize::from(REG_A)] = REG_A_DEFAULT;
                cmos[usize::from(REG_B)] = MODE_24;
                let state = State { index: 0, cmos, offset: 0, setting: None };
                Arc::new(Rtc {
                    dev: DeviceState::new(class),
                    ports: Ports::default(),
                    state: Mutex::new(state),
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
        let owner: qom::ObjectRef = Arc::<Self>::clone(&self);
        let registers: Arc<dyn RegionOps> = Arc::new(Registers(Arc::downgrade(&self)));
        let both = self.ports.map(machine, &owner, "rtc", 0x70, 2, Arc::clone(&registers));
        // QEMU has the index by itself, to batch writes to it; here it only looks like that.
        self.ports.map_in(machine, both, &owner, "rtc-index", 0, 1, registers);
        Ok(())
    }

    fn unrealize(self: Arc<Self>, machine: &Arc<Machine>) {
        self.ports.unmap(machine);
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

    fn write(&self, value: u8, now: i64) {
        let mut state = self.lock();
        let index = state.index;
        match index {
            SECONDS | MINUTES | HOURS | DAY | MONTH | YEAR | CENTURY => state.set_part(index, value, now),
            WEEKDAY | REG_C | REG_D => {}
            REG_A => state.cmos[usize::from(REG_A)] = value & !UPDATING,
            REG_B => {
                state.cmos[usize::from(REG_B)] = value;
                if value & SET != 0 {
                    let offset = state.offset;
                    state.setting.get_or_insert_with(|| Clock::from_unix(now + offset));
                } else if let Some(clock) = state.setting.take() {
                    state.offset = clock.to_unix() - now;
                }
            }
            _ => state.cmos[usize::from(index)] = value,
        }
    }
}

impl State {
    fn set_part(&mut self, index: u8, value: u8, now: i64) {
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
        } else {
            self.offset = clock.to_unix() - now;
        }
    }
}

/// A UTC date and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Clock {
    year: i64,
    month: u32,
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
}

impl Clock {
    /// Days are counted from 1 March of year 0, so that the leap day is the last of its year.
    fn from_unix(seconds: i64) -> Self {
        let (days, rest) = (seconds.div_euclid(86400) + 719_468, seconds.rem_euclid(86400) as u32);
        let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * of_year + 2) / 153;
        let january = month >= 10;
        Self {
            year: era * 400 + year_of_era + i64::from(january),
            month: if january { month - 9 } else { month + 3 } as u32,
            day: (of_year - (153 * month + 2) / 5 + 1) as u32,
            hour: rest / 3600,
            minute: rest / 60 % 60,
            second: rest % 60,
        }
    }

    /// Values beyond their range (a guest may set any byte) carry over.
    fn to_unix(self) -> i64 {
        let (year, month) =
            (self.year + i64::from(self.month.saturating_sub(1) / 12), self.month.saturating_sub(1) % 12);
        let march = (month + 10) % 12;
        let year = year - i64::from(march >= 10);
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let of_year = i64::from((153 * march + 2) / 5 + self.day) - 1;
        let days =
            era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - 719_468;
        days * 86400 + i64::from(self.hour * 3600 + self.minute * 60 + self.second)
    }

    /// 0 is Sunday.
    fn weekday(&self) -> u32 {
        (self.to_unix().div_euclid(86400) + 4).rem_euclid(7) as u32
    }
}

fn bcd(value: u32) -> u8 {
    (((value / 10 % 10) << 4) | (value % 10)) as u8
}

fn from_bcd(value: u8) -> u32 {
    u32::from(value >> 4) * 10 + u32::from(value & 15)
}

fn host_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs().cast_signed())
}

struct Registers(Weak<Rtc>);

impl RegionOps for Registers {
    fn read(&self, offset: u64, _size: u8) -> u64 {
        match self.0.upgrade() {
            Some(rtc) if offset == 1 => rtc.read(host_now()).into(),
            _ => 0xff,
        }
    }
    fn write(&self, offset: u64, _size: u8, value: u64) {
        let Some(rtc) = self.0.upgrade() else { return };
        if offset == 0 {
            // Bit 7 masks NMIs, which there are none of.
            rtc.lock().index = value as u8 & 0x7f;
        } else {
            rtc.write(value as u8, host_now());
        }
    }
    fn constraints(&self) -> memory::AccessConstraints {
        memory::AccessConstraints::new().valid(1, 4).implemented(1, 1)
    }
}

#[cfg(test)]
mod tests;

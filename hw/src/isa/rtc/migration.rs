//! What a migration takes along of the clock: memory, and the guest's time.
//!
//! A clock that goes by the host's (`-rtc clock=host`) goes on while the machine is on its way, one that goes by the guest's time (`vm`)
//! stands meanwhile, and so does one that goes by a clock which each host has from its own start (`rt`).

use vmstate::{LoadError, Result, vmstate};

use super::clock::Clock;
use super::source::host_now;
use super::{Rtc, State};
use crate::core::config::RtcClock;

/// Seconds beyond which no time is one that a guest can set: thousands of years.
const FAR: u64 = 1 << 40;
/// Years, centuries included, and other parts of a time that can be set.
const YEARS: std::ops::RangeInclusive<i64> = -0x1_0000..=0x1_0000;
const PART_MAX: u32 = 0xff;

vmstate! {
    /// A time that stands still while the guest sets it. Parts may be beyond their range.
    pub struct SettingState: "mc146818rtc/setting", version 1 {
        year: i64,
        month: u32,
        day: u32,
        hour: u32,
        minute: u32,
        second: u32,
    }
}
vmstate! {
    /// The clock and its memory.
    pub struct RtcState: "mc146818rtc", version 1 {
        cmos_data: [u8; 128],
        cmos_index: u8,
        /// Whether the time goes by the host's.
        follows_host: bool,
        /// Seconds: if it does, those that the guest's time is ahead of the host's; if not, those since 1970.
        base_rtc: i64,
    }
    subsections {
        /// While time stands still.
        setting: SettingState,
    }
}

impl Rtc {
    fn follows_host(&self) -> bool {
        self.source.get().is_none_or(|source| source.clock() == RtcClock::Host)
    }

    /// What there is now.
    pub(super) fn saved_state(&self) -> RtcState {
        let (now, follows_host) = (self.now(), self.follows_host());
        let State { index, cmos, offset, setting } = &*self.lock();
        RtcState {
            cmos_data: *cmos,
            cmos_index: *index,
            follows_host,
            base_rtc: if follows_host { *offset } else { now.saturating_add(*offset) },
            setting: setting.map(|Clock { year, month, day, hour, minute, second }| SettingState {
                year,
                month,
                day,
                hour,
                minute,
                second,
            }),
        }
    }

    /// Takes that over.
    ///
    /// # Errors
    /// It is nothing that a guest could have set.
    pub(super) fn load_state(&self, state: RtcState) -> Result<()> {
        let RtcState { cmos_data, cmos_index, follows_host, base_rtc, setting } = state;
        if usize::from(cmos_index) >= cmos_data.len() {
            return Err(LoadError::invalid(format!("mc146818rtc: there is no register {cmos_index:#x}")));
        }
        if base_rtc.unsigned_abs() > FAR {
            return Err(LoadError::invalid("mc146818rtc: no clock can be so far off"));
        }
        let setting = setting.map(SettingState::clock).transpose()?;
        let there = if follows_host { host_now() } else { 0 };
        let here = if self.follows_host() { host_now() } else { self.now() };
        let offset = if follows_host && self.follows_host() { base_rtc } else { there + base_rtc - here };
        let loaded = State { index: cmos_index, cmos: cmos_data, offset, setting };
        if loaded.is_running() == setting.is_some() {
            return Err(LoadError::invalid("mc146818rtc: a time is set while the clock runs"));
        }
        *self.lock() = loaded;
        Ok(())
    }
}

impl SettingState {
    fn clock(self) -> Result<Clock> {
        let Self { year, month, day, hour, minute, second } = self;
        if !YEARS.contains(&year) || [month, day, hour, minute, second].iter().any(|part| *part > PART_MAX) {
            return Err(LoadError::invalid("mc146818rtc: no such time can be set"));
        }
        Ok(Clock { year, month, day, hour, minute, second })
    }
}

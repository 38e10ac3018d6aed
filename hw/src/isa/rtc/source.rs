//! Where the real-time clock has its time from: `-rtc base=,clock=`.
#![expect(unsafe_code, reason = "localtime_r(3) and mktime(3) have no safe wrappers")]

use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use mainloop::Clock as LoopClock;

use super::clock::Clock;
use crate::core::config::{RtcBase, RtcClock};
use crate::core::machine::Machine;

/// A clock, and what it began with.
pub(super) struct Source {
    machine: Weak<Machine>,
    clock: RtcClock,
    base: RtcBase,
    /// The guest's time at the start.
    pub(super) start: i64,
    /// The host's then.
    host_start: i64,
}

impl Source {
    /// That of a machine which is being built.
    pub(super) fn new(machine: &Arc<Machine>) -> Self {
        let config = machine.config().rtc;
        let host_start = host_now();
        let start = match config.base {
            RtcBase::Utc => host_start,
            RtcBase::LocalTime => host_start + ahead_of_utc(host_start),
            RtcBase::Date(date) => date,
        };
        Self { machine: Arc::downgrade(machine), clock: config.clock, base: config.base, start, host_start }
    }

    /// Seconds of the clock, from whenever.
    pub(super) fn now(&self) -> i64 {
        let of_loop =
            |clock| self.machine().map_or(0, |m| m.mainloop().now_ns(clock).div_euclid(1_000_000_000));
        match self.clock {
            RtcClock::Host => host_now(),
            RtcClock::Rt => of_loop(LoopClock::Realtime),
            RtcClock::Vm => of_loop(LoopClock::Virtual),
        }
    }

    /// Which clock it is.
    pub(super) fn clock(&self) -> RtcClock {
        self.clock
    }

    pub(super) fn machine(&self) -> Option<Arc<Machine>> {
        self.machine.upgrade()
    }

    /// How far `clock` is from what the guest would have, had nobody set anything: seconds.
    pub(super) fn difference(&self, clock: &Clock) -> i64 {
        let host = host_now();
        match self.base {
            RtcBase::Utc => clock.to_unix() - host,
            RtcBase::LocalTime => from_local(clock) - host,
            RtcBase::Date(date) => clock.to_unix() - (date + host - self.host_start),
        }
    }
}

/// The host's UTC in seconds since 1970.
pub(super) fn host_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs().cast_signed())
}

/// Seconds by which the host's time zone is ahead of UTC at a moment.
fn ahead_of_utc(at: i64) -> i64 {
    let mut tm = no_time();
    // SAFETY: both pointers are to values of ours; `tzset` first, as localtime_r need not look at TZ by itself.
    let found = unsafe {
        tzset();
        !libc::localtime_r(&raw const at, &raw mut tm).is_null()
    };
    if found { tm.tm_gmtoff } else { 0 }
}

unsafe extern "C" {
    fn tzset();
}

/// UTC of a time of the host's zone.
fn from_local(clock: &Clock) -> i64 {
    let mut tm = no_time();
    // Each is one of a register of 8 bits, or the year of two.
    tm.tm_year = (clock.year - 1900) as i32;
    tm.tm_mon = clock.month as i32 - 1;
    tm.tm_mday = clock.day as i32;
    tm.tm_hour = clock.hour as i32;
    tm.tm_min = clock.minute as i32;
    tm.tm_sec = clock.second as i32;
    // The zone says whether it is summer.
    tm.tm_isdst = -1;
    // SAFETY: the pointer is to a value of ours.
    unsafe { libc::mktime(&raw mut tm) }
}

fn no_time() -> libc::tm {
    libc::tm {
        tm_sec: 0,
        tm_min: 0,
        tm_hour: 0,
        tm_mday: 0,
        tm_mon: 0,
        tm_year: 0,
        tm_wday: 0,
        tm_yday: 0,
        tm_isdst: 0,
        tm_gmtoff: 0,
        tm_zone: std::ptr::null(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_time_goes_there_and_back() {
        // Whatever the zone of the host is; not near a change of it.
        let noon = 1_736_942_400;
        let local = Clock::from_unix(noon + ahead_of_utc(noon));
        assert_eq!(from_local(&local), noon);
    }
}

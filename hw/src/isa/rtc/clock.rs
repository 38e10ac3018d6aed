//! Dates and seconds since 1970, of the Gregorian calendar without time zones.

/// A UTC date and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Clock {
    pub(super) year: i64,
    pub(super) month: u32,
    pub(super) day: u32,
    pub(super) hour: u32,
    pub(super) minute: u32,
    pub(super) second: u32,
}

impl Clock {
    /// Days are counted from 1 March of year 0, so that the leap day is the last of its year.
    pub(super) fn from_unix(seconds: i64) -> Self {
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
    pub(super) fn to_unix(self) -> i64 {
        let date = [self.year, self.month.into(), self.day.into()];
        unix_time(date, [self.hour.into(), self.minute.into(), self.second.into()])
    }

    /// 0 is Sunday.
    pub(super) fn weekday(&self) -> u32 {
        (self.to_unix().div_euclid(86400) + 4).rem_euclid(7) as u32
    }
}

/// Seconds since 1970 of a year, month (from 1) and day, and of hours, minutes and seconds. Months beyond a year, days beyond a month and
/// so on carry over. Each value must be one of 32 bits.
pub fn unix_time([year, month, day]: [i64; 3], [hour, minute, second]: [i64; 3]) -> i64 {
    let (year, month) = (year + (month - 1).div_euclid(12), (month - 1).rem_euclid(12));
    let march = (month + 10) % 12;
    let year = year - i64::from(march >= 10);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * march + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - 719_468;
    days * 86400 + hour * 3600 + minute * 60 + second
}

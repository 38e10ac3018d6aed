//! What the program says to the person who started it: one line each on stderr, named after the program.
//!
//! The name is the last component of `argv[0]`, so that scripts which look for `qemu-system-x86_64: ` find it when
//! the program is started under that name.

use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use qapi::Error;

/// Where messages go and how they begin.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reporter {
    program: String,
    /// `-msg timestamp=on`
    pub(crate) timestamp: bool,
    /// `-msg guest-name=on` with `-name`.
    pub(crate) guest_name: Option<String>,
    /// The option that is being carried out, as `-device X: `. Shared by all clones.
    location: Arc<Mutex<String>>,
}

impl Reporter {
    /// A reporter for a program started as `argv0`.
    pub(crate) fn new(argv0: &str) -> Self {
        let program = argv0.rsplit('/').next().filter(|p| !p.is_empty()).unwrap_or("pliant");
        Self { program: program.to_owned(), ..Self::default() }
    }

    /// Does `work` with messages naming `prefix` as where they come from.
    pub(crate) fn at<T>(&self, prefix: &str, work: impl FnOnce() -> T) -> T {
        self.location().push_str(prefix);
        let done = work();
        self.location().clear();
        done
    }

    /// One line, with the option that is being carried out, if one is.
    pub(crate) fn located(&self, text: &str) {
        let location = self.location().clone();
        self.line(&format!("{location}{text}"));
    }

    /// A line of its own, without the program's name.
    pub(crate) fn bare(&self, text: &str) {
        print(text);
    }

    fn location(&self) -> MutexGuard<'_, String> {
        self.location.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An error with its hint lines.
    pub(crate) fn error(&self, error: &Error) {
        self.line(error.desc());
        for hint in error.hint() {
            print(hint);
        }
    }

    /// One line, whatever it says; further lines of `text` stand alone.
    pub(crate) fn line(&self, text: &str) {
        let mut begin = String::new();
        if self.timestamp {
            begin.push_str(&iso_now());
            begin.push(' ');
        }
        if let Some(name) = &self.guest_name {
            begin.push_str(name);
            begin.push(' ');
        }
        print(&format!("{begin}{}: {text}", self.program));
    }
}

fn print(line: &str) {
    // There is nobody to tell when stderr is gone. At once, as others may write into the same log.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// `2026-11-25T22:49:19.123456Z`
fn iso_now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    iso(since.as_secs(), since.subsec_micros())
}

/// Date arithmetic of the proleptic Gregorian calendar, years counted from March so that leap days come last.
fn iso(seconds: u64, micros: u32) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let mp = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{micros:06}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_around_leap_days() {
        assert_eq!(iso(0, 0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(iso(951_782_399, 5), "2000-02-28T23:59:59.000005Z");
        assert_eq!(iso(951_782_400, 0), "2000-02-29T00:00:00.000000Z");
        assert_eq!(iso(1_795_646_959, 999_999), "2026-11-25T22:49:19.999999Z");
    }

    #[test]
    fn the_program_is_called_what_it_was_started_as() {
        assert_eq!(Reporter::new("/usr/bin/qemu-system-x86_64").program, "qemu-system-x86_64");
        assert_eq!(Reporter::new("").program, "pliant");
    }
}

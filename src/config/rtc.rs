//! `-rtc`: what the real-time clock shows, as [`RtcConfig`].

use hw::core::{RtcBase, RtcClock, RtcConfig};
use hw::isa::rtc::unix_time;
use qapi::{Error, Result};

use crate::cli::Raw;

/// What the options say together; of each key, the last one counts.
///
/// # Errors
/// QEMU's texts: an unknown key behind the option's name, a bad value without it.
pub(crate) fn parse(list: &[Raw]) -> Result<RtcConfig> {
    let mut config = RtcConfig::default();
    for raw in list {
        let parsed = raw.options(None);
        parsed.only(&["base", "clock", "driftfix"]).map_err(|e| e.prefixed(&raw.prefix()))?;
        if let Some(base) = parsed.get("base") {
            config.base = match base {
                "utc" => RtcBase::Utc,
                "localtime" => RtcBase::LocalTime,
                date => RtcBase::Date(seconds(date).ok_or_else(|| {
                    Error::generic("invalid datetime format")
                        .with_hint("valid formats: '2006-06-17T16:01:21' or '2006-06-17'")
                })?),
            };
        }
        let bad = |value: &str| Error::generic(format!("invalid option value '{value}'"));
        if let Some(clock) = parsed.get("clock") {
            config.clock = match clock {
                "host" => RtcClock::Host,
                "rt" => RtcClock::Rt,
                "vm" => RtcClock::Vm,
                other => return Err(bad(other)),
            };
        }
        if let Some(fix) = parsed.get("driftfix") {
            config.slew = match fix {
                "slew" => true,
                "none" => false,
                other => return Err(bad(other)),
            };
        }
    }
    Ok(config)
}

/// Seconds since 1970 of `2006-06-17T16:01:21` or `2006-06-17`, whatever comes behind; a time that is not whole is midnight. Numbers are
/// read as C's `scanf` reads them and may be out of range; the second before 1970 cannot be said.
fn seconds(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut number = |before: Option<char>| {
        rest = before.map_or(Some(rest), |c| rest.strip_prefix(c))?;
        rest = rest.trim_start();
        let sign = usize::from(rest.starts_with(['+', '-']));
        let digits = rest[sign..].bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(sign + digits);
        rest = after;
        number.parse::<i32>().ok().map(i64::from)
    };
    let date = [number(None)?, number(Some('-'))?, number(Some('-'))?];
    let mut time = || Some([number(Some('T'))?, number(Some(':'))?, number(Some(':'))?]);
    Some(unix_time(date, time().unwrap_or_default())).filter(|t| *t != -1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(texts: &[&str]) -> std::result::Result<RtcConfig, String> {
        let raw = |text: &&str| Raw { option: "-rtc", text: (*text).to_owned() };
        parse(&texts.iter().map(raw).collect::<Vec<_>>()).map_err(|e| e.desc().to_owned())
    }

    #[test]
    fn dates_are_read_as_scanf_reads_them() {
        let day = 1_577_923_200;
        for (text, wanted) in [
            ("2020-01-02", day),
            ("2020-1-2", day),
            (" 2020-01-02", day),
            ("2020-01-02T03:04:05", day + 11045),
            ("2020-01-02T03:04:05Z", day + 11045),
            ("2020-01-02T03:04", day),
            ("2020-01-02 03:04:05", day),
            ("2020-01-02T25:04:05", day + 90245),
            ("1960-01-01", -315_619_200),
            ("2020-13-02", 1_609_545_600),
            ("2020-00-01", 1_575_158_400),
        ] {
            assert_eq!(seconds(text), Some(wanted), "{text}");
        }
        for text in
            ["", "foo", "2020", "2020-01", "2020-01-", "2020-01-x", "99999999999-1-1", "1969-12-31T23:59:59"]
        {
            assert_eq!(seconds(text), None, "{text}");
        }
        // The extremes stay within range.
        assert!(seconds("-2147483648--2147483648--2147483648T-2147483648:0:0").is_some());
        assert!(seconds("2147483647-2147483647-2147483647T2147483647:2147483647:2147483647").is_some());
    }

    #[test]
    fn what_is_said_later_counts() {
        let config = said(&["base=localtime,clock=rt", "driftfix=slew", "base=2020-01-02"]).unwrap();
        let wanted = RtcConfig { base: RtcBase::Date(1_577_923_200), clock: RtcClock::Rt, slew: true };
        assert_eq!(config, wanted);
        assert_eq!(said(&[]), Ok(RtcConfig::default()));
        assert!(!said(&["driftfix=slew", "driftfix=none"]).unwrap().slew);
    }

    #[test]
    fn mistakes_are_answered_as_by_qemu() {
        for (text, error) in [
            ("base=foo", "invalid datetime format"),
            ("base=", "invalid datetime format"),
            ("clock=foo", "invalid option value 'foo'"),
            ("clock=", "invalid option value ''"),
            ("driftfix=x", "invalid option value 'x'"),
            ("foo=bar", "-rtc foo=bar: Invalid parameter 'foo'"),
        ] {
            assert_eq!(said(&[text]), Err(error.to_owned()), "{text}");
        }
    }
}

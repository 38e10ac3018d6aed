//! The table of migration parameters: each with its kind, what it is at the start, and what it may be.
//!
//! Numbers, ranges and texts are those of QEMU 10.0.2. A parameter of the schema that has no line in the table does not compile.
//!
//! ```
//! use migration::parameters::{changed, defaults, from_text};
//! let change = from_text("multifd-channels", "0x10")?;
//! assert_eq!(changed(&defaults(), &change)?.multifd_channels, Some(16));
//! let error = changed(&defaults(), &from_text("multifd-channels", "0")?).unwrap_err();
//! assert_eq!(error.desc(), "Parameter 'multifd_channels' expects a value between 1 and 255");
//! # Ok::<(), qapi::Error>(())
//! ```

use qapi::types::{MigrationParameters, MultiFDCompression};
use qapi::{Enum, Error, Result};
use qom::{Input, size};

/// A line is `field "name": kind = at the start, may be, else "expects what";`. The lines stand in the order in which QEMU finds mistakes.
macro_rules! parameters {
    ($($field:ident $name:literal: $kind:ident = $start:expr, $valid:expr, else $expects:literal;)*) => {
        /// What holds as long as nobody sets anything.
        pub fn defaults() -> MigrationParameters {
            MigrationParameters { $($field: Some($start),)* }
        }

        /// `now` with what `change` names.
        ///
        /// # Errors
        /// The first parameter that is out of its range, or does not fit another.
        pub fn changed(now: &MigrationParameters, change: &MigrationParameters) -> Result<MigrationParameters> {
            let all = MigrationParameters { $($field: change.$field.or(now.$field),)* };
            $(
                // Ranges may depend on others, so that all are looked at whichever is set.
                if all.$field.is_some_and(|value| !allows($valid, value, &all)) {
                    return Err(Error::generic(format!("Parameter '{}' expects {}", stringify!($field), $expects)));
                }
            )*
            Ok(all)
        }

        /// The change that `text`, typed by a person, asks for of the parameter `name`.
        ///
        /// # Errors
        /// There is no such parameter, or the text is none of its kind. Whether it is in range is said by [`changed`].
        pub fn from_text(name: &str, text: &str) -> Result<MigrationParameters> {
            let mut change = MigrationParameters::default();
            match name {
                $($name => change.$field = Some($kind(name, text)?),)*
                _ => return Err(Error::generic(format!("invalid parameter value: {name}"))),
            }
            Ok(change)
        }
    };
}

parameters! {
    throttle_trigger_threshold "throttle-trigger-threshold": byte = 50,
        |v, _| (1..=100).contains(&v), else "an integer in the range of 1 to 100";
    cpu_throttle_initial "cpu-throttle-initial": byte = 20,
        |v, _| (1..=99).contains(&v), else "an integer in the range of 1 to 99";
    cpu_throttle_increment "cpu-throttle-increment": byte = 10,
        |v, _| (1..=99).contains(&v), else "an integer in the range of 1 to 99";
    cpu_throttle_tailslow "cpu-throttle-tailslow": switch = false,
        |_, _| true, else "a boolean";
    max_bandwidth "max-bandwidth": mebibytes = 128 << 20,
        |_, _| true, else "a size";
    avail_switchover_bandwidth "avail-switchover-bandwidth": mebibytes = 0,
        |_, _| true, else "a size";
    downtime_limit "downtime-limit": bytes = 300,
        |v, _| v <= 2_000_000, else "an integer in the range of 0 to (2000 * 1000) ms";
    multifd_channels "multifd-channels": byte = 2,
        |v, _| v >= 1, else "a value between 1 and 255";
    multifd_compression "multifd-compression": compression = MultiFDCompression::None,
        |_, _| true, else "a kind of compression";
    multifd_zlib_level "multifd-zlib-level": byte = 1,
        |v, _| v <= 9, else "a value between 0 and 9";
    multifd_zstd_level "multifd-zstd-level": byte = 1,
        |v, _| v <= 20, else "a value between 0 and 20";
    max_postcopy_bandwidth "max-postcopy-bandwidth": bytes = 0,
        |_, _| true, else "a size";
    max_cpu_throttle "max-cpu-throttle": byte = 99,
        |v, all| v <= 99 && all.cpu_throttle_initial.is_none_or(|initial| initial <= v),
        else "an integer in the range of cpu_throttle_initial to 99";
}

/// Ties the types of a line's closure to the field.
fn allows<T>(valid: impl Fn(T, &MigrationParameters) -> bool, value: T, all: &MigrationParameters) -> bool {
    valid(value, all)
}

fn byte(name: &str, text: &str) -> Result<u8> {
    Input::Text(text).to_uint(name, 8).map(|v| v as u8)
}

fn switch(name: &str, text: &str) -> Result<bool> {
    Input::Text(text).to_bool(name)
}

/// A size, or whatever else QEMU reads as one.
fn bytes(name: &str, text: &str) -> Result<u64> {
    size::parse_named(name, text, 1)
}

/// A size in mebibytes unless it says otherwise, below 2^63.
fn mebibytes(_: &str, text: &str) -> Result<u64> {
    let bytes = size::parse(text, 1 << 20).ok().filter(|b| i64::try_from(*b).is_ok());
    bytes.ok_or_else(|| Error::generic(format!("Invalid size {text}")))
}

fn compression(name: &str, text: &str) -> Result<MultiFDCompression> {
    let at = Input::Text(text).to_enum(name, MultiFDCompression::NAMES)?;
    Ok(MultiFDCompression::VALUES[at])
}

#[cfg(test)]
mod tests;

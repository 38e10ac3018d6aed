//! What a property setter is given: a value and the dialect it was written in.
//!
//! The same property is set from JSON (`qom-set`, JSON `-device`), from `-object k=v`, from `-device k=v` and
//! from text (HMP `qom-set`, `-global`). The dialects accept different things and complain in different words.

use qapi::{Error, Result, Value};

use crate::size;

/// A value on its way into a property.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// From JSON: numbers are numbers, no suffixes.
    Json(&'a Value),
    /// From `-object k=v` or HMP `object_add`: text, sizes take suffixes.
    Keyval(&'a str),
    /// From `-device k=v` or HMP `device_add`.
    Option(&'a str),
    /// From HMP `qom-set` or `-global`.
    Text(&'a str),
}

impl<'a> Input<'a> {
    fn text(self) -> Option<&'a str> {
        match self {
            Self::Json(_) => None,
            Self::Keyval(s) | Self::Option(s) | Self::Text(s) => Some(s),
        }
    }

    /// An unsigned 64-bit number. JSON integers below zero wrap, as in QEMU.
    pub fn to_u64(self, name: &str) -> Result<u64> {
        match self {
            Self::Json(Value::Int(i)) => Ok(*i as u64),
            Self::Json(Value::UInt(u)) => Ok(*u),
            Self::Json(_) => Err(expects(name, "uint64")),
            Self::Text(s) => parse_u64(s).ok_or_else(|| expects(name, "uint64")),
            Self::Option(s) => parse_u64(s).ok_or_else(|| expects(name, "integer")),
            // No sign in this dialect.
            Self::Keyval(s) => parse_u64(s)
                .filter(|_| !s.trim_start().starts_with('-'))
                .ok_or_else(|| expects(name, "a uint64 value")),
        }
    }

    /// An unsigned number of `bits` bits (8, 16 or 32).
    pub fn to_uint(self, name: &str, bits: u32) -> Result<u64> {
        let value = self.to_u64(name)?;
        if bits < 64 && value >> bits != 0 { Err(expects(name, &format!("uint{bits}_t"))) } else { Ok(value) }
    }

    /// A signed number of `bits` bits.
    pub fn to_int(self, name: &str, bits: u32) -> Result<i64> {
        let value = match self {
            Self::Json(Value::Int(i)) => *i,
            Self::Json(_) => {
                return Err(Error::generic(format!(
                    "Invalid parameter type for '{name}', expected: integer"
                )));
            }
            Self::Text(s) => parse_i64(s).ok_or_else(|| expects(name, "int64"))?,
            Self::Keyval(s) | Self::Option(s) => parse_i64(s).ok_or_else(|| expects(name, "integer"))?,
        };
        if bits < 64 && (value >> (bits - 1) != 0 && value >> (bits - 1) != -1) {
            return Err(expects(name, &format!("int{bits}_t")));
        }
        Ok(value)
    }

    /// A size in bytes.
    pub fn to_size(self, name: &str) -> Result<u64> {
        match self {
            Self::Json(_) => self.to_u64(name),
            Self::Keyval(s) => size::parse(s, 1).map_err(|_| expects(name, "a size value")),
            Self::Option(s) => size::parse(s, 1).map_err(|_| expects(name, "size")),
            Self::Text(s) => size::parse_named(name, s, 1),
        }
    }

    /// `true`/`false`, or `on`/`off`/`yes`/`no`/`y`/`n` in the text dialects.
    pub fn to_bool(self, name: &str) -> Result<bool> {
        match self {
            Self::Json(v) => v.as_bool().ok_or_else(|| wrong_type(name, "boolean")),
            Self::Keyval(s) | Self::Option(s) | Self::Text(s) => {
                parse_bool(s).ok_or_else(|| expects(name, "'on' or 'off'"))
            }
        }
    }

    /// A string.
    pub fn to_str(self, name: &str) -> Result<&'a str> {
        match self {
            Self::Json(v) => v.as_str().ok_or_else(|| wrong_type(name, "string")),
            _ => Ok(self.text().unwrap_or_default()),
        }
    }

    /// The index of one of `values`.
    pub fn to_enum(self, name: &str, values: &[&str]) -> Result<usize> {
        let text = self.to_str(name)?;
        values
            .iter()
            .position(|v| *v == text)
            .ok_or_else(|| Error::generic(format!("Parameter '{name}' does not accept value '{text}'")))
    }

    /// A list of unsigned numbers: a JSON array, or `0-3,7`-like ranges in text.
    pub fn to_u16_list(self, name: &str) -> Result<Vec<u16>> {
        match self {
            Self::Json(v) => {
                let list = v.as_list().ok_or_else(|| wrong_type(name, "array"))?;
                list.iter()
                    .map(|v| Input::Json(v).to_uint(name, 16).map(|u| u as u16))
                    .collect::<Result<Vec<_>>>()
            }
            _ => {
                let bad = || expects(name, "a uint64 value or range");
                let mut out = Vec::new();
                for part in self.text().unwrap_or_default().split(',').filter(|p| !p.is_empty()) {
                    let (low, high) = part.split_once('-').unwrap_or((part, part));
                    let low = parse_u64(low).ok_or_else(bad)?;
                    let high = parse_u64(high).ok_or_else(bad)?;
                    // Every number once at most: nine bytes of text must not become 64 Ki numbers again and again.
                    let count = (high.saturating_sub(low) as usize).saturating_add(out.len());
                    if low > high || high > u64::from(u16::MAX) || count > usize::from(u16::MAX) {
                        return Err(bad());
                    }
                    out.extend((low..=high).map(|u| u as u16));
                }
                Ok(out)
            }
        }
    }

    /// The value as JSON, text as a string.
    pub fn to_value(self) -> Value {
        match self {
            Self::Json(v) => v.clone(),
            _ => Value::from(self.text().unwrap_or_default()),
        }
    }
}

fn expects(name: &str, what: &str) -> Error {
    Error::generic(format!("Parameter '{name}' expects {what}"))
}

fn wrong_type(name: &str, what: &str) -> Error {
    Error::generic(format!("Invalid parameter type for '{name}', expected: {what}"))
}

/// Decimal, `0x` or `0` octal, as `strtoull` with base 0; a minus sign wraps.
pub(crate) fn parse_u64(text: &str) -> Option<u64> {
    let text = text.trim_start();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let value = parse_magnitude(digits)?;
    Some(if negative { value.wrapping_neg() } else { value })
}

fn parse_i64(text: &str) -> Option<i64> {
    let text = text.trim_start();
    match text.strip_prefix('-') {
        Some(rest) => 0i64.checked_sub_unsigned(parse_magnitude(rest)?),
        None => parse_magnitude(text.strip_prefix('+').unwrap_or(text))?.try_into().ok(),
    }
}

fn parse_magnitude(digits: &str) -> Option<u64> {
    let (digits, radix) = crate::options::digits(digits);
    // `from_str_radix` would take a second sign.
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "on" | "yes" | "true" | "y" => Some(true),
        "off" | "no" | "false" | "n" => Some(false),
        _ => None,
    }
}

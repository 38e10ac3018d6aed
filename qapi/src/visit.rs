//! Between JSON values and the generated types: one trait each way, and the errors with the member they are about.
//!
//! Texts and their order are those of QEMU 10.0.2: missing members and wrong types name the whole path (`a.b[0].c`), a
//! bad enumeration value or an integer out of range names the last member only (`null` inside an array).
//!
//! ```
//! use qapi::types::{RunState, StatusInfo};
//! use qapi::visit::Path;
//! use qapi::{FromValue, ToValue, json};
//! let status = StatusInfo::from_value(json::parse("{'running': false, 'status': 'paused'}")?, &Path::ROOT)?;
//! assert_eq!(status.status, RunState::Paused);
//! assert_eq!(json::to_string(&status.to_value()), r#"{"status": "paused", "running": false}"#);
//! let error = StatusInfo::from_value(json::parse("{'running': 1}")?, &Path::ROOT).unwrap_err();
//! assert_eq!(error.desc(), "Invalid parameter type for 'running', expected: boolean");
//! # Ok::<(), qapi::Error>(())
//! ```

use std::fmt;

use crate::{Dict, Error, Result, Value};

/// Where in the arguments a value stands.
#[derive(Debug, Clone, Copy)]
pub struct Path<'a>(Option<(&'a Path<'a>, Step<'a>)>);

#[derive(Debug, Clone, Copy)]
enum Step<'a> {
    Member(&'a str),
    Index(usize),
}

impl<'a> Path<'a> {
    /// The value that everything else is inside of.
    pub const ROOT: Path<'static> = Path(None);

    /// Member `name` of the object here.
    pub fn member(&'a self, name: &'a str) -> Self {
        Self(Some((self, Step::Member(name))))
    }

    /// Element `index` of the array here.
    pub fn index(&'a self, index: usize) -> Self {
        Self(Some((self, Step::Index(index))))
    }

    /// The member's own name, `null` for the root and for elements.
    pub fn last(&self) -> &str {
        match self.0 {
            Some((_, Step::Member(name))) => name,
            _ => "null",
        }
    }

    /// `Invalid parameter type for 'PATH', expected: WHAT`
    pub fn wrong_type(&self, expected: &str) -> Error {
        Error::generic(format!("Invalid parameter type for '{self}', expected: {expected}"))
    }

    /// `Parameter 'PATH' is missing`
    pub fn missing(&self) -> Error {
        Error::generic(format!("Parameter '{self}' is missing"))
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("<anonymous>"),
            Some((outer, Step::Member(name))) if outer.0.is_none() => f.write_str(name),
            Some((outer, Step::Member(name))) => write!(f, "{outer}.{name}"),
            Some((outer, Step::Index(i))) if outer.0.is_none() => write!(f, "[{i}]"),
            Some((outer, Step::Index(i))) => write!(f, "{outer}[{i}]"),
        }
    }
}

/// A type that a JSON value can be read as.
pub trait FromValue: Sized {
    /// Reads `value`, which stands at `at`.
    ///
    /// # Errors
    /// The first member, in the order of the schema, that is missing or wrong; then the first that is unexpected.
    fn from_value(value: Value, at: &Path<'_>) -> Result<Self>;
}

/// A type that can be written as a JSON value.
pub trait ToValue {
    /// The value; absent optional members are left out.
    fn to_value(&self) -> Value;
}

/// A generated object type: its members are read from and added to an object.
pub trait Object: Sized {
    /// Takes this type's members out of `members`.
    ///
    /// # Errors
    /// As [`FromValue::from_value`], but for unexpected members.
    fn take(members: &mut Members<'_>) -> Result<Self>;

    /// Adds this type's members to `dict`.
    fn put(&self, dict: &mut Dict);
}

/// A generated enumeration.
pub trait Enum: Copy + Sized + 'static {
    /// The values' names, in order of declaration.
    const NAMES: &'static [&'static str];
    /// The values, in the same order.
    const VALUES: &'static [Self];

    /// The value's name.
    fn as_str(self) -> &'static str;

    /// The value with that name.
    fn from_name(name: &str) -> Option<Self> {
        let at = Self::NAMES.iter().position(|n| *n == name)?;
        Some(Self::VALUES[at])
    }
}

/// The members of an object that have not been read yet.
#[derive(Debug)]
pub struct Members<'a> {
    rest: Dict,
    at: &'a Path<'a>,
}

impl<'a> Members<'a> {
    /// All members of `dict`, which stands at `at`.
    pub fn new(dict: Dict, at: &'a Path<'a>) -> Self {
        Self { rest: dict, at }
    }

    /// All members of `value`.
    ///
    /// # Errors
    /// `value` is not an object.
    pub fn of(value: Value, at: &'a Path<'a>) -> Result<Self> {
        match value {
            Value::Dict(dict) => Ok(Self::new(dict, at)),
            _ => Err(at.wrong_type("object")),
        }
    }

    /// Takes the member `name` out.
    ///
    /// # Errors
    /// It is missing or wrong.
    pub fn required<T: FromValue>(&mut self, name: &str) -> Result<T> {
        let at = self.at.member(name);
        match self.rest.remove(name) {
            Some(value) => T::from_value(value, &at),
            None => Err(at.missing()),
        }
    }

    /// Takes the member `name` out if it is there.
    ///
    /// # Errors
    /// It is wrong.
    pub fn optional<T: FromValue>(&mut self, name: &str) -> Result<Option<T>> {
        self.rest.remove(name).map(|value| T::from_value(value, &self.at.member(name))).transpose()
    }

    /// Everything has been read that is known.
    ///
    /// # Errors
    /// `Parameter 'x' is unexpected` if something is left.
    pub fn finish(self) -> Result<()> {
        match self.rest.iter().next() {
            Some((name, _)) => {
                Err(Error::generic(format!("Parameter '{}' is unexpected", self.at.member(name))))
            }
            None => Ok(()),
        }
    }
}

/// Adds a member to `dict`.
pub fn put<T: ToValue>(dict: &mut Dict, name: &str, value: &T) {
    dict.insert(name, value.to_value());
}

/// Adds a member to `dict` if there is one.
pub fn put_optional<T: ToValue>(dict: &mut Dict, name: &str, value: &Option<T>) {
    if let Some(value) = value {
        put(dict, name, value);
    }
}

/// Reads a generated object that must have no other members.
///
/// # Errors
/// As [`FromValue::from_value`].
pub fn object_from_value<T: Object>(value: Value, at: &Path<'_>) -> Result<T> {
    let mut members = Members::of(value, at)?;
    let object = T::take(&mut members)?;
    members.finish()?;
    Ok(object)
}

/// Writes a generated object.
pub fn object_to_value<T: Object>(object: &T) -> Value {
    let mut dict = Dict::new();
    object.put(&mut dict);
    Value::Dict(dict)
}

/// Reads a generated enumeration.
///
/// # Errors
/// Not a string, or not one of the names.
pub fn enum_from_value<T: Enum>(value: Value, at: &Path<'_>) -> Result<T> {
    let name = String::from_value(value, at)?;
    T::from_name(&name)
        .ok_or_else(|| Error::generic(format!("Parameter '{}' does not accept value '{name}'", at.last())))
}

impl FromValue for Value {
    fn from_value(value: Value, _: &Path<'_>) -> Result<Self> {
        Ok(value)
    }
}
impl ToValue for Value {
    fn to_value(&self) -> Value {
        self.clone()
    }
}

impl FromValue for String {
    fn from_value(value: Value, at: &Path<'_>) -> Result<Self> {
        if let Value::String(s) = value { Ok(s) } else { Err(at.wrong_type("string")) }
    }
}
impl ToValue for String {
    fn to_value(&self) -> Value {
        Value::String(self.clone())
    }
}

impl FromValue for bool {
    fn from_value(value: Value, at: &Path<'_>) -> Result<Self> {
        value.as_bool().ok_or_else(|| at.wrong_type("boolean"))
    }
}

/// JSON's `null`.
impl FromValue for () {
    fn from_value(value: Value, at: &Path<'_>) -> Result<Self> {
        if value == Value::Null { Ok(()) } else { Err(at.wrong_type("null")) }
    }
}
impl ToValue for () {
    fn to_value(&self) -> Value {
        Value::Null
    }
}

impl FromValue for f64 {
    fn from_value(value: Value, at: &Path<'_>) -> Result<Self> {
        match value {
            Value::Double(d) => Ok(d),
            Value::Int(i) => Ok(i as f64),
            Value::UInt(u) => Ok(u as f64),
            _ => Err(at.wrong_type("number")),
        }
    }
}

impl FromValue for i64 {
    fn from_value(value: Value, at: &Path<'_>) -> Result<Self> {
        value.as_i64().ok_or_else(|| at.wrong_type("integer"))
    }
}

impl FromValue for u64 {
    /// Negative numbers wrap, as they always did.
    fn from_value(value: Value, at: &Path<'_>) -> Result<Self> {
        match value {
            Value::Int(i) => Ok(i.cast_unsigned()),
            Value::UInt(u) => Ok(u),
            _ => Err(Error::generic(format!("Parameter '{at}' expects uint64"))),
        }
    }
}

macro_rules! narrow {
    ($($type:ty: $wide:ty, $name:literal;)*) => {$(
        impl FromValue for $type {
            fn from_value(value: Value, at: &Path<'_>) -> Result<Self> {
                let wide = <$wide>::from_value(value, at)?;
                Self::try_from(wide)
                    .map_err(|_| Error::generic(format!("Parameter '{}' expects {}", at.last(), $name)))
            }
        }
        impl ToValue for $type {
            fn to_value(&self) -> Value {
                Value::Int(i64::from(*self))
            }
        }
    )*};
}
narrow! {
    u8: u64, "uint8_t";
    u16: u64, "uint16_t";
    u32: u64, "uint32_t";
    i8: i64, "int8_t";
    i16: i64, "int16_t";
    i32: i64, "int32_t";
}

macro_rules! by_copy {
    ($($type:ty)*) => {$(
        impl ToValue for $type {
            fn to_value(&self) -> Value {
                Value::from(*self)
            }
        }
    )*};
}
by_copy! { bool f64 i64 u64 }

impl<T: FromValue> FromValue for Vec<T> {
    fn from_value(value: Value, at: &Path<'_>) -> Result<Self> {
        let Value::List(list) = value else { return Err(at.wrong_type("array")) };
        list.into_iter().enumerate().map(|(i, v)| T::from_value(v, &at.index(i))).collect()
    }
}
impl<T: ToValue> ToValue for Vec<T> {
    fn to_value(&self) -> Value {
        Value::List(self.iter().map(T::to_value).collect())
    }
}

#[cfg(test)]
mod tests;

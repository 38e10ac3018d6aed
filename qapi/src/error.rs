//! The error a monitor client gets: a class, one sentence, and hint lines that only humans are shown.

use std::{fmt, io};

/// Class of an error, the `class` member of a QMP error reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// Everything that has no class of its own.
    GenericError,
    /// The command does not exist, or not in this state of the session.
    CommandNotFound,
    /// The command needs a device that is not there.
    DeviceNotActive,
    /// A path, id or type names nothing.
    DeviceNotFound,
    /// KVM lacks a capability.
    KVMMissingCap,
}

impl ErrorClass {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GenericError => "GenericError",
            Self::CommandNotFound => "CommandNotFound",
            Self::DeviceNotActive => "DeviceNotActive",
            Self::DeviceNotFound => "DeviceNotFound",
            Self::KVMMissingCap => "KVMMissingCap",
        }
    }
}

/// An error for a monitor client or for the person at the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(Box<Inner>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Inner {
    class: ErrorClass,
    desc: String,
    hint: Vec<String>,
}

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of class `GenericError`.
    pub fn generic(desc: impl Into<String>) -> Self {
        Self::new(ErrorClass::GenericError, desc)
    }

    /// An error of any class.
    pub fn new(class: ErrorClass, desc: impl Into<String>) -> Self {
        Self(Box::new(Inner { class, desc: desc.into(), hint: Vec::new() }))
    }

    /// `Device 'X' not found` of class `DeviceNotFound`.
    pub fn device_not_found(id: &str) -> Self {
        Self::new(ErrorClass::DeviceNotFound, format!("Device '{id}' not found"))
    }

    /// Adds a line that is printed after the message on a terminal, and never sent over QMP.
    #[must_use]
    pub fn with_hint(mut self, line: impl Into<String>) -> Self {
        self.0.hint.push(line.into());
        self
    }

    /// The same error with `prefix` before its sentence (as `-device X: ` on the command line).
    #[must_use]
    pub fn prefixed(mut self, prefix: &str) -> Self {
        self.0.desc.insert_str(0, prefix);
        self
    }

    /// The class.
    pub fn class(&self) -> ErrorClass {
        self.0.class
    }

    /// The sentence.
    pub fn desc(&self) -> &str {
        &self.0.desc
    }

    /// Hint lines, without line ends.
    pub fn hint(&self) -> &[String] {
        &self.0.hint
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.desc)
    }
}

impl std::error::Error for Error {}

/// What `strerror` says of an error of the system, for a sentence about it.
///
/// ```
/// assert_eq!(qapi::strerror(&std::io::Error::from_raw_os_error(28)), "No space left on device");
/// ```
pub fn strerror(error: &io::Error) -> String {
    let mut text = error.to_string();
    // The standard library adds the number.
    text.truncate(text.find(" (os error").unwrap_or(text.len()));
    text
}

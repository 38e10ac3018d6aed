//! Why state could not be loaded.

use std::io;

/// What [`LoadError`] names at the end, as the C library would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errno {
    /// A value cannot be: `Invalid argument`.
    Invalid,
    /// A value is not allowed here: `Operation not permitted`.
    NotPermitted,
    /// The stream ended or broke: `Input/output error`.
    Io,
    /// Something that the stream names does not exist here: `No such file or directory`.
    NotFound,
    /// The host has too little: `Cannot allocate memory`.
    NoMemory,
}

impl Errno {
    /// The words.
    pub fn text(self) -> &'static str {
        match self {
            Self::Invalid => "Invalid argument",
            Self::NotPermitted => "Operation not permitted",
            Self::Io => "Input/output error",
            Self::NotFound => "No such file or directory",
            Self::NoMemory => "Cannot allocate memory",
        }
    }
}

/// Lines for the person at the terminal, the cause first, and what kind of failure it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadError {
    /// Sentences without line ends.
    pub lines: Vec<String>,
    /// The kind.
    pub errno: Errno,
}

/// What loading gives.
pub type Result<T> = std::result::Result<T, LoadError>;

impl LoadError {
    /// A value that cannot be, in one sentence.
    pub fn invalid(line: impl Into<String>) -> Self {
        Self::new(Errno::Invalid, line)
    }

    /// One sentence.
    pub fn new(errno: Errno, line: impl Into<String>) -> Self {
        Self { lines: vec![line.into()], errno }
    }

    /// The same, seen while `field` of the state `name` was loaded.
    #[must_use]
    pub fn in_field(self, name: &str, field: &str) -> Self {
        self.and(format!("Failed to load {name}:{field}"))
    }

    /// The same with another line behind.
    #[must_use]
    pub fn and(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }
}

impl From<io::Error> for LoadError {
    fn from(_: io::Error) -> Self {
        // Who reads the stream knows what is wrong with it and says so once.
        Self { lines: Vec::new(), errno: Errno::Io }
    }
}

impl std::fmt::Display for LoadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.lines.first() {
            Some(line) => f.write_str(line),
            None => f.write_str(self.errno.text()),
        }
    }
}

impl std::error::Error for LoadError {}

//! The log of a qtest session (`-qtest-log`): what came and what went, with seconds since the client connected.
//!
//! `[I 0.000000] OPENED`, `[R +0.001234] readb 0x0`, `[S +0.001250] OK 0x0000000000000000`, `[I +1.000000] CLOSED`.

use std::fs::File;
use std::io::{self, Write};
use std::time::Instant;

/// Where the log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTarget<'a> {
    /// No option given: standard error.
    Stderr,
    /// `-qtest-log none`.
    Nowhere,
    /// `-qtest-log PATH`; the file is emptied.
    File(&'a str),
}

impl<'a> LogTarget<'a> {
    /// The argument of `-qtest-log`, if it was given.
    #[must_use]
    pub fn of_option(argument: Option<&'a str>) -> Self {
        match argument {
            None => Self::Stderr,
            Some("none") => Self::Nowhere,
            Some(path) => Self::File(path),
        }
    }
}

/// An open log.
pub struct Log {
    to: Option<Box<dyn Write + Send>>,
    opened: Option<Instant>,
}

impl Log {
    /// Opens the log.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn open(target: LogTarget<'_>) -> io::Result<Self> {
        Ok(match target {
            LogTarget::Nowhere => Self { to: None, opened: None },
            LogTarget::Stderr => Self::to(io::stderr()),
            LogTarget::File(path) => Self::to(File::create(path)?),
        })
    }

    pub(super) fn to(to: impl Write + Send + 'static) -> Self {
        Self { to: Some(Box::new(to)), opened: None }
    }

    pub(super) fn client_came(&mut self) {
        self.opened = Some(Instant::now());
        self.line("[I 0.000000] OPENED");
    }

    pub(super) fn client_left(&mut self) {
        self.stamped('I', "CLOSED");
        self.opened = None;
    }

    pub(super) fn received(&mut self, command: &str) {
        self.stamped('R', command);
    }

    pub(super) fn sent(&mut self, reply: &str) {
        self.stamped('S', reply.trim_end());
    }

    fn stamped(&mut self, kind: char, text: &str) {
        if let (Some(opened), Some(_)) = (self.opened, &self.to) {
            self.line(&format!("[{kind} +{:.6}] {text}", opened.elapsed().as_secs_f64()));
        }
    }

    fn line(&mut self, text: &str) {
        if let Some(to) = &mut self.to
            && let Err(error) = writeln!(to, "{text}").and_then(|()| to.flush())
        {
            tracing::warn!(%error, "the qtest log ends here");
            self.to = None;
        }
    }
}

//! Where trace events and log items are written: standard error, or a file (`-D`, `logfile`).
//!
//! Each line is one write, so lines of several threads do not mix. Nothing that goes wrong here stops a machine: a line that cannot be
//! written (a full disk) is lost, and the next one that can says how many were, and why. A guest can cause log items as often as it
//! likes, so beyond a burst they come at a slow pace and what is left out is counted; trace events were asked for by name, and none is left
//! out.
//!
//! Not here: a file for each thread (`tid`).

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::budget::Budget;

/// What is logged beside trace events, where it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// The guest did something that no guest should.
    GuestErrors,
    /// An access that no memory and no device answers, or not of that size.
    InvalidMem,
    /// The guest wants something that devices like ours have and ours do not.
    Unimp,
}

impl Item {
    /// All of them, in the order of help texts.
    pub const ALL: [Self; 3] = [Self::Unimp, Self::GuestErrors, Self::InvalidMem];

    /// Its name, QEMU's.
    pub fn name(self) -> &'static str {
        match self {
            Self::GuestErrors => "guest_errors",
            Self::InvalidMem => "invalid_mem",
            Self::Unimp => "unimp",
        }
    }

    /// One line about it.
    pub fn help(self) -> &'static str {
        match self {
            Self::GuestErrors => "what the guest does wrong: broken rings, misused registers",
            Self::InvalidMem => "accesses that nothing answers, or not in that size",
            Self::Unimp => "what the guest asks for and devices here do not have",
        }
    }

    /// The item called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|item| item.name() == name)
    }

    #[inline(always)]
    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

static ITEMS: AtomicU32 = AtomicU32::new(0);
static TIMESTAMPS: AtomicBool = AtomicBool::new(false);
static LOG: Mutex<Log> = Mutex::new(Log::new());

/// Whether `item` is wanted.
#[inline(always)]
pub fn wants(item: Item) -> bool {
    ITEMS.load(Ordering::Relaxed) & item.bit() != 0
}

/// Has exactly `items` logged from now on.
pub fn set_items(items: impl IntoIterator<Item = Item>) {
    let mask = items.into_iter().fold(0, |mask, item| mask | item.bit());
    log().tell_suppressed();
    ITEMS.store(mask, Ordering::Relaxed);
}

/// Whether lines of trace events begin with thread and time: `-msg timestamp=on`.
pub fn set_timestamps(on: bool) {
    TIMESTAMPS.store(on, Ordering::Relaxed);
}

/// Writes to a new file at `name` from now on, in which `%d` is the process id.
///
/// # Errors
/// The name is no template, or the file cannot be made. Lines go where they went then.
#[doc(alias = "qemu_set_log_filename")]
pub fn open(name: &str) -> Result<(), OpenError> {
    let path = expand(name, std::process::id()).ok_or_else(|| OpenError::Template(name.to_owned()))?;
    let failed = |error| OpenError::File { path: path.clone(), error };
    let file = File::create(&path).map_err(failed)?;
    let copy = file.try_clone().map_err(failed)?;
    let mut log = log();
    log.tell_suppressed();
    log.sink = Some(Box::new(file));
    log.lost = None;
    log.file = Some(copy);
    if log.with_stderr {
        log.stderr_to_file().map_err(failed)?;
    }
    Ok(())
}

/// Has standard error go where the log goes from now on, if that is a file: for a program without a terminal. Whether it is.
///
/// # Errors
/// The system's.
pub fn take_stderr() -> io::Result<bool> {
    let mut log = log();
    log.with_stderr = true;
    log.stderr_to_file()
}

/// Says how much was left out, if that is not known yet. At the end of the program.
pub fn finish() {
    log().tell_suppressed();
}

/// Why a log file is not used.
#[derive(Debug)]
pub enum OpenError {
    /// A `%` other than one `%d`.
    Template(String),
    /// The system refused.
    File {
        /// The file, `%d` replaced.
        path: String,
        /// Why.
        error: io::Error,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Template(name) => write!(f, "Bad logfile template: {name}"),
            Self::File { path, error } => {
                write!(f, "Error opening logfile {path}: {}", qapi::strerror(error))
            }
        }
    }
}

impl std::error::Error for OpenError {}

fn expand(name: &str, pid: u32) -> Option<String> {
    match name.split_once('%') {
        None => Some(name.to_owned()),
        Some((before, after)) => {
            let after = after.strip_prefix('d').filter(|rest| !rest.contains('%'))?;
            Some(format!("{before}{pid}{after}"))
        }
    }
}

/// Logs what a guest did wrong, if that is wanted: arguments as of `format!`.
#[macro_export]
macro_rules! guest_error {
    ($($text:tt)*) => { $crate::log_item!($crate::log::Item::GuestErrors, $($text)*) };
}

/// Logs that a guest wants what is not there, if that is wanted: arguments as of `format!`.
#[macro_export]
macro_rules! unimp {
    ($($text:tt)*) => { $crate::log_item!($crate::log::Item::Unimp, $($text)*) };
}

/// Logs a line of an [`Item`] if that is wanted.
#[macro_export]
macro_rules! log_item {
    ($item:expr, $($text:tt)*) => {
        if $crate::log::wants($item) {
            $crate::log::item(format_args!($($text)*));
        }
    };
}

/// Writes a line of an item, or counts it.
#[cold]
pub fn item(text: fmt::Arguments<'_>) {
    let mut log = log();
    if let Some(suppressed) = log.budget.take(Instant::now()) {
        log.tell(suppressed);
        log.line(&format!("{text}"));
    }
}

/// Writes a line of a trace event.
pub(crate) fn event(line: &str) {
    if TIMESTAMPS.load(Ordering::Relaxed) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let thread = rustix::thread::gettid().as_raw_nonzero();
        let line = format!("{thread}@{}.{:06}:{line}", since.as_secs(), since.subsec_micros());
        log().line(&line);
    } else {
        log().line(line);
    }
}

fn log() -> MutexGuard<'static, Log> {
    // Every field is good whatever the others are.
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Items that may come at once; a person reads them later.
const BURST: u32 = 4096;
/// Afterwards, one in this time.
const PACE: Duration = Duration::from_millis(20);

struct Log {
    /// `None` is standard error.
    sink: Option<Box<dyn Write + Send>>,
    /// The same, if it was opened here.
    file: Option<File>,
    /// Standard error goes there, too.
    with_stderr: bool,
    budget: Budget,
    /// Lines that could not be written since the last one that could.
    lost: Option<Lost>,
}

struct Lost {
    lines: u64,
    why: String,
    /// Something of the first of them may be there.
    torn: bool,
}

impl Log {
    const fn new() -> Self {
        Self { sink: None, file: None, with_stderr: false, budget: Budget::new(BURST, PACE), lost: None }
    }

    fn stderr_to_file(&self) -> io::Result<bool> {
        self.file.as_ref().map(rustix::stdio::dup2_stderr).transpose()?;
        Ok(self.file.is_some())
    }

    fn tell_suppressed(&mut self) {
        let suppressed = self.budget.take_suppressed();
        self.tell(suppressed);
    }

    fn tell(&mut self, suppressed: u64) {
        if suppressed > 0 {
            self.line(&format!("{suppressed} messages suppressed"));
        }
    }

    fn line(&mut self, line: &str) {
        let text = match &self.lost {
            None => format!("{line}\n"),
            Some(lost) => {
                let begin = if lost.torn { "\n" } else { "" };
                format!("{begin}{} lines lost: {}\n{line}\n", lost.lines, lost.why)
            }
        };
        let (written, result) = match &mut self.sink {
            Some(file) => write_whole(file, text.as_bytes()),
            None => write_whole(&mut io::stderr().lock(), text.as_bytes()),
        };
        match result {
            Ok(()) => self.lost = None,
            Err(error) => {
                let torn = written > 0 || self.lost.as_ref().is_some_and(|lost| lost.torn);
                let lines = self.lost.as_ref().map_or(0, |lost| lost.lines) + 1;
                self.lost = Some(Lost { lines, why: qapi::strerror(&error), torn });
            }
        }
    }
}

/// Writes all of it, or says how much of it there is now.
fn write_whole(to: &mut dyn Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut done = 0;
    while done < bytes.len() {
        match to.write(&bytes[done..]) {
            Ok(0) => return (done, Err(io::ErrorKind::WriteZero.into())),
            Ok(more) => done += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (done, Err(error)),
        }
    }
    (done, Ok(()))
}

#[cfg(test)]
mod tests;

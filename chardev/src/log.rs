//! The log of a character device: a copy of its output.

use std::fs::File;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};

use qapi::Result;
use rustix::fs::{Mode, OFlags};

use crate::fds::{Claim, FdSets};
use crate::options::LogFile;

/// An open log.
pub(crate) struct Log {
    file: Mutex<File>,
    /// The set that the file is from.
    _claim: Option<Claim>,
}

impl Log {
    /// Adds output.
    pub(crate) fn write(&self, data: &[u8]) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // A full disk costs the log, not the guest.
        let _ = file.write_all(data);
    }
}

/// Opens a log.
///
/// # Errors
/// `Could not create 'PATH': REASON`, or what is wrong with a set.
pub(crate) fn open_log(log: &LogFile, sets: &FdSets) -> Result<Log> {
    let flags = OFlags::WRONLY | OFlags::CREATE | if log.append { OFlags::APPEND } else { OFlags::TRUNC };
    let opened = sets.open(&log.path, flags, Mode::from_raw_mode(0o666));
    let file =
        opened.map_err(|e| e.or_else(|reason| format!("Could not create '{}': {reason}", log.path)))?;
    Ok(Log { file: Mutex::new(file.fd.into()), _claim: file.claim })
}

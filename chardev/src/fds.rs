//! Descriptors that came from outside: by name (`getfd`), in sets (`add-fd`), and by number, inherited from whoever started the program.
//!
//! Names belong to the monitor that a descriptor came to, and go on existing when its client leaves. Commands do not know which
//! monitor they came over, so the monitor says it: [`Fds::during`] runs a command with the names it may use, and
//! [`Fds::take`] finds them, on the same thread.

mod sets;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use qapi::{Error, Result};
use rustix::net::sockopt;

use crate::socket::{close_inherited, inherited, inherited_only};
pub use sets::{Claim, FdSets, HostFile, OpenError};

/// The descriptors that one monitor has names for.
#[derive(Debug, Default)]
pub struct NamedFds(Mutex<BTreeMap<String, OwnedFd>>);

impl NamedFds {
    /// Keeps a descriptor for whoever asks for `name`; one of the same name is closed.
    pub fn put(&self, name: String, fd: OwnedFd) {
        let old = lock(&self.0).insert(name, fd);
        drop(old);
    }

    /// Gives a descriptor away, with its name.
    pub fn take(&self, name: &str) -> Option<OwnedFd> {
        lock(&self.0).remove(name)
    }
}

/// A descriptor that the program was started with and that goes into a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inherited {
    /// Its number.
    pub fd: i64,
    /// The set.
    pub set: i64,
    /// A note for whoever asks.
    pub opaque: Option<String>,
}

/// Where the commands of one virtual machine find descriptors.
///
/// ```
/// use std::sync::Arc;
/// use chardev::fds::{Fds, NamedFds};
///
/// let (fds, names) = (Fds::default(), Arc::new(NamedFds::default()));
/// names.put("pipe".into(), std::io::pipe()?.1.into());
/// assert!(fds.during(&names, || fds.take("pipe")).is_ok());
/// let gone = fds.during(&names, || fds.take("pipe")).unwrap_err();
/// assert_eq!(gone.desc(), "File descriptor named 'pipe' has not been found");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Fds {
    /// Whose commands are running, and on which thread. A command may run another one for a console within.
    current: Mutex<Vec<(ThreadId, Arc<NamedFds>)>>,
    sets: FdSets,
}

impl Fds {
    /// Runs `work`, a command of the monitor whose names are `names`.
    pub fn during<T>(&self, names: &Arc<NamedFds>, work: impl FnOnce() -> T) -> T {
        /// Leaves also when the command panics.
        struct Entered<'a>(&'a Fds);
        impl Drop for Entered<'_> {
            fn drop(&mut self) {
                let me = thread::current().id();
                let mut current = lock(&self.0.current);
                if let Some(last) = current.iter().rposition(|(thread, _)| *thread == me) {
                    current.remove(last);
                }
            }
        }
        lock(&self.current).push((thread::current().id(), Arc::clone(names)));
        let _entered = Entered(self);
        work()
    }

    /// Descriptors in sets.
    pub fn sets(&self) -> &FdSets {
        &self.sets
    }

    /// Puts copies of inherited descriptors into sets (`-add-fd`) and closes the originals, as in QEMU.
    ///
    /// # Errors
    ///
    /// Of a number that is no descriptor, or one that this program opened: `fd is not valid or already in use`. Then everything is left as it was.
    pub fn inherit(&self, list: &[Inherited]) -> std::result::Result<(), (usize, Error)> {
        let copy = |(at, one): (usize, &Inherited)| {
            let invalid = || (at, Error::generic("fd is not valid or already in use"));
            let number = i32::try_from(one.fd).map_err(|_| invalid())?;
            inherited_only(number).map_err(|_| invalid())
        };
        let copies = list.iter().enumerate().map(copy).collect::<std::result::Result<Vec<_>, _>>()?;
        for (at, (one, fd)) in list.iter().zip(copies).enumerate() {
            self.sets.add(fd, Some(one.set), one.opaque.clone()).map_err(|error| (at, error))?;
        }
        let mut numbers: Vec<i32> = list.iter().filter_map(|one| i32::try_from(one.fd).ok()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.into_iter().for_each(close_inherited);
        Ok(())
    }

    /// The names of the monitor whose command runs on this thread.
    fn names(&self) -> Option<Arc<NamedFds>> {
        let me = thread::current().id();
        let current = lock(&self.current);
        current.iter().rev().find(|(thread, _)| *thread == me).map(|(_, names)| Arc::clone(names))
    }

    /// Takes the descriptor that the monitor of the present command has a name for.
    ///
    /// # Errors
    ///
    /// `File descriptor named 'NAME' has not been found`.
    pub fn take(&self, name: &str) -> Result<OwnedFd> {
        let none = || Error::generic(format!("File descriptor named '{name}' has not been found"));
        self.names().and_then(|names| names.take(name)).ok_or_else(none)
    }

    /// The socket of an address of type `fd`: one with a name within a monitor's command, whatever the name looks like; else
    /// (on the command line) a copy of one that was inherited, by number.
    ///
    /// # Errors
    ///
    /// Those of [`Self::take`], `Unable to parse FD number TEXT`, `File descriptor 'TEXT' is not a socket`. One that has a name and
    /// is no socket is closed.
    pub fn socket(&self, text: &str) -> Result<OwnedFd> {
        let no_socket = || Error::generic(format!("File descriptor '{text}' is not a socket"));
        let fd = match self.names() {
            Some(_) => self.take(text)?,
            None => inherited(text.parse().map_err(|_| unparsable(text))?).map_err(|_| no_socket())?,
        };
        sockopt::socket_type(&fd).map_err(|_| no_socket())?;
        Ok(fd)
    }

    /// The descriptor of a stream: one with a name within a monitor's command; one that was inherited if `text` begins with a digit, as no name does. That is taken, so that
    /// nothing here keeps the stream open.
    ///
    /// # Errors
    ///
    /// Those of [`Self::take`], `Unable to parse FD number TEXT`, `Bad file descriptor` of one that was not inherited.
    pub fn any(&self, text: &str) -> Result<OwnedFd> {
        let closed = |_| Error::generic(format!("Bad file descriptor: {text}"));
        self.named_or_inherited(text, || unparsable(text), closed)
    }

    /// A descriptor as network devices take it: digits are the number of one that was inherited, which is this function's to give away
    /// once; anything else is a name of the monitor whose command runs. `owner` is who wants it.
    ///
    /// # Errors
    ///
    /// Those of [`Self::take`]; `OWNER: Can't use file descriptor N: Bad file descriptor` of one that was not inherited, or is given away; on the
    /// command line `Invalid file descriptor number 'TEXT'` of what is no number.
    pub fn parameter(&self, owner: &str, text: &str) -> Result<OwnedFd> {
        let invalid = || Error::generic(format!("Invalid file descriptor number '{text}'"));
        let closed = |number| {
            Error::generic(format!("{owner}: Can't use file descriptor {number}: Bad file descriptor"))
        };
        self.named_or_inherited(text, invalid, closed)
    }

    /// Within a command the descriptor that has a name, else, as if `text` begins with a digit, which no name does, one that was inherited. That is taken: while a copy of it is open, a
    /// stream does not end for its reader, and a network interface is in use.
    fn named_or_inherited(
        &self,
        text: &str,
        invalid: impl FnOnce() -> Error,
        closed: impl FnOnce(i32) -> Error,
    ) -> Result<OwnedFd> {
        if self.names().is_some() && !text.starts_with(|first: char| first.is_ascii_digit()) {
            return self.take(text);
        }
        let number = text.parse::<i32>().ok().filter(|number| *number >= 0).ok_or_else(invalid)?;
        let fd = inherited_only(number).map_err(|_| closed(number))?;
        // Those that everybody has stay.
        if number > 2 {
            close_inherited(number);
        }
        Ok(fd)
    }
}

fn unparsable(text: &str) -> Error {
    Error::generic(format!("Unable to parse FD number {text}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Changed by whole insertions and removals only.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

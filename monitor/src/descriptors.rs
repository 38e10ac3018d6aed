//! Descriptors that clients of one monitor sent: those that just came, and those that have names.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use chardev::fds::NamedFds;
use qapi::{Error, Result};

use crate::server::lock;

/// What one monitor holds.
#[derive(Default)]
pub(crate) struct Descriptors {
    /// They came last and wait for a command that takes them.
    arrived: Mutex<Vec<OwnedFd>>,
    names: Arc<NamedFds>,
}

impl Descriptors {
    /// Some came with input; whatever came before is closed, so that a client cannot fill the process.
    pub(crate) fn arrive(&self, fds: Vec<OwnedFd>) {
        if !fds.is_empty() {
            let old = std::mem::replace(&mut *lock(&self.arrived), fds);
            drop(old);
        }
    }

    /// The client left: nobody will take what it sent. Names stay.
    pub(crate) fn forget(&self) {
        let old = std::mem::take(&mut *lock(&self.arrived));
        drop(old);
    }

    /// The first of those that came last; the others are closed.
    ///
    /// # Errors
    /// `No file descriptor supplied via SCM_RIGHTS`.
    pub(crate) fn take(&self) -> Result<OwnedFd> {
        let arrived = std::mem::take(&mut *lock(&self.arrived));
        let none = || Error::generic("No file descriptor supplied via SCM_RIGHTS");
        arrived.into_iter().next().ok_or_else(none)
    }

    /// Those that have names.
    pub(crate) fn names(&self) -> &Arc<NamedFds> {
        &self.names
    }
}

#[cfg(test)]
mod tests;

//! Watches on descriptors.
//!
//! A token is never used twice, so an event collected for a watch that was removed meanwhile finds nothing.

use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use crate::shared::Shared;

/// What a watch waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interest {
    /// Data, a connection to accept, or the end of the stream.
    pub read: bool,
    /// Room to write.
    pub write: bool,
    /// Hang-up or error alone. Always reported along with the other two; set it to hear of a peer that went away while
    /// not reading from it.
    pub hangup: bool,
}

impl Interest {
    /// Nothing: the watch sleeps. A hang-up is not reported either.
    pub const NONE: Self = Self { read: false, write: false, hangup: false };
    /// Ready to read.
    pub const READ: Self = Self { read: true, ..Self::NONE };
    /// Ready to write.
    pub const WRITE: Self = Self { write: true, ..Self::NONE };
    /// Hang-up and error only.
    pub const HANGUP: Self = Self { hangup: true, ..Self::NONE };

    fn flags(self) -> EventFlags {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, self.read);
        flags.set(EventFlags::OUT, self.write);
        flags
    }

    fn anything(self) -> bool {
        self.read || self.write || self.hangup
    }
}

/// What is ready. At least one member is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// A read will not block.
    pub read: bool,
    /// A write will not block.
    pub write: bool,
    /// Both directions are shut (`EPOLLHUP`). Data may still wait to be read.
    pub hangup: bool,
    /// An error is pending (`EPOLLERR`).
    pub error: bool,
}

impl Ready {
    pub(crate) fn from_epoll(flags: EventFlags) -> Self {
        Self {
            read: flags.contains(EventFlags::IN),
            write: flags.contains(EventFlags::OUT),
            hangup: flags.contains(EventFlags::HUP),
            error: flags.contains(EventFlags::ERR),
        }
    }

    /// Only what is still asked for; `None` if nothing is left.
    fn masked(self, interest: Interest) -> Option<Self> {
        let left = Self { read: self.read && interest.read, write: self.write && interest.write, ..self };
        let wanted = left.read || left.write || ((left.hangup || left.error) && interest.anything());
        wanted.then_some(left)
    }
}

type Callback = Box<dyn FnMut(Ready) + Send>;

/// One watch, owned by the table in `Inner` (and by the dispatcher while its callback runs).
pub(crate) struct Entry {
    fd: OwnedFd,
    /// The kernel cannot poll it (`EPERM`).
    pub(crate) always_ready: bool,
    /// Changed under the lock of `Inner` too, so that table and kernel agree.
    interest: Mutex<Interest>,
    /// Locked only by the loop thread, while it calls it.
    callback: Mutex<Callback>,
}

impl Entry {
    fn interest(&self) -> Interest {
        *self.interest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wants_anything(&self) -> bool {
        let interest = self.interest();
        interest.read || interest.write
    }
}

/// A registered watch. Dropping it removes it and closes the loop's copy of the descriptor.
#[must_use = "dropping a watch removes it"]
pub struct Watch {
    shared: Arc<Shared>,
    token: u64,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watch").field(&self.token).finish()
    }
}

impl Watch {
    /// Changes what is waited for; from any thread, the watch's own callback included. Failure to tell the kernel
    /// (out of memory or of watches) is logged and the watch keeps sleeping.
    pub fn set_interest(&self, interest: Interest) {
        let inner = self.shared.lock();
        let Some(entry) = inner.watches.get(&self.token) else { return };
        let old = {
            let mut current = entry.interest.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, interest)
        };
        if old == interest {
            return;
        }
        if entry.always_ready {
            self.shared.wake(inner);
            return;
        }
        let data = EventData::new_u64(self.token);
        let result = match (old.anything(), interest.anything()) {
            (true, true) => epoll::modify(&self.shared.epoll, &entry.fd, data, interest.flags()),
            // epoll reports hang-ups whatever is asked: a sleeping watch must leave the set or the loop would spin.
            (true, false) => epoll::delete(&self.shared.epoll, &entry.fd),
            (false, true) => epoll::add(&self.shared.epoll, &entry.fd, data, interest.flags()),
            (false, false) => Ok(()),
        };
        if let Err(error) = result {
            tracing::error!(%error, "cannot change a watch");
        }
    }

    /// What is waited for now.
    pub fn interest(&self) -> Interest {
        let inner = self.shared.lock();
        inner.watches.get(&self.token).map_or(Interest::NONE, |entry| entry.interest())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let entry = {
            let mut inner = self.shared.lock();
            let Some(entry) = inner.watches.remove(&self.token) else { return };
            inner.always_ready.retain(|token| *token != self.token);
            if !entry.always_ready && entry.interest().anything() {
                // Explicit, because another copy of the descriptor would keep the registration alive.
                let _ = epoll::delete(&self.shared.epoll, &entry.fd);
            }
            entry
        };
        // What the callback captured is dropped with no lock held.
        drop(entry);
    }
}

pub(crate) fn add(
    shared: &Arc<Shared>,
    fd: BorrowedFd<'_>,
    interest: Interest,
    callback: Callback,
) -> io::Result<Watch> {
    let fd = fcntl_dupfd_cloexec(fd, 0)?;
    let mut inner = shared.lock();
    if inner.closed {
        return Err(io::Error::other(crate::LoopGone));
    }
    let token = inner.next_token;
    inner.next_token += 1;
    let data = EventData::new_u64(token);
    // Added even without interest, to learn whether the kernel can poll it at all.
    let always_ready = match epoll::add(&shared.epoll, &fd, data, interest.flags()) {
        Ok(()) => false,
        Err(Errno::PERM) => true,
        Err(errno) => return Err(errno.into()),
    };
    if !always_ready && !interest.anything() {
        epoll::delete(&shared.epoll, &fd)?;
    }
    let entry = Entry { fd, always_ready, interest: Mutex::new(interest), callback: Mutex::new(callback) };
    inner.watches.insert(token, Arc::new(entry));
    if always_ready {
        inner.always_ready.push(token);
        shared.wake(inner);
    }
    Ok(Watch { shared: Arc::clone(shared), token })
}

impl Shared {
    /// Calls the callback of `token` if it still exists and still wants what is ready. Loop thread only.
    pub(crate) fn dispatch(&self, token: u64, ready: Ready) {
        let Some(entry) = self.lock().watches.get(&token).map(Arc::clone) else { return };
        let Some(ready) = ready.masked(entry.interest()) else { return };
        let mut callback = entry.callback.lock().unwrap_or_else(PoisonError::into_inner);
        callback(ready);
    }
}

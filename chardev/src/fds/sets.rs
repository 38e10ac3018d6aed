//! Sets of descriptors (`add-fd`), from which files are opened by the name `/dev/fdset/N`.
//!
//! A set lives as long as it has members or somebody uses a copy of one. Members go by the number that they have in this process.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, Weak};

use qapi::types::{AddfdInfo, FdsetFDInfo, FdsetInfo};
use qapi::{Error, Result, strerror};
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, ftruncate, open};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use super::lock;

const PREFIX: &str = "/dev/fdset/";
/// Not part of what a user asks for: QEMU's texts do not show them.
const INTERNAL: OFlags = OFlags::CLOEXEC.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

type Table = Mutex<BTreeMap<i64, Set>>;

/// The sets of one virtual machine.
#[derive(Debug, Default)]
pub struct FdSets(Arc<Table>);

#[derive(Debug, Default)]
struct Set {
    members: Vec<Member>,
    /// Copies in use.
    claims: usize,
}

impl Set {
    fn is_empty(&self) -> bool {
        self.members.is_empty() && self.claims == 0
    }
}

#[derive(Debug)]
struct Member {
    fd: OwnedFd,
    opaque: Option<String>,
}

impl Member {
    fn number(&self) -> i64 {
        self.fd.as_raw_fd().into()
    }
}

/// Keeps the set that a copy is from, as long as the copy is used.
#[derive(Debug)]
pub struct Claim {
    sets: Weak<Table>,
    id: i64,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some(sets) = self.sets.upgrade() else { return };
        let mut sets = lock(&sets);
        if let Some(set) = sets.get_mut(&self.id) {
            set.claims -= 1;
            if set.is_empty() {
                sets.remove(&self.id);
            }
        }
    }
}

/// A file that was opened by name. Keep the claim as long as the descriptor.
#[derive(Debug)]
pub struct HostFile {
    /// The file.
    pub fd: OwnedFd,
    /// The set it is from, if it is from one.
    pub claim: Option<Claim>,
}

/// Why a file could not be opened.
#[derive(Debug)]
pub struct OpenError {
    /// The reason.
    pub errno: Errno,
    /// What there is to say about a set.
    text: Option<String>,
}

impl OpenError {
    fn set(errno: Errno, text: String) -> Self {
        Self { errno, text: Some(text) }
    }

    /// The error for whoever asked: what is wrong with the set, else what `otherwise` makes of the system's reason.
    pub fn or_else(self, otherwise: impl FnOnce(&str) -> String) -> Error {
        Error::generic(self.text.unwrap_or_else(|| otherwise(&strerror(&self.errno.into()))))
    }
}

impl From<Errno> for OpenError {
    fn from(errno: Errno) -> Self {
        Self { errno, text: None }
    }
}

impl FdSets {
    /// Puts a descriptor into set `id`, which is made if there is none; without `id`, into a new one with the lowest free number.
    ///
    /// # Errors
    ///
    /// `Parameter 'fdset-id' expects a non-negative value`; the descriptor is closed.
    pub fn add(&self, fd: OwnedFd, id: Option<i64>, opaque: Option<String>) -> Result<AddfdInfo> {
        if id.is_some_and(|id| id < 0) {
            return Err(Error::generic("Parameter 'fdset-id' expects a non-negative value"));
        }
        let mut sets = lock(&self.0);
        let id = id.unwrap_or_else(|| {
            // The keys ascend: the first that is not its own position is past a gap.
            let taken = (0..).zip(sets.keys()).take_while(|(position, id)| position == *id).count();
            i64::try_from(taken).unwrap_or(i64::MAX)
        });
        let member = Member { fd, opaque };
        let info = AddfdInfo { fdset_id: id, fd: member.number() };
        sets.entry(id).or_default().members.push(member);
        Ok(info)
    }

    /// Closes one member of set `id`, or all. Copies in use stay.
    ///
    /// # Errors
    ///
    /// `File descriptor named 'fdset-id:ID, fd:FD' not found`.
    pub fn remove(&self, id: i64, fd: Option<i64>) -> Result<()> {
        let mut sets = lock(&self.0);
        let gone = match (sets.get_mut(&id), fd) {
            (None, _) => Vec::new(),
            (Some(set), None) => std::mem::take(&mut set.members),
            (Some(set), Some(fd)) => set.members.extract_if(.., |member| member.number() == fd).collect(),
        };
        // A set that only copies keep has nothing to name, but it is there.
        if gone.is_empty() && (fd.is_some() || !sets.contains_key(&id)) {
            let name = fd.map_or_else(|| format!("fdset-id:{id}"), |fd| format!("fdset-id:{id}, fd:{fd}"));
            return Err(Error::generic(format!("File descriptor named '{name}' not found")));
        }
        if sets.get(&id).is_some_and(Set::is_empty) {
            sets.remove(&id);
        }
        drop(sets);
        drop(gone);
        Ok(())
    }

    /// For `query-fdsets`: the highest number first, members in the order in which they came.
    pub fn list(&self) -> Vec<FdsetInfo> {
        let member = |m: &Member| FdsetFDInfo { fd: m.number(), opaque: m.opaque.clone() };
        let info = |(&fdset_id, set): (&i64, &Set)| FdsetInfo {
            fdset_id,
            fds: set.members.iter().map(member).collect(),
        };
        lock(&self.0).iter().rev().map(info).collect()
    }

    /// Opens `path`. `/dev/fdset/N` is a copy of the member of set N that may be read and written as `flags` ask for; `APPEND` and
    /// `NONBLOCK` are set on it, which others who share it see as well, and `TRUNC` empties it.
    ///
    /// # Errors
    ///
    /// There is no such set, or no such member in it; a pipe cannot be emptied; the system's.
    pub fn open(&self, path: &str, flags: OFlags, mode: Mode) -> std::result::Result<HostFile, OpenError> {
        match path.strip_prefix(PREFIX) {
            Some(number) => self.copy(path, number, flags),
            None => Ok(HostFile { fd: open(path, flags | OFlags::CLOEXEC, mode)?, claim: None }),
        }
    }

    fn copy(&self, path: &str, number: &str, flags: OFlags) -> std::result::Result<HostFile, OpenError> {
        let unparsed = || OpenError::set(Errno::INVAL, format!("Could not parse fdset {path}"));
        let number: i32 = number.trim_start().parse().map_err(|_| unparsed())?;
        let id = i64::from(number);
        if id < 0 {
            return Err(unparsed());
        }
        let mut sets = lock(&self.0);
        let missing = || OpenError::set(Errno::NOENT, format!("Failed to find fdset {PREFIX}{id}"));
        let set = sets.get_mut(&id).ok_or_else(missing)?;
        let access = |flags: OFlags| flags & OFlags::RWMODE;
        let fits = |m: &&Member| fcntl_getfl(&m.fd).is_ok_and(|have| access(have) == access(flags));
        let member = set.members.iter().find(fits).ok_or_else(|| {
            let shown = (flags - INTERNAL).bits();
            let text = format!("Failed to find file descriptor with matching flags={shown:#x}");
            OpenError::set(Errno::ACCESS, text)
        })?;
        let fd = dup(member.fd.as_fd(), flags).map_err(|errno| {
            OpenError::set(errno, format!("Failed to dup() given file descriptor fd={}", member.number()))
        })?;
        set.claims += 1;
        Ok(HostFile { fd, claim: Some(Claim { sets: Arc::downgrade(&self.0), id }) })
    }
}

/// A copy that is as if it had been opened with `flags`.
fn dup(fd: BorrowedFd<'_>, flags: OFlags) -> std::result::Result<OwnedFd, Errno> {
    let copy = fcntl_dupfd_cloexec(fd, 0)?;
    let have = fcntl_getfl(&copy)?;
    if (have ^ flags).intersects(OFlags::SYNC) {
        // Cannot be changed.
        return Err(Errno::INVAL);
    }
    fcntl_setfl(&copy, have | (flags & (OFlags::APPEND | OFlags::NONBLOCK)))?;
    if flags.contains(OFlags::TRUNC) {
        ftruncate(&copy, 0)?;
    }
    Ok(copy)
}

#[cfg(test)]
mod tests;

//! A terminal for the program's standard input and output, for tests of what a person sees who types at it.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::Wire;

/// Both ends of a pseudo terminal: ours to type at, the program's to hand to [`crate::VmBuilder::stdio`].
///
/// # Panics
///
/// If the machine has no pseudo terminals left.
pub fn terminal() -> (Wire, OwnedFd) {
    let ours =
        openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pseudo terminal");
    grantpt(&ours).expect("it is ours");
    unlockpt(&ours).expect("it is ours");
    let name = ptsname(&ours, Vec::new()).expect("it has a name");
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let theirs =
        rustix::fs::open(OsStr::from_bytes(name.as_bytes()), flags, Mode::empty()).expect("the other end");
    (Wire::new(ours), theirs)
}

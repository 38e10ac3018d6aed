//! Signals as events of the loop, through `signalfd`.
//!
//! rustix has neither `pthread_sigmask` nor `signalfd`, hence libc and the only unsafe code of this crate.
#![expect(unsafe_code, reason = "blocking signals and signalfd have no safe binding in rustix")]

use std::io;
use std::mem::{MaybeUninit, offset_of};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;

use crate::shared::Shared;
use crate::{Handle, Interest, Signal, Watch};

/// A signal that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignalInfo {
    /// Its number.
    pub signo: i32,
    /// The process that sent it, 0 if the kernel did (Ctrl-C on the terminal).
    pub pid: u32,
    /// The real user of the sender.
    pub uid: u32,
}

/// Delivers signals while it lives. Dropping it leaves them blocked: they then stay pending.
#[derive(Debug)]
#[must_use = "dropping it stops delivery"]
pub struct SignalWatch {
    _watch: Watch,
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        let fd = self.shared.lock().signal_fds.remove(&self.number);
        drop(fd);
    }
}

const RECORD: usize = size_of::<libc::signalfd_siginfo>();

pub(crate) fn add(
    shared: &Arc<Shared>,
    signals: &[Signal],
    mut callback: impl FnMut(SignalInfo) + Send + 'static,
) -> io::Result<SignalWatch> {
    let fd = blocked_signalfd(signals)?;
    let source = fd.try_clone()?;
    let watch = Handle::new(Arc::clone(shared)).watch(&fd, Interest::READ, move |_| {
        let mut record = [0u8; RECORD];
        while let Ok(RECORD) = rustix::io::read(&source, &mut record) {
            callback(parse(&record));
        }
    })?;
    let number = {
        let mut inner = shared.lock();
        let number = inner.next_token;
        inner.next_token += 1;
        inner.signal_fds.insert(number, fd);
        number
    };
    Ok(SignalWatch { _watch: watch, shared: Arc::clone(shared), number })
}

fn parse(record: &[u8; RECORD]) -> SignalInfo {
    let field = |offset: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&record[offset..offset + 4]);
        u32::from_ne_bytes(bytes)
    };
    SignalInfo {
        signo: field(offset_of!(libc::signalfd_siginfo, ssi_signo)).cast_signed(),
        pid: field(offset_of!(libc::signalfd_siginfo, ssi_pid)),
        uid: field(offset_of!(libc::signalfd_siginfo, ssi_uid)),
    }
}

fn blocked_signalfd(signals: &[Signal]) -> io::Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set it is given, which lives on this stack frame.
    let mut set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    };
    for signal in signals {
        // SAFETY: `set` is initialised; a `Signal` is a valid number by construction.
        unsafe { libc::sigaddset(&raw mut set, signal.as_raw()) };
    }
    // SAFETY: both pointers are valid for the call; null for the old mask is allowed. Only this thread's mask changes.
    let result = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    if result != 0 {
        return Err(io::Error::from_raw_os_error(result));
    }
    // SAFETY: `set` is valid for the call; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: signalfd just returned it, so it is open and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

//! `-daemonize` and `-pidfile`.
//!
//! The parent goes away only once the child says that it is ready: sockets listen, the pid file is written. A child
//! that fails before makes the parent fail.
#![expect(unsafe_code, reason = "fork(2) has no safe wrapper")]

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use qapi::{Error, Result};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::process;

/// What a daemon owes the parent that waits for it.
///
/// One that fails leaves the pipe open until it is gone: the parent's end must not come before the last line about it.
pub(crate) struct Daemon(ManuallyDrop<OwnedFd>);

/// Goes to the background: returns in the child; the parent exits with the status the child reports.
///
/// Call it while the process has one thread.
///
/// # Errors
/// The host refuses a pipe or a process.
pub(crate) fn daemonize() -> Result<Daemon> {
    let failed = |e: io::Error| Error::generic(format!("cannot go to the background: {e}"));
    let (read, write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
    if fork().map_err(failed)? {
        drop(write);
        let mut status = [1u8];
        // End of file without a byte: the child died, having said why itself.
        let told = File::from(read).read(&mut status).unwrap_or(0);
        std::process::exit(if told == 1 { i32::from(status[0]) } else { 1 });
    }
    drop(read);
    process::setsid().map_err(|e| failed(e.into()))?;
    // A second child is no session leader, so opening a terminal cannot make it the controlling one.
    if fork().map_err(failed)? {
        std::process::exit(0);
    }
    Ok(Daemon(ManuallyDrop::new(write)))
}

/// True in the parent.
fn fork() -> io::Result<bool> {
    // SAFETY: the process has a single thread here (`daemonize` is called before any is started), so the child may
    // use everything the parent could.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(false),
        _ => Ok(true),
    }
}

impl Daemon {
    /// Tells the parent that all is well and lets go of the terminal. What is written to standard error from now on goes into the log's file,
    /// if it has one.
    ///
    /// # Errors
    /// `/dev/null` cannot be opened.
    pub(crate) fn ready(self) -> Result<()> {
        let failed = |e: rustix::io::Errno| Error::generic(format!("cannot let go of the terminal: {e}"));
        let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()).map_err(failed)?;
        process::chdir("/").map_err(failed)?;
        rustix::stdio::dup2_stdin(&null).map_err(failed)?;
        rustix::stdio::dup2_stdout(&null).map_err(failed)?;
        let logged = trace::log::take_stderr()
            .map_err(|e| Error::generic(format!("cannot let go of the terminal: {}", qapi::strerror(&e))))?;
        if !logged {
            rustix::stdio::dup2_stderr(&null).map_err(failed)?;
        }
        let parent = ManuallyDrop::into_inner(self.0);
        // A parent that was killed in the meantime is no reason to end.
        let _ = rustix::io::write(&parent, &[0]);
        Ok(())
    }
}

/// A written and locked pid file; dropping it removes it.
pub(crate) struct PidFile {
    path: PathBuf,
    _file: File,
}

impl PidFile {
    /// Writes this process's id to `path`. A file that a living process has locked is left alone.
    ///
    /// # Errors
    /// QEMU's: `cannot create PID file: …`.
    pub(crate) fn create(path: &str) -> Result<Self> {
        let failed = |text: String| Error::generic(format!("cannot create PID file: {text}"));
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))
            .map_err(|e| failed(format!("Could not create '{path}': {}", message(e))))?;
        let lock = rustix::fs::fcntl_lock(fd.as_fd(), FlockOperation::NonBlockingLockExclusive);
        lock.map_err(|e| failed(format!("Cannot lock pid file: {}", message(e))))?;
        let mut file = File::from(fd);
        let write = |file: &mut File| -> io::Result<()> {
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(|e| failed(format!("Failed to write pid file: {e}")))?;
        // What a link names goes at the end, not the link, as with QEMU.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| PathBuf::from(path));
        Ok(Self { path, _file: file })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn message(errno: rustix::io::Errno) -> String {
    qapi::strerror(&errno.into())
}

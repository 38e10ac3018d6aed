//! Opening channels.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use chardev::{ChardevSet, SocketAddress};
use qapi::{Error, Result, strerror};
use rustix::fs::{Mode, OFlags};

use crate::address::Address;
use crate::channel::Channel;

/// A channel to send into, or where one is to be had.
#[derive(Debug)]
pub enum Outlet {
    /// It is there.
    Open(Channel),
    /// Somebody has to answer first, which may take a while.
    Connect(SocketAddress),
}

fn channel(fd: OwnedFd) -> Result<Channel> {
    Channel::new(fd)
        .map_err(|error| Error::generic(format!("the channel cannot be used: {}", strerror(&error))))
}

/// Opens what can be opened at once.
///
/// # Errors
/// QEMU's.
pub fn outlet(address: &Address, chardevs: &ChardevSet) -> Result<Outlet> {
    match address {
        Address::Socket(address) => Ok(Outlet::Connect(address.clone())),
        Address::Fd(name) => channel(chardevs.fds().any(name)?).map(Outlet::Open),
        Address::Exec(args) => program(args, Stdio::piped(), Stdio::inherit()).map(Outlet::Open),
        Address::File { path, offset } => {
            let flags = OFlags::CREATE | OFlags::WRONLY;
            file(path, *offset, flags, "create", chardevs).map(Outlet::Open)
        }
    }
}

/// Waits for the other side's answer.
///
/// # Errors
/// QEMU's.
pub fn connect(address: &SocketAddress, chardevs: &ChardevSet) -> Result<Channel> {
    let fd = chardev::connect(address, chardevs.fds(), None)?;
    // Not a TCP socket, then.
    let _ = rustix::net::sockopt::set_tcp_nodelay(&fd, true);
    channel(fd)
}

/// Opens what a stream can be read from at once; not sockets.
///
/// # Errors
/// QEMU's.
pub fn inlet(address: &Address, chardevs: &ChardevSet) -> Result<Option<Channel>> {
    match address {
        Address::Socket(_) => Ok(None),
        Address::Fd(name) => channel(chardevs.fds().any(name)?).map(Some),
        Address::Exec(args) => program(args, Stdio::inherit(), Stdio::piped()).map(Some),
        Address::File { path, offset } => file(path, *offset, OFlags::RDONLY, "open", chardevs).map(Some),
    }
}

fn program(args: &[String], stdin: Stdio, stdout: Stdio) -> Result<Channel> {
    let (name, rest) = args.split_first().ok_or_else(|| Error::generic("exec: no program is named"))?;
    let failed = |error: &io::Error| {
        // What a sandbox, or a limit, says to a new process; no program is refused so.
        if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EAGAIN)) {
            return Error::generic(format!("Failed to fork ({})", strerror(error)));
        }
        Error::generic(format!(
            "Failed to execute child process \u{201c}{name}\u{201d} ({})",
            strerror(error)
        ))
    };
    let mut child =
        Command::new(name).args(rest).stdin(stdin).stdout(stdout).spawn().map_err(|error| failed(&error))?;
    let stdin = child.stdin.take().map(OwnedFd::from);
    let fd = stdin.or_else(|| child.stdout.take().map(OwnedFd::from));
    let fd = fd.ok_or_else(|| failed(&io::Error::other("no pipe")))?;
    Channel::of_child(fd, child).map_err(|error| failed(&error))
}

fn file(path: &str, offset: u64, flags: OFlags, verb: &str, chardevs: &ChardevSet) -> Result<Channel> {
    let mode = Mode::RUSR | Mode::WUSR;
    let opened = chardevs.fds().sets().open(path, flags, mode);
    let file =
        opened.map_err(|error| error.or_else(|reason| format!("Could not {verb} '{path}': {reason}")))?;
    let (fd, claim) = (file.fd, file.claim);
    let failed =
        |error: io::Error| Error::generic(format!("Could not {verb} '{path}': {}", strerror(&error)));
    if flags.contains(OFlags::CREATE) {
        // What an earlier, longer one left behind is not ours. Other things than files have no length.
        match rustix::fs::ftruncate(&fd, offset) {
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
    }
    let channel = channel(fd)?.claimed(claim);
    if offset != 0 {
        channel.seek(offset).map_err(failed)?;
    }
    Ok(channel)
}

//! A datagram socket of the host: each packet is a datagram.
//!
//! One that was given open must be connected. Of others packets go to one address, whoever they came from. A unix socket's path is taken
//! over from whoever had it, and goes away with the netdev, unless somebody else has taken it over by then. Left out: multicast, names of ports, IPv6, abstract unix sockets.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, ToSocketAddrs as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use chardev::SocketPath;
use chardev::fds::Fds;
use qapi::types::{InetSocketAddress, NetdevDgramOptions, SocketAddress, UnixSocketAddress};
use qapi::{Error, Result, strerror};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::addr::SocketAddrArg;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, getsockname, recv,
    send, sendto, socket_with, sockopt,
};

use crate::host_end::HostEnd;

/// See the module.
pub(crate) struct Dgram {
    fd: OwnedFd,
    to: To,
}

/// What an end is told as: it is no error of the system's.
const ENDED: Errno = Errno::PIPE;

enum To {
    Connected,
    /// The same, and the peer can end it (`SOCK_SEQPACKET`).
    Connection,
    Inet(SocketAddrV4),
    Unix {
        remote: SocketAddrUnix,
        _local: SocketPath,
    },
}

fn failed(text: &str, errno: Errno) -> Error {
    Error::generic(format!("{text}: {}", strerror(&errno.into())))
}

/// Opens one; gives what `info network` says of it, too.
///
/// # Errors
/// QEMU's texts, and a sentence for what is not there.
pub(crate) fn open(id: &str, options: &NetdevDgramOptions, fds: &Fds) -> Result<(Dgram, String)> {
    let error = |text: &str| Err(Error::generic(text));
    match (&options.local, &options.remote) {
        (None, Some(SocketAddress::Inet(remote))) if inet(remote)?.ip().is_multicast() => {
            error("multicast is not supported: give local= and the address of one host")
        }
        (None, _) => error("dgram requires local= parameter"),
        (Some(SocketAddress::Fd(_)), Some(_)) => error("don't set remote with local.fd"),
        (Some(SocketAddress::Fd(fd)), None) => by_descriptor(id, &fd.str, fds),
        (Some(_), None) => error("type=inet or type=unix requires remote parameter"),
        (Some(SocketAddress::Inet(local)), Some(SocketAddress::Inet(remote))) => by_inet(local, remote),
        (Some(SocketAddress::Unix(local)), Some(SocketAddress::Unix(remote))) => by_unix(local, remote),
        (Some(_), Some(_)) => error("remote and local types must be the same"),
    }
}

fn by_descriptor(id: &str, text: &str, fds: &Fds) -> Result<(Dgram, String)> {
    let fd = fds.parameter(id, text)?;
    let number = text.parse().unwrap_or_else(|_| fd.as_raw_fd());
    let unusable = |errno| failed(&format!("{id}: Can't use file descriptor {number}"), errno);
    let flags = fcntl_getfl(&fd).map_err(unusable)?;
    fcntl_setfl(&fd, flags | OFlags::NONBLOCK).map_err(unusable)?;
    let query = |errno| failed("Unable to query local socket address", errno);
    let family = match getsockname(&fd).map_err(query)?.address_family() {
        AddressFamily::INET | AddressFamily::INET6 => "inet",
        AddressFamily::UNIX => "unix",
        _ => return Err(Error::generic(format!("{id}: file descriptor {number} is no datagram socket"))),
    };
    let to = match sockopt::socket_type(&fd).map_err(query)? {
        // A stream has no packets in it.
        SocketType::STREAM => {
            return Err(Error::generic(format!("{id}: file descriptor {number} is no datagram socket")));
        }
        SocketType::SEQPACKET => To::Connection,
        _ => To::Connected,
    };
    Ok((Dgram { fd, to }, format!("fd={number} {family}")))
}

fn socket(family: AddressFamily) -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(family, SocketType::DGRAM, flags, None)
        .map_err(|errno| failed("can't create datagram socket", errno))
}

/// The address, which may be looked up.
fn inet(address: &InetSocketAddress) -> Result<SocketAddrV4> {
    let InetSocketAddress { host, port, .. } = address;
    let port: u16 = port.parse().map_err(|_| Error::generic(format!("port number '{port}' is invalid")))?;
    let unresolved = || Error::generic(format!("can't resolve host address '{host}'"));
    if host.is_empty() {
        return Ok(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port));
    }
    let mut found = (host.as_str(), port).to_socket_addrs().map_err(|_| unresolved())?;
    let first = found.find_map(|address| match address {
        SocketAddr::V4(address) => Some(address),
        SocketAddr::V6(_) => None,
    });
    first.ok_or_else(unresolved)
}

fn by_inet(local: &InetSocketAddress, remote: &InetSocketAddress) -> Result<(Dgram, String)> {
    let (here, there) = (inet(local)?, inet(remote)?);
    let fd = socket(AddressFamily::INET)?;
    sockopt::set_socket_reuseaddr(&fd, true)
        .map_err(|errno| failed("can't set socket option SO_REUSEADDR", errno))?;
    bind(&fd, &here).map_err(|errno| failed(&format!("can't bind ip={} to socket", here.ip()), errno))?;
    Ok((Dgram { fd, to: To::Inet(there) }, format!("udp={here}/{there}")))
}

fn path(address: &UnixSocketAddress) -> Result<SocketAddrUnix> {
    let path = &address.path;
    if address.abstract_ == Some(true) {
        return Err(Error::generic("abstract unix sockets are not supported here"));
    }
    SocketAddrUnix::new(path.as_str())
        .map_err(|errno| failed(&format!("Failed to use socket path '{path}'"), errno))
}

fn by_unix(local: &UnixSocketAddress, remote: &UnixSocketAddress) -> Result<(Dgram, String)> {
    let (here, there) = (path(local)?, path(remote)?);
    match std::fs::remove_file(&local.path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound && !is_dir_missing(&error) => {
            return Err(Error::generic(format!(
                "failed to unlink socket {}: {}",
                local.path,
                strerror(&error)
            )));
        }
        _ => {}
    }
    let fd = socket(AddressFamily::UNIX)?;
    bind(&fd, &here).map_err(|errno| failed(&format!("can't bind unix={} to socket", local.path), errno))?;
    let info = format!("udp={}:{}", local.path, remote.path);
    Ok((Dgram { fd, to: To::Unix { remote: there, _local: SocketPath::new(Path::new(&local.path)) } }, info))
}

/// What binding will say better.
fn is_dir_missing(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotADirectory
}

impl Dgram {
    fn send_to(&self, packet: &[u8], to: &impl SocketAddrArg) -> std::result::Result<(), Errno> {
        match sendto(&self.fd, packet, SendFlags::NOSIGNAL | SendFlags::DONTWAIT, to) {
            // A peer that does not read loses packets: a socket that is not connected cannot tell when there is room.
            Err(Errno::AGAIN) => Err(Errno::NOBUFS),
            sent => sent.map(drop),
        }
    }
}

impl HostEnd for Dgram {
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn send(&self, packet: &[u8]) -> std::result::Result<(), Errno> {
        match &self.to {
            To::Connected | To::Connection => {
                send(&self.fd, packet, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).map(drop)
            }
            To::Inet(address) => self.send_to(packet, address),
            To::Unix { remote, .. } => self.send_to(packet, remote),
        }
    }

    fn receive(&self, room: &mut [u8]) -> std::result::Result<usize, Errno> {
        match recv(&self.fd, room, RecvFlags::DONTWAIT)?.0 {
            0 if matches!(self.to, To::Connection) => Err(ENDED),
            length => Ok(length),
        }
    }

    fn is_broken(&self, error: Errno) -> bool {
        // The peer is gone, or was as soon as it was to be heard of.
        matches!(self.to, To::Connection) && matches!(error, ENDED | Errno::CONNRESET | Errno::NOTCONN)
    }
}

//! Addresses: listening, connecting, and the names `query-chardev` prints. Migrations listen and connect here, too.

use std::ffi::OsStr;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use qapi::{Error, Result, strerror};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, bind, connect as connect_socket,
    getpeername, getsockname, ipproto, listen as listen_socket, socket_with, sockopt,
};

use crate::fds::Fds;
use crate::options::{InetExtra, SocketAddress, SocketOptions};

/// Length of `sun_path`.
const SUN_PATH: usize = 108;
/// Clients that may wait while one is served.
const BACKLOG: i32 = 1;

/// A listening socket; its path goes with it.
#[derive(Debug)]
pub struct Listener {
    // Before the socket, so that nobody finds a path at which nobody listens.
    _path: Option<SocketPath>,
    pub(crate) fd: OwnedFd,
}

/// The file of a unix socket: it goes with this, unless another one is in its place by then.
#[derive(Debug)]
pub struct SocketPath {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl SocketPath {
    /// Of a socket that is bound to `path`.
    pub fn new(path: &Path) -> Self {
        // A daemon changes its folder later; the path must still name this socket then.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self { identity: Self::identity(&path), path }
    }

    /// What tells the file at `path` from others.
    fn identity(path: &Path) -> Option<(u64, u64)> {
        rustix::fs::lstat(path).ok().map(|stat| (stat.st_dev, stat.st_ino))
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        if Self::identity(&self.path) == self.identity {
            // Somebody may have removed it already.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Listener {
    /// Where it really listens, if that is TCP.
    pub fn local_address(&self) -> Option<SocketAddr> {
        getsockname(&self.fd).ok().and_then(|local| SocketAddr::try_from(local).ok())
    }

    /// Lets more clients wait than one.
    ///
    /// # Errors
    /// The system's.
    pub fn widen(&self, backlog: u8) -> Result<()> {
        listen_socket(&self.fd, backlog.into()).map_err(|errno| failed("Failed to listen on socket", errno))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// `TEXT: REASON`.
fn failed(text: &str, errno: Errno) -> Error {
    Error::generic(format!("{text}: {}", strerror(&errno.into())))
}

fn stream_socket(family: AddressFamily, flags: SocketFlags) -> Result<OwnedFd> {
    socket_with(family, SocketType::STREAM, flags | SocketFlags::CLOEXEC, None)
        .map_err(|errno| failed("Failed to create socket", errno))
}

/// A TCP socket; the connections that a server accepts inherit its options.
fn inet_socket(family: AddressFamily, flags: SocketFlags, extra: InetExtra) -> Result<OwnedFd> {
    let protocol = extra.mptcp.then_some(ipproto::MPTCP);
    let fd = socket_with(family, SocketType::STREAM, flags | SocketFlags::CLOEXEC, protocol)
        .map_err(|errno| failed("Failed to create socket", errno))?;
    if extra.keep_alive {
        sockopt::set_socket_keepalive(&fd, true)
            .map_err(|errno| failed("Unable to set keep-alive option on socket", errno))?;
    }
    Ok(fd)
}

fn unix_address(path: &str, abstract_: bool, tight: bool) -> Result<SocketAddrUnix> {
    let limit = if abstract_ { SUN_PATH - 1 } else { SUN_PATH };
    // QEMU lets a path fill `sun_path`; rustix wants room for the final zero.
    if path.len() > limit - usize::from(!abstract_) {
        return Err(Error::generic(format!("UNIX socket path '{path}' is too long"))
            .with_hint(format!("Path must be less than {limit} bytes")));
    }
    let address = if abstract_ {
        let mut name = path.as_bytes().to_vec();
        if !tight {
            name.resize(SUN_PATH - 1, 0);
        }
        SocketAddrUnix::new_abstract_name(&name)
    } else {
        SocketAddrUnix::new(path)
    };
    address.map_err(|errno| failed(&format!("Failed to use socket path '{path}'"), errno))
}

/// Looks a host and port up. An empty host is this host: any address to listen on, in the order IPv4, IPv6.
fn resolve(
    host: &str,
    port: &str,
    families: (Option<bool>, Option<bool>),
    numeric: bool,
) -> Result<Vec<SocketAddr>> {
    let unresolved =
        |reason: &str| Error::generic(format!("address resolution failed for {host}:{port}: {reason}"));
    let (ipv4, ipv6) = match families {
        (Some(false), Some(false)) => {
            return Err(Error::generic("Cannot disable IPv4 and IPv6 at same time"));
        }
        // Asking for one is not asking for the other.
        (ipv4, ipv6) => (ipv4.unwrap_or(ipv6 != Some(true)), ipv6.unwrap_or(ipv4 != Some(true))),
    };
    let number: u16 = port.parse().map_err(|_| unresolved("Servname not supported for ai_socktype"))?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let all: Vec<SocketAddr> = if bare.is_empty() {
        vec![([0, 0, 0, 0], number).into(), ([0u16; 8], number).into()]
    } else if numeric {
        let host = bare.parse().map_err(|_| unresolved("Name or service not known"))?;
        vec![SocketAddr::new(host, number)]
    } else {
        let found = (bare, number).to_socket_addrs().map_err(|error| {
            let text = strerror(&error);
            unresolved(text.rsplit(": ").next().unwrap_or_default())
        })?;
        found.collect()
    };
    let mut fit: Vec<SocketAddr> =
        all.into_iter().filter(|address| if address.is_ipv4() { ipv4 } else { ipv6 }).collect();
    // `localhost` means 127.0.0.1 to QEMU's users and in its transcripts.
    fit.sort_by_key(SocketAddr::is_ipv6);
    if fit.is_empty() { Err(unresolved("Address family for hostname not supported")) } else { Ok(fit) }
}

/// Opens a listening socket that does not block.
///
/// # Errors
/// QEMU's texts: the address cannot be used.
pub fn listen(address: &SocketAddress, fds: &Fds) -> Result<Listener> {
    match address {
        SocketAddress::Unix { path, abstract_, tight } => listen_unix(path, *abstract_, *tight),
        SocketAddress::Inet { host, port, to, ipv4, ipv6, extra } => {
            let addresses = resolve(host, port, (*ipv4, *ipv6), extra.numeric)?;
            let fd = listen_inet(&addresses, *to, *extra)?;
            Ok(Listener { _path: None, fd })
        }
        SocketAddress::Fd(text) => {
            let fd = fds.socket(text)?;
            rustix::io::ioctl_fionbio(&fd, true).map_err(|errno| failed("Failed to use socket", errno))?;
            listen_socket(&fd, BACKLOG).map_err(|errno| failed("Failed to listen on fd socket", errno))?;
            // Whoever opened it leaves its path to us, as to QEMU.
            Ok(Listener { _path: own_path(&fd), fd })
        }
    }
}

/// The path that a socket is bound to.
fn own_path(fd: &OwnedFd) -> Option<SocketPath> {
    let local = SocketAddrUnix::try_from(getsockname(fd).ok()?).ok()?;
    Some(SocketPath::new(Path::new(OsStr::from_bytes(local.path_bytes()?))))
}

fn listen_unix(path: &str, abstract_: bool, tight: bool) -> Result<Listener> {
    let address = unix_address(path, abstract_, tight)?;
    if path.is_empty() {
        return Err(Error::generic("Failed to bind socket to : Invalid argument"));
    }
    let fd = stream_socket(AddressFamily::UNIX, SocketFlags::NONBLOCK)?;
    if !abstract_ {
        // What an earlier run left behind. Anything else than a socket in the way is lost too, as with QEMU.
        match rustix::fs::unlink(path) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed(&format!("Failed to unlink socket {path}"), errno)),
        }
    }
    bind(&fd, &address).map_err(|errno| failed(&format!("Failed to bind socket to {path}"), errno))?;
    let listener = Listener { _path: (!abstract_).then(|| SocketPath::new(Path::new(path))), fd };
    listen_socket(&listener.fd, BACKLOG).map_err(|errno| failed("Failed to listen on socket", errno))?;
    Ok(listener)
}

/// Listens on the first address that lets it, at the first free port up to `to`.
fn listen_inet(addresses: &[SocketAddr], to: Option<u16>, extra: InetExtra) -> Result<OwnedFd> {
    let mut error = failed("Failed to find an available port", Errno::ADDRINUSE);
    for address in addresses {
        let last = to.unwrap_or(0).max(address.port());
        for port in address.port()..=last {
            let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let fd = match inet_socket(family, SocketFlags::NONBLOCK, extra) {
                Ok(fd) => fd,
                Err(none) => {
                    error = none;
                    break;
                }
            };
            // A port in TIME_WAIT is free to us; failing to say so only means waiting.
            let _ = sockopt::set_socket_reuseaddr(&fd, true);
            let mut at = *address;
            at.set_port(port);
            match bind(&fd, &at).and_then(|()| listen_socket(&fd, BACKLOG)) {
                Ok(()) => return Ok(fd),
                Err(Errno::ADDRINUSE) => error = failed("Failed to find an available port", Errno::ADDRINUSE),
                Err(errno) => {
                    error = failed("Failed to bind socket", errno);
                    break;
                }
            }
        }
    }
    Err(error)
}

/// Connects, waiting for the answer; no longer than `limit` if there is one.
///
/// # Errors
/// QEMU's texts: the address cannot be used, or nobody answers there.
pub fn connect(address: &SocketAddress, fds: &Fds, limit: Option<Duration>) -> Result<OwnedFd> {
    match address {
        SocketAddress::Unix { path, abstract_, tight } => {
            let to = unix_address(path, *abstract_, *tight)?;
            let fd = stream_socket(AddressFamily::UNIX, SocketFlags::empty())?;
            bound(&fd, limit)?;
            // A path without name is no address, but it was refused, not mistyped.
            let result = if path.is_empty() { Err(Errno::CONNREFUSED) } else { connect_socket(&fd, &to) };
            result.map_err(|errno| failed(&format!("Failed to connect to '{path}'"), errno))?;
            Ok(fd)
        }
        SocketAddress::Inet { host, port, ipv4, ipv6, extra, .. } => {
            if host.is_empty() {
                let text = format!("address resolution failed for :{port}: Name or service not known");
                return Err(Error::generic(text));
            }
            let mut last = Errno::CONNREFUSED;
            for to in resolve(host, port, (*ipv4, *ipv6), extra.numeric)? {
                let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
                let fd = inet_socket(family, SocketFlags::empty(), *extra)?;
                bound(&fd, limit)?;
                match connect_socket(&fd, &to) {
                    Ok(()) => return Ok(fd),
                    Err(errno) => last = errno,
                }
            }
            Err(failed(&format!("Failed to connect to '{host}:{port}'"), last))
        }
        SocketAddress::Fd(text) => fds.socket(text),
    }
}

/// Has connecting take no longer than `limit`: a server whose backlog is full would keep its client waiting.
fn bound(fd: &OwnedFd, limit: Option<Duration>) -> Result<()> {
    if limit.is_none() {
        return Ok(());
    }
    sockopt::set_socket_timeout(fd, sockopt::Timeout::Send, limit)
        .map_err(|errno| failed("Failed to use socket", errno))
}

// --- names ---

fn protocol(options: &SocketOptions) -> &'static str {
    if options.telnet { "telnet" } else { "tcp" }
}

fn server_suffix(options: &SocketOptions) -> &'static str {
    if options.server { ",server=on" } else { "" }
}

/// While nobody is connected. A server shows where it really listens.
pub(crate) fn disconnected_name(options: &SocketOptions, listener: Option<&Listener>) -> String {
    let server = server_suffix(options);
    let local = listener.and_then(|listener| getsockname(&listener.fd).ok());
    if let Some(at) = local.and_then(|local| SocketAddr::try_from(local).ok()) {
        return format!("disconnected:{}:{}:{}{server}", protocol(options), at.ip(), at.port());
    }
    match &options.address {
        SocketAddress::Unix { path, abstract_, tight } => {
            let abstract_on = if *abstract_ { ",abstract=on" } else { "" };
            let tight_on = if *abstract_ && *tight { ",tight=on" } else { "" };
            format!("disconnected:unix:{path}{abstract_on}{tight_on}{server}")
        }
        SocketAddress::Inet { host, port, .. } => {
            format!("disconnected:{}:{host}:{port}{server}", protocol(options))
        }
        SocketAddress::Fd(number) => match local_path(listener) {
            Some(path) => format!("disconnected:unix:{path}{server}"),
            None => format!("disconnected:fd:{number}{server}"),
        },
    }
}

fn local_path(listener: Option<&Listener>) -> Option<String> {
    let local = getsockname(&listener?.fd).ok()?;
    let local = SocketAddrUnix::try_from(local).ok()?;
    local.path().map(|path| path.to_string_lossy().into_owned())
}

/// Of a connection: both addresses for TCP, the path for unix sockets (none for abstract ones, as QEMU prints it).
pub(crate) fn connected_name(options: &SocketOptions, fd: BorrowedFd<'_>) -> String {
    let server = server_suffix(options);
    let local = getsockname(fd).ok();
    let peer = getpeername(fd).ok().flatten();
    let inet = |address: &Option<SocketAddrAny>| {
        address.clone().and_then(|address| SocketAddr::try_from(address).ok())
    };
    if let (Some(local), Some(peer)) = (inet(&local), inet(&peer)) {
        // `SocketAddr` brackets IPv6 addresses as QEMU does here.
        return format!("{}:{local}{server} <-> {peer}", protocol(options));
    }
    let path = [local, peer]
        .into_iter()
        .flatten()
        .filter_map(|address| SocketAddrUnix::try_from(address).ok())
        .find_map(|address| address.path().map(|path| path.to_string_lossy().into_owned()));
    format!("unix:{}{server}", path.unwrap_or_default())
}

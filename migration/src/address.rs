//! Where a migration goes to, or comes from.
//!
//! | URI | channel |
//! | --- | --- |
//! | `unix:PATH` | a socket |
//! | `tcp:HOST:PORT[,OPTION…]` | a socket |
//! | `fd:NAME` | a descriptor that the monitor has a name for; on the command line its number |
//! | `exec:COMMAND` | a program's standard input, or output, run by the shell |
//! | `file:PATH[,offset=BYTES]` | a file |
//!
//! Left out: `rdma:`, `vsock:`.

use chardev::{InetExtra, SocketAddress};
use qapi::types::{self, MigrationAddress, MigrationChannel};
use qapi::{Error, Result};
use qom::size;

/// One address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A socket to connect to, or to listen on.
    Socket(SocketAddress),
    /// A descriptor, by name or number, whatever it is.
    Fd(String),
    /// A program and its arguments.
    Exec(Vec<String>),
    /// A file, and how many bytes at its beginning are not ours.
    File {
        /// Its path; `/dev/fdset/N` too.
        path: String,
        /// Bytes.
        offset: u64,
    },
}

impl Address {
    /// What a command names, by `uri` or by `channels`.
    ///
    /// # Errors
    /// QEMU's: neither is there, or what is there cannot be an address.
    pub fn of(uri: Option<&str>, channels: Option<&[MigrationChannel]>) -> Result<Self> {
        match (uri, channels) {
            (Some(uri), _) => Self::parse(uri),
            (None, Some([channel])) => Ok(Self::from(&channel.addr)),
            (None, Some([_, _, ..])) => Err(Error::generic("Channel list has more than one main entry")),
            (None, Some([]) | None) => Err(Error::generic("need either 'uri' or 'channels' argument")),
        }
    }

    /// Reads a URI.
    ///
    /// # Errors
    /// QEMU's.
    pub fn parse(uri: &str) -> Result<Self> {
        let unknown = || Error::generic(format!("unknown migration protocol: {uri}"));
        let (scheme, rest) = uri.split_once(':').ok_or_else(unknown)?;
        match scheme {
            "exec" => Ok(Self::Exec(["/bin/sh", "-c", rest].map(str::to_owned).to_vec())),
            "fd" => Ok(Self::Fd(rest.to_owned())),
            "file" => file(rest),
            "unix" if rest.is_empty() => Err(Error::generic("invalid Unix socket address")),
            "unix" => {
                let path = rest.split(',').next().unwrap_or(rest).to_owned();
                Ok(Self::Socket(SocketAddress::Unix { path, abstract_: false, tight: true }))
            }
            "tcp" => tcp(rest).map(Self::Socket),
            _ => Err(unknown()),
        }
    }
}

fn file(text: &str) -> Result<Address> {
    const OPTION: &str = ",offset=";
    let Some((path, offset)) = text.split_once(OPTION) else {
        return Ok(Address::File { path: text.to_owned(), offset: 0 });
    };
    let bad = || Error::generic(format!("file URI has bad offset {offset}: Invalid argument"));
    let offset = size::parse(offset, 1).map_err(|_| bad())?;
    Ok(Address::File { path: path.to_owned(), offset })
}

/// `HOST:PORT[,to=PORT][,ipv4[=on]][,ipv6[=on]][,keep-alive[=on]]`
fn tcp(text: &str) -> Result<SocketAddress> {
    let mut parts = text.split(',');
    let at = parts.next().unwrap_or_default();
    let bad = || Error::generic(format!("error parsing address '{text}'"));
    let (host, port) = at.rsplit_once(':').ok_or_else(bad)?;
    if port.is_empty() {
        return Err(bad());
    }
    let mut address = SocketAddress::Inet {
        host: host.to_owned(),
        port: port.to_owned(),
        to: None,
        ipv4: None,
        ipv6: None,
        extra: InetExtra::default(),
    };
    let SocketAddress::Inet { to, ipv4, ipv6, extra, .. } = &mut address else { return Err(bad()) };
    for option in parts {
        let (key, value) = option.split_once('=').unwrap_or((option, "on"));
        let on = match value {
            "on" => Some(true),
            "off" => Some(false),
            _ => None,
        };
        match (key, on) {
            ("to", _) => {
                let parsed = value
                    .parse()
                    .map_err(|_| Error::generic(format!("error parsing to= argument '{value}'")));
                *to = Some(parsed?);
            }
            ("ipv4", Some(on)) => *ipv4 = Some(on),
            ("ipv6", Some(on)) => *ipv6 = Some(on),
            ("keep-alive", Some(on)) => extra.keep_alive = on,
            ("mptcp", Some(on)) => extra.mptcp = on,
            _ => return Err(bad()),
        }
    }
    Ok(address)
}

impl From<&MigrationAddress> for Address {
    fn from(address: &MigrationAddress) -> Self {
        match address {
            MigrationAddress::Socket(types::SocketAddress::Fd(fd)) => Self::Fd(fd.str.clone()),
            MigrationAddress::Socket(types::SocketAddress::Unix(unix)) => Self::Socket(unix.clone().into()),
            MigrationAddress::Socket(types::SocketAddress::Inet(inet)) => Self::Socket(inet.clone().into()),
            MigrationAddress::Exec(command) => Self::Exec(command.args.clone()),
            MigrationAddress::File(file) => Self::File { path: file.filename.clone(), offset: file.offset },
        }
    }
}

#[cfg(test)]
mod tests;

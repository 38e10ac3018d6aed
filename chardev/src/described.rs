//! Character devices as `chardev-add` describes them: from the schema's types to [`ChardevOptions`].

use qapi::types::{
    ChardevBackend, ChardevFile, ChardevHostdev, ChardevMux, ChardevPty, ChardevRingbuf, ChardevSocket,
    ChardevStdio, InetSocketAddress, SocketAddressLegacy, UnixSocketAddress,
};
use qapi::{Error, Result};

use crate::options::{
    Backend, ChardevOptions, DEFAULT_RING, InetExtra, LogFile, SocketAddress, SocketOptions,
};

/// The options of the device `id`.
///
/// # Errors
///
/// Members that do not go together, in QEMU's words.
pub(crate) fn options(id: &str, backend: ChardevBackend) -> Result<ChardevOptions> {
    let (backend, log) = match backend {
        ChardevBackend::Null(w) => (Backend::Null, log(w.data.logfile, w.data.logappend)),
        ChardevBackend::File(w) => {
            let ChardevFile { logfile, logappend, in_, out, append } = w.data;
            let backend = Backend::File { path: out, append: append.unwrap_or(false), input_path: in_ };
            (backend, log(logfile, logappend))
        }
        ChardevBackend::Serial(w) => {
            let ChardevHostdev { logfile, logappend, device } = w.data;
            (Backend::Serial { path: device }, log(logfile, logappend))
        }
        ChardevBackend::Pipe(w) => {
            let ChardevHostdev { logfile, logappend, device } = w.data;
            (Backend::Pipe { path: device }, log(logfile, logappend))
        }
        ChardevBackend::Socket(w) => {
            let file = log(w.data.logfile.clone(), w.data.logappend);
            (Backend::Socket(socket(w.data)?), file)
        }
        ChardevBackend::Pty(w) => {
            let ChardevPty { logfile, logappend, path } = w.data;
            (Backend::Pty { path }, log(logfile, logappend))
        }
        ChardevBackend::Mux(w) => {
            let ChardevMux { logfile, logappend, chardev } = w.data;
            (Backend::Mux { chardev }, log(logfile, logappend))
        }
        ChardevBackend::Stdio(w) => {
            let ChardevStdio { logfile, logappend, signal } = w.data;
            (Backend::Stdio { signal: signal.unwrap_or(true) }, log(logfile, logappend))
        }
        ChardevBackend::Ringbuf(w) => ring(w.data, false),
        ChardevBackend::Memory(w) => ring(w.data, true),
    };
    Ok(ChardevOptions { id: id.to_owned(), backend, mux: false, log })
}

fn log(path: Option<String>, append: Option<bool>) -> Option<LogFile> {
    path.map(|path| LogFile { path, append: append.unwrap_or(false) })
}

fn ring(data: ChardevRingbuf, memory: bool) -> (Backend, Option<LogFile>) {
    let ChardevRingbuf { logfile, logappend, size } = data;
    // A negative size is no power of two either.
    let size = size.map_or(DEFAULT_RING, i64::cast_unsigned);
    (Backend::RingBuf { size, memory }, log(logfile, logappend))
}

fn socket(data: ChardevSocket) -> Result<SocketOptions> {
    let error = |text: &str| Err(Error::generic(text));
    let server = data.server.unwrap_or(true);
    let seconds = data.reconnect.unwrap_or(0);
    if data.reconnect.is_some() && data.reconnect_ms.is_some() {
        return error("'reconnect' and 'reconnect-ms' are mutually exclusive");
    }
    match &data.addr {
        SocketAddressLegacy::Fd(_) if seconds > 0 => {
            return error("'reconnect' option is incompatible with 'fd' address type");
        }
        SocketAddressLegacy::Fd(_) if data.tls_creds.is_some() && !server => {
            return error("'tls_creds' option is incompatible with 'fd' address type as client");
        }
        _ => {}
    }
    if data.tls_authz.is_some() && data.tls_creds.is_none() {
        return error("'tls_authz' option requires 'tls_creds' option");
    }
    if server && seconds > 0 {
        return error("'reconnect' option is incompatible with socket in server listen mode");
    }
    if !server && data.websocket == Some(true) {
        return error("Websocket client is not implemented");
    }
    if !server && data.wait.is_some() {
        return error("'wait' option is incompatible with socket in client connect mode");
    }
    if let Some(creds) = data.tls_creds {
        return error(&format!("No TLS credentials with id '{creds}'"));
    }
    if data.websocket == Some(true) {
        return error("Websocket server is not implemented");
    }
    if data.tn3270 == Some(true) {
        return error("chardev: socket: tn3270 is not supported");
    }
    let ms = data.reconnect_ms.unwrap_or_else(|| seconds.saturating_mul(1000));
    Ok(SocketOptions {
        address: address(data.addr),
        server,
        wait: data.wait.unwrap_or(false),
        nodelay: data.nodelay.unwrap_or(false),
        telnet: data.telnet.unwrap_or(false),
        reconnect_ms: u64::try_from(ms).unwrap_or(0),
    })
}

fn address(address: SocketAddressLegacy) -> SocketAddress {
    match address {
        SocketAddressLegacy::Inet(w) => w.data.into(),
        SocketAddressLegacy::Unix(w) => w.data.into(),
        SocketAddressLegacy::Fd(w) => SocketAddress::Fd(w.data.str),
    }
}

impl From<InetSocketAddress> for SocketAddress {
    fn from(address: InetSocketAddress) -> Self {
        let InetSocketAddress { host, port, numeric, to, ipv4, ipv6, keep_alive, mptcp } = address;
        let extra = InetExtra {
            numeric: numeric.unwrap_or(false),
            keep_alive: keep_alive.unwrap_or(false),
            mptcp: mptcp.unwrap_or(false),
        };
        Self::Inet { host, port, to, ipv4, ipv6, extra }
    }
}

impl From<UnixSocketAddress> for SocketAddress {
    fn from(address: UnixSocketAddress) -> Self {
        let UnixSocketAddress { path, abstract_, tight } = address;
        Self::Unix { path, abstract_: abstract_.unwrap_or(false), tight: tight.unwrap_or(true) }
    }
}

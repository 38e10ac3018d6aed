//! `-chardev BACKEND,id=ID,KEY=VALUE,...`: from strings to [`ChardevOptions`].
//!
//! As in QEMU there is one list of keys for all back ends: a key is checked for its type, and a back end that does not
//! know it does not mind. Left out: `tls-*`, `websocket`, `tn3270`, `udp` and other back ends, which are refused by name.

use qapi::{Error, Result};
use qom::options::{flag, number};

/// A character device to be made with [`crate::ChardevSet::add`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChardevOptions {
    /// Its id.
    pub id: String,
    /// What it is on the host.
    pub backend: Backend,
    /// Puts a mux of name `id` on it, which then is called `ID-base`: several front ends share it.
    pub mux: bool,
    /// A file that gets a copy of all output.
    pub log: Option<LogFile>,
}

/// `logfile=`, `logappend=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFile {
    /// Where.
    pub path: String,
    /// Keeps what the file holds.
    pub append: bool,
}

/// The back ends and what they need to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// Nothing.
    Null,
    /// The virtual console that a machine gets by default for its ports. There is no display to show it, so it swallows
    /// everything; a user who asks for it by name is refused.
    Vc,
    /// The program's own terminal.
    Stdio {
        /// Whether Ctrl-C still sends SIGINT.
        signal: bool,
    },
    /// A new pseudo terminal.
    Pty {
        /// A symbolic link to make to it.
        path: Option<String>,
    },
    /// A tty of the host.
    Serial {
        /// Its device node.
        path: String,
    },
    /// Output to a file.
    File {
        /// Where output goes.
        path: String,
        /// Keeps what the file holds.
        append: bool,
        /// Where input comes from.
        input_path: Option<String>,
    },
    /// A pair of named pipes `PATH.in` and `PATH.out`, or one device.
    Pipe {
        /// The path without suffix.
        path: String,
    },
    /// A ring in memory that keeps the last output.
    RingBuf {
        /// Bytes, a power of two.
        size: u64,
        /// Whether it goes by the older name.
        memory: bool,
    },
    /// A unix or TCP socket.
    Socket(SocketOptions),
    /// A mux on an existing device.
    Mux {
        /// Id of the device below.
        chardev: String,
    },
}

/// What a socket does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOptions {
    /// Where.
    pub address: SocketAddress,
    /// Listens; otherwise connects.
    pub server: bool,
    /// A server that waits for its first client before start-up goes on.
    pub wait: bool,
    /// TCP without Nagle's delay.
    pub nodelay: bool,
    /// Speaks the telnet protocol (server only, as in QEMU).
    pub telnet: bool,
    /// A client that connects again after so many milliseconds; 0: never.
    pub reconnect_ms: u64,
}

/// The address of a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketAddress {
    /// A unix socket.
    Unix {
        /// Path, or name if abstract.
        path: String,
        /// In the abstract name space.
        abstract_: bool,
        /// An abstract name of its own length; otherwise padded with zeros to the full length.
        tight: bool,
    },
    /// TCP.
    Inet {
        /// Name or number; empty for all addresses of this host.
        host: String,
        /// Port number.
        port: String,
        /// A server may use any free port up to this one.
        to: Option<u16>,
        /// Only or never IPv4.
        ipv4: Option<bool>,
        /// Only or never IPv6.
        ipv6: Option<bool>,
        /// What only monitors can ask for.
        extra: InetExtra,
    },
    /// A descriptor this process inherited: listening for a server, connected otherwise.
    Fd(String),
}

/// What `-chardev` has no words for, but `chardev-add` has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InetExtra {
    /// The host is a number: nothing is looked up.
    pub numeric: bool,
    /// The system looks whether the peer is still there.
    pub keep_alive: bool,
    /// Multipath TCP.
    pub mptcp: bool,
}

/// What a key of `-chardev` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// A text.
    Text,
    /// `on` or `off`.
    Bool,
    /// A number.
    Number,
    /// A number of bytes.
    Size,
}
use KeyKind as Kind;

const KEYS: &[(&str, Kind)] = &[
    ("backend", Kind::Text),
    ("path", Kind::Text),
    ("input-path", Kind::Text),
    ("host", Kind::Text),
    ("port", Kind::Text),
    ("fd", Kind::Text),
    ("localaddr", Kind::Text),
    ("localport", Kind::Text),
    ("to", Kind::Number),
    ("ipv4", Kind::Bool),
    ("ipv6", Kind::Bool),
    ("wait", Kind::Bool),
    ("server", Kind::Bool),
    ("delay", Kind::Bool),
    ("nodelay", Kind::Bool),
    ("reconnect", Kind::Number),
    ("reconnect-ms", Kind::Number),
    ("telnet", Kind::Bool),
    ("tn3270", Kind::Bool),
    ("tls-creds", Kind::Text),
    ("tls-authz", Kind::Text),
    ("websocket", Kind::Bool),
    ("width", Kind::Number),
    ("height", Kind::Number),
    ("cols", Kind::Number),
    ("rows", Kind::Number),
    ("mux", Kind::Bool),
    ("signal", Kind::Bool),
    ("name", Kind::Text),
    ("debug", Kind::Number),
    ("size", Kind::Size),
    ("chardev", Kind::Text),
    ("append", Kind::Bool),
    ("logfile", Kind::Text),
    ("logappend", Kind::Bool),
    ("mouse", Kind::Bool),
    ("clipboard", Kind::Bool),
    ("abstract", Kind::Bool),
    ("tight", Kind::Bool),
];

/// Keys of back ends, and of protocols, that are refused.
const KEYS_OF_REFUSED: &[&str] = &[
    "localaddr",
    "localport",
    "tn3270",
    "tls-creds",
    "tls-authz",
    "websocket",
    "width",
    "height",
    "cols",
    "rows",
    "name",
    "debug",
    "mouse",
    "clipboard",
];

/// Keys of `-chardev` that mean something to a back end that there is, `id` apart.
pub fn option_keys() -> impl Iterator<Item = (&'static str, KeyKind)> {
    KEYS.iter().copied().filter(|(key, _)| !KEYS_OF_REFUSED.contains(key))
}

/// Back ends that QEMU has and this program makes on request.
pub(crate) const BACKENDS: &[&str] =
    &["stdio", "ringbuf", "mux", "pipe", "pty", "null", "socket", "memory", "file", "serial"];
/// Back ends that QEMU has and this program refuses.
const REFUSED: &[&str] = &["qemu-vdagent", "hub", "msmouse", "vc", "parallel", "udp", "wctablet", "testdev"];
pub(crate) const DEFAULT_RING: u64 = 65536;

/// The text of `-chardev help`: the back ends there are.
pub fn backend_help() -> String {
    let mut text = String::from("Available chardev backend types: \n");
    for name in BACKENDS {
        text.push_str("  ");
        text.push_str(name);
        text.push('\n');
    }
    text
}

impl ChardevOptions {
    /// From the key/value list of `-chardev`, split at `,` already; the first key may be `backend` or empty (the
    /// shorthand). Of a key given twice the last counts.
    ///
    /// # Errors
    ///
    /// QEMU's messages. A duplicate id is found by [`crate::ChardevSet::add`].
    pub fn parse(pairs: &[(String, String)]) -> Result<Self> {
        Written::parse(pairs)?.new_device()
    }

    /// A device without mux and log.
    pub fn new(id: impl Into<String>, backend: Backend) -> Self {
        Self { id: id.into(), backend, mux: false, log: None }
    }
}

/// A `-chardev` list of which every key is known and every value well-formed.
#[derive(Debug)]
pub(crate) struct Written {
    /// `id=`.
    pub(crate) id: Option<String>,
    keys: Keys,
}

impl Written {
    pub(crate) fn parse(pairs: &[(String, String)]) -> Result<Self> {
        let mut keys = Keys::default();
        let mut id = None;
        for (key, value) in pairs {
            match key.as_str() {
                "id" => id = Some(value.clone()),
                "" => keys.set("backend", value)?,
                key => keys.set(key, value)?,
            }
        }
        if let Some(id) = &id {
            check_id(id)?;
        }
        Ok(Self { id, keys })
    }

    /// A device of its own name.
    pub(crate) fn new_device(self) -> Result<ChardevOptions> {
        let id = self.id.clone().ok_or_else(|| Error::generic("chardev: no id specified"))?;
        self.into_options(id)
    }

    /// What the device `id` is to be.
    pub(crate) fn into_options(self, id: String) -> Result<ChardevOptions> {
        let backend = self
            .keys
            .text("backend")
            .ok_or_else(|| Error::generic(format!("chardev: \"{id}\" missing backend")))?;
        self.keys.into_options(id, &backend)
    }
}

fn check_id(id: &str) -> Result<()> {
    let mut chars = id.chars();
    let good = chars.next().is_some_and(|first| first.is_ascii_alphabetic())
        && chars.all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    if good {
        return Ok(());
    }
    Err(Error::generic("Parameter 'id' expects an identifier")
        .with_hint("Identifiers consist of letters, digits, '-', '.', '_', starting with a letter."))
}

/// Keys and values that are known and well-formed.
#[derive(Debug, Default)]
pub(crate) struct Keys(Vec<(String, String)>);

impl Keys {
    /// Adds one pair.
    pub(crate) fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let kind = KEYS.iter().find(|(known, _)| *known == key).map(|(_, kind)| *kind);
        match kind {
            Some(Kind::Text) => {}
            Some(Kind::Bool) => _ = flag(key, value)?,
            Some(Kind::Number) => _ = number(key, value)?,
            Some(Kind::Size) => _ = parse_size(key, value)?,
            None => return Err(Error::generic(format!("Invalid parameter '{key}'"))),
        }
        self.0.push((key.to_owned(), value.to_owned()));
        Ok(())
    }

    fn text(&self, key: &str) -> Option<String> {
        self.0.iter().rev().find(|(known, _)| known == key).map(|(_, value)| value.clone())
    }

    fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.text(key).map(|value| flag(key, &value)).transpose()
    }

    fn number(&self, key: &str) -> Result<Option<u64>> {
        self.text(key).map(|value| number(key, &value)).transpose()
    }

    /// The options these keys make with `backend`.
    pub(crate) fn into_options(self, id: String, backend: &str) -> Result<ChardevOptions> {
        let need_path = |name: &str, what: &str| {
            self.text("path").ok_or_else(|| Error::generic(format!("chardev: {name}: no {what} given")))
        };
        let backend = match backend {
            "null" => Backend::Null,
            "stdio" => Backend::Stdio { signal: self.bool("signal")?.unwrap_or(true) },
            "pty" => Backend::Pty { path: self.text("path") },
            "serial" | "tty" => Backend::Serial { path: need_path("serial/tty", "device path")? },
            "file" => Backend::File {
                path: need_path("file", "filename")?,
                append: self.bool("append")?.unwrap_or(false),
                input_path: self.text("input-path"),
            },
            "pipe" => Backend::Pipe { path: need_path("pipe", "device path")? },
            "ringbuf" | "memory" => {
                let size = self.text("size").map(|size| parse_size("size", &size)).transpose()?;
                Backend::RingBuf { size: size.unwrap_or(DEFAULT_RING), memory: backend == "memory" }
            }
            "mux" => Backend::Mux {
                chardev: self
                    .text("chardev")
                    .ok_or_else(|| Error::generic("chardev: mux: no chardev given"))?,
            },
            "socket" => Backend::Socket(self.socket()?),
            "vc" => {
                return Err(Error::generic("chardev: vc: there is no display to show a virtual console on"));
            }
            name if REFUSED.contains(&name) => {
                return Err(Error::generic(format!("chardev: {name}: this back end is not supported")));
            }
            name => return Err(Error::generic(format!("'{name}' is not a valid char driver name"))),
        };
        let append = self.bool("logappend")?.unwrap_or(false);
        let log = self.text("logfile").map(|path| LogFile { path, append });
        Ok(ChardevOptions { id, backend, mux: self.bool("mux")?.unwrap_or(false), log })
    }

    fn socket(&self) -> Result<SocketOptions> {
        let error = |text: &str| Err(Error::generic(text));
        let server = self.bool("server")?.unwrap_or(false);
        let delay = self.bool("delay")?;
        let nodelay = self.bool("nodelay")?;
        if delay.is_some() && nodelay.is_some() {
            return error("'delay' and 'nodelay' are mutually exclusive");
        }
        let (path, host, fd) = (self.text("path"), self.text("host"), self.text("fd"));
        if [&path, &host, &fd].into_iter().flatten().count() > 1 {
            return error("None or one of 'path', 'fd' or 'host' option required.");
        }
        let reconnect_ms = match (self.number("reconnect")?, self.number("reconnect-ms")?) {
            (Some(_), Some(_)) => return error("'reconnect' and 'reconnect-ms' are mutually exclusive"),
            (Some(_), None) if server => {
                return error("'reconnect' option is incompatible with socket in server listen mode");
            }
            (Some(seconds), None) => seconds.saturating_mul(1000),
            (None, ms) => ms.unwrap_or(0),
        };
        let address = if let Some(path) = path {
            SocketAddress::Unix {
                path,
                abstract_: self.bool("abstract")?.unwrap_or(false),
                tight: self.bool("tight")?.unwrap_or(true),
            }
        } else if let Some(host) = host {
            let port = self.text("port").ok_or_else(|| Error::generic("chardev: socket: no port given"))?;
            let to = self.number("to")?.map(|to| u16::try_from(to).unwrap_or(u16::MAX));
            let (ipv4, ipv6) = (self.bool("ipv4")?, self.bool("ipv6")?);
            SocketAddress::Inet { host, port, to, ipv4, ipv6, extra: InetExtra::default() }
        } else {
            SocketAddress::Fd(fd.unwrap_or_default())
        };
        if let Some(creds) = self.text("tls-creds") {
            return error(&format!("No TLS credentials with id '{creds}'"));
        }
        if self.bool("websocket")?.unwrap_or(false) {
            return error(if server {
                "Websocket server is not implemented"
            } else {
                "Websocket client is not implemented"
            });
        }
        if self.bool("tn3270")?.unwrap_or(false) {
            return error("chardev: socket: tn3270 is not supported");
        }
        if !server && self.bool("wait")?.is_some() {
            return error("'wait' option is incompatible with socket in client connect mode");
        }
        Ok(SocketOptions {
            address,
            server,
            wait: server && self.bool("wait")?.unwrap_or(true),
            nodelay: nodelay.or(delay.map(|delay| !delay)).unwrap_or(false),
            telnet: self.bool("telnet")?.unwrap_or(false),
            reconnect_ms,
        })
    }
}

/// A size: a number, possibly with a fraction, and a suffix of the powers of 1024.
fn parse_size(key: &str, value: &str) -> Result<u64> {
    let error = || {
        Error::generic(format!("Parameter '{key}' expects a non-negative number below 2^64"))
            .with_hint("Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-")
            .with_hint("and exabytes, respectively.")
    };
    let (digits, shift) = match value.char_indices().next_back() {
        Some((at, suffix)) if suffix.is_ascii_alphabetic() && !value.starts_with("0x") => {
            let shift = "bkmgtpe".find(suffix.to_ascii_lowercase()).ok_or_else(error)?;
            (&value[..at], 10 * u32::try_from(shift).map_err(|_| error())?)
        }
        _ => (value, 0),
    };
    let whole = number(key, digits).ok().filter(|_| !digits.starts_with(['-', '+'])).ok_or_else(error)?;
    whole.checked_mul(1 << shift).ok_or_else(error)
}

#[cfg(test)]
pub(crate) mod tests;

//! QEMU's character devices: pure byte streams between a front end (a serial port, a monitor, the qtest protocol)
//! and something on the host (a terminal, a socket, a file).
//!
//! A [`ChardevSet`] holds the devices of one VM by id. A front end takes one with [`Chardev::attach`] and owns the
//! [`Port`] it gets; dropping the port gives the device back. Everything is driven by `mainloop` watches:
//!
//! - [`Port::write`] and [`Port::write_all`] never block and may be called from any thread, a device's lock held: they
//!   never call the front end.
//! - The [`Frontend`]'s functions are called on the loop thread only, with no lock of this crate held.
//! - Input is pulled: nothing is read from the host unless [`Frontend::can_read`] says there is room. A front end that
//!   said 0 calls [`Port::accept_input`] when it has room again.
//! - Memory is bounded: [`Port::write`] takes at most [`WRITE_QUEUE`] bytes more than the host takes,
//!   [`Port::write_all`] at most [`QUEUE_CAP`].
//!
//! The only thing that blocks is opening a socket server with `wait=on`, connecting a socket client that has no
//! `reconnect`, and [`Port::wait_connected`], as in QEMU.
//!
//! | back end | maturity |
//! | --- | --- |
//! | null, ringbuf, file, pipe, stdio, pty, serial (tty), mux | complete |
//! | socket (unix, abstract, tcp, telnet, fd, reconnect) | complete; no TLS, websocket or tn3270 |
//! | vc | only for the devices a machine gets by default; there is no display |
//! | udp, hub, parallel, testdev, msmouse, wctablet, spice, braille, dbus | refused |
//!
//! # Example
//!
//! ```
//! use chardev::{CharEvent, ChardevSet, Frontend, parse_legacy, Legacy};
//!
//! struct Sink;
//! impl Frontend for Sink {
//!     fn can_read(&mut self) -> usize { 16 }
//!     fn read(&mut self, _data: &[u8]) {}
//!     fn event(&mut self, _event: CharEvent) {}
//! }
//!
//! let main = mainloop::MainLoop::new()?;
//! let set = ChardevSet::new(main.handle());
//! let Ok(Legacy::New(options)) = parse_legacy("serial0", "null") else { panic!() };
//! let serial0 = set.add(&options, &mut |_notice| {}).unwrap();
//! let port = serial0.attach(Box::new(Sink)).unwrap();
//! assert_eq!(port.write(b"hello"), 5);
//! assert_eq!(serial0.attach(Box::new(Sink)).unwrap_err().desc(), "chardev 'serial0' is already in use");
//! # Ok::<(), std::io::Error>(())
//! ```

mod backend;
mod commands;
mod connection;
mod described;
mod device;
pub mod fds;
mod file;
mod frontend;
mod legacy;
mod log;
mod mux;
mod object;
mod options;
mod pty;
mod ringbuf;
mod set;
mod sink;
mod socket;
mod stdio;
mod stream;
pub mod trace_events;
mod tty;
mod yank;

pub use connection::{Connection, Patience};
pub use device::{Chardev, Port};
pub use frontend::{CharEvent, Frontend};
pub use legacy::{Legacy, parse_legacy};
pub use object::register;
pub use options::{
    Backend as BackendOptions, ChardevOptions, InetExtra, KeyKind, LogFile, SocketAddress, SocketOptions,
    backend_help, option_keys,
};
pub use ringbuf::DataFormat;
pub use set::{ChardevInfo, ChardevSet, Notice};
pub use socket::address::{Listener, SocketPath, connect, listen};
pub use socket::receive_within;
pub use tty::Terminal;
pub use yank::{YankInstances, YankRegistration};

/// Bytes that [`Port::write`] queues beyond what the host takes at once.
pub const WRITE_QUEUE: usize = 4096;
/// Queued bytes from which on a port counts as congested ([`Port::is_congested`]).
pub const CONGESTION: usize = 64 * 1024;
/// Bytes that [`Port::write_all`] queues at most. Who exceeds it has a peer that stopped reading long ago: the queue is
/// thrown away and a socket peer is disconnected.
pub const QUEUE_CAP: usize = 64 * 1024 * 1024;

#[cfg(test)]
mod tests;

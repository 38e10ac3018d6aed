//! The host's ends of network devices, QEMU's *netdevs*: a tap interface, or a datagram socket.
//!
//! A [`NetSet`] holds those of one VM by id, and knows the network devices ([`Nic`]) that are connected to them. A device finds a
//! [`Netdev`] with [`NetSet::find`], and is connected to it, and listed, as long as it holds the [`Nic`] it gets from [`NetSet::connect`].
//!
//! - A packet is an Ethernet frame without its check sequence, as long as [`MAX_PACKET`] at most. Where [`Nic::header`] says so, a virtio-net
//!   header of [`HEADER`] bytes comes before it, both ways.
//! - Packets are pulled: nothing is read from the host before the device asks ([`Nic::receive`]). A device that was told that there is none is
//!   called once ([`NicHandler::readable`]) when there is one. What nobody is connected to, or whose link is down, is read and thrown away.
//! - [`Nic::send`] never blocks. What the host does not take now is the device's to keep until [`NicHandler::writable`]; what it does not take at
//!   all is lost, as networks lose packets.
//! - [`Nic::send`] and [`Nic::receive`] are called from any thread, a device's lock held: they never call the handler. The handler's functions are
//!   called on the loop thread only, with no lock of this crate held.
//!
//! | host end | maturity |
//! | --- | --- |
//! | tap (descriptor, or interface by name) | complete but for several queues; scripts and helpers are refused; vhost is not there, and not missed |
//! | dgram (unix, UDP over IPv4, open socket) | complete but for multicast |
//! | user, socket, stream, bridge, hubport, l2tpv3, vde, netmap, vhost-user, vhost-vdpa | not there |
//!
//! # Example
//!
//! ```
//! use std::os::unix::net::UnixDatagram;
//! use std::sync::Arc;
//! use chardev::fds::{Fds, NamedFds};
//! use net::{Model, NetSet, NicHandler, Received, Sent};
//!
//! struct Card;
//! impl NicHandler for Card {
//!     fn readable(&self) {}
//!     fn writable(&self) {}
//!     fn link_changed(&self) {}
//! }
//!
//! let main = mainloop::MainLoop::new()?;
//! let fds = Arc::new(Fds::default());
//! let set = NetSet::new(main.handle(), Arc::clone(&fds));
//! let (ours, host) = UnixDatagram::pair()?;
//! let names = Arc::new(NamedFds::default());
//! names.put("end".into(), ours.into());
//! let added = fds.during(&names, || set.add_text("dgram,id=net0,local.type=fd,local.str=end"));
//! assert_eq!(added.unwrap(), None);
//!
//! let card = Arc::new(Card);
//! let model = Model { class: "card", id: Some("nic0"), mac: None };
//! let handler: Arc<dyn NicHandler> = Arc::clone(&card) as _;
//! let nic = set.connect(model, set.find("net0"), &handler);
//! assert_eq!(nic.mac().to_string(), "52:54:00:12:34:56");
//! assert_eq!(nic.send(&[0xff; 60]), Sent::Done);
//! assert_eq!(host.recv(&mut [0; 100])?, 60);
//! assert_eq!(nic.receive(&mut [0; 100]), Received::Nothing);
//! # Ok::<(), std::io::Error>(())
//! ```

mod announce;
mod commands;
mod dgram;
mod host_end;
mod mac;
mod netdev;
mod nic;
mod options;
mod set;
mod tap;
pub mod trace_events;

pub use announce::Rounds;
pub use host_end::{Header, Offloads};
pub use mac::MacAddr;
pub use netdev::Netdev;
pub use nic::{Nic, NicHandler, Received, Sent};
pub use options::help;
pub use set::{Model, NetSet};

/// Bytes of the virtio-net header of a modern device (virtio 1.3 §5.1.6).
pub const HEADER: usize = 12;
/// Bytes of a packet at most, header included: the longest that segmentation makes, and its Ethernet header with two tags.
pub const MAX_PACKET: usize = HEADER + 65536 + 22;

#[cfg(test)]
mod tests;

//! A real libvirtd that takes the program under test for its emulator, in namespaces of its own.
//!
//! A [`Host`] has processes and a network of its own; whatever runs there ends with it, however the test ends. A [`Node`] on it is what libvirt takes for a
//! machine: folders, a host name and a libvirtd. Two nodes of one host can move a domain to each other. Nothing of the real machine's libvirt is touched, and
//! nothing is left behind.

mod domain;
mod events;
mod host;
mod node;
pub mod session;

pub use domain::Domain;
pub use events::Events;
pub use host::Host;
pub use node::{Node, Ran};
pub use session::Session;

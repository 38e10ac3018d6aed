//! The connection under a socket device, lent to a front end that speaks on it itself.
//!
//! vhost-user passes descriptors and waits for answers, which a stream of bytes through [`crate::Port`] cannot do. Such a front end never
//! has room ([`crate::Frontend::can_read`] says 0), so that nothing is read here, and takes a copy of the socket with
//! [`crate::Port::connection`]. The device keeps watching it: when the peer leaves, the front end hears `Closed`, the
//! copy is shut down, and a client with `reconnect` connects again. Who wants to be rid of the peer shuts its copy down.

use std::os::fd::OwnedFd;
use std::time::Duration;

/// A connection to the peer.
#[derive(Debug)]
pub struct Connection {
    /// Different for each connection of a device.
    pub id: u64,
    /// A copy of the socket.
    pub socket: OwnedFd,
}

/// How long a front end that cannot do without its peer waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Until it is there; a client with `reconnect` tries as often as it takes, and a watched signal ends the wait. For start-up.
    Endless,
    /// One attempt, of at most so long. For a machine that runs.
    Once(Duration),
}

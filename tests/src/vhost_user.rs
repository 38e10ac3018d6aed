//! The other side of vhost-user devices: a block back end built on the crate `vhost-user-backend`, the real `qemu-storage-daemon`, and a
//! relay that stands between the program and either of them, writes down what is said and spoils it on demand.
//!
//! What is asked of memory is told by two witnesses who know nothing of each other: [`Relay::regions`] adds up what the program has said,
//! [`Backend::regions`] is what the back end has mapped.

mod backend;
mod daemon;
mod message;
mod relay;
mod witness;

pub use backend::{Backend, Fault, Options};
pub use daemon::StorageDaemon;
pub use message::{Message, Request};
pub use relay::{Relay, Rule};
pub use witness::threads;

/// A stretch of guest memory that a back end is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Region {
    /// First guest-physical address.
    pub guest: u64,
    /// Bytes.
    pub size: u64,
    /// Where it begins in its file.
    pub offset: u64,
}

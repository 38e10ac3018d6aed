//! RAM blocks: memory that the host gives and the guest uses.
//!
//! A [`RamBlock`] owns its mapping and unmaps it when dropped. Nothing touches the memory of a block unless asked to:
//! a block of 1 TiB costs address space and nothing else.

mod block;
mod dirty;
mod discard;
mod file;
mod list;
mod mapping;
mod pagemap;
mod range;
mod reader;
mod userfault;
mod zero;

pub use block::{Backing, FileBacking, RamBlock, RamSpec};
pub use dirty::{DirtyBitmap, DirtyClient};
pub use file::{MemfdSpec, create_memfd, file_page_size, host_page_size};
pub use mapping::HostPolicy;
pub use range::BlockRange;
pub use reader::BlockReader;
pub use userfault::{Fault, Userfault};

pub(crate) use dirty::DirtyClients;
pub(crate) use list::RamList;
#[cfg(test)]
pub(crate) use mapping::{poke, probe_read};

//! What can go wrong in this crate, with the sentences a QEMU user knows.

use std::io;

use qapi::strerror;

/// An error of the memory room; its text is what the user sees.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Anonymous memory could not be mapped.
    #[error("cannot set up guest memory '{name}': {}", strerror(.source))]
    MapAnonymous {
        /// Name of the block.
        name: String,
        /// What `mmap` said.
        source: io::Error,
    },
    /// A file could not be mapped.
    #[error("unable to map backing store for guest RAM: {}", strerror(.0))]
    MapFile(#[source] io::Error),
    /// A memfd could not be created.
    #[error("failed to create memfd: {}", strerror(.0))]
    CreateMemfd(#[source] io::Error),
    /// A memfd could not be given its size.
    #[error("failed to resize memfd to {size}: {}", strerror(.source))]
    ResizeMemfd {
        /// Bytes asked for.
        size: u64,
        /// What `ftruncate` said.
        source: io::Error,
    },
    /// A memfd could not be sealed.
    #[error("failed to add seals to memfd: {}", strerror(.0))]
    SealMemfd(#[source] io::Error),
    /// The file is smaller than what it has to back.
    #[error(
        "{name} backing store size {file_size:#x} is too small for 'size' option {size:#x} plus 'offset' option {offset:#x}"
    )]
    FileTooSmall {
        /// Name of the block.
        name: String,
        /// Bytes in the file.
        file_size: u64,
        /// Bytes wanted (page aligned).
        size: u64,
        /// Offset into the file.
        offset: u64,
    },
    /// `mbind` refused.
    #[error("cannot bind memory to host NUMA nodes: {}", strerror(.0))]
    Bind(#[source] io::Error),
    /// Pages could not be populated.
    #[error("qemu_prealloc_mem: preallocating memory failed: {}", strerror(.0))]
    Prealloc(#[source] io::Error),
    /// A block of no bytes, or of more than the address space holds.
    #[error("invalid size {0:#x} for guest memory")]
    BadSize(u64),
    /// Access outside of a block.
    #[error("range {offset:#x}+{len:#x} is outside of RAM block '{name}'")]
    OutOfBlock {
        /// Name of the block.
        name: String,
        /// Start of the access.
        offset: u64,
        /// Length of the access.
        len: u64,
    },
    /// A region cannot be destroyed, something still points at it.
    #[error("memory region '{0}' is in use")]
    RegionInUse(String),
    /// The bytes are of unplugged memory, which is protected.
    #[error("range {offset:#x}+{len:#x} of RAM block '{name}' is unplugged")]
    Unplugged {
        /// Name of the block.
        name: String,
        /// Start of the access.
        offset: u64,
        /// Length of the access.
        len: u64,
    },
    /// The protection of discarded memory cannot be changed.
    #[error("cannot change the protection of guest memory: {}", strerror(.0))]
    Protect(#[source] io::Error),
    /// A listener of a discard manager refused.
    #[error("{0}")]
    Vetoed(String),
    /// Ranges of a discard manager are multiples of its granularity and inside it.
    #[error("range {offset:#x}+{len:#x} is not valid for a granularity of {granularity:#x}")]
    BadDiscardRange {
        /// Start.
        offset: u64,
        /// Length.
        len: u64,
        /// Bytes a bit stands for.
        granularity: u64,
    },
}

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<Error> for qapi::Error {
    fn from(e: Error) -> Self {
        Self::generic(e.to_string())
    }
}

/// Discarding failed. `report` is the sentence QEMU prints where it happens; `source` what the caller gets.
#[derive(Debug, thiserror::Error)]
#[error("{report}")]
pub struct DiscardError {
    /// Text for the log.
    pub report: String,
    /// The reason as an errno; callers append its text to their own sentence.
    #[source]
    pub source: io::Error,
}

impl DiscardError {
    /// The errno's text alone (`Operation not permitted`).
    pub fn reason(&self) -> String {
        strerror(&self.source)
    }
}

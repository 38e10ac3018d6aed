//! The recorded behaviour of QEMU 10.0.2, read from its transcripts, and the book-keeping of where a program differs.
//!
//! [`catalogue`] reads the two catalogues of error texts, [`transcript`] the recorded sessions. [`gaps`] holds the lists of
//! differences that are known, each with its reason; a [`Report`] compares step by step and, at its end, fails with every
//! difference that no list explains, and with every listed one that is gone. [`own`] knows what the program lists on purpose
//! and QEMU has not.

pub mod catalogue;
pub mod gaps;
pub mod own;
pub mod report;
pub mod transcript;
pub mod view;

use std::path::PathBuf;
use std::{fs, io};

pub use gaps::Gaps;
pub use report::Report;

/// The text of one of the oracle's files.
///
/// # Panics
///
/// If it cannot be read; ask [`crate::have`] for [`crate::Need::Oracle`] first.
pub fn read(name: &str) -> String {
    let path: PathBuf = crate::program::oracle_folder().join(name);
    let text: io::Result<String> = fs::read_to_string(&path);
    text.unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

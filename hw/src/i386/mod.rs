//! The PC boards.

pub mod ram;

use std::sync::Arc;

use crate::core::machine::{Board, Machine};

/// Builds the board of a machine.
///
/// # Errors
/// QEMU's texts.
pub fn build(_machine: &Arc<Machine>) -> qapi::Result<Arc<dyn Board>> {
    Err(qapi::Error::generic("in progress"))
}

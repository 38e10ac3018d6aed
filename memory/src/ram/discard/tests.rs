//! Each kind of memory is given back for real: pages and file blocks are counted, not replies.

mod host;
mod model;
mod refused;
mod table;

use std::fs::File;

use super::*;
use crate::ram::{Backing, FileBacking, MemfdSpec, RamList, RamSpec, create_memfd};

/// A private or shared mapping of `file`.
fn mapped(file: File, shared: bool) -> Backing {
    Backing::File(FileBacking { file, offset: 0, shared, readonly_fd: false })
}

fn memfd(len: u64, shared: bool) -> Backing {
    mapped(create_memfd(&MemfdSpec { name: "t", seal: true, ..Default::default() }, len).unwrap(), shared)
}

fn file(len: u64, shared: bool) -> Backing {
    let file = tempfile::tempfile().unwrap();
    file.set_len(len).unwrap();
    mapped(file, shared)
}

fn create(list: &RamList, len: u64, backing: Backing) -> std::sync::Arc<RamBlock> {
    list.create(RamSpec::anonymous("mem0", len).backing(backing)).unwrap()
}

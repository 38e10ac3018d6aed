//! The way in for the fuzz targets (`fuzz/`), and for nobody else: a small machine that is saved and loaded, without a program around it.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;

use qapi::types::{MigrationCapability, RunState};
use rustix::fs::MemfdFlags;

use crate::testing::{Loop, Rig, full};

/// How a machine lies in a file.
#[derive(Debug, Clone, Copy)]
pub enum Form {
    /// One thing after the other.
    Stream,
    /// Pages at places of their own: `mapped-ram`.
    Places,
}

impl Form {
    fn ask(self, rig: &Rig) {
        if let Self::Places = self {
            rig.capability(MigrationCapability::MappedRam);
        }
    }
}

/// A file in memory and what it is called.
fn file() -> (File, String) {
    let file = File::from(rustix::fs::memfd_create("stream", MemfdFlags::CLOEXEC).expect("a file in memory"));
    let uri = format!("file:/proc/self/fd/{}", file.as_raw_fd());
    (file, uri)
}

/// What a machine is saved as that has something in its memory and in its devices.
///
/// # Panics
/// If it cannot be saved.
pub fn save(form: Form) -> Vec<u8> {
    let main = Loop::start();
    let from = full(&main);
    form.ask(&from);
    let (file, uri) = file();
    from.migrate(&uri).expect("it begins");
    assert_eq!(from.end(), "completed");
    // The migration wrote through a descriptor of its own.
    let mut bytes = vec![0; file.metadata().expect("its length").len() as usize];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).expect("it can be read");
    bytes
}

/// Has a machine read bytes; whether it took them for a machine.
///
/// # Panics
/// If nothing comes of it, or it is neither here nor still awaited.
pub fn load(form: Form, bytes: &[u8]) -> bool {
    let main = Loop::start();
    let to = Rig::new(&main, "fake");
    form.ask(&to);
    let (mut file, uri) = file();
    file.write_all(bytes).expect("memory for it");
    to.expect(&uri).expect("it begins");
    let end = to.end();
    assert_eq!(to.machine.run_state_now() == RunState::Inmigrate, end == "failed");
    end == "completed"
}

//! Objects that entropy comes from: `rng-random` (a file of the host, usually a device) and `rng-builtin` (the host kernel).
//!
//! Left out: `rng-egd`.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use qapi::{Error, Result};
use qom::{ObjectCore, ObjectRef, Property, Registry, TypeInfo, UserCreatable, object};

use crate::virtio::unpoisoned;

/// What a source had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing now; its file becomes readable.
    NotNow,
    /// Nothing, and nobody says when there will be: the end of a file, or an error.
    Ended,
}

/// A source of entropy. It never blocks.
pub(crate) trait RngBackend: Send + Sync {
    /// Takes bytes into the start of `buf`, which is not empty.
    fn fill(&self, buf: &mut [u8]) -> Fill;

    /// The file to wait for after [`Fill::NotNow`].
    fn file(&self) -> Option<&File>;
}

const DEFAULT_FILE: &str = "/dev/urandom";

/// Bytes that `rng-builtin` takes of the kernel at a time. The kernel never runs out of them, so that those which nobody asks for are no
/// loss; of a file that the user names, nothing is read ahead.
const AHEAD: usize = 1 << 10;

/// Bytes read ahead.
pub(super) struct Pool {
    pub(super) bytes: [u8; AHEAD],
    /// Those that nobody has yet.
    pub(super) left: Range<usize>,
}

impl Pool {
    pub(super) const EMPTY: Self = Self { bytes: [0; AHEAD], left: 0..0 };

    /// Gives some to `buf`, which then are nowhere else.
    pub(super) fn take(&mut self, buf: &mut [u8]) -> usize {
        let count = buf.len().min(self.left.len());
        let given = &mut self.bytes[self.left.start..self.left.start + count];
        buf[..count].copy_from_slice(given);
        given.fill(0);
        self.left.start += count;
        count
    }
}

/// Either class; they differ in whether the user names the file.
struct RngFile {
    core: ObjectCore,
    path: Mutex<String>,
    file: OnceLock<File>,
    /// Of `rng-builtin`.
    pool: Option<Mutex<Pool>>,
}
object!(RngFile, core);

impl RngFile {
    fn new(core: ObjectCore, reads_ahead: bool) -> Arc<Self> {
        let pool = reads_ahead.then_some(Mutex::new(Pool::EMPTY));
        Arc::new(Self { core, path: Mutex::new(DEFAULT_FILE.into()), file: OnceLock::new(), pool })
    }

    fn pool(&self) -> Option<MutexGuard<'_, Pool>> {
        self.pool.as_ref().map(unpoisoned)
    }

    fn read(&self, buf: &mut [u8]) -> Fill {
        let Some(mut file) = self.file.get() else { return Fill::Ended };
        loop {
            return match file.read(buf) {
                Ok(0) => Fill::Ended,
                Ok(count) => Fill::Bytes(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => Fill::NotNow,
                Err(_) => Fill::Ended,
            };
        }
    }
}

impl UserCreatable for RngFile {
    fn complete(&self) -> Result<()> {
        let path = unpoisoned(&self.path).clone();
        // A reader that waits would wait with the machine.
        let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&path).map_err(|error| {
            let reason = qapi::strerror(&error);
            Error::generic(format!("Could not open '{path}': {reason}"))
        })?;
        self.file.get_or_init(|| file);
        Ok(())
    }
}

impl RngBackend for RngFile {
    fn fill(&self, buf: &mut [u8]) -> Fill {
        let Some(mut pool) = self.pool().filter(|_| buf.len() < AHEAD) else { return self.read(buf) };
        if pool.left.len() < buf.len() {
            match self.read(&mut pool.bytes) {
                Fill::Bytes(count) => pool.left = 0..count,
                other => return other,
            }
        }
        Fill::Bytes(pool.take(buf))
    }

    fn file(&self) -> Option<&File> {
        self.file.get()
    }
}

/// The source behind an object, if it is one.
pub(crate) fn from_object(object: &ObjectRef) -> Option<Arc<dyn RngBackend>> {
    qom::cast(object)
}

/// Registers the classes.
pub(super) fn register(registry: &mut Registry) {
    registry.register(TypeInfo::new("rng-backend").interface("user-creatable"));
    let class = |name, reads_ahead| {
        TypeInfo::new(name)
            .parent("rng-backend")
            .instance(move |class| RngFile::new(ObjectCore::new(class), reads_ahead))
            .cast::<RngFile, dyn UserCreatable>(|rng| rng)
            .cast::<RngFile, dyn RngBackend>(|rng| rng)
    };
    registry.register(class("rng-builtin", true));
    registry.register(
        class("rng-random", false).property(
            Property::new("filename", "string")
                .get(|rng: &RngFile| Ok(unpoisoned(&rng.path).clone().into()))
                .set(|rng: &RngFile, value, name| {
                    let value = value.to_str(name)?.to_owned();
                    if rng.file.get().is_some() {
                        return Err(Error::generic(format!("Property '{name}' can no longer be set")));
                    }
                    *unpoisoned(&rng.path) = value;
                    Ok(())
                }),
        ),
    );
}

//! Files that are loaded: kernels and initial RAM disks. What they say of themselves is not trusted.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use qapi::{Error, Result};

use super::ram::Ram;

/// Bytes that can be loaded.
pub(super) trait Image {
    /// All there are.
    fn len(&self) -> u64;

    /// Those from `at` on into all of `out`.
    ///
    /// # Errors
    /// There are fewer.
    fn read(&self, at: u64, out: &mut [u8]) -> Result<()>;

    /// `len` of them into the guest's memory.
    ///
    /// # Errors
    /// There are fewer, or there is no RAM.
    fn load(&self, at: u64, len: u64, ram: &Ram, address: u64) -> Result<()>;

    /// Says why it cannot be loaded.
    fn bad(&self, why: &str) -> Error;
}

impl Image for &[u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn read(&self, at: u64, out: &mut [u8]) -> Result<()> {
        out.copy_from_slice(part(self, at, out.len() as u64).ok_or_else(|| self.bad("it is cut off"))?);
        Ok(())
    }

    fn load(&self, at: u64, len: u64, ram: &Ram, address: u64) -> Result<()> {
        ram.write(address, part(self, at, len).ok_or_else(|| self.bad("it is cut off"))?)
    }

    fn bad(&self, why: &str) -> Error {
        Error::generic(format!("the guest program cannot be loaded: {why}"))
    }
}

fn part(data: &[u8], at: u64, len: u64) -> Option<&[u8]> {
    let (at, len) = (usize::try_from(at).ok()?, usize::try_from(len).ok()?);
    data.get(at..at.checked_add(len)?)
}

/// An open file.
pub(super) struct ImageFile {
    file: File,
    path: String,
    len: u64,
    kernel: bool,
}

impl ImageFile {
    /// Opens a kernel.
    ///
    /// # Errors
    /// `could not open kernel file 'x': …`, or it is a directory or the like.
    pub(super) fn kernel(path: &str) -> Result<Self> {
        let failed = |e: &dyn std::fmt::Display| format!("could not open kernel file '{path}': {e}");
        let file = File::open(path).map_err(|e| Error::generic(failed(&qapi::strerror(&e))))?;
        let known = file.metadata().map_err(|e| Error::generic(failed(&qapi::strerror(&e))))?;
        let image = Self { file, path: path.to_owned(), len: known.len(), kernel: true };
        if known.is_dir() {
            return Err(image.bad("Is a directory"));
        }
        if !known.is_file() {
            return Err(image.bad("it is no regular file"));
        }
        Ok(image)
    }

    /// Opens an initial RAM disk.
    ///
    /// # Errors
    /// `error reading initrd x: …`.
    pub(super) fn initrd(path: &str) -> Result<Self> {
        let failed = |what: &str, e: &std::io::Error| {
            Error::generic(format!("error reading initrd {path}: {what}: {}", qapi::strerror(e)))
        };
        let open = format!("Failed to open file “{path}”: open() failed");
        let file = File::open(path).map_err(|e| failed(&open, &e))?;
        let known = file.metadata().map_err(|e| failed(&open, &e))?;
        if !known.is_file() {
            // A directory cannot be mapped, which is what QEMU does with it.
            let map = format!("Failed to map {path}' {path}': mmap() failed");
            return Err(failed(&map, &std::io::Error::from_raw_os_error(libc::ENODEV)));
        }
        Ok(Self { file, path: path.to_owned(), len: known.len(), kernel: false })
    }

    /// Another descriptor of it.
    ///
    /// # Errors
    /// There are too many.
    pub(super) fn handle(&self) -> Result<File> {
        self.file.try_clone().map_err(|e| self.failed(&e))
    }

    fn failed(&self, error: &std::io::Error) -> Error {
        if error.kind() == ErrorKind::UnexpectedEof {
            return self.bad("it is cut off");
        }
        self.bad(&qapi::strerror(error))
    }
}

impl Image for ImageFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, at: u64, out: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(out, at).map_err(|e| self.failed(&e))
    }

    fn load(&self, at: u64, len: u64, ram: &Ram, address: u64) -> Result<()> {
        (&self.file).seek(SeekFrom::Start(at)).map_err(|e| self.failed(&e))?;
        if ram.fill(address, &self.file, len).is_some() {
            return Ok(());
        }
        // The file, or the place?
        let end = at.saturating_add(len).saturating_sub(1);
        (&self.file).seek(SeekFrom::Start(end)).map_err(|e| self.failed(&e))?;
        (&self.file).read_exact(&mut [0]).map_err(|e| self.failed(&e))?;
        Err(self.bad(&format!("there is no RAM for {len} bytes at {address:#x}")))
    }

    fn bad(&self, why: &str) -> Error {
        let path = &self.path;
        Error::generic(if self.kernel {
            format!("could not load kernel '{path}': {why}")
        } else {
            format!("error reading initrd {path}: {why}")
        })
    }
}

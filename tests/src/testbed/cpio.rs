//! Archives for initial file systems: cpio's "new ASCII" format (`newc`), of which Linux says what it is in
//! `Documentation/driver-api/early-userspace/buffer-format.rst`.

use std::collections::BTreeSet;
use std::path::Path;
use std::{fs, io};

const DIRECTORY: u32 = 0o040_755;
const CHARACTER_DEVICE: u32 = 0o020_600;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_777;

/// An archive in the making; folders above a name come by themselves.
///
/// ```
/// let mut archive = tests::testbed::cpio::Archive::new();
/// archive.file("etc/motd", 0o644, b"hello\n");
/// assert_eq!(archive.finish().len() % 512, 0);
/// ```
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
    names: BTreeSet<String>,
}

impl Archive {
    /// Nothing in it yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the name is there already.
    pub fn has(&self, name: &str) -> bool {
        self.names.contains(name.trim_start_matches('/'))
    }

    /// A regular file with its permission bits; a name that is there already keeps what it has.
    pub fn file(&mut self, name: &str, permissions: u32, data: &[u8]) {
        self.entry(name, FILE | permissions, (0, 0), data);
    }

    /// A file of this machine, with its permission bits, under another name.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn copy(&mut self, name: &str, from: &Path) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let permissions = fs::metadata(from)?.permissions().mode() & 0o777;
        self.file(name, permissions, &fs::read(from)?);
        Ok(())
    }

    /// An empty folder.
    pub fn folder(&mut self, name: &str) {
        self.entry(name, DIRECTORY, (0, 0), &[]);
    }

    /// A symbolic link.
    pub fn link(&mut self, name: &str, target: &str) {
        self.entry(name, LINK, (0, 0), target.as_bytes());
    }

    /// A character device.
    pub fn character_device(&mut self, name: &str, major: u32, minor: u32) {
        self.entry(name, CHARACTER_DEVICE, (major, minor), &[]);
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.header("TRAILER!!!", 0, 0, (0, 0), 0);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) {
        let name = name.trim_start_matches('/');
        if !self.names.insert(name.to_owned()) {
            return;
        }
        if let Some((folder, _)) = name.rsplit_once('/') {
            self.folder(folder);
        }
        self.inode += 1;
        self.header(name, self.inode, mode, device, data.len());
        self.bytes.extend_from_slice(data);
        self.align();
    }

    /// A header of hexadecimal numbers and the name after it.
    fn header(&mut self, name: &str, inode: u32, mode: u32, device: (u32, u32), size: usize) {
        let size = u32::try_from(size).expect("files of this format are below 4 GiB");
        let name_size = name.len() as u32 + 1;
        // inode, mode, uid, gid, links, time, size, device, special device, name, checksum (unused).
        let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests;

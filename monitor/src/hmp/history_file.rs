//! The file in which lines entered on the program's own terminal outlive the program.
//!
//! One line each, oldest first, readable by its owner alone. Programs that run at the same time append to the same file: whoever
//! writes holds its lock for that moment, and a file that has grown too long is replaced by its end. Nobody waits for a
//! lock on the loop: what cannot be written now goes with the next line, and of a great many such lines the last. That there is no
//! file (no home, a full disk, something that is no plain file in its place) costs the memory, not the console.
//!
//! A line that begins with a blank is not written, as shells have it.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Lines that are read, and left of a file that is too long.
pub(crate) const MAX_LINES: usize = 1000;
/// Length in bytes beyond which a file is too long.
const MAX_BYTES: u64 = 256 << 10;
/// Bytes of a file that is too long that are left, so that it is not soon too long again; as many may be pending.
const KEPT_BYTES: usize = 128 << 10;
/// Longest line: what the editor takes.
const MAX_LINE: usize = 4095;

/// The file, by its name: others may replace it at any time.
#[derive(Debug)]
pub(crate) struct HistoryFile {
    path: PathBuf,
    /// Lines that could not be written because somebody else was writing.
    pending: Vec<u8>,
}

impl HistoryFile {
    /// Opens or makes the file and gives the lines in it; nothing if there can be none.
    pub(crate) fn open(path: &Path) -> (Option<Self>, Vec<Vec<u8>>) {
        let folder = path.parent().unwrap_or(Path::new("/"));
        let mut builder = DirBuilder::new();
        // A failure shows when the file is opened.
        let _ = builder.recursive(true).mode(0o700).create(folder);
        match open(path).and_then(|mut file| read(&mut file)) {
            Ok(lines) => (Some(Self { path: path.to_owned(), pending: Vec::new() }), lines),
            Err(_) => (None, Vec::new()),
        }
    }

    /// Writes a line behind the others.
    pub(crate) fn append(&mut self, line: &str) {
        if line.is_empty() || line.starts_with(' ') || !is_line(line.as_bytes()) {
            return;
        }
        self.pending.extend_from_slice(line.as_bytes());
        self.pending.push(b'\n');
        if let Some(excess) = self.pending.len().checked_sub(KEPT_BYTES) {
            let ends = self.pending[excess..].iter().position(|b| *b == b'\n');
            self.pending.drain(..ends.map_or(self.pending.len(), |end| excess + end + 1));
        }
        self.flush();
    }

    /// Writes what is pending, unless somebody else is writing.
    fn flush(&mut self) {
        match self.write() {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            // Written, or it never will be.
            _ => self.pending.clear(),
        }
    }

    /// Writes what is pending.
    fn write(&self) -> io::Result<()> {
        let mut file = self.locked()?;
        let length = file.metadata()?.len();
        if length + self.pending.len() as u64 >= MAX_BYTES {
            return self.replace(&mut file);
        }
        let mut last = *b"\n";
        if length > 0 {
            file.read_exact_at(&mut last, length - 1)?;
        }
        // What a program that was killed left half-way stays a line of its own.
        let text =
            if last == *b"\n" { self.pending.clone() } else { [b"\n", self.pending.as_slice()].concat() };
        file.write_all(&text)
    }

    /// The file that has the name now, locked.
    fn locked(&self) -> io::Result<File> {
        // It may be replaced between the two steps, but not time and again.
        for _ in 0..4 {
            let file = open(&self.path)?;
            file.try_lock().map_err(io::Error::from)?;
            let (ours, named) = (file.metadata()?, fs::metadata(&self.path)?);
            if (ours.dev(), ours.ino()) == (named.dev(), named.ino()) {
                return Ok(file);
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Puts the end of a locked file, and what is to be added, in its place.
    fn replace(&self, file: &mut File) -> io::Result<()> {
        let lines = read(file)?;
        // The name is where a link leads, so that a link stays one.
        let path = fs::canonicalize(&self.path)?;
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let mut room = KEPT_BYTES;
        let kept = lines.iter().rev().take_while(|line| {
            room = room.saturating_sub(line.len() + 1);
            room > 0
        });
        let kept = kept.count();
        let mut text: Vec<u8> =
            lines[lines.len() - kept..].iter().flat_map(|l| [l, &b"\n"[..]].concat()).collect();
        text.extend_from_slice(&self.pending);
        let written = File::create_new(&temporary).and_then(|mut new| {
            new.set_permissions(Permissions::from_mode(0o600))?;
            new.write_all(&text)
        });
        let done = written.and_then(|()| fs::rename(&temporary, &path));
        if done.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        done
    }
}

impl Drop for HistoryFile {
    fn drop(&mut self) {
        if !self.pending.is_empty() {
            // The last chance; see `append`.
            let _ = self.write();
        }
    }
}

/// A plain file that nobody else may read.
fn open(path: &Path) -> io::Result<File> {
    // A pipe in its place must not hold us up.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let file =
        OpenOptions::new().read(true).append(true).create(true).mode(0o600).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    if metadata.mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

/// The last lines of the file, without what no console has written.
fn read(file: &mut File) -> io::Result<Vec<Vec<u8>>> {
    let length = file.metadata()?.len();
    // Somebody may have put more there: only its end is looked at.
    let start = length.saturating_sub(2 * MAX_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut text = Vec::new();
    (&*file).take(2 * MAX_BYTES).read_to_end(&mut text)?;
    let mut lines: Vec<&[u8]> = text.split(|b| *b == b'\n').collect();
    if start > 0 {
        lines.remove(0);
    }
    lines.retain(|line| is_line(line));
    let skipped = lines.len().saturating_sub(MAX_LINES);
    Ok(lines[skipped..].iter().map(|line| line.to_vec()).collect())
}

/// Whether the editor can hold this line: it would also be printed.
fn is_line(line: &[u8]) -> bool {
    (1..=MAX_LINE).contains(&line.len())
        && std::str::from_utf8(line).is_ok_and(|text| !text.contains(char::is_control))
}

#[cfg(test)]
mod tests;

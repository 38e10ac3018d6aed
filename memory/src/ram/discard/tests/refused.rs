//! What cannot be discarded, with the texts of QEMU 10.0.2 where a user can get there.

use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use tracing::span;

use super::*;

const LEN: u64 = 1 << 20;

#[test]
fn ranges_are_checked_and_nothing_is_lost_when_they_are_refused() {
    let list = RamList::default();
    for backing in [Backing::Anonymous, memfd(LEN, true), memfd(LEN, false)] {
        let block = create(&list, LEN, backing);
        block.write(0, &vec![7; LEN as usize]).unwrap();
        let refused = [(1, 4096), (0, 1), (512, 512), (LEN, 4096), (0, LEN + 4096), (LEN - 4096, 8192)];
        let overflowing =
            [(u64::MAX - 4095, 4096), (4096, u64::MAX - 4095), (u64::MAX - 4095, u64::MAX - 4095)];
        for (offset, len) in refused.into_iter().chain(overflowing) {
            assert!(block.discard(offset, len).is_err(), "{offset:#x}+{len:#x}");
        }
        block.discard(0, 0).unwrap();
        block.discard(LEN, 0).unwrap();
        let mut bytes = vec![0; LEN as usize];
        block.read(0, &mut bytes).unwrap();
        assert!(bytes.iter().all(|&b| b == 7));
    }
}

#[test]
fn a_readonly_file_is_refused_with_the_texts_of_the_oracle() {
    let list = RamList::default();
    let named = tempfile::NamedTempFile::new().unwrap();
    named.as_file().write_all_at(&vec![7; LEN as usize], 0).unwrap();
    let file = File::open(named.path()).unwrap();
    let backing = Backing::File(FileBacking { file, offset: 0, shared: false, readonly_fd: true });
    let error = create(&list, LEN, backing).discard(0, LEN).unwrap_err();
    assert_eq!(
        error.to_string(),
        "ram_block_discard_range: Discarding RAM with readonly files is not supported"
    );
    assert_eq!(error.reason(), "Operation not permitted");
}

/// A file system that cannot punch holes, while it is mounted.
struct RamFs(PathBuf);

impl RamFs {
    fn mount(dir: PathBuf) -> Result<Self, String> {
        let mount = Command::new("mount").args(["-t", "ramfs", "none"]).arg(&dir).output();
        match mount {
            Ok(output) if output.status.success() => Ok(Self(dir)),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Drop for RamFs {
    fn drop(&mut self) {
        assert!(Command::new("umount").arg(&self.0).status().unwrap().success());
    }
}

#[test]
fn a_file_system_without_holes_is_an_error_and_keeps_the_content() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = match RamFs::mount(dir.path().to_owned()) {
        Ok(mounted) => mounted,
        Err(reason) => {
            eprintln!("SKIPPED: mounting a ramfs: {reason}");
            return;
        }
    };
    let list = RamList::default();
    for (shared, name) in [(true, ""), (false, "0000:00:02.0/mem0")] {
        let path = dir.path().join(format!("shared-{shared}"));
        let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
        file.set_len(LEN + 8192).unwrap();
        let backing = Backing::File(FileBacking { file, offset: 8192, shared, readonly_fd: false });
        let block = create(&list, LEN, backing);
        block.set_name(name);
        block.write(0, &[7; 4096]).unwrap();
        let error = block.discard(0x1000, 0x2000).unwrap_err();
        // Observed, with an offset of 0 and a device that is not there yet: `:0+0 +4000000 (-95)`.
        let expected = format!("ram_block_discard_range: Failed to fallocate {name}:1000+2000 +2000 (-95)");
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.reason(), "Operation not supported");
        assert!(block.discard(0, 4096).is_err());
        let mut bytes = [0; 4096];
        block.read(0, &mut bytes).unwrap();
        assert_eq!(bytes, [7; 4096]);
    }
    drop(list);
    drop(mounted);
}

#[test]
fn a_file_that_refuses_the_hole_is_an_error_also_behind_a_private_mapping() {
    let list = RamList::default();
    // Sealed against writing, which making a hole is.
    let fd = rustix::fs::memfd_create("t", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&fd, LEN).unwrap();
    rustix::fs::fcntl_add_seals(&fd, rustix::fs::SealFlags::WRITE).unwrap();
    let block = create(&list, LEN, mapped(File::from(fd), false));
    block.write(0, &[7; 4096]).unwrap();
    let error = block.discard(0, 4096).unwrap_err();
    assert_eq!(error.to_string(), "ram_block_discard_range: Failed to fallocate mem0:0+0 +1000 (-1)");
    assert_eq!(error.reason(), "Operation not permitted");
    let mut bytes = [0; 4096];
    block.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [7; 4096], "the copy is not dropped when the hole was refused");
}

/// Counts warnings.
struct Warnings(&'static AtomicU32);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[test]
fn holes_in_the_file_behind_a_private_mapping_are_warned_about_once() {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let list = RamList::default();
    tracing::subscriber::with_default(Warnings(&COUNT), || {
        create(&list, LEN, memfd(LEN, true)).discard(0, LEN).unwrap();
        create(&list, LEN, Backing::Anonymous).discard(0, LEN).unwrap();
        assert_eq!(COUNT.load(Ordering::Relaxed), 0);
        for backing in [memfd(LEN, false), file(LEN, false)] {
            let block = create(&list, LEN, backing);
            block.discard(0, LEN).unwrap();
            block.discard(0, 4096).unwrap();
        }
    });
    assert_eq!(COUNT.load(Ordering::Relaxed), 1, "one process, one warning");
}

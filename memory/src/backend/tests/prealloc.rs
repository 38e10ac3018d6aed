//! `prealloc=on`: all pages are there before the object is, or an error in QEMU's words and nothing is.

use std::path::Path;
use std::process::Command;

use super::*;

/// A file system of so many bytes, while it is mounted.
struct SmallTmpFs<'a>(&'a Path);

impl<'a> SmallTmpFs<'a> {
    fn mount(dir: &'a Path, size: &str) -> std::result::Result<Self, String> {
        let options = format!("size={size}");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(dir).output();
        match mount {
            Ok(output) if output.status.success() => Ok(Self(dir)),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Drop for SmallTmpFs<'_> {
    fn drop(&mut self) {
        assert!(Command::new("umount").arg(self.0).status().unwrap().success());
    }
}

/// Pages of 4 KiB that are mapped.
fn present(block: &RamBlock) -> u64 {
    use std::os::unix::fs::FileExt as _;
    let mut entries = vec![0; (block.size() / 4096 * 8) as usize];
    let pagemap = std::fs::File::open("/proc/self/pagemap").unwrap();
    pagemap.read_exact_at(&mut entries, block.host_address() as u64 / 4096 * 8).unwrap();
    entries.chunks_exact(8).filter(|entry| entry[7] & 0x80 != 0).count() as u64
}

#[test]
fn all_pages_are_there_however_many_threads_allocate_them() {
    let vm = vm();
    let dir = tempfile::tempdir().unwrap();
    let file = format!(",mem-path={}", dir.path().display());
    for (kind, options) in
        [("ram", ""), ("ram", ",share=on"), ("memfd", ""), ("memfd", ",share=off"), ("file", &file)]
    {
        // More threads than pages, one that does not divide them, one.
        for threads in ["1", "3", "16"] {
            let options = format!("size=44K,prealloc=on,prealloc-threads={threads}{options}");
            let object = vm.add(kind, &options).unwrap();
            let block = MemoryBackend::from_object(&object).unwrap().block().unwrap();
            assert_eq!(present(&block), 11, "{kind},{options}");
            vm.tree.delete_user_object("mem0").unwrap();
        }
    }
}

#[test]
fn a_host_that_runs_out_is_an_error_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let _small = match SmallTmpFs::mount(dir.path(), "1M") {
        Ok(small) => small,
        Err(reason) => {
            eprintln!("SKIPPED: mounting a tmpfs: {reason}");
            return;
        }
    };
    let vm = vm();
    // Without a name in the folder, so that what was allocated goes with the object.
    let path = dir.path().display();
    for options in ["share=on", "share=off", "share=on,prealloc-threads=4"] {
        // Observed with a file on such a file system.
        let text = "qemu_prealloc_mem: preallocating memory failed: Bad address";
        let options = format!("size=4M,mem-path={path},{options}");
        assert_eq!(vm.error("file", &format!("{options},prealloc=on")), text, "{options}");
        assert!(vm.memory.ram_blocks().is_empty(), "{options}");
        assert!(vm.tree.absolute("/objects/mem0").is_none(), "{options}");
        let used = rustix::fs::statvfs(dir.path()).unwrap();
        assert_eq!(used.f_bfree, used.f_blocks, "{options}: the file system is empty again");

        let late = vm.add("file", &options).unwrap();
        let error = late.set("prealloc", Input::Text("on")).unwrap_err();
        assert_eq!(error.desc(), text, "{options}, later");
        assert_eq!(late.get("prealloc").unwrap(), Value::Bool(false), "{options}, later");
        drop(late);
        vm.tree.delete_user_object("mem0").unwrap();
    }
    let fits = vm.add("file", &format!("size=1M,mem-path={path},prealloc=on")).unwrap();
    assert_eq!(present(&MemoryBackend::from_object(&fits).unwrap().block().unwrap()), 256);
}

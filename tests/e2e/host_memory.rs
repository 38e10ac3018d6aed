//! What happens when the host has less memory than was promised: errors in QEMU's words at the start, BUSY for the guest later.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::pci::Function;
use tests::virtio_mem::{IDS, Kind, VirtioMem};
use tests::{Need, Vm, VmBuilder, have, program};

/// A program that has so much address space, and then is the one under test.
fn with_address_space(vm: VmBuilder, kib: u64) -> VmBuilder {
    let script = vm.scratch().join("limited");
    let (name, program) = (program::ARGV0, program::path());
    let text = format!("#!/bin/bash\nulimit -v {kib}\nexec -a {name} {} \"$@\"\n", program.display());
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    vm.program(&script)
}

#[test]
fn memory_that_cannot_be_mapped_is_refused_in_qemus_words() {
    let file = "unable to map backing store for guest RAM: Cannot allocate memory";
    let anonymous = "cannot set up guest memory 'mem0': Cannot allocate memory";
    for (object, text) in [
        ("memory-backend-ram,id=mem0,size=64G", anonymous),
        ("memory-backend-ram,id=mem0,size=64G,share=on", anonymous),
        ("memory-backend-ram,id=mem0,size=64G,prealloc=on", anonymous),
        ("memory-backend-memfd,id=mem0,size=64G", file),
        ("memory-backend-file,id=mem0,size=64G,mem-path=$RUN/mem", file),
    ] {
        let vm = with_address_space(Vm::new(), 8 << 20).line("-machine pc -m 64M").args(["-object", object]);
        let exited = vm.run();
        let stderr = exited.stderr.replace("qemu-system-x86_64: ", "");
        assert_eq!((exited.code, stderr.trim_end()), (Some(1), text), "{object}");
    }
}

/// A file system of so many bytes, while it is mounted.
struct SmallTmpFs(PathBuf);

impl SmallTmpFs {
    fn mount(dir: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir(dir).unwrap();
        let options = format!("size={size}");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(dir).output();
        match mount {
            Ok(output) if output.status.success() => Some(Self(dir.to_owned())),
            other => {
                eprintln!("SKIPPED: mounting a tmpfs: {other:?}");
                None
            }
        }
    }

    fn used(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.0).unwrap();
        (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    }
}

impl Drop for SmallTmpFs {
    fn drop(&mut self) {
        assert!(Command::new("umount").arg(&self.0).status().unwrap().success());
    }
}

#[test]
fn a_guest_that_asks_for_more_than_the_host_has_gets_busy_and_nothing_half_plugged() {
    if !have(&[Need::QtestAccel]) {
        return;
    }
    const M: u64 = 1 << 20;
    let folder = tempfile::tempdir().unwrap();
    let Some(small) = SmallTmpFs::mount(&folder.path().join("small"), "16M") else { return };
    let backend = format!("memory-backend-file,id=mem0,size=256M,share=on,mem-path={}", small.0.display());
    let line = format!(
        "-machine pc -m 256M,maxmem=2G -object {backend},prealloc-threads=2 \
         -device virtio-mem-pci,id=vm0,memdev=mem0,prealloc=on,requested-size=256M"
    );
    let mut vm = Vm::new().line(&line).qtest().start();
    let qtest = vm.qtest();
    let function = Function::find(qtest, 0, IDS.0, IDS.1)[0];
    let mut driver = VirtioMem::map(qtest, function, 0);
    assert!(driver.init_usual(qtest));
    let base = driver.config(qtest).addr;
    let block = |number: u64| base + number * 2 * M;
    assert_eq!(driver.request(qtest, Kind::Plug, block(0), 3), "ACK");
    assert_eq!(small.used(), 6 * M, "plugged memory is there at once");
    for _ in 0..3 {
        assert_eq!(driver.request(qtest, Kind::Plug, block(3), 6), "BUSY");
        assert_eq!(driver.request(qtest, Kind::State, block(3), 6), "ACK/UNPLUGGED");
        assert_eq!((driver.config(qtest).plugged_size, small.used()), (6 * M, 6 * M));
    }
    assert_eq!(driver.request(qtest, Kind::Plug, block(3), 5), "ACK", "as much as there is");
    assert_eq!(small.used(), 16 * M);
    assert_eq!(driver.request(qtest, Kind::UnplugAll, 0, 0), "ACK");
    assert_eq!(small.used(), 0);
    let warning =
        "qemu-system-x86_64: warning: qemu_prealloc_mem: preallocating memory failed: Bad address\n";
    assert_eq!(vm.stderr(), warning, "one warning a device");
    drop(vm);
    drop(small);
}

//! libvirt in the outer machine: its daemon with the one driver, its client, and the programs that [`crate::libvirt`] calls, with what they read.

use std::io;
use std::path::Path;

use super::{Archive, missing, program_with_libraries};
use crate::program;

/// Programs that busybox has not, or with other options.
const PROGRAMS: [&str; 7] = ["libvirtd", "virsh", "unshare", "nsenter", "bash", "stdbuf", "tail"];

/// What they load and run beside their libraries, where Debian has it.
const PARTS: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so",
    "/usr/lib/libvirt/libvirt_iohelper",
    "/usr/libexec/coreutils/libstdbuf.so",
];

/// The processors that libvirt knows.
const CPU_MAP: &str = "/usr/share/libvirt/cpu_map";

/// The driver asks for users that its files could belong to, though here all is root's.
const FILES: [(&str, &str); 3] = [
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nlibvirt-qemu:x:64055:64055::/:/bin/false\n"),
    ("etc/group", "root:x:0:\nkvm:x:104:\nlibvirt-qemu:x:64055:\n"),
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
];

/// Adds all of it. What busybox has by the same name comes later.
pub(super) fn add(archive: &mut Archive) -> io::Result<()> {
    for name in PROGRAMS {
        let from = program::in_path(name).ok_or_else(|| missing(name))?;
        program_with_libraries(archive, &format!("bin/{name}"), &from)?;
    }
    for part in PARTS {
        program_with_libraries(archive, part, Path::new(part))?;
    }
    for file in std::fs::read_dir(CPU_MAP)? {
        let file = file?.path();
        archive.copy(&file.to_string_lossy(), &file)?;
    }
    for (name, text) in FILES {
        archive.file(name, 0o644, text.as_bytes());
    }
    Ok(())
}

//! What the testbed boots: Debian's kernels, an initial file system for inner guests (busybox and the modules they need) and one for the outer machine
//! (KVM's modules, this program, the VMM under test and QEMU with their libraries, and everything of the inner guests).
//!
//! The packages are those that `tests/install-peers` unpacked; nothing is installed. Modules go in by their own lists of what they depend on.

mod libvirt;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

use super::cpio::Archive;
use crate::program;

/// The lines of kernels that inner guests boot: those that Debian makes for clouds.
pub const KERNELS: [&str; 2] = ["6.12", "6.1"];

/// The one for any hardware, with drivers that those are without; it takes longer to boot.
pub const FULL_KERNEL: &str = "6.12-amd64";

/// The one that the outer machine boots: its modules are not compressed.
const OUTER_KERNEL: &str = "6.1";

/// Where the outer machine has the files of inner guests.
pub const INSIDE: &str = "/testbed";

/// Modules of inner guests. What is not a module of a kernel is part of it.
const INNER_MODULES: [&str; 16] = [
    "virtio_pci",
    "virtio_mmio",
    "virtio_mem",
    "virtio_net",
    "virtio_balloon",
    "virtio_console",
    "virtio-rng",
    "virtio_pmem",
    "pvpanic-mmio",
    "button",
    "evdev",
    // What systems insert for the chips of `q35` and `pc`.
    "i2c-i801",
    "i2c-piix4",
    "ahci",
    "ata_piix",
    "psmouse",
];
/// Those that only a scenario inserts.
const INNER_LATER: [&str; 5] = ["nd_pmem", "pvpanic-pci", "qemu_fw_cfg", "lpc_ich", "iTCO_wdt"];
/// What makes a guest a host, where the outer machine emulates SVM.
const INNER_NESTED: [&str; 1] = ["kvm-amd"];
/// SVM is what QEMU emulates; guests have cards on interfaces of the outer machine.
const OUTER_MODULES: [&str; 2] = ["kvm-amd", "tun"];

/// Firmware and option ROMs that QEMU's machines ask for.
const QEMU_DATA: [&str; 9] = [
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/seabios/bios.bin",
    "/usr/share/seabios/bios-microvm.bin",
    "/usr/share/qemu/bios-microvm.bin",
    "/usr/share/qemu/qboot.rom",
    "/usr/share/qemu/kvmvapic.bin",
    "/usr/share/qemu/linuxboot_dma.bin",
    "/usr/share/qemu/linuxboot.bin",
    "/usr/share/qemu/pvh.bin",
];

/// A folder with `KERNEL/vmlinuz` and `KERNEL/initrd` of each line of kernels, and one with what earlier runs learned.
#[derive(Debug, Clone)]
pub struct Images {
    folder: PathBuf,
    kept: PathBuf,
    loud: bool,
}

impl Images {
    /// Those that are in a folder already, with `kept` in it.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        let folder = folder.into();
        Self { kept: folder.join("kept"), folder, loud: false }
    }

    /// Makes them of the unpacked packages, in a folder; what runs learn stays with the packages.
    ///
    /// # Errors
    ///
    /// A package is missing (run `tests/install-peers`), or a file cannot be read or written.
    pub fn make(folder: &Path) -> io::Result<Self> {
        for line in lines() {
            let kernel = Kernel::find(line)?;
            let into = folder.join(line);
            fs::create_dir_all(&into)?;
            fs::copy(&kernel.image, into.join("vmlinuz"))?;
            fs::write(into.join("initrd"), inner_initrd(&kernel)?)?;
            fs::write(into.join("release"), &kernel.release)?;
        }
        let kept = packages().join("kept");
        fs::create_dir_all(&kept)?;
        Ok(Self { folder: folder.to_owned(), kept, loud: false })
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Kernels print what they do on their consoles while they boot, for machines that do not reach user space.
    #[must_use]
    pub fn loud(self) -> Self {
        Self { loud: true, ..self }
    }

    /// Whether they do.
    pub fn is_loud(&self) -> bool {
        self.loud
    }

    /// A kernel's image.
    pub fn kernel(&self, line: &str) -> PathBuf {
        self.folder.join(line).join("vmlinuz")
    }

    /// The initial file system that goes with it.
    pub fn initrd(&self, line: &str) -> PathBuf {
        self.folder.join(line).join("initrd")
    }

    /// What an earlier run learned of a boot that does not change while kernel and QEMU stay: its file's name, and the text if it is there.
    pub fn kept(&self, line: &str, what: &str) -> (String, Option<String>) {
        let release = fs::read_to_string(self.folder.join(line).join("release")).unwrap_or_default();
        let name = format!("{release}-{what}");
        let text = fs::read_to_string(self.kept.join(&name)).ok();
        (name, text)
    }

    /// Keeps it for the next run.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn keep(&self, name: &str, text: &str) -> io::Result<()> {
        // A name comes from inside the outer machine: its last component alone counts.
        let name = Path::new(name).file_name().ok_or(io::ErrorKind::InvalidInput)?;
        fs::create_dir_all(&self.kept)?;
        fs::write(self.kept.join(name), text)
    }

    /// The initial file system of the outer machine, which runs this program after it has inserted KVM's modules.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or a program's libraries are not there.
    pub fn outer_initrd(&self, vmm: &Path) -> io::Result<Vec<u8>> {
        let kernel = Kernel::find(OUTER_KERNEL)?;
        let mut archive = Archive::new();
        libvirt::add(&mut archive)?;
        busybox(&mut archive)?;
        archive.file("init", 0o755, include_bytes!("../../testbed/outer-init"));
        modules(&mut archive, &kernel, &OUTER_MODULES, "modules")?;
        let own = env::current_exe()?;
        let qemu = program::qemu().ok_or_else(|| missing("qemu-system-x86_64"))?;
        for (name, from) in
            [("bin/testbed", own.as_path()), ("bin/vmm", vmm), ("bin/qemu-system-x86_64", &qemu)]
        {
            program_with_libraries(&mut archive, name, from)?;
        }
        if program_is_qemu(vmm) {
            archive.link("testbed/vmm/qemu-system-x86_64", "/bin/vmm");
        } else {
            archive.link("testbed/vmm/pliant", "/bin/vmm");
        }
        for file in QEMU_DATA.map(Path::new).into_iter().filter(|file| file.exists()) {
            archive.copy(&file.to_string_lossy(), file)?;
        }
        for line in lines() {
            for name in ["vmlinuz", "initrd", "release"] {
                archive.copy(&format!("{INSIDE}/{line}/{name}"), &self.folder.join(line).join(name))?;
            }
        }
        for kept in fs::read_dir(&self.kept)? {
            let kept = kept?;
            archive.copy(&format!("{INSIDE}/kept/{}", kept.file_name().to_string_lossy()), &kept.path())?;
        }
        archive.file(
            &format!("{INSIDE}/vmm/name"),
            0o644,
            if program_is_qemu(vmm) { b"qemu-system-x86_64" } else { b"pliant" },
        );
        Ok(archive.finish())
    }

    /// The kernel of the outer machine.
    ///
    /// # Errors
    ///
    /// Its package is missing.
    pub fn outer_kernel(&self) -> io::Result<PathBuf> {
        Ok(Kernel::find(OUTER_KERNEL)?.image)
    }
}

/// All kernels that inner guests boot.
fn lines() -> impl Iterator<Item = &'static str> {
    KERNELS.into_iter().chain([FULL_KERNEL])
}

/// Whether a program is QEMU, by its name.
pub fn program_is_qemu(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("qemu-system"))
}

/// An unpacked kernel package.
struct Kernel {
    release: String,
    image: PathBuf,
    modules: PathBuf,
}

impl Kernel {
    fn find(line: &str) -> io::Result<Self> {
        let tree = packages().join(format!("linux-{line}"));
        let release = first_in(&tree.join("lib/modules"))?;
        let image = tree.join("boot").join(format!("vmlinuz-{release}"));
        let modules = tree.join("lib/modules").join(&release).join("kernel");
        Ok(Self { release, image, modules })
    }

    /// The file of a module, whichever way it is compressed; `None` if the kernel has it built in.
    fn module(&self, name: &str) -> io::Result<Option<PathBuf>> {
        let mut folders = vec![self.modules.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                } else if module_name(&entry.file_name().to_string_lossy()) == Some(name.replace('-', "_")) {
                    return Ok(Some(entry.path()));
                }
            }
        }
        Ok(None)
    }
}

/// Where `tests/install-peers` unpacks packages to.
pub fn packages() -> PathBuf {
    PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache/pliant-peers/testbed")
}

/// Why the testbed cannot be built here, if so.
pub fn why_not() -> Option<String> {
    let mut needed: Vec<PathBuf> = lines().map(|line| packages().join(format!("linux-{line}"))).collect();
    needed.push(packages().join("busybox"));
    let absent = needed.into_iter().find(|folder| !folder.is_dir());
    absent.map(|folder| format!("no {} (run tests/install-peers)", folder.display()))
}

fn inner_initrd(kernel: &Kernel) -> io::Result<Vec<u8>> {
    let mut archive = Archive::new();
    busybox(&mut archive)?;
    archive.file("init", 0o755, include_bytes!("../../testbed/inner-init"));
    modules(&mut archive, kernel, &INNER_MODULES, "modules")?;
    modules(&mut archive, kernel, &INNER_LATER, "later")?;
    modules(&mut archive, kernel, &INNER_NESTED, "nested")?;
    let stress = env::current_exe()?.with_file_name("stress");
    program_with_libraries(&mut archive, "bin/stress", &stress)?;
    Ok(archive.finish())
}

/// Busybox and a link for each of its commands, the folders that a system has, and the console that the kernel opens for `init`.
fn busybox(archive: &mut Archive) -> io::Result<()> {
    let busybox = packages().join("busybox/bin/busybox");
    archive.copy("bin/busybox", &busybox)?;
    let list = Command::new(&busybox).arg("--list").output()?;
    for command in String::from_utf8_lossy(&list.stdout).lines() {
        archive.link(&format!("bin/{command}"), "busybox");
    }
    archive.link("sbin", "bin");
    for folder in ["proc", "sys", "dev", "tmp", "root"] {
        archive.folder(folder);
    }
    archive.character_device("dev/console", 5, 1);
    Ok(())
}

/// Modules and what they depend on, and `FOLDER/order` with their files in the order in which they go in.
fn modules(archive: &mut Archive, kernel: &Kernel, names: &[&str], folder: &str) -> io::Result<()> {
    let mut order = Vec::new();
    let mut done = BTreeSet::new();
    for name in names {
        insert(archive, kernel, name, folder, &mut done, &mut order)?;
    }
    order.push(String::new());
    archive.file(&format!("{folder}/order"), 0o644, order.join("\n").as_bytes());
    Ok(())
}

fn insert(
    archive: &mut Archive,
    kernel: &Kernel,
    name: &str,
    folder: &str,
    done: &mut BTreeSet<String>,
    order: &mut Vec<String>,
) -> io::Result<()> {
    if !done.insert(name.replace('-', "_")) {
        return Ok(());
    }
    let Some(path) = kernel.module(name)? else { return Ok(()) };
    let bytes = match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => {
            let out = Command::new("xz").arg("-dc").arg(&path).output()?;
            if !out.status.success() {
                return Err(io::Error::other(format!("xz {}: {}", path.display(), out.status)));
            }
            out.stdout
        }
        _ => fs::read(&path)?,
    };
    for needed in depends(&bytes) {
        insert(archive, kernel, &needed, folder, done, order)?;
    }
    let file = format!("{folder}/{}.ko", name.replace('-', "_"));
    archive.file(&file, 0o644, &bytes);
    order.push(format!("/{file}"));
    Ok(())
}

/// `virtio_rng` of `virtio-rng.ko.xz`.
fn module_name(file: &str) -> Option<String> {
    let (name, rest) = file.split_once(".ko")?;
    matches!(rest, "" | ".xz").then(|| name.replace('-', "_"))
}

/// What a module says it depends on, in its `.modinfo` section.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|w| w == KEY) else { return Vec::new() };
    let value = module[at + KEY.len()..].split(|&b| b == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value).into_owned();
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// A program without what only debuggers read, and the libraries that the dynamic linker would load for it.
fn program_with_libraries(archive: &mut Archive, name: &str, from: &Path) -> io::Result<()> {
    let stripped = tempfile::NamedTempFile::new()?;
    let strip = Command::new("strip").arg("-o").arg(stripped.path()).arg(from).output()?;
    if !strip.status.success() {
        return Err(io::Error::other(format!("strip {}: {}", from.display(), strip.status)));
    }
    archive.file(name, 0o755, &fs::read(stripped.path())?);
    let listed = Command::new("ldd").arg(from).output()?;
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        // "libc.so.6 => /lib/libc.so.6 (0x7f...)" and "/lib64/ld-linux-x86-64.so.2 (0x7f...)".
        let words: Vec<&str> = line.split_whitespace().collect();
        let path = match words[..] {
            [library, "=>", "not", "found"] => return Err(missing(library)),
            [_, "=>", path, ..] => path,
            [path, ..] if path.starts_with('/') => path,
            _ => continue,
        };
        archive.copy(path, Path::new(path))?;
    }
    Ok(())
}

fn first_in(folder: &Path) -> io::Result<String> {
    let entry = fs::read_dir(folder)
        .map_err(|e| {
            io::Error::new(e.kind(), format!("{}: {e} (run tests/install-peers)", folder.display()))
        })?
        .next()
        .ok_or_else(|| missing(&folder.to_string_lossy()))??;
    Ok(entry.file_name().to_string_lossy().into_owned())
}

fn missing(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{what} is missing (run tests/install-peers)"))
}

#[cfg(test)]
mod tests;

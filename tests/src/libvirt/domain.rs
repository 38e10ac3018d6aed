//! Domains: one for each kind of machine, as `tests/libvirt/xml` has them.

use std::path::Path;

use crate::program;

/// What libvirt is told about a virtual machine.
#[derive(Debug, Clone)]
pub struct Domain {
    name: String,
    xml: String,
}

impl Domain {
    /// One of that name; in `template` it is `@NAME@`, and the program under test is `@EMULATOR@`.
    pub fn new(name: &str, template: &str) -> Self {
        let emulator = program::path();
        let xml = template
            .replace("@NAME@", name)
            .replace("@EMULATOR@", emulator.to_str().expect("the path is text"));
        Self { name: name.to_owned(), xml }
    }

    /// `q35` with a virtio-mem device, two of four vCPUs and a balloon.
    pub fn q35_vmem() -> Self {
        Self::new("q35vmem", include_str!("../../libvirt/xml/q35-vmem.xml"))
    }

    /// The same on `pc`.
    pub fn pc_vmem() -> Self {
        Self::new("pcvmem", include_str!("../../libvirt/xml/pc-vmem.xml"))
    }

    /// `q35` with the host's processor and a network card.
    pub fn q35_kvm() -> Self {
        Self::new("q35kvm", include_str!("../../libvirt/xml/q35-kvm.xml"))
    }

    /// `microvm`, which has no PCI.
    pub fn microvm() -> Self {
        Self::new("microvm", include_str!("../../libvirt/xml/microvm.xml"))
    }

    /// The same domain for another emulator, beside the first one: with another name and another UUID.
    ///
    /// # Panics
    ///
    /// If the path is no text.
    #[must_use]
    pub fn of_emulator(self, path: &Path, suffix: &str) -> Self {
        let name = format!("{}-{suffix}", self.name);
        let (ours, theirs) = (program::path(), path.to_str().expect("the path is text"));
        let old = format!("<emulator>{}</emulator>", ours.display());
        let other = self.with(&old, &format!("<emulator>{theirs}</emulator>")).with("9a63-0000", "9a63-1000");
        let (before, after) = (format!("<name>{}</name>", other.name), format!("<name>{name}</name>"));
        Self { name, ..other.with(&before, &after) }
    }

    /// `q35` for a Linux that is given to it: the host's processor, two of three vCPUs, a virtio-mem device, a balloon and a device that panics are told.
    pub fn q35_linux() -> Self {
        Self::linux("q35")
    }

    /// The same on `pc`.
    pub fn pc_linux() -> Self {
        Self::linux("pc")
    }

    fn linux(machine: &str) -> Self {
        Self::new(
            &format!("linux-{machine}"),
            &include_str!("../../libvirt/xml/linux.xml").replace("@MACHINE@", machine),
        )
    }

    /// It boots this kernel with this initial file system and command line.
    #[must_use]
    pub fn boots(self, kernel: &Path, initrd: &Path, append: &str) -> Self {
        let (kernel, initrd) = (kernel.display(), initrd.display());
        let files =
            format!("<kernel>{kernel}</kernel><initrd>{initrd}</initrd><cmdline>{append}</cmdline></os>");
        self.with("</os>", &files)
    }

    /// The same on an emulated processor, which is no host's.
    #[must_use]
    pub fn emulated(self) -> Self {
        let xml = self.xml.replace("type='kvm'", "type='qemu'").replace("'host-passthrough'", "'maximum'");
        Self { xml, ..self }
    }

    /// What libvirt calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text.
    pub fn xml(&self) -> String {
        self.xml.clone()
    }

    /// The same domain with another text in place of one that is in it.
    ///
    /// # Panics
    ///
    /// If that is not in it.
    #[must_use]
    pub fn with(mut self, old: &str, new: &str) -> Self {
        assert!(self.xml.contains(old), "no {old} in {}", self.xml);
        self.xml = self.xml.replace(old, new);
        self
    }
}

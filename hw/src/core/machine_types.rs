//! The versioned machine types and the defaults in which old ones differ, as data.

use std::fmt::Write as _;

use super::config::MemorySizes;

/// Which board a type is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Board {
    /// 440FX host bridge, PIIX south bridge.
    I440fx,
    /// Q35 host bridge, ICH9 south bridge.
    Q35,
    /// Registers of virtio devices in memory, without PCI.
    Microvm,
    /// Nothing but empty address spaces.
    None,
}

/// A release, as (10, 0).
pub type Version = (u16, u16);

/// One machine type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineType {
    /// Name in `-machine`.
    pub name: &'static str,
    /// Class name.
    pub class: &'static str,
    /// The board.
    pub board: Board,
    /// Its release; `microvm` and `none` have the newest.
    pub version: Version,
}

macro_rules! types {
    ($($board:ident $prefix:literal: $($version:literal $major:literal $minor:literal),+;)+) => {
        &[MachineType { name: "microvm", class: "microvm-machine", board: Board::Microvm, version: (10, 0) }, $($(MachineType {
            name: concat!($prefix, $version),
            class: concat!($prefix, $version, "-machine"),
            board: Board::$board,
            version: ($major, $minor),
        },)+)+ MachineType { name: "none", class: "none-machine", board: Board::None, version: (10, 0) }]
    };
}

/// All types, in the order of `-machine help`: names descending within a board, the newest last.
pub const TYPES: &[MachineType] = types! {
    I440fx "pc-i440fx-": "9.2" 9 2, "9.1" 9 1, "9.0" 9 0, "8.2" 8 2, "8.1" 8 1, "8.0" 8 0, "7.2" 7 2, "7.1" 7 1,
        "7.0" 7 0, "6.2" 6 2, "6.1" 6 1, "6.0" 6 0, "5.2" 5 2, "5.1" 5 1, "5.0" 5 0, "4.2" 4 2, "4.1" 4 1, "4.0" 4 0,
        "3.1" 3 1, "3.0" 3 0, "2.9" 2 9, "2.8" 2 8, "2.7" 2 7, "2.6" 2 6, "2.5" 2 5, "2.4" 2 4, "2.12" 2 12,
        "2.11" 2 11, "2.10" 2 10, "10.0" 10 0;
    Q35 "pc-q35-": "9.2" 9 2, "9.1" 9 1, "9.0" 9 0, "8.2" 8 2, "8.1" 8 1, "8.0" 8 0, "7.2" 7 2, "7.1" 7 1,
        "7.0" 7 0, "6.2" 6 2, "6.1" 6 1, "6.0" 6 0, "5.2" 5 2, "5.1" 5 1, "5.0" 5 0, "4.2" 4 2, "4.1" 4 1,
        "4.0.1" 4 0, "4.0" 4 0, "3.1" 3 1, "3.0" 3 0, "2.9" 2 9, "2.8" 2 8, "2.7" 2 7, "2.6" 2 6, "2.5" 2 5,
        "2.4" 2 4, "2.12" 2 12, "2.11" 2 11, "2.10" 2 10, "10.0" 10 0;
};

/// The newest release.
const NEWEST: Version = (10, 0);

/// (driver, property, value): a default that a machine type replaces.
pub type CompatEntry = (&'static str, &'static str, &'static str);

/// Defaults that types up to a release have instead of the classes' own; newest first, so that older ones win. Complete down to
/// 6.2 for what is modelled; of the processors' and of types before 6.2, what does something here.
const COMPAT: &[(Version, &[CompatEntry])] = &[
    ((9, 2), &[("virtio-balloon-pci", "vectors", "0"), ("virtio-mem-pci", "vectors", "0")]),
    ((9, 1), &[("pci-device", "x-pcie-ext-tag", "false")]),
    ((8, 1), &[("base-pci-bridge", "x-pci-express-writeable-slt-bug", "true")]),
    (
        (8, 0),
        &[("pci-device", "x-pcie-ari-nextfn-1", "on"), ("virtio-mem", "unplugged-inaccessible", "auto")],
    ),
    ((7, 2), &[("virtio-mem", "x-early-migration", "false"), ("pci-device", "x-pcie-err-unc-mask", "off")]),
    ((7, 1), &[("virtio-device", "queue_reset", "false"), ("virtio-rng-pci", "vectors", "0")]),
    ((6, 2), &[("virtio-mem", "unplugged-inaccessible", "off")]),
    (
        (6, 0),
        &[
            ("ICH9-LPC", "acpi-pci-hotplug-with-bridge-support", "off"),
            ("qemu64-x86_64-cpu", "family", "6"),
            ("qemu64-x86_64-cpu", "model", "6"),
            ("qemu64-x86_64-cpu", "stepping", "3"),
        ],
    ),
    ((5, 1), &[("vhost-user-blk", "num-queues", "1"), ("pvpanic", "events", "1")]),
    ((5, 0), &[("virtio-balloon-device", "page-poison", "false")]),
    ((4, 0), &[("virtio-balloon-device", "qemu-4-0-config-size", "true")]),
    (
        (3, 1),
        &[
            ("pcie-root-port", "x-speed", "2_5"),
            ("pcie-root-port", "x-width", "1"),
            ("virtio-balloon-device", "qemu-4-0-config-size", "false"),
        ],
    ),
    ((2, 11), &[("vhost-user-blk-pci", "vectors", "2")]),
    ((2, 9), &[("pci-bridge", "shpc", "off"), ("pcie-root-port", "x-migrate-msix", "false")]),
    ((2, 8), &[("pci-bridge", "shpc", "on")]),
];

impl MachineType {
    /// The type of that name or alias; `None` as the name is the default type.
    pub fn find(name: Option<&str>) -> Option<&'static Self> {
        let name = match name.unwrap_or("pc") {
            "pc" => "pc-i440fx-10.0",
            "q35" => "pc-q35-10.0",
            other => other,
        };
        TYPES.iter().find(|t| t.name == name)
    }

    /// The sentence of `-machine help`.
    pub fn description(&self) -> &'static str {
        match self.board {
            Board::I440fx => "Standard PC (i440FX + PIIX, 1996)",
            Board::Q35 => "Standard PC (Q35 + ICH9, 2009)",
            Board::Microvm => "microvm (i386)",
            Board::None => "empty machine",
        }
    }

    /// The short name, for the newest of a board.
    pub fn alias(&self) -> Option<&'static str> {
        match self.board {
            Board::I440fx if self.version == NEWEST => Some("pc"),
            Board::Q35 if self.version == NEWEST => Some("q35"),
            _ => None,
        }
    }

    /// Whether it is a PC of some version.
    pub fn is_pc(&self) -> bool {
        matches!(self.board, Board::I440fx | Board::Q35)
    }

    /// The id of the backend that RAM has by default.
    pub fn default_ram_id(&self) -> &'static str {
        match self.board {
            Board::I440fx | Board::Q35 => "pc.ram",
            Board::Microvm => "microvm.ram",
            Board::None => "ram",
        }
    }

    /// Whether it is what a command line without `-machine` means.
    pub fn is_default(&self) -> bool {
        self.alias() == Some("pc")
    }

    /// Older than three years when 10.0 was released.
    pub fn is_deprecated(&self) -> bool {
        self.version <= (7, 0)
    }

    /// The warning that a deprecated type prints at start.
    pub fn deprecation_warning(&self) -> Option<String> {
        self.is_deprecated().then(|| {
            format!(
                "Machine type '{}' is deprecated: machines more than 3 years old are subject to deletion after 6 years",
                self.name
            )
        })
    }

    /// Its replaced defaults.
    pub fn compat(&self) -> impl Iterator<Item = CompatEntry> + '_ {
        COMPAT.iter().filter(|(upto, _)| self.version <= *upto).flat_map(|(_, list)| list.iter().copied())
    }

    /// Whether `-numa node,mem=` is still known.
    pub fn has_numa_mem(&self) -> bool {
        self.version <= (5, 0)
    }

    /// Whether a machine without `-numa` has one node with everything, so that what the guest is told of memory that may
    /// come later has a place.
    #[doc(alias = "auto_enable_numa_with_memhp")]
    #[doc(alias = "auto_enable_numa_with_memdev")]
    pub fn has_implicit_node(&self, sizes: &MemorySizes) -> bool {
        let slots = self.version >= (2, 11) && sizes.slots > 0;
        let room = self.version >= (5, 1) && sizes.max > sizes.ram;
        self.is_pc() && (slots || room)
    }

    /// Whether RAM moves out of the way of the HyperTransport hole of AMD processors below 1 TiB.
    pub fn moves_for_amd_hole(&self) -> bool {
        self.version >= (7, 1)
    }

    /// Whether `-serial` makes ports on it; QEMU's `none` leaves the character devices without.
    pub fn has_serial_ports(&self) -> bool {
        self.board != Board::None
    }

    /// Whether vCPUs that `-smp` says no more of are sockets; later they are cores of one.
    #[doc(alias = "prefer_sockets")]
    pub fn prefers_sockets(&self) -> bool {
        self.version <= (6, 1)
    }

    /// Whether a socket's cores may be on several dies, and in several modules of these.
    #[doc(alias = "dies_supported")]
    pub fn has_dies(&self) -> bool {
        self.is_pc()
    }

    /// vCPUs at most.
    pub fn max_cpus(&self) -> u64 {
        match self.board {
            Board::I440fx => 255,
            Board::Q35 if self.version >= (9, 0) => 4096,
            Board::Q35 if self.version >= (8, 1) => 1024,
            Board::Q35 if self.version >= (2, 8) => 288,
            Board::Q35 => 255,
            Board::Microvm => 288,
            Board::None => 1,
        }
    }
}

/// The text of `-machine help`.
pub fn help() -> String {
    let mut out = String::from("Supported machines are:\n");
    let mut line = |name: &str, text: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name:<20} {text}");
    };
    for t in TYPES {
        if let Some(alias) = t.alias() {
            line(alias, format!("{} (alias of {})", t.description(), t.name));
        }
        let mark = match (t.is_default(), t.is_deprecated()) {
            (true, _) => " (default)",
            (_, true) => " (deprecated)",
            _ => "",
        };
        line(t.name, format!("{}{mark}", t.description()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_mean_the_newest() {
        assert_eq!(MachineType::find(None).unwrap().name, "pc-i440fx-10.0");
        assert_eq!(MachineType::find(Some("q35")).unwrap().name, "pc-q35-10.0");
        assert!(MachineType::find(Some("foo")).is_none());
    }

    #[test]
    fn defaults_follow_the_release() {
        let of = |name, property| {
            let t = MachineType::find(Some(name)).unwrap();
            t.compat().filter(|(_, p, _)| *p == property).last().map(|(_, _, v)| v)
        };
        assert_eq!(of("q35", "vectors"), None);
        assert_eq!(of("pc-q35-9.2", "vectors"), Some("0"));
        assert_eq!(of("pc-q35-8.1", "unplugged-inaccessible"), None);
        assert_eq!(of("pc-i440fx-8.0", "unplugged-inaccessible"), Some("auto"));
        assert_eq!(of("pc-i440fx-6.2", "unplugged-inaccessible"), Some("off"));
        assert_eq!(of("pc-i440fx-7.1", "queue_reset"), Some("false"));
        assert_eq!([of("pc-q35-6.1", "family"), of("pc-q35-6.0", "family")], [None, Some("6")]);
    }

    #[test]
    fn room_for_memory_makes_a_node_since_5_1_and_slots_do_since_2_11() {
        let node = |name, slots, max| {
            MachineType::find(Some(name)).unwrap().has_implicit_node(&MemorySizes { ram: 1, max, slots })
        };
        for name in ["pc", "q35", "pc-q35-5.1"] {
            assert_eq!([node(name, 0, 1), node(name, 0, 2), node(name, 2, 2)], [false, true, true], "{name}");
        }
        assert_eq!([node("pc-i440fx-5.0", 0, 2), node("pc-i440fx-5.0", 2, 2)], [false, true]);
        assert_eq!([node("pc-i440fx-2.11", 2, 2), node("pc-i440fx-2.10", 2, 2)], [true, false]);
        assert!(!node("none", 2, 2));
    }

    #[test]
    fn the_number_of_vcpus_a_type_takes_grew_with_the_releases() {
        let limit = |name: &str| MachineType::find(Some(name)).unwrap().max_cpus();
        let q35 = ["2.7", "2.8", "2.12", "8.0", "8.1", "8.2", "9.0", "9.1", "10.0"];
        let limits: Vec<u64> = q35.iter().map(|v| limit(&format!("pc-q35-{v}"))).collect();
        assert_eq!(limits, [255, 288, 288, 288, 1024, 1024, 4096, 4096, 4096]);
        assert_eq!([limit("pc"), limit("pc-i440fx-2.4"), limit("none")], [255, 255, 1]);
    }

    #[test]
    fn help_reads_as_qemus() {
        let text = help();
        assert!(
            text.contains(
                "pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-10.0)\n"
            )
        );
        assert!(text.contains("pc-i440fx-10.0       Standard PC (i440FX + PIIX, 1996) (default)\n"));
        assert!(text.contains("pc-q35-7.0           Standard PC (Q35 + ICH9, 2009) (deprecated)\n"));
        assert!(text.ends_with("none                 empty machine\n"));
    }
}

//! `-smbios`: what the tables say that a guest reads its own description from. A text that is empty stands for none at all.

/// What `-smbios` says. Fields that were not given have what QEMU's machine has without the option.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SmbiosConfig {
    /// `type=0`; without it firmware describes itself.
    pub bios: Option<SmbiosBios>,
    /// `type=1`.
    pub system: SmbiosSystem,
    /// `type=2`; there is no such table without it.
    pub board: Option<SmbiosBoard>,
    /// `type=3`.
    pub chassis: SmbiosChassis,
    /// `type=4`.
    pub processor: SmbiosProcessor,
    /// `type=11`: any number of texts.
    pub oem: Vec<String>,
    /// `type=17`.
    pub memory: SmbiosMemory,
}

/// What firmware is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SmbiosBios {
    /// Who made it.
    pub vendor: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// When it was released.
    pub date: Option<String>,
    /// Its release, major and minor number.
    pub release: (u8, u8),
    /// Whether it is UEFI.
    pub uefi: bool,
}

/// What the machine is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SmbiosSystem {
    /// Who made it.
    pub manufacturer: Option<String>,
    /// What it is called.
    pub product: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// Its stock-keeping number.
    pub sku: Option<String>,
    /// The family that it is of.
    pub family: Option<String>,
}

/// What its main board is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SmbiosBoard {
    /// Who made it.
    pub manufacturer: Option<String>,
    /// What it is called.
    pub product: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// Its number in somebody's inventory.
    pub asset: Option<String>,
    /// Where in the chassis it is.
    pub location: Option<String>,
}

/// What its chassis is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SmbiosChassis {
    /// Who made it.
    pub manufacturer: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// Its number in somebody's inventory.
    pub asset: Option<String>,
    /// Its stock-keeping number.
    pub sku: Option<String>,
}

/// What its processors are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SmbiosProcessor {
    /// What a socket is called, before its number.
    pub socket: Option<String>,
    /// Who made them.
    pub manufacturer: Option<String>,
    /// Their version.
    pub version: Option<String>,
    /// Their serial number.
    pub serial: Option<String>,
    /// Their number in somebody's inventory.
    pub asset: Option<String>,
    /// Their part number.
    pub part: Option<String>,
    /// Highest speed, in MHz.
    pub max_speed: Option<u16>,
    /// Present speed, in MHz.
    pub current_speed: Option<u16>,
    /// The family that they are of, by its number in the specification.
    pub family: Option<u16>,
    /// What they identify themselves with.
    pub id: Option<u64>,
}

/// What its memory modules are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SmbiosMemory {
    /// What a socket is called, before its number.
    pub socket: Option<String>,
    /// The bank that they are in.
    pub bank: Option<String>,
    /// Who made them.
    pub manufacturer: Option<String>,
    /// Their serial number.
    pub serial: Option<String>,
    /// Their number in somebody's inventory.
    pub asset: Option<String>,
    /// Their part number.
    pub part: Option<String>,
    /// Their speed, in million transfers a second.
    pub speed: u16,
}

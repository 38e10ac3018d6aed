//! Capabilities of PCI Express functions: the PCI Express structure (PCI Express 3.0 §7.8), power management (PCI Power Management 1.2
//! §3.2), subsystem identity of bridges, and the ports' error and access control structures (§7.10, §7.16), which never report anything.

use qapi::{Error, Result};

use super::config::ConfigSpace;
use super::device::PciState;

const CAP_POWER: u8 = 1;
const CAP_VENDOR: u8 = 9;
const CAP_SUBSYSTEM: u8 = 0x0d;
const CAP_EXPRESS: u8 = 0x10;
/// Bytes of the PCI Express structure.
const SIZE: usize = 0x3c;
const VERSION: u16 = 2;
/// Offsets in the structure.
pub mod at {
    /// Device control.
    pub const DEVICE_CONTROL: u16 = 0x08;
    /// Device status.
    pub const DEVICE_STATUS: u16 = 0x0a;
    /// Link capabilities.
    pub const LINK: u16 = 0x0c;
    /// Link control.
    pub const LINK_CONTROL: u16 = 0x10;
    /// Link status.
    pub const LINK_STATUS: u16 = 0x12;
    /// Slot capabilities.
    pub const SLOT: u16 = 0x14;
    /// Slot control.
    pub const SLOT_CONTROL: u16 = 0x18;
    /// Slot status.
    pub const SLOT_STATUS: u16 = 0x1a;
    /// Root control.
    pub const ROOT_CONTROL: u16 = 0x1c;
    pub(super) const DEVICE2: u16 = 0x24;
    /// Device control 2.
    pub const DEVICE_CONTROL2: u16 = 0x28;
    pub(super) const LINK2: u16 = 0x2c;
    pub(super) const LINK_CONTROL2: u16 = 0x30;
}
const ROLE_BASED_ERRORS: u32 = 1 << 15;
const EXTENDED_TAG: u32 = 1 << 5;
const FUNCTION_RESET: u32 = 1 << 28;
/// Device control: the function is reset.
pub const CONTROL_FUNCTION_RESET: u16 = 1 << 15;
/// Link status of one lane at 2.5 GT/s.
pub const LINK_SLOWEST: u16 = 0x11;
const LINK_ASPM_L0S: u32 = 1 << 10;
const DEVICE2_EXTENDED_FORMAT: u32 = 1 << 20;
const DEVICE2_PREFIXES: u32 = 1 << 21;
const DEVICE2_ARI: u32 = 1 << 5;
const CONTROL2_ARI: u16 = 1 << 5;
const CONTROL2_PREFIX_BLOCK: u16 = 1 << 15;

/// What kind of function it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A device.
    Endpoint,
    /// A root port with a slot; its number is the port's.
    RootPort(u8),
    /// A bridge to conventional PCI.
    PciBridge,
}

/// Adds the PCI Express structure and returns its offset.
///
/// # Errors
/// Configuration space is full.
pub fn add(state: &PciState, kind: Kind) -> Result<u16> {
    let cap = state.add_capability(CAP_EXPRESS, &[0; SIZE - 2])?;
    let (code, slot) = match kind {
        Kind::Endpoint => (0, 0),
        Kind::RootPort(_) => (4, 1 << 8),
        Kind::PciBridge => (7, 0),
    };
    state.with_config(|config| {
        config.set16(cap + 2, VERSION | code << 4 | slot);
        let tag = if state.props.flag("x-pcie-ext-tag", true) { EXTENDED_TAG } else { 0 };
        let device = ROLE_BASED_ERRORS | tag;
        config.set32(cap + 4, if kind == Kind::Endpoint { device | FUNCTION_RESET } else { device });
        config.set32(cap + at::LINK, LINK_ASPM_L0S | u32::from(LINK_SLOWEST));
        config.set16(cap + at::LINK_STATUS, LINK_SLOWEST);
        // How a link came up is of no matter where state goes.
        config.set_checked(cap + at::LINK_STATUS, &[0; 2]);
        let mut device2 = DEVICE2_EXTENDED_FORMAT | DEVICE2_PREFIXES;
        let mut control2 = CONTROL2_PREFIX_BLOCK;
        if kind == Kind::Endpoint {
            config.set_writable(cap + at::LINK_CONTROL, &[0xc0]);
        } else {
            // Error reporting can be switched on.
            config.set_writable(cap + at::DEVICE_CONTROL, &[0x0f]);
            config.set_write_1_clears(cap + at::DEVICE_STATUS, &[0x0f]);
            (device2, control2) = (device2 | DEVICE2_ARI, control2 | CONTROL2_ARI);
        }
        config.set32(cap + at::DEVICE2, device2);
        config.set_writable(cap + at::DEVICE_CONTROL2, &control2.to_le_bytes());
        if let Kind::RootPort(port) = kind {
            config.set8(cap + at::LINK + 3, port);
        }
    });
    Ok(cap)
}

/// Says how fast and wide a port's link can be: `speed` is a power as 1 (2.5 GT/s) to 6 (64 GT/s), `width` lanes.
pub fn set_link(config: &mut ConfigSpace, cap: u16, speed: u8, width: u8) {
    // Bits 20 and 21: the port says whether the link is active, and when its bandwidth changes.
    let port = config.get32(cap + at::LINK) & 0xff00_0000;
    let link = LINK_ASPM_L0S | 3 << 20 | u32::from(width) << 4 | u32::from(speed);
    config.set32(cap + at::LINK, link | port);
    if speed > 1 {
        config.set32(cap + at::LINK2, (1u32 << (speed + 1)) - 2);
        config.set16(cap + at::LINK_CONTROL2, speed.into());
    }
}

/// Adds the power management structure, and returns its offset. Power states D0 and D3hot.
///
/// # Errors
/// Configuration space is full.
pub fn add_power_management(state: &PciState) -> Result<u16> {
    // Version 1.2.
    let cap = state.add_capability(CAP_POWER, &[3, 0, 0, 0, 0, 0])?;
    state.with_config(|config| config.set_writable(cap + 4, &[3]));
    Ok(cap)
}

/// Adds the subsystem identity of a bridge.
///
/// # Errors
/// Configuration space is full.
pub fn add_subsystem(state: &PciState, vendor: u16, device: u16) -> Result<()> {
    let ([a, b], [c, d]) = (vendor.to_le_bytes(), device.to_le_bytes());
    state.add_capability(CAP_SUBSYSTEM, &[0, 0, a, b, c, d]).map(drop)
}

/// Adds QEMU's structure that tells firmware what to leave free, unless nobody asked for anything.
///
/// # Errors
/// QEMU's texts about what was asked for.
pub fn add_reserve(state: &PciState, asked: &ReserveProps) -> Result<()> {
    const FOUR_GIB: u64 = 1 << 32;
    if asked.is_empty() {
        return Ok(());
    }
    let refuse = |text: &str| Err(Error::generic(format!("PCI resource reserve cap: {text}")));
    if asked.pref32 != u64::MAX && asked.pref64 != u64::MAX {
        return refuse("PREF32 and PREF64 conflict");
    }
    if asked.memory != u64::MAX && asked.memory >= FOUR_GIB {
        return refuse("mem-reserve must be less than 4G");
    }
    if asked.pref32 != u64::MAX && asked.pref32 >= FOUR_GIB {
        return refuse("pref32-reserve must be less than 4G");
    }
    let mut body = vec![0x20, 1];
    body.extend(asked.buses.to_le_bytes());
    body.extend(asked.io.to_le_bytes());
    body.extend((asked.memory as u32).to_le_bytes());
    body.extend((asked.pref32 as u32).to_le_bytes());
    body.extend(asked.pref64.to_le_bytes());
    state.add_capability(CAP_VENDOR, &body).map(drop)
}

/// The `*-reserve` properties; all ones where nothing was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReserveProps {
    /// `bus-reserve`.
    pub buses: u32,
    /// `io-reserve`.
    pub io: u64,
    /// `mem-reserve`.
    pub memory: u64,
    /// `pref32-reserve`.
    pub pref32: u64,
    /// `pref64-reserve`.
    pub pref64: u64,
}

impl Default for ReserveProps {
    fn default() -> Self {
        Self { buses: u32::MAX, io: u64::MAX, memory: u64::MAX, pref32: u64::MAX, pref64: u64::MAX }
    }
}

impl ReserveProps {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What firmware makes of it.
    pub fn reserve(&self) -> super::bridge::Reserve {
        let some = |value: u64| Some(value).filter(|v| *v != u64::MAX);
        super::bridge::Reserve {
            buses: Some(self.buses).filter(|v| *v != u32::MAX),
            io: some(self.io),
            memory: some(self.memory),
            prefetch: some(self.pref64).or(some(self.pref32)),
        }
    }
}

/// The property that says whether there is a mask of uncorrectable errors.
pub const ERROR_MASK: &str = "x-pcie-err-unc-mask";

/// Adds advanced error reporting at 0x100 with room for `log` errors, with `masks` a mask of uncorrectable ones, and with `acs`
/// access control behind it.
pub fn add_port_extended(config: &mut ConfigSpace, log: u16, acs: bool, masks: bool) {
    const AER: u16 = 0x100;
    const ACS: u16 = 0x148;
    const ALL: u32 = 0x03ff_f030;
    config.add_extended(AER, 1, 2, if acs { ACS } else { 0 }, 0x48);
    // Uncorrectable: mask and severity; correctable: mask.
    let mask = if masks { (8, 0x0240_0000, ALL) } else { (8, 0, 0) };
    for (offset, value, mask) in [mask, (0xc, 0x0046_2030, ALL), (0x14, 0xe000, 0xf1c1)] {
        config.set32(AER + offset, value);
        config.set_writable(AER + offset, &u32::to_le_bytes(mask));
    }
    let (control, writable): (u32, u32) = if log > 0 { (0x2a0, 0x540) } else { (0xa0, 0x140) };
    config.set32(AER + 0x18, control);
    config.set_writable(AER + 0x18, &writable.to_le_bytes());
    config.set_writable(AER + 0x2c, &[7]);
    if acs {
        config.add_extended(ACS, 0x0d, 1, 0, 8);
        config.set16(ACS + 4, 0x5f);
        config.set_writable(ACS + 6, &[0x5f]);
    }
}

//! The properties of `pcie-root-port`, and which slots of which chassis are taken.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use qapi::{Error, Result};
use qom::{Input, Property};

use super::RootPort;
use crate::core::machine::Machine;
use crate::pci::device::PciState;
use crate::pci::express::ReserveProps;

const SPEEDS: [&str; 6] = ["2_5", "5", "8", "16", "32", "64"];
const WIDTHS: [&str; 7] = ["1", "2", "4", "8", "12", "16", "32"];
/// The operating system's word for a thing in use, which QEMU shows.
const EBUSY: i32 = 16;

/// Their values.
#[derive(Debug, Clone)]
pub(super) struct Props {
    migrate_msix: bool,
    pub(super) reserve: ReserveProps,
    speed: usize,
    width: usize,
    pub(super) power_controller: bool,
    pub(super) disable_acs: bool,
    chassis: u8,
    pub(super) slot: u16,
    pub(super) hotplug: bool,
    pub(super) hide_native: bool,
    pub(super) port: u8,
    pub(super) aer_log_max: u16,
    /// The secondary latency timer, which PCI Express hardwires to 0, can be written.
    pub(super) writeable_slt_bug: bool,
}

impl Default for Props {
    fn default() -> Self {
        Self {
            migrate_msix: true,
            reserve: ReserveProps::default(),
            speed: 3,
            width: 6,
            power_controller: true,
            disable_acs: false,
            chassis: 0,
            slot: 0,
            hotplug: true,
            hide_native: false,
            port: 0,
            aer_log_max: 8,
            writeable_slt_bug: false,
        }
    }
}

/// Slots of a machine that ports have, by chassis.
#[derive(Default)]
struct Chassis(Mutex<BTreeSet<(u8, u16)>>);

impl Props {
    /// The speed as registers have it: 1 for 2.5 GT/s.
    pub(super) fn speed_code(&self) -> u8 {
        self.speed as u8 + 1
    }

    /// Lanes.
    pub(super) fn width(&self) -> u8 {
        WIDTHS[self.width].parse().unwrap_or(1)
    }

    /// Speed and width as the link's status has them.
    pub(super) fn link(&self) -> u16 {
        u16::from(self.width()) << 4 | u16::from(self.speed_code())
    }

    /// Whether the status says that the link is active.
    pub(super) fn active_link(&self, state: &PciState) -> bool {
        state.props.flag("x-pcie-lnksta-dllla", true)
    }

    /// Takes the slot, or gives it back.
    ///
    /// # Errors
    /// Another port has it.
    pub(super) fn claim(&self, machine: &Machine, take: bool) -> Result<()> {
        let all = machine.extension(Chassis::default);
        let mut all = all.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (self.chassis, self.slot);
        if !take {
            all.remove(&key);
        } else if !all.insert(key) {
            return Err(Error::generic(format!("Can't add chassis slot, error -{EBUSY}")));
        }
        Ok(())
    }
}

fn flag(name: &'static str, default: bool, field: fn(&mut Props) -> &mut bool) -> Property {
    Property::new(name, "bool")
        .description("on/off")
        .default(default)
        .get(move |d: &RootPort| Ok((*field(&mut d.props())).into()))
        .set(move |d: &RootPort, value, name| {
            *field(&mut d.props()) = value.to_bool(name)?;
            Ok(())
        })
}

fn number<T: Copy + Into<u64> + TryFrom<u64> + 'static>(
    name: &'static str,
    type_name: &'static str,
    default: u64,
    field: fn(&mut Props) -> &mut T,
) -> Property {
    let read = move |value: Input<'_>, name: &str| {
        if type_name == "size" { value.to_size(name) } else { value.to_uint(name, 8 * size_of::<T>() as u32) }
    };
    Property::new(name, type_name)
        .default(default)
        .get(move |d: &RootPort| Ok((*field(&mut d.props())).into().into()))
        .set(move |d: &RootPort, value, name| {
            // In range: the reader refuses what does not fit.
            if let Ok(value) = T::try_from(read(value, name)?) {
                *field(&mut d.props()) = value;
            }
            Ok(())
        })
}

fn choice(
    name: &'static str,
    type_name: &'static str,
    help: &'static str,
    values: &'static [&'static str],
    default: &'static str,
    field: fn(&mut Props) -> &mut usize,
) -> Property {
    Property::new(name, type_name)
        .values(values)
        .description(help)
        .default(default)
        .get(move |d: &RootPort| Ok(values[*field(&mut d.props())].into()))
        .set(move |d: &RootPort, value, name| {
            *field(&mut d.props()) = value.to_enum(name, values)?;
            Ok(())
        })
}

/// In the order of `info qtree`.
pub(super) fn all() -> Vec<Property> {
    let all = u64::MAX;
    vec![
        flag("x-migrate-msix", true, |p| &mut p.migrate_msix),
        number("bus-reserve", "uint32", u32::MAX.into(), |p| &mut p.reserve.buses),
        number("io-reserve", "size", all, |p| &mut p.reserve.io),
        number("mem-reserve", "size", all, |p| &mut p.reserve.memory),
        number("pref32-reserve", "size", all, |p| &mut p.reserve.pref32),
        number("pref64-reserve", "size", all, |p| &mut p.reserve.pref64),
        choice("x-speed", "PCIELinkSpeed", "2_5/5/8/16/32/64", &SPEEDS, "16", |p| &mut p.speed),
        choice("x-width", "PCIELinkWidth", "1/2/4/8/12/16/32", &WIDTHS, "32", |p| &mut p.width),
        flag("power_controller_present", true, |p| &mut p.power_controller),
        flag("disable-acs", false, |p| &mut p.disable_acs),
        number("chassis", "uint8", 0, |p| &mut p.chassis),
        number("slot", "uint16", 0, |p| &mut p.slot),
        flag("hotplug", true, |p| &mut p.hotplug),
        flag("x-do-not-expose-native-hotplug-cap", false, |p| &mut p.hide_native),
        number("port", "uint8", 0, |p| &mut p.port),
        number("aer_log_max", "uint16", 8, |p| &mut p.aer_log_max),
        flag("x-pci-express-writeable-slt-bug", false, |p| &mut p.writeable_slt_bug),
    ]
}

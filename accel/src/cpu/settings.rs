//! What can be set of a CPU model besides features: one table for `-cpu`, the classes' properties and full expansions.

use qapi::{Error, Result, Value};
use qom::Input;

use super::facts::Facts;
use super::model::{Base, CpuModel};

/// A default as introspection shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// None is shown.
    Hidden,
    /// A switch, described as `on/off`.
    Switch(bool),
    /// A number.
    Number(u32),
}

/// One property of CPU classes.
pub struct Setting {
    /// The property's name.
    pub name: &'static str,
    /// QEMU's name of its type.
    pub type_name: &'static str,
    /// What introspection shows.
    pub default: Shown,
    /// Whether only `host` and `max` have it.
    pub of_max: bool,
    /// The value that a processor has.
    pub get: fn(&Facts) -> Value,
    pub(super) set: Setter,
}

type Setter = fn(&mut CpuModel, Input<'_>, &str) -> Result<()>;

impl Setting {
    /// Whether the model has it.
    #[must_use]
    pub fn is_of(&self, base: Base) -> bool {
        !self.of_max || base.is_max()
    }
}

/// Finds one by name.
pub(super) fn setting(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

/// Properties of CPUs that nobody sets.
pub(super) const READ_ONLY: [&str; 5] =
    ["unavailable-features", "feature-words", "filtered-features", "hotplugged", "hotpluggable"];

const fn number(name: &'static str, default: u32, get: fn(&Facts) -> Value, set: Setter) -> Setting {
    Setting { name, type_name: "uint32", default: Shown::Number(default), of_max: false, get, set }
}

const fn switch(name: &'static str, default: bool, get: fn(&Facts) -> Value, set: Setter) -> Setting {
    Setting { name, type_name: "bool", default: Shown::Switch(default), of_max: false, get, set }
}

const fn plain(
    name: &'static str,
    type_name: &'static str,
    get: fn(&Facts) -> Value,
    set: Setter,
) -> Setting {
    Setting { name, type_name, default: Shown::Hidden, of_max: false, get, set }
}

/// A number with QEMU's complaint about one that is too large.
fn at_most(value: Input<'_>, path: &str, name: &str, max: u64) -> Result<u64> {
    let number = value.to_u64(path)?;
    if number > max {
        return Err(Error::generic(format!("parameter '{name}' can be at most {max}")));
    }
    Ok(number)
}

/// What a 32-bit property takes.
fn u32_of(value: Input<'_>, path: &str) -> Result<u32> {
    Ok(value.to_uint(path, 32)? as u32)
}

/// All of them.
pub static SETTINGS: &[Setting] = &[
    plain(
        "family",
        "int",
        |f| f.family.into(),
        // Base family 15 and an extended family of eight bits.
        |m, v, path| at_most(v, path, "family", 0xf + 0xff).map(|n| m.family = Some(n as u32)),
    ),
    plain(
        "model",
        "int",
        |f| f.model.into(),
        |m, v, path| at_most(v, path, "model", 0xff).map(|n| m.model = Some(n as u32)),
    ),
    plain(
        "stepping",
        "int",
        |f| f.stepping.into(),
        |m, v, path| at_most(v, path, "stepping", 0xf).map(|n| m.stepping = Some(n as u32)),
    ),
    plain(
        "vendor",
        "string",
        |f| f.vendor_text().into(),
        |m, v, path| {
            let vendor = v.to_str(path)?.as_bytes().try_into().map_err(|_| {
                Error::generic("value of property 'vendor' must consist of exactly 12 characters")
            })?;
            m.vendor = Some(vendor);
            Ok(())
        },
    ),
    plain(
        "model-id",
        "string",
        |f| f.model_id.as_str().into(),
        |m, v, path| v.to_str(path).map(|text| m.model_id = Some(text.to_owned())),
    ),
    plain(
        "tsc-frequency",
        "int",
        |f| f.tsc_frequency.into(),
        |m, v, path| at_most(v, path, "tsc-frequency", i64::MAX as u64).map(|n| m.tsc_frequency = n),
    ),
    number(
        "level",
        u32::MAX,
        |f| f.level.into(),
        |m, v, path| u32_of(v, path).map(|n| m.level = (n != u32::MAX).then_some(n)),
    ),
    number(
        "xlevel",
        u32::MAX,
        |f| f.xlevel.into(),
        |m, v, path| u32_of(v, path).map(|n| m.xlevel = (n != u32::MAX).then_some(n)),
    ),
    number(
        "min-level",
        0,
        |f| f.min_level.into(),
        |m, v, path| u32_of(v, path).map(|n| m.min_level = Some(n)),
    ),
    number(
        "min-xlevel",
        0,
        |f| f.min_xlevel.into(),
        |m, v, path| u32_of(v, path).map(|n| m.min_xlevel = Some(n)),
    ),
    number(
        "phys-bits",
        0,
        |f| f.phys_bits.into(),
        |m, v, path| {
            m.phys_bits = Some(u32_of(v, path)?);
            m.host_phys_bits = false;
            Ok(())
        },
    ),
    switch(
        "host-phys-bits",
        false,
        |f| f.host_phys_bits.into(),
        |m, v, path| v.to_bool(path).map(|on| m.host_phys_bits = on),
    ),
    Setting {
        type_name: "uint8",
        ..number(
            "host-phys-bits-limit",
            0,
            |f| f.host_phys_bits_limit.into(),
            |m, v, path| v.to_uint(path, 8).map(|n| m.host_phys_bits_limit = n as u32),
        )
    },
    switch("check", true, |f| f.check.into(), |m, v, path| v.to_bool(path).map(|on| m.check = on)),
    switch("enforce", false, |f| f.enforce.into(), |m, v, path| v.to_bool(path).map(|on| m.enforce = on)),
    switch("kvm", true, |f| f.kvm.into(), |m, v, path| v.to_bool(path).map(|on| m.kvm = on)),
    switch("l3-cache", true, |f| f.l3_cache.into(), |m, v, path| v.to_bool(path).map(|on| m.l3_cache = on)),
    Setting {
        of_max: true,
        ..switch(
            "host-cache-info",
            false,
            |f| f.host_cache_info.into(),
            |m, v, path| v.to_bool(path).map(|on| m.host_cache_info = on),
        )
    },
    switch("pmu", false, |f| f.pmu.into(), |m, v, path| v.to_bool(path).map(|on| m.pmu = on)),
    Setting {
        of_max: true,
        ..switch(
            "migratable",
            true,
            |f| f.migratable.into(),
            |m, v, path| v.to_bool(path).map(|on| m.migratable = on),
        )
    },
];

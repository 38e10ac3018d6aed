//! CPU models: the text of `-cpu` and what it means for CPUID.
//!
//! Three models exist: `host` and `max` (all that the host's KVM supports) and `qemu64` (the default, a small 64-bit
//! processor). Features are switched with `+name`, `-name`, `name=on|off` and plain `name`; `phys-bits`, `host-phys-bits` and
//! `vendor` are known. Names and messages are QEMU 10's. Left out: all other models, `enforce`/`check`, `family`,
//! `model`, `stepping`, `level` and cache topology options (refused as unknown properties).

mod features;

use std::collections::BTreeMap;

pub(crate) use features::QEMU64;
pub use features::{Feature, Register, feature};

/// Physical address bits of `qemu64`.
const QEMU64_PHYS_BITS: u32 = 40;

/// A processor: a base model and what was changed of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuModel {
    base: Base,
    phys_bits: Option<u32>,
    host_phys_bits: bool,
    vendor: Option<[u8; 12]>,
    features: BTreeMap<&'static str, bool>,
}

/// The model before changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// Everything that the host supports.
    Host,
    /// The same; works with accelerators other than KVM as well.
    Max,
    /// The default.
    Qemu64,
}

impl Base {
    /// The model's name in `-cpu`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Max => "max",
            Self::Qemu64 => "qemu64",
        }
    }
}

/// The text of `-cpu help`: models, then the names of features.
#[must_use]
pub fn help() -> String {
    let mut text = String::from("Available CPUs:\n");
    for (base, what) in [
        (Base::Host, "the host's processor with all that KVM can give a guest"),
        (Base::Max, "everything that the accelerator can give"),
        (Base::Qemu64, "a plain 64-bit processor, the default"),
    ] {
        text.push_str(&format!("  {:<20}  {what}\n", base.name()));
    }
    text.push_str("\nRecognized CPUID flags:\n");
    let mut names: Vec<&str> = features::names().collect();
    names.sort_unstable();
    let mut line = String::new();
    for name in names {
        if line.len() + name.len() > 75 {
            text.push_str(&format!(" {line}\n"));
            line.clear();
        }
        line.push(' ');
        line.push_str(name);
    }
    text.push_str(&format!(" {line}\n"));
    text
}

impl Default for CpuModel {
    fn default() -> Self {
        Self::base(Base::Qemu64)
    }
}

impl CpuModel {
    /// An unchanged model.
    #[must_use]
    pub fn base(base: Base) -> Self {
        Self {
            base,
            phys_bits: None,
            host_phys_bits: base != Base::Qemu64,
            vendor: None,
            features: BTreeMap::new(),
        }
    }

    /// Reads `MODEL[,FEATURE...]`.
    ///
    /// # Errors
    /// QEMU's messages: unknown model, unknown property, bad value.
    pub fn parse(text: &str) -> qapi::Result<Self> {
        let error = |text: String| Err(qapi::Error::generic(text));
        let mut parts = text.split(',').filter(|part| !part.is_empty());
        let Some(name) = parts.next() else { return error("-cpu option cannot be empty".into()) };
        let base = match name {
            "host" => Base::Host,
            "max" => Base::Max,
            "qemu64" => Base::Qemu64,
            _ => return error(format!("unable to find CPU model '{name}'")),
        };
        let mut model = Self::base(base);
        for part in parts {
            if let Some((name, on)) = part
                .strip_prefix('+')
                .map(|n| (n, true))
                .or_else(|| part.strip_prefix('-').map(|n| (n, false)))
            {
                match feature(name) {
                    Some(feature) => _ = model.features.insert(feature.name, on),
                    None => return error(format!("Property '{}-x86_64-cpu.{name}' not found", base.name())),
                }
            } else {
                let (name, value) = part.split_once('=').unwrap_or((part, "on"));
                model.set(name, value).map_err(|error| {
                    error.prefixed(&format!("can't apply global {}-x86_64-cpu.{name}={value}: ", base.name()))
                })?;
            }
        }
        model.check()?;
        Ok(model)
    }

    fn set(&mut self, name: &str, value: &str) -> qapi::Result<()> {
        let flag = |expects: &str| match value {
            "on" | "yes" | "true" | "y" => Ok(true),
            "off" | "no" | "false" | "n" => Ok(false),
            _ => Err(qapi::Error::generic(format!("Parameter '{name}' expects {expects}"))),
        };
        match name {
            "phys-bits" => {
                let bits = value
                    .parse()
                    .map_err(|_| qapi::Error::generic("Parameter 'phys-bits' expects uint64"))?;
                self.phys_bits = Some(bits);
                self.host_phys_bits = false;
            }
            "host-phys-bits" => self.host_phys_bits = flag("'on' or 'off'")?,
            "vendor" => {
                let vendor = value.as_bytes().try_into().map_err(|_| {
                    qapi::Error::generic("value of property 'vendor' must consist of exactly 12 characters")
                })?;
                self.vendor = Some(vendor);
            }
            _ => {
                let Some(feature) = feature(name) else {
                    let text = format!("Property '{}-x86_64-cpu.{name}' not found", self.base.name());
                    return Err(qapi::Error::generic(text));
                };
                self.features.insert(feature.name, flag("'on' or 'off'")?);
            }
        }
        Ok(())
    }

    fn check(&self) -> qapi::Result<()> {
        match self.phys_bits {
            Some(bits) if !(32..=52).contains(&bits) && bits != 0 => {
                let text = format!("phys-bits should be between 32 and 52  (but is {bits})");
                Err(qapi::Error::generic(text))
            }
            _ => Ok(()),
        }
    }

    /// The base model.
    #[must_use]
    pub fn base_model(&self) -> Base {
        self.base
    }

    /// Physical address bits, given the host's: a set `phys-bits`, else the host's for `host` and `max`, else 40.
    #[must_use]
    pub fn phys_bits(&self, host: u32) -> u32 {
        match self.phys_bits {
            Some(bits) if bits != 0 && !self.host_phys_bits => bits,
            _ if self.host_phys_bits => host,
            _ => QEMU64_PHYS_BITS,
        }
    }

    /// The vendor, if one was set.
    #[must_use]
    pub fn vendor(&self) -> Option<&[u8; 12]> {
        self.vendor.as_ref()
    }

    /// Features that were switched by name.
    pub fn switched(&self) -> impl Iterator<Item = (&'static Feature, bool)> + '_ {
        self.features.iter().filter_map(|(name, on)| Some((feature(name)?, *on)))
    }
}

#[cfg(test)]
mod tests;

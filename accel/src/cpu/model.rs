//! A model and what was changed of it: the text of `-cpu`, `-global` for CPU classes, and `query-cpu-model-expansion`.

use qapi::{Error, Result};
use qom::Input;

use super::features::{Feature, feature, feature_of_option, features};
use super::named::{Named, named_models};
use super::settings::{self, setting};

/// The model of a command line without `-cpu`.
const DEFAULT: &str = "qemu64";
/// Physical address bits of named models and `base`.
const PLAIN_PHYS_BITS: u32 = 40;

/// A processor: a base model and what was changed of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuModel {
    pub(super) base: Base,
    /// What `-cpu` said behind the name.
    text: String,
    /// In the order of being switched first; the last word counts.
    pub(super) switched: Vec<(&'static Feature, bool)>,
    pub(super) phys_bits: Option<u32>,
    pub(super) host_phys_bits: bool,
    /// 0: none.
    pub(super) host_phys_bits_limit: u32,
    pub(super) vendor: Option<[u8; 12]>,
    pub(super) family: Option<u32>,
    pub(super) model: Option<u32>,
    pub(super) stepping: Option<u32>,
    pub(super) model_id: Option<String>,
    pub(super) level: Option<u32>,
    pub(super) xlevel: Option<u32>,
    pub(super) min_level: Option<u32>,
    pub(super) min_xlevel: Option<u32>,
    /// Hz; 0 is the host's.
    pub(super) tsc_frequency: u64,
    pub(super) migratable: bool,
    pub(super) l3_cache: bool,
    pub(super) host_cache_info: bool,
    pub(super) pmu: bool,
    pub(super) kvm: bool,
    pub(super) check: bool,
    pub(super) enforce: bool,
}

/// The model before changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// Everything that the accelerator can give.
    Max,
    /// The same, under KVM only.
    Host,
    /// A processor without any feature.
    Base,
    /// A model with features of its own.
    Named(&'static Named),
}

impl Base {
    /// All models, in the order of `query-cpu-definitions`.
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::Max, Self::Host, Self::Base].into_iter().chain(named_models().iter().map(Self::Named))
    }

    /// The model's name in `-cpu`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Max => "max",
            Self::Host => "host",
            Self::Base => "base",
            Self::Named(named) => named.name,
        }
    }

    /// Its class.
    #[must_use]
    pub fn class_name(self) -> &'static str {
        match self {
            Self::Max => "max-x86_64-cpu",
            Self::Host => "host-x86_64-cpu",
            Self::Base => "base-x86_64-cpu",
            Self::Named(named) => named.class_name,
        }
    }

    /// The model of that name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        Self::all().find(|base| base.name() == name)
    }

    /// Whether it is whatever the accelerator can give.
    #[must_use]
    pub fn is_max(self) -> bool {
        matches!(self, Self::Max | Self::Host)
    }

    /// The model that the name stands for, if it is a second name.
    #[must_use]
    pub fn alias_of(self) -> Option<&'static str> {
        match self {
            Self::Named(named) => named.alias_of,
            _ => None,
        }
    }

    fn help(self) -> String {
        match self {
            Self::Max => "everything that the accelerator can give".into(),
            Self::Host => "the host's processor with all that KVM can give a guest".into(),
            Self::Base => "a processor without any feature, to add some to".into(),
            Self::Named(Named { alias_of: Some(model), name, .. }) => {
                // The name itself stands for one of its versions, which machine types may choose.
                let versions = model.strip_prefix(name).is_some_and(|rest| rest.starts_with("-v"));
                if versions {
                    "(alias configured by machine type)".into()
                } else {
                    format!("(alias of {model})")
                }
            }
            Self::Named(Named { model_id, note: "", .. }) => (*model_id).into(),
            Self::Named(Named { model_id, note, .. }) => format!("{model_id} {note}"),
        }
    }
}

/// The text of `-cpu help`: models, then the names of features.
#[must_use]
pub fn help() -> String {
    let mut text = String::from("Available CPUs:\n");
    let mut models: Vec<Base> = Base::all().collect();
    // What has no name of its own comes last, as in QEMU.
    models.sort_by_key(|base| (!matches!(base, Base::Named(_)), base.name()));
    for base in models {
        text.push_str(&format!("  {:<20}  {}\n", base.name(), base.help()));
    }
    text.push_str("\nRecognized CPUID flags:\n");
    let mut names: Vec<&str> = features().map(|feature| feature.name).collect();
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
        Self::base(Base::find(DEFAULT).unwrap_or(Base::Base))
    }
}

impl CpuModel {
    /// An unchanged model.
    #[must_use]
    pub fn base(base: Base) -> Self {
        Self {
            base,
            text: String::new(),
            switched: Vec::new(),
            phys_bits: None,
            host_phys_bits: base.is_max(),
            host_phys_bits_limit: 0,
            vendor: None,
            family: None,
            model: None,
            stepping: None,
            model_id: None,
            level: None,
            xlevel: None,
            min_level: None,
            min_xlevel: None,
            tsc_frequency: 0,
            migratable: base.is_max(),
            l3_cache: true,
            host_cache_info: false,
            pmu: base.is_max(),
            kvm: true,
            check: true,
            enforce: false,
        }
    }

    /// Reads `MODEL[,FEATURE...]`.
    ///
    /// # Errors
    /// QEMU's messages: unknown model, unknown property, bad value.
    pub fn parse(text: &str) -> Result<Self> {
        let error = |text: String| Err(Error::generic(text));
        let mut parts = text.splitn(2, ',');
        let Some(name) = parts.next().filter(|name| !name.is_empty()) else {
            return error("-cpu option cannot be empty".into());
        };
        let Some(base) = Base::find(name) else {
            return error(format!("unable to find CPU model '{name}'"));
        };
        let mut model = Self::base(base);
        model.text = parts.next().unwrap_or_default().to_owned();
        model.read_text()?;
        Ok(model)
    }

    /// The model with other defaults, from `-global` (class, property, value); what `-cpu` said wins.
    ///
    /// # Errors
    /// As [`CpuModel::set_global`].
    pub fn with_globals<'a>(
        &self,
        globals: impl IntoIterator<Item = (&'a str, &'a str, &'a str)>,
    ) -> Result<Self> {
        let mut model = Self { text: self.text.clone(), ..Self::base(self.base) };
        for (driver, name, value) in globals {
            model.set_global(driver, name, value)?;
        }
        model.read_text()?;
        Ok(model)
    }

    fn read_text(&mut self) -> Result<()> {
        let text = std::mem::take(&mut self.text);
        for part in text.split(',').filter(|part| !part.is_empty()) {
            if let Some((name, on)) = part
                .strip_prefix('+')
                .map(|n| (n, true))
                .or_else(|| part.strip_prefix('-').map(|n| (n, false)))
            {
                let feature = feature_of_option(name).ok_or_else(|| self.not_found(name))?;
                self.switch(feature, on);
            } else {
                let (name, value) = part.split_once('=').unwrap_or((part, "on"));
                // As QEMU, which makes global properties of these words, `_` and `-` being the same.
                let name = if self.knows(name) { name.to_owned() } else { name.replace('_', "-") };
                self.set_global(self.base.class_name(), &name, value)?;
            }
        }
        self.text = text;
        self.check_phys_bits()
    }

    /// Sets a property that was given as a global one of class `driver`.
    ///
    /// # Errors
    /// `can't apply global DRIVER.NAME=VALUE: …`
    pub fn set_global(&mut self, driver: &str, name: &str, value: &str) -> Result<()> {
        self.set(name, Input::Text(value), name)
            .map_err(|error| error.prefixed(&format!("can't apply global {driver}.{name}={value}: ")))
    }

    /// Sets a property; `path` is what errors about its type call it.
    ///
    /// # Errors
    /// QEMU's: there is no such property, or the value is wrong.
    pub fn set(&mut self, name: &str, value: Input<'_>, path: &str) -> Result<()> {
        if let Some(feature) = feature(name) {
            self.switch(feature, value.to_bool(path)?);
            return Ok(());
        }
        match setting(name).filter(|setting| setting.is_of(self.base)) {
            Some(setting) => (setting.set)(self, value, path),
            None if settings::READ_ONLY.contains(&name) => {
                Err(Error::generic(format!("Property '{}.{name}' is not writable", self.base.class_name())))
            }
            None => Err(self.not_found(name)),
        }
    }

    /// Whether there is a property of that name to set.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        feature(name).is_some()
            || setting(name).is_some_and(|setting| setting.is_of(self.base))
            || settings::READ_ONLY.contains(&name)
    }

    fn not_found(&self, name: &str) -> Error {
        let why = if name.starts_with("hv-") { ": Hyper-V enlightenments are not supported" } else { "" };
        Error::generic(format!("Property '{}.{name}' not found{why}", self.base.class_name()))
    }

    fn switch(&mut self, feature: &'static Feature, on: bool) {
        match self.switched.iter_mut().find(|(old, _)| old.name == feature.name) {
            Some((_, old)) => *old = on,
            None => self.switched.push((feature, on)),
        }
    }

    /// Whether the address bits are ones that a processor can have.
    fn check_phys_bits(&self) -> Result<()> {
        // The host's are in the range; a limit counts where they do.
        let limit = Some(self.host_phys_bits_limit).filter(|limit| (1..=52).contains(limit));
        let bits = if self.host_phys_bits { limit } else { self.phys_bits };
        match bits {
            Some(bits) if !(32..=52).contains(&bits) && bits != 0 => {
                let text = format!("phys-bits should be between 32 and 52  (but is {bits})");
                Err(Error::generic(text))
            }
            _ => Ok(()),
        }
    }

    /// The base model.
    #[must_use]
    pub fn base_model(&self) -> Base {
        self.base
    }

    /// Physical address bits, given the host's: a set `phys-bits`, else the host's for `host` and `max`, `host-phys-bits-limit` of them at most, else 40.
    #[must_use]
    pub fn phys_bits(&self, host: u32) -> u32 {
        match self.phys_bits {
            Some(bits) if bits != 0 && !self.host_phys_bits => bits,
            _ if self.host_phys_bits && self.host_phys_bits_limit != 0 => host.min(self.host_phys_bits_limit),
            _ if self.host_phys_bits => host,
            _ => PLAIN_PHYS_BITS,
        }
    }

    /// The vendor, if one was set.
    #[must_use]
    pub fn vendor(&self) -> Option<&[u8; 12]> {
        self.vendor.as_ref()
    }

    /// Features that were switched by name.
    pub fn switched(&self) -> impl Iterator<Item = (&'static Feature, bool)> + '_ {
        self.switched.iter().copied()
    }
}

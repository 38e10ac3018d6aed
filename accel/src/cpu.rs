//! CPU models: the text of `-cpu`, and what a model means for the registers that tell what a processor can do.
//!
//! Models: `host` and `max` (all that the accelerator can give), `base` (nothing at all, what static expansions build on) and
//! QEMU's named ones with their versions, `qemu64` being the default. [`features`] and [`SETTINGS`] are what can be
//! changed of one; [`CpuModel::facts`] is what comes of it under an accelerator. Names and messages are QEMU 10's. Left out: Hyper-V's features, cache topology options (refused as unknown properties).
//!
//! ```
//! use accel::cpu::{CpuModel, Supported, feature};
//!
//! let model = CpuModel::parse("qemu64,+aes,-cx16,family=6")?;
//! let facts = model.facts(&Supported::nominal());
//! let has = |name| feature(name).unwrap().is_in(&facts.words);
//! assert_eq!([has("aes"), has("cx16"), has("fpu")], [true, false, true]);
//! assert_eq!(facts.family, 6);
//! # Ok::<(), qapi::Error>(())
//! ```

mod facts;
mod features;
mod model;
mod named;
mod settings;
mod words;

pub use facts::{Facts, Missing, Supported, Unavailable, signature, words_value};
pub use features::{ALIASES, Feature, feature, features};
pub use model::{Base, CpuModel, help};
pub use named::Named;
pub use settings::{SETTINGS, Setting, Shown};
pub(crate) use words::word_at;
pub use words::{COUNT, MsrForm, NAMED, Register, Source, WORDS, Word, Words};

#[cfg(test)]
mod tests;

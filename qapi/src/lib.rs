//! What every client of the monitor sees: JSON values, errors with their class, the schema and the types
//! generated from it.
//!
//! This is floor 0 of the house (`docs/architecture.md`): it knows the *shape* of commands and events and
//! nothing of what they do.
//!
//! - [`json`] is the stream: bytes to [`Value`]s and back.
//! - `schema/*.json` say which commands, events and types there are. The build script generates [`types`],
//!   [`events`] and [`mod@commands`] from them; [`visit`] holds what the generated code calls.
//! - [`dispatch()`] runs a command by name; [`introspect`] is the answer of `query-qmp-schema`;
//!   [`schema`] is the model that the generator and the reference (`docs/qmp-reference.md`) are made from.
//!
//! ```
//! use qapi::commands::PciCommands;
//! use qapi::types::PciInfo;
//!
//! /// A machine without PCI. A missing method would not compile.
//! struct Nothing;
//! impl PciCommands for Nothing {
//!     fn query_pci(&self) -> qapi::Result<Vec<PciInfo>> {
//!         Ok(Vec::new())
//!     }
//! }
//! assert!(qapi::lookup("query-pci").is_some_and(|command| !command.allow_oob));
//! ```

pub mod base64;
mod dispatch;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod introspect;
pub mod json;
pub mod reference;
pub mod schema;
mod value;
pub mod visit;

include!(concat!(env!("OUT_DIR"), "/generated.rs"));

pub use commands::Handlers;
pub use dispatch::{CommandInfo, commands, dispatch, lookup, not_found};
pub use error::{Error, ErrorClass, Result, strerror};
pub use value::{Dict, Value};
pub use visit::{Enum, FromValue, ToValue};

impl From<String> for types::HumanReadableText {
    fn from(human_readable_text: String) -> Self {
        Self { human_readable_text }
    }
}

/// Types and events of `tests/schema/selftest.json`, which has one of everything.
#[cfg(test)]
#[expect(unreachable_pub, reason = "generated for the library's surface, used by its own tests")]
mod selftest {
    include!(concat!(env!("OUT_DIR"), "/selftest.rs"));
}

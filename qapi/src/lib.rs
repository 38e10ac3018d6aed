//! What every client of the monitor sees: JSON values, errors with their class, the schema and the types
//! generated from it.
//!
//! This is floor 0 of the house (`docs/architecture.md`): it knows the *shape* of commands and events and
//! nothing of what they do.

mod error;
mod value;

pub use error::{Error, ErrorClass, Result};
pub use value::{Dict, Value};

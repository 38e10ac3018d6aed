//! What `query-qmp-schema` answers.
//!
//! The text is made when the crate is built and parsed when somebody asks: a start costs nothing.

use crate::{Value, json};

/// The schema's description of itself, as JSON text.
pub const TEXT: &str = include_str!(concat!(env!("OUT_DIR"), "/introspection.json"));

/// The schema's description of itself, an array of entities.
pub fn schema() -> Value {
    json::parse(TEXT).expect("the build script writes valid JSON")
}

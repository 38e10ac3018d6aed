//! What `query-qmp-schema` answers.
//!
//! The text is made when the crate is built and parsed when somebody asks: a start costs nothing.
//!
//! ```
//! let schema = qapi::introspect::schema();
//! let named = |name| move |e: &&qapi::Value| e.as_dict().and_then(|d| d.get("name")?.as_str()) == Some(name);
//! let stop = schema.as_list().and_then(|list| list.iter().find(named("stop"))).and_then(|e| e.as_dict());
//! assert_eq!(stop.and_then(|e| e.get("meta-type")?.as_str()), Some("command"));
//! ```

use std::sync::LazyLock;

use crate::{Value, json};

/// The schema's description of itself, as JSON text.
pub const TEXT: &str = include_str!(concat!(env!("OUT_DIR"), "/introspection.json"));

/// The schema's description of itself, an array of entities.
pub fn schema() -> Value {
    json::parse(TEXT).expect("the build script writes valid JSON")
}

/// The same with its text made once, which is what a client that asks costs most by far.
pub fn written() -> Value {
    static TEXT_ON_THE_WIRE: LazyLock<String> = LazyLock::new(|| json::to_string(&schema()));
    Value::Written(&TEXT_ON_THE_WIRE)
}

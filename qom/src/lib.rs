//! The object model: classes with typed properties, objects in one tree, links between them.
//!
//! Shaped after QEMU's QOM, because its paths, type names and error texts are interface: a monitor client
//! says `qom-set /machine/peripheral/vm0 requested-size …`. What is different: a class is a value made by
//! [`TypeInfo`] and registered once in a [`Registry`] (no process-wide tables), an object is an `Arc`, and a
//! property is a pair of typed closures, so that a getter cannot be handed the wrong struct.
//!
//! ```
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
//! use qom::{Input, Object, ObjectCore, Property, Registry, TypeInfo, object};
//! use qapi::Value;
//!
//! struct Lamp { core: ObjectCore, watts: AtomicU64 }
//! object!(Lamp, core);
//!
//! let mut registry = Registry::new();
//! registry.register(
//!     TypeInfo::new("lamp")
//!         .instance(|class| Arc::new(Lamp { core: ObjectCore::new(class), watts: AtomicU64::new(60) }))
//!         .property(
//!             Property::new("watts", "uint64")
//!                 .get(|l: &Lamp| Ok(l.watts.load(Relaxed).into()))
//!                 .set(|l: &Lamp, v, name| Ok(l.watts.store(v.to_u64(name)?, Relaxed))),
//!         ),
//! );
//! let lamp = registry.create("lamp").unwrap();
//! lamp.set("watts", Input::Text("40")).unwrap();
//! assert_eq!(lamp.get("watts").unwrap(), Value::Int(40));
//! assert_eq!(lamp.get("volts").unwrap_err().desc(), "Property 'lamp.volts' not found");
//! ```

mod class;
mod commands;
pub mod help;
mod input;
mod object;
pub mod options;
mod property;
pub mod size;
mod tree;

pub use class::{Class, Registry, TypeInfo};
pub use input::Input;
pub use object::{Object, ObjectCore, ObjectRef, cast};
pub use property::Property;
pub use tree::{Resolve, Tree, UserCreatable, valid_id};

#[cfg(test)]
mod tests;

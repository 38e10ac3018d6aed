//! How a device declares the state that a migration takes along.
//!
//! A device's saved state is a plain struct of its own, declared once with [`vmstate!`]: name, version, fields, subsections. From that
//! one declaration come the bytes in the stream ([`Encoder`], [`Decoder`]), the description that follows them ([`Described`]) and the
//! shape that is compared with that of the last release ([`Shape`]). The device turns its live fields into the struct by an exhaustive
//! pattern, so that a field somebody adds and forgets to save does not compile.
//!
//! ```
//! use vmstate::{Decoder, Encoder, VmState, vmstate};
//!
//! vmstate! {
//!     /// A counter that can be paused.
//!     pub struct CounterState: "counter", version 2, oldest 1 {
//!         count: u64,
//!         history: Vec<u16>,
//!         /// Version 1 could not be paused.
//!         paused: bool [since 2 else false],
//!     }
//! }
//!
//! let state = CounterState { count: 7, history: vec![1, 2], paused: true };
//! let mut out = Encoder::new();
//! state.put_fields(&mut out);
//! let bytes = out.into_bytes();
//! assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 2, 0, 1, 0, 2, 1]);
//! let mut input = Decoder::new(&bytes[..]);
//! assert_eq!(CounterState::get_versioned(&mut input, 2).unwrap(), state);
//! ```
//!
//! The encoding is that of QEMU's device sections: numbers are big endian, a `bool` is one byte, arrays have no padding, a subsection is
//! the byte 5, its name, its version and its fields. What varies in length has its number of elements, four bytes, in front.
//!
//! A stream is not trusted: nothing is allocated for elements that have not arrived, and lengths have a bound ([`MAX_ELEMENTS`]).

mod decoder;
mod describe;
mod encoder;
mod error;
mod field;
mod macros;
mod section;
mod shape;

pub use decoder::Decoder;
pub use describe::{Described, Layout};
pub use encoder::Encoder;
pub use error::{Errno, LoadError, Result};
pub use field::{Bits, CapabilityNames, Field, MAX_ELEMENTS, Text};
pub use section::{Apply, Priority, Saved, Section, check_version, put_struct};
pub use shape::{FieldShape, Shape, StateShape};

/// What starts a subsection, a section of a stream included.
#[doc(alias = "QEMU_VM_SUBSECTION")]
pub const SUBSECTION: u8 = 5;

/// State that [`vmstate!`] declared.
pub trait VmState: Sized {
    /// The name in descriptions, QEMU's where QEMU has such state.
    const NAME: &'static str;
    /// The version that is saved.
    const VERSION: u32;
    /// The oldest version that can be loaded.
    const OLDEST: u32;

    /// Writes the fields, then the subsections that are there.
    fn put_fields(&self, out: &mut Encoder);

    /// Reads what [`put_fields`](Self::put_fields) of `version` wrote.
    ///
    /// # Errors
    /// The version is not one that can be loaded, the stream ended, or a value is none of its field's.
    fn get_versioned(input: &mut Decoder<'_>, version: u32) -> Result<Self>;

    /// What is declared, without values.
    fn declared() -> StateShape;
}

#[cfg(test)]
mod tests;

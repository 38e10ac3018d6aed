//! The JSON stream of the monitor protocol: bytes in any chunking become values, values become text.
//!
//! Observed on QEMU 10.0.2: single-quoted strings, several values back to back, the errors' texts, what is skipped
//! after an error, the limits, and the order in which members are written. Pure: no I/O. Leaves out: `%`
//! interpolation, which only C callers have.
//!
//! ```
//! use qapi::json::{self, Parser};
//! let mut parser = Parser::new();
//! parser.feed(b"{'execute': 'query-sta");
//! assert!(parser.next().is_none());
//! parser.feed(b"tus'} }");
//! let command = parser.next().expect("complete")?;
//! assert_eq!(json::to_string(&command), r#"{"execute": "query-status"}"#);
//! let stray = parser.next().expect("an error is a result too").unwrap_err();
//! assert_eq!(stray.desc(), "JSON parse error, expecting value");
//! # Ok::<(), qapi::Error>(())
//! ```

mod lexer;
mod stream;
mod syntax;
mod utf8;
mod writer;

#[cfg(test)]
mod tests;

pub use stream::{Parser, parse};
pub use writer::{to_string, to_string_pretty, wire_order};

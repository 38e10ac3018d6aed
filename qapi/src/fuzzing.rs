//! The way in for the fuzz targets (`fuzz/`), and for nobody else: a parser with small limits, and handlers for everything.

use crate::{Dict, Result, Value, dispatch, json};

/// Handlers that fail with the arguments that they got.
mod echo {
    include!(concat!(env!("OUT_DIR"), "/echo.rs"));
}

/// A parser that takes at most `max_text` bytes (which must fit `u32`) and `max_tokens` tokens in one value.
pub fn parser(max_text: usize, max_tokens: usize) -> json::Parser {
    json::Parser::with_limits(max_text, max_tokens)
}

/// Runs `command` where every command fails with the arguments that it got.
///
/// # Errors
/// Always: what is wrong with the arguments, or what they are.
pub fn echo(command: &str, arguments: Dict) -> Result<Value> {
    dispatch(&echo::handlers(), command, arguments)
}

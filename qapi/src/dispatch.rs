//! From a command's name and arguments to its handler and back.

use crate::commands::{COMMANDS, Handlers};
use crate::visit::{Members, Path};
use crate::{Dict, Error, ErrorClass, Result, Value};

/// What a monitor must know of a command before it runs it.
#[derive(Debug)]
pub struct CommandInfo {
    /// Its name.
    pub name: &'static str,
    /// May be sent with `exec-oob`.
    pub allow_oob: bool,
    /// May run before the machine exists.
    pub allow_preconfig: bool,
    /// Answers when it succeeded.
    pub success_response: bool,
    /// Reads the arguments, calls the handler, writes the result.
    pub(crate) run: fn(&Handlers<'_>, Dict) -> Result<Value>,
}

/// All commands, sorted by name.
pub fn commands() -> &'static [CommandInfo] {
    &COMMANDS
}

/// The command of that name.
pub fn lookup(command: &str) -> Option<&'static CommandInfo> {
    let at = COMMANDS.binary_search_by(|c| c.name.cmp(command)).ok()?;
    Some(&COMMANDS[at])
}

/// Runs a command.
///
/// # Errors
/// `CommandNotFound`; an argument that is missing, wrong or unexpected; what the handler says.
pub fn dispatch(handlers: &Handlers<'_>, command: &str, arguments: Dict) -> Result<Value> {
    match lookup(command) {
        Some(info) => (info.run)(handlers, arguments),
        None => Err(not_found(command)),
    }
}

/// `The command X has not been found`, of class `CommandNotFound`.
pub fn not_found(command: &str) -> Error {
    Error::new(ErrorClass::CommandNotFound, format!("The command {command} has not been found"))
}

/// Refuses any argument.
pub(crate) fn no_arguments(arguments: Dict) -> Result<()> {
    Members::new(arguments, &Path::ROOT).finish()
}

#[cfg(test)]
mod tests;

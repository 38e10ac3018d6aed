//! A client of the human monitor on a socket: types commands, cuts the echo of the line editor off, reads to the prompt.

use crate::wire::{Wire, WireError};

/// The prompt after each command.
pub const PROMPT: &str = "(qemu) ";

/// One session with the human monitor.
#[derive(Debug)]
pub struct Hmp {
    wire: Wire,
}

impl Hmp {
    /// A session on a fresh connection; the banner is still to be read.
    pub fn new(wire: Wire) -> Self {
        Self { wire }
    }

    /// Reads the banner and the first prompt.
    ///
    /// # Errors
    ///
    /// The program hung up or said nothing in time.
    pub fn banner(&mut self) -> Result<String, WireError> {
        let text = self.raw_to_prompt()?;
        Ok(text.strip_suffix(PROMPT).unwrap_or(&text).replace("\r\n", "\n"))
    }

    /// Runs a command and returns what it printed, with `\n` as line ends.
    ///
    /// # Panics
    ///
    /// If the program hangs up or does not come back to its prompt in time.
    pub fn run(&mut self, command: &str) -> String {
        self.try_run(command).unwrap_or_else(|e| panic!("{command}: {e}"))
    }

    /// As [`Hmp::run`].
    ///
    /// # Errors
    ///
    /// The program hung up (as `quit` makes it) or did not come back to its prompt in time.
    pub fn try_run(&mut self, command: &str) -> Result<String, WireError> {
        self.wire.send(format!("{command}\n").as_bytes())?;
        self.reply()
    }

    /// What a command printed whose line was sent already: from after the echo to the prompt.
    ///
    /// # Errors
    ///
    /// As [`Hmp::try_run`].
    pub fn reply(&mut self) -> Result<String, WireError> {
        // The echo redraws the line for each character and ends with the first line end.
        self.wire.until("\r\n")?;
        let text = self.raw_to_prompt()?;
        Ok(text.strip_suffix(PROMPT).unwrap_or(&text).replace("\r\n", "\n"))
    }

    /// The bytes up to the next prompt, with it, as they came.
    ///
    /// # Errors
    ///
    /// As [`Hmp::try_run`].
    pub fn raw_to_prompt(&mut self) -> Result<String, WireError> {
        let end = |got: &[u8]| got.ends_with(PROMPT.as_bytes()).then_some(got.len());
        Ok(String::from_utf8_lossy(&self.wire.take("the prompt", end)?).into_owned())
    }

    /// The stream itself, for keys.
    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }
}

//! The commands on descriptors that the client sent.

use qapi::commands::FdsCommands;
use qapi::{Error, Result};

use super::SessionHandler;

impl FdsCommands for SessionHandler<'_> {
    fn getfd(&self, fdname: String) -> Result<()> {
        let fd = self.descriptors.take()?;
        if fdname.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(Error::generic("Parameter 'fdname' expects a name not starting with a digit"));
        }
        self.descriptors.names().put(fdname, fd);
        Ok(())
    }

    fn closefd(&self, fdname: String) -> Result<()> {
        let closed = self.descriptors.names().take(&fdname);
        closed.map(drop).ok_or_else(|| Error::generic(format!("File descriptor named '{fdname}' not found")))
    }
}

//! The commands on descriptors that the client sent.

use qapi::commands::FdsCommands;
use qapi::types::{AddfdInfo, FdsetInfo};
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

    fn add_fd(&self, fdset_id: Option<i64>, opaque: Option<String>) -> Result<AddfdInfo> {
        let fd = self.descriptors.take()?;
        self.server.fds()?.sets().add(fd, fdset_id, opaque)
    }

    fn remove_fd(&self, fdset_id: i64, fd: Option<i64>) -> Result<()> {
        self.server.fds()?.sets().remove(fdset_id, fd)
    }

    fn query_fdsets(&self) -> Result<Vec<FdsetInfo>> {
        Ok(self.server.fds()?.sets().list())
    }
}

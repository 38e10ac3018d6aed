//! The commands that belong to the session itself.

use std::sync::{Arc, Mutex};

use qapi::commands::SessionCommands;
use qapi::types::{CommandInfo, QMPCapability, VersionInfo, VersionTriple};
use qapi::{Dict, Error, Result, ToValue, Value};

use super::session::Session;
use crate::hmp::run_line;
use crate::server::{Server, Version, lock};

/// The session a command came from.
pub(crate) struct SessionHandler<'a> {
    pub(crate) server: &'a Arc<Server>,
    pub(crate) session: &'a Mutex<Session>,
}

/// `query-version`'s answer, part of the greeting.
pub(crate) fn version(version: &Version) -> Value {
    info(version).to_value()
}

fn info(version: &Version) -> VersionInfo {
    let [major, minor, micro] = version.qemu.map(i64::from);
    VersionInfo { qemu: VersionTriple { major, minor, micro }, package: version.package.clone() }
}

/// The session of a console, or of a line run for a program: it has no protocol of its own.
pub(crate) struct NoSession<'a>(pub(crate) &'a Arc<Server>);

/// Runs a console line for a program; lines end as on a terminal.
fn human(server: &Arc<Server>, line: &str, cpu_index: Option<i64>) -> Result<String> {
    let execute = |command: &str, arguments: Dict| server.run(&NoSession(server), command, arguments);
    if let Some(index) = cpu_index {
        let cpus = execute("query-cpus-fast", Dict::new())?;
        let known = usize::try_from(index).is_ok_and(|i| i < cpus.as_list().map_or(0, <[Value]>::len));
        if !known {
            return Err(Error::generic("Parameter 'cpu-index' expects a CPU number"));
        }
    }
    Ok(run_line(&execute, line, &[]).replace('\n', "\r\n"))
}

fn command_list() -> Vec<CommandInfo> {
    qapi::commands().iter().map(|c| CommandInfo { name: c.name.to_owned() }).collect()
}

impl SessionCommands for SessionHandler<'_> {
    fn qmp_capabilities(&self, enable: Option<Vec<QMPCapability>>) -> Result<()> {
        lock(self.session).negotiate(!enable.unwrap_or_default().is_empty())
    }

    fn query_version(&self) -> Result<VersionInfo> {
        Ok(info(&self.server.version))
    }

    fn query_commands(&self) -> Result<Vec<CommandInfo>> {
        Ok(command_list())
    }

    fn human_monitor_command(&self, command_line: String, cpu_index: Option<i64>) -> Result<String> {
        human(self.server, &command_line, cpu_index)
    }

    fn query_qmp_schema(&self, _arguments: Dict) -> Result<Value> {
        Ok(qapi::introspect::schema())
    }
}

impl SessionCommands for NoSession<'_> {
    fn qmp_capabilities(&self, _enable: Option<Vec<QMPCapability>>) -> Result<()> {
        Err(Error::generic("there is nothing to negotiate here"))
    }

    fn query_version(&self) -> Result<VersionInfo> {
        Ok(info(&self.0.version))
    }

    fn query_commands(&self) -> Result<Vec<CommandInfo>> {
        Ok(command_list())
    }

    fn human_monitor_command(&self, command_line: String, cpu_index: Option<i64>) -> Result<String> {
        human(self.0, &command_line, cpu_index)
    }

    fn query_qmp_schema(&self, _arguments: Dict) -> Result<Value> {
        Ok(qapi::introspect::schema())
    }
}

//! The commands that belong to the session itself.

use std::cell::Cell;
use std::sync::{Arc, Mutex};

use qapi::commands::SessionCommands;
use qapi::types::{CommandInfo, QMPCapability, VersionInfo, VersionTriple};
use qapi::{Dict, Error, Result, ToValue, Value};

use super::session::Session;
use crate::descriptors::Descriptors;
use crate::hmp::{Session as Console, has_cpu, run_line};
use crate::server::{Server, Version, lock};

/// Where a command came from.
pub(crate) struct SessionHandler<'a> {
    pub(super) server: &'a Arc<Server>,
    /// `None` for a console, or a line run for a program: they have no protocol of their own.
    session: Option<&'a Mutex<Session>>,
    /// Descriptors of the same monitor.
    pub(super) descriptors: &'a Descriptors,
}

impl<'a> SessionHandler<'a> {
    /// A QMP conversation.
    pub(crate) fn qmp(
        server: &'a Arc<Server>,
        session: &'a Mutex<Session>,
        descriptors: &'a Descriptors,
    ) -> Self {
        Self { server, session: Some(session), descriptors }
    }

    /// A console.
    pub(crate) fn console(server: &'a Arc<Server>, descriptors: &'a Descriptors) -> Self {
        Self { server, session: None, descriptors }
    }

    /// Descriptors of the monitor it came over.
    pub(crate) fn descriptors(&self) -> &Descriptors {
        self.descriptors
    }
}

/// `query-version`'s answer, part of the greeting.
pub(crate) fn version(version: &Version) -> Value {
    info(version).to_value()
}

fn info(version: &Version) -> VersionInfo {
    let [major, minor, micro] = version.qemu.map(i64::from);
    VersionInfo { qemu: VersionTriple { major, minor, micro }, package: version.package.clone() }
}

/// Runs a console line for a program; lines end as on a terminal.
fn human(server: &Arc<Server>, line: &str, cpu_index: Option<i64>) -> Result<String> {
    // As in QEMU it is a monitor of its own: it has no names, and what came with the line is not for it.
    let descriptors = Descriptors::default();
    let handler = SessionHandler::console(server, &descriptors);
    let execute = |command: &str, arguments: Dict| server.run(&handler, command, arguments);
    if let Some(index) = cpu_index {
        let cpus = execute("query-cpus-fast", Dict::new())?;
        if !has_cpu(&cpus, index) {
            return Err(Error::generic("Parameter 'cpu-index' expects a CPU number"));
        }
    }
    let cpu = Cell::new(cpu_index);
    let console = Console { history: &[], format: &server.format, cpu: &cpu };
    trace::emit!(handle_hmp_command, trace::Id::of(&console), line);
    Ok(run_line(&execute, line, &console).replace('\n', "\r\n"))
}

impl SessionCommands for SessionHandler<'_> {
    fn qmp_capabilities(&self, enable: Option<Vec<QMPCapability>>) -> Result<()> {
        let session = self.session.ok_or_else(|| Error::generic("there is nothing to negotiate here"))?;
        lock(session).negotiate(!enable.unwrap_or_default().is_empty())
    }

    fn query_version(&self) -> Result<VersionInfo> {
        Ok(info(&self.server.version))
    }

    fn query_commands(&self) -> Result<Vec<CommandInfo>> {
        Ok(qapi::commands().iter().map(|c| CommandInfo { name: c.name.to_owned() }).collect())
    }

    fn human_monitor_command(&self, command_line: String, cpu_index: Option<i64>) -> Result<String> {
        human(self.server, &command_line, cpu_index)
    }

    fn query_qmp_schema(&self, _arguments: Dict) -> Result<Value> {
        Ok(qapi::introspect::written())
    }
}

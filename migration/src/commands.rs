//! The commands.

use qapi::commands::MigrationCommands;
use qapi::types::{
    DirtyLimitInfo, DirtyRateInfo, DirtyRateMeasureMode, MigrationCapabilityStatus, MigrationChannel,
    MigrationInfo, MigrationParameters, MigrationStatus as Status, TimeUnit,
};
use qapi::{Enum, Error, Result};

use crate::address::Address;
use crate::{Expected, Migration, Outcome, lock, parameters};

impl Migration {
    fn is_running(&self) -> bool {
        let incoming = match &*lock(&self.incoming) {
            Expected::Begun(incoming) => incoming.progress.status() == Status::Active,
            Expected::No | Expected::Deferred | Expected::NotOpened(_) => false,
        };
        incoming || matches!(&*lock(&self.outgoing), Some(Outcome::Begun(last)) if last.progress.is_running())
    }

    /// The status of the last attempt to send the machine.
    fn status(&self) -> Status {
        match &*lock(&self.outgoing) {
            None => Status::None,
            Some(Outcome::NotOpened(_)) => Status::Failed,
            Some(Outcome::Begun(last)) => last.progress.status(),
        }
    }
}

impl MigrationCommands for Migration {
    fn migrate_set_capabilities(&self, capabilities: Vec<MigrationCapabilityStatus>) -> Result<()> {
        if self.is_running() {
            return Err(Error::generic("There's a migration process in progress"));
        }
        let mut settings = lock(&self.settings);
        settings.capabilities = settings.capabilities.changed(&capabilities)?;
        Ok(())
    }

    fn query_migrate_capabilities(&self) -> Result<Vec<MigrationCapabilityStatus>> {
        Ok(lock(&self.settings).capabilities.all())
    }

    fn migrate_set_parameters(&self, change: MigrationParameters) -> Result<()> {
        lock(&self.settings).change(&change)
    }

    fn x_pliant_migrate_set_parameter_text(&self, parameter: String, value: String) -> Result<()> {
        self.migrate_set_parameters(parameters::from_text(&parameter, &value)?)
    }

    fn query_migrate_parameters(&self) -> Result<MigrationParameters> {
        Ok(lock(&self.settings).parameters.clone())
    }

    fn query_migrate(&self) -> Result<MigrationInfo> {
        if let Expected::Begun(incoming) | Expected::NotOpened(incoming) = &*lock(&self.incoming) {
            // A machine that arrived may be sent on, and then that is what is told.
            if lock(&self.outgoing).is_none() {
                return Ok(incoming.info());
            }
        }
        Ok(match &*lock(&self.outgoing) {
            None => MigrationInfo::default(),
            Some(Outcome::NotOpened(error)) => MigrationInfo {
                status: Some(Status::Failed),
                error_desc: Some(error.clone()),
                ..MigrationInfo::default()
            },
            Some(Outcome::Begun(last)) => last.progress.info(),
        })
    }

    fn migrate(
        &self,
        uri: Option<String>,
        channels: Option<Vec<MigrationChannel>>,
        _detach: Option<bool>,
        resume: Option<bool>,
    ) -> Result<()> {
        let address = Address::of(uri.as_deref(), channels.as_deref())?;
        if resume == Some(true) {
            return Err(Error::generic("Cannot resume if there is no paused migration"));
        }
        self.begin(&address)
    }

    fn migrate_incoming(
        &self,
        uri: Option<String>,
        channels: Option<Vec<MigrationChannel>>,
        exit_on_error: Option<bool>,
    ) -> Result<()> {
        match &*lock(&self.incoming) {
            Expected::No => return Err(Error::generic("'-incoming' was not specified on the command line")),
            Expected::Begun(_) => {
                return Err(Error::generic("The incoming migration has already been started"));
            }
            Expected::Deferred | Expected::NotOpened(_) => {}
        }
        let address = Address::of(uri.as_deref(), channels.as_deref())?;
        if let Expected::NotOpened(incoming) = &*lock(&self.incoming) {
            let status = incoming.progress.status();
            return Err(Error::generic(format!("Illegal migration incoming state: {}", status.as_str())));
        }
        self.receive(&address, exit_on_error.unwrap_or(true))
    }

    fn migrate_cancel(&self) -> Result<()> {
        if let Some(Outcome::Begun(last)) = &*lock(&self.outgoing) {
            last.cancel();
        }
        Ok(())
    }

    fn migrate_continue(&self, state: Status) -> Result<()> {
        let now = self.status();
        if now != state {
            return Err(Error::generic(format!("Migration not in expected state: {}", now.as_str())));
        }
        if let Some(Outcome::Begun(last)) = &*lock(&self.outgoing) {
            last.progress.let_go_on();
        }
        Ok(())
    }

    fn calc_dirty_rate(
        &self,
        calc_time: i64,
        calc_time_unit: Option<TimeUnit>,
        sample_pages: Option<i64>,
        mode: Option<DirtyRateMeasureMode>,
    ) -> Result<()> {
        self.dirty_rate.start(calc_time, calc_time_unit, sample_pages, mode)
    }

    fn query_dirty_rate(&self, calc_time_unit: Option<TimeUnit>) -> Result<DirtyRateInfo> {
        Ok(self.dirty_rate.info(calc_time_unit))
    }

    fn set_vcpu_dirty_limit(&self, cpu_index: Option<i64>, dirty_rate: u64) -> Result<()> {
        self.dirty_limit.set(cpu_index, dirty_rate)
    }

    fn cancel_vcpu_dirty_limit(&self, cpu_index: Option<i64>) -> Result<()> {
        self.dirty_limit.cancel(cpu_index)
    }

    fn query_vcpu_dirty_limit(&self) -> Result<Vec<DirtyLimitInfo>> {
        Ok(self.dirty_limit.info())
    }
}

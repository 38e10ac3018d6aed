//! The commands.

use std::sync::Arc;

use qapi::commands::MigrationCommands;
use qapi::types::{
    DirtyLimitInfo, DirtyRateInfo, DirtyRateMeasureMode, MigrationCapability as Capability,
    MigrationCapabilityStatus, MigrationChannel, MigrationInfo, MigrationParameters,
    MigrationStatus as Status, RunState, TimeUnit,
};
use qapi::{Enum, Error, Result};

use crate::address::Address;
use crate::progress::follows;
use crate::{Expected, Migration, Outcome, connect, lock, parameters};

impl Migration {
    fn is_running(&self) -> bool {
        let incoming = match &*lock(&self.incoming) {
            Expected::Begun(incoming) => incoming.progress.status() == Status::Active,
            Expected::No | Expected::Deferred | Expected::NotOpened(_) => false,
        };
        incoming || matches!(&*lock(&self.outgoing), Some(Outcome::Begun(last)) if last.progress.is_running())
    }

    /// Goes on with a migration that was interrupted.
    fn resume(&self, address: &Address) -> Result<()> {
        let last = match &*lock(&self.outgoing) {
            Some(Outcome::Begun(last)) if last.progress.status() == Status::PostcopyPaused => {
                Arc::clone(last)
            }
            _ => return Err(Error::generic("Cannot resume if there is no paused migration")),
        };
        lock(&self.settings).fit(address)?;
        last.resume_over(connect::outlet(address, &self.chardevs)?)
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
        // One that has come is over: the machine may be moved on.
        let begun = match &*lock(&self.incoming) {
            Expected::Begun(incoming) => incoming.progress.status() != Status::Completed,
            Expected::NotOpened(_) => true,
            Expected::No | Expected::Deferred => false,
        };
        let mut settings = lock(&self.settings);
        let changed = settings.capabilities.changed(&capabilities)?;
        let new = |capability| changed.has(capability) && !settings.capabilities.has(capability);
        if new(Capability::PostcopyRam) && self.machine.run_state() == RunState::Inmigrate {
            // Here rather than when it comes.
            let supported = crate::incoming::landing::supported(self.machine.memory());
            supported.map_err(|why| Error::generic(format!("Postcopy is not supported: {why}")))?;
        }
        if changed.has(Capability::PostcopyPreempt) && begun {
            return Err(Error::generic("Postcopy preempt must be set before incoming starts"));
        }
        settings.capabilities = changed;
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
            return self.resume(&address);
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
            if follows(last.progress.status()) {
                return Err(Error::generic("Postcopy migration in progress, cannot cancel."));
            }
        }
        Ok(())
    }

    fn migrate_start_postcopy(&self) -> Result<()> {
        if !lock(&self.settings).capabilities.has(Capability::PostcopyRam) {
            return Err(Error::generic(
                "Enable postcopy with migrate_set_capability before the start of migration",
            ));
        }
        match &*lock(&self.outgoing) {
            None => Err(Error::generic("Postcopy must be started after migration has been started")),
            Some(Outcome::NotOpened(_)) => Ok(()),
            Some(Outcome::Begun(last)) => {
                last.progress.start_postcopy();
                Ok(())
            }
        }
    }

    fn migrate_pause(&self) -> Result<()> {
        let can = |status| matches!(status, Status::PostcopyActive | Status::PostcopyRecover);
        if let Some(Outcome::Begun(last)) = &*lock(&self.outgoing)
            && can(last.progress.status())
        {
            last.disconnect();
            return Ok(());
        }
        let incoming = match &*lock(&self.incoming) {
            Expected::Begun(incoming) => Some(Arc::clone(incoming)),
            Expected::No | Expected::Deferred | Expected::NotOpened(_) => None,
        };
        if let Some(incoming) = incoming.filter(|incoming| can(incoming.progress.status())) {
            incoming.disconnect();
            return Ok(());
        }
        Err(Error::generic(
            "migrate-pause is currently only supported during postcopy-active or postcopy-recover state",
        ))
    }

    fn migrate_recover(&self, uri: String) -> Result<()> {
        let none = || Error::generic("Migrate recover can only be run when postcopy is paused.");
        let incoming = match &*lock(&self.incoming) {
            Expected::Begun(incoming) => Arc::clone(incoming),
            Expected::No | Expected::Deferred | Expected::NotOpened(_) => return Err(none()),
        };
        if incoming.progress.status() != Status::PostcopyPaused {
            return Err(none());
        }
        incoming.recover(&Address::parse(&uri)?, &self.chardevs)
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

//! The monitor commands whose subject is the machine: run state, queries, devices, PCI.
//!
//! All run on the main loop thread.

mod block;
mod cpu_models;
mod machine;
mod stats;
mod tpm;

use std::sync::Arc;

use qapi::commands::{PciCommands, QdevCommands, RunStateCommands, VirtioCommands};
use qapi::types::{
    HumanReadableText, PanicAction, PciInfo, RebootAction, RunState, ShutdownAction, ShutdownCause,
    StatusInfo, VirtQueueStatus, VirtVhostQueueStatus, VirtioInfo, VirtioQueueElement, VirtioStatus,
    WatchdogAction,
};
use qapi::{Dict, Error, Result};
use qom::{Input, ObjectRef};

use crate::core::help;
use crate::core::machine::Machine;
use crate::core::qdev;
use crate::core::qtree;
use crate::dump::{self, Dumps};
use crate::pci::{PciBus, info};
use crate::virtio::query;

/// Handlers of `run-state.json`, `machine.json`, `qdev.json` and `pci.json` for one machine.
#[derive(Clone)]
pub struct MachineHandlers(Arc<Machine>);

impl MachineHandlers {
    /// Handlers for `machine`.
    pub fn new(machine: Arc<Machine>) -> Self {
        Self(machine)
    }

    /// A dump shows a guest that stands still.
    fn may_change_state(&self) -> Result<()> {
        if Dumps::of(&self.0).in_progress() { Err(dump::busy()) } else { Ok(()) }
    }

    /// What users made that is of some kind, which `accept` knows.
    fn user_objects<T>(&self, accept: impl Fn(&ObjectRef) -> Option<T>) -> Vec<T> {
        let objects = self.0.tree().container("/objects").core().children();
        objects.iter().filter_map(|(_, object)| accept(object)).collect()
    }

    /// The machine, for handlers of other rooms.
    pub(crate) fn machine(&self) -> &Arc<Machine> {
        &self.0
    }
}

/// What `device_add help` and `device_add DRIVER,help` print.
fn device_help(machine: &Machine, driver: Option<&str>) -> Result<String> {
    let registry = machine.tree().registry();
    let Some(driver) = driver else { return Ok(help::device_list(&registry)) };
    help::device_help(&registry, driver)
}

impl RunStateCommands for MachineHandlers {
    fn query_status(&self) -> Result<StatusInfo> {
        let status = self.0.run_state();
        Ok(StatusInfo { running: status == RunState::Running, status })
    }

    fn stop(&self) -> Result<()> {
        self.may_change_state()?;
        self.0.stop();
        Ok(())
    }

    fn cont(&self) -> Result<()> {
        self.may_change_state()?;
        self.0.cont()
    }

    fn system_reset(&self) -> Result<()> {
        self.0.request_reset(ShutdownCause::HostQmpSystemReset);
        self.0.carry_out_requests();
        Ok(())
    }

    fn system_powerdown(&self) -> Result<()> {
        self.0.request_powerdown();
        self.0.carry_out_requests();
        Ok(())
    }

    fn system_wakeup(&self) -> Result<()> {
        // As `query-current-machine` says: no board can be put to sleep yet.
        Err(Error::generic("wake-up from suspend is not supported by this guest"))
    }

    fn set_action(
        &self,
        reboot: Option<RebootAction>,
        shutdown: Option<ShutdownAction>,
        panic: Option<PanicAction>,
        watchdog: Option<WatchdogAction>,
    ) -> Result<()> {
        self.0.set_actions(|a| {
            a.reboot = reboot.unwrap_or(a.reboot);
            a.shutdown = shutdown.unwrap_or(a.shutdown);
            a.panic = panic.unwrap_or(a.panic);
            a.watchdog = watchdog.unwrap_or(a.watchdog);
        });
        Ok(())
    }

    fn watchdog_set_action(&self, action: WatchdogAction) -> Result<()> {
        self.set_action(None, None, None, Some(action))
    }

    fn quit(&self) -> Result<()> {
        self.0.quit();
        Ok(())
    }
}

impl QdevCommands for MachineHandlers {
    fn device_add(&self, arguments: Dict) -> Result<()> {
        qdev::device_add(&self.0, &qdev::json_options(&arguments)).map(drop)
    }

    fn x_pliant_device_add_text(&self, options: String) -> Result<HumanReadableText> {
        let options = qom::options::options(&options, Some("driver"));
        // `help=on` is as good.
        if options.help || options.get("help").is_some() {
            // QEMU reports what is wrong as a line of its own, not as the command's error.
            let help = device_help(&self.0, options.get("driver"));
            return Ok(help.unwrap_or_else(|e| format!("{}\n", e.desc())).into());
        }
        let list: Vec<_> = options.pairs.iter().map(|(k, v)| (k.as_str(), Input::Option(v))).collect();
        qdev::device_add(&self.0, &list)?;
        Ok(String::new().into())
    }

    fn device_del(&self, id: String) -> Result<()> {
        qdev::device_del(&self.0, &id)
    }

    fn device_sync_config(&self, id: String) -> Result<()> {
        query::sync_config(&self.0, &id)
    }

    fn x_pliant_query_qtree(&self, brief: Option<bool>) -> Result<HumanReadableText> {
        Ok(qtree::text(&self.0, brief.unwrap_or(false)).into())
    }
}

impl PciCommands for MachineHandlers {
    fn query_pci(&self) -> Result<Vec<PciInfo>> {
        let bus = qdev::find_bus(&self.0, "PCI").and_then(|b| (b as ObjectRef).downcast::<PciBus>());
        Ok(bus.iter().map(|bus| info::bus_info(bus)).collect())
    }
}

impl VirtioCommands for MachineHandlers {
    fn x_query_virtio(&self) -> Result<Vec<VirtioInfo>> {
        let devices = query::devices(self.0.tree());
        if devices.is_empty() {
            return Err(Error::generic("No virtio devices found"));
        }
        Ok(devices)
    }

    fn x_query_virtio_status(&self, path: String) -> Result<VirtioStatus> {
        query::device_status(&self.0, &path)
    }

    fn x_query_virtio_queue_status(&self, path: String, queue: u16) -> Result<VirtQueueStatus> {
        query::queues::status(&self.0, &path, queue)
    }

    fn x_query_virtio_vhost_queue_status(&self, path: String, queue: u16) -> Result<VirtVhostQueueStatus> {
        query::queues::vhost_status(&self.0, &path, queue)
    }

    fn x_query_virtio_queue_element(
        &self,
        path: String,
        queue: u16,
        index: Option<u16>,
    ) -> Result<VirtioQueueElement> {
        query::queues::element(&self.0, &path, queue, index)
    }
}

#[cfg(test)]
mod tests;

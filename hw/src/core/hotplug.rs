//! Who takes part when a device is plugged and unplugged: its bus, and for memory devices the machine.

use std::sync::Arc;

use qapi::Result;

use super::device::Device;
use super::machine::Machine;

/// Takes part in plugging devices of some kind.
///
/// Order when a device is added: `pre_plug` of the class's handler and of the bus's, then `realize`, then `plug` of both. A
/// `device_del` asks `unplug_request` of the class's handler, then the bus's. Once the guest let go, `unplug` of both, then
/// `unrealize`.
pub trait HotplugHandler: Send + Sync {
    /// May refuse the device and may still set its properties (an address). Changes nothing else.
    ///
    /// # Errors
    /// The device is not added.
    fn pre_plug(&self, _machine: &Arc<Machine>, _device: &Arc<dyn Device>) -> Result<()> {
        Ok(())
    }

    /// Makes the realized device part of the machine.
    ///
    /// # Errors
    /// The device is unrealized and not added.
    fn plug(&self, _machine: &Arc<Machine>, _device: &Arc<dyn Device>) -> Result<()> {
        Ok(())
    }

    /// May refuse an unplug that the user asked for.
    ///
    /// # Errors
    /// The device stays.
    fn unplug_request(&self, _machine: &Arc<Machine>, _device: &Arc<dyn Device>) -> Result<Unplug> {
        Ok(Unplug::Now)
    }

    /// Takes the device out; it is unrealized next. Also called when adding it failed after `plug`.
    fn unplug(&self, _machine: &Arc<Machine>, _device: &Arc<dyn Device>) {}
}

/// What becomes of an accepted unplug request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unplug {
    /// Nobody needs to be asked.
    Now,
    /// The guest was told; it will eject the device, which then calls [`super::qdev::complete_unplug`].
    GuestAsked,
    /// The same, and the guest may say no: a later `device_del` asks it again.
    MayAskAgain,
}

//! What a migration takes along of a transport. Notifications that nobody heard, and turns that were put off, are not: where it comes, all
//! queues are looked at once the machine runs.

use vmstate::{LoadError, Result, vmstate};

use super::{Inner, Transport};
use crate::virtio::device::Notifier as _;
use crate::virtio::features::status;
use crate::virtio::state::{DeviceState, Host};
use crate::virtio::unpoisoned;

vmstate! {
    /// Registers of the transport, and what is behind them.
    pub(in crate::virtio) struct TransportState: "virtio-transport", version 1 {
        dfselect: u32,
        gfselect: u32,
        /// What the driver wrote, bits that are not offered included.
        guest_features: [u32; 2],
        device: DeviceState,
    }
}

impl Transport {
    /// The state of now, in a machine that stopped.
    pub(in crate::virtio) fn saved_state(&self) -> TransportState {
        let inner = self.lock();
        let Inner { state, selectors } = &*inner;
        let (dfselect, gfselect, guest_features) = selectors.saved();
        TransportState { dfselect, gfselect, guest_features, device: state.saved_state() }
    }

    /// Takes over what the same device had elsewhere; its function reaches memory already as it did there.
    ///
    /// # Errors
    /// It cannot be a state of this device. QEMU's texts where it has some.
    pub(in crate::virtio) fn load_state(&self, saved: &TransportState) -> Result<()> {
        if self.external.is_some() {
            return Err(LoadError::invalid("rings that another process serves cannot be taken over"));
        }
        let TransportState { dfselect, gfselect, guest_features, device } = saved;
        let host = Host { legacy: self.parts.backend.common().legacy_features(), vectors: self.vectors() };
        let served = {
            let mut inner = self.lock();
            let Inner { state, selectors } = &mut *inner;
            selectors.load(*dfselect, *gfselect, *guest_features);
            state.load_state(device, host, self.parts.space.view().guest_memory())?
        };
        if let Some(violation) = served.violation {
            tracing::error!("{violation}");
        }
        *unpoisoned(&self.owed) = served.due;
        if device.status & status::DRIVER_OK != 0 {
            self.start_kicks();
        }
        for queue in 0..self.queue_count() {
            self.queue_ready(queue);
        }
        self.update_pin();
        Ok(())
    }

    /// The machine that was loaded runs: delivers what loading came to.
    pub(super) fn deliver_owed(&self) {
        let due = std::mem::take(&mut *unpoisoned(&self.owed));
        self.deliver(due);
    }
}

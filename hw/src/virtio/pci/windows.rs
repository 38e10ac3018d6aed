//! The registers of BAR 4, and the port of notifications, as regions (virtio 1.3 §4.1.4).

use std::sync::Arc;

use memory::{AccessConstraints, RegionOps};

use crate::virtio::transport::Transport;

/// Queues that a layout has room for.
#[doc(alias = "VIRTIO_QUEUE_MAX")]
const MAX_QUEUES: u64 = 1024;

/// The registers of BAR 4 by their place in it, 4 KiB each but for the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Window {
    Common,
    Isr,
    Device,
    Notify,
}

impl Window {
    pub(super) const ALL: [Self; 4] = [Self::Common, Self::Isr, Self::Device, Self::Notify];
    const SIZE: u64 = 0x1000;

    pub(super) fn offset(self) -> u64 {
        self as u64 * Self::SIZE
    }

    /// Its bytes, where the registers of two queues are `notify_stride` apart.
    pub(super) fn size(self, notify_stride: u64) -> u64 {
        match self {
            Self::Notify => notify_stride * MAX_QUEUES,
            _ => Self::SIZE,
        }
    }

    /// The one at `offset` of the BAR, and the offset in it.
    pub(super) fn at(offset: u64, notify_stride: u64) -> Option<(Self, u64)> {
        let window = *Self::ALL.iter().rfind(|window| window.offset() <= offset)?;
        let offset = offset - window.offset();
        (offset < window.size(notify_stride)).then_some((window, offset))
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Common => "common",
            Self::Isr => "isr",
            Self::Device => "device",
            Self::Notify => "notify",
        }
    }
}

/// One window of a transport as a region.
pub(super) struct WindowOps {
    pub(super) transport: Arc<Transport>,
    pub(super) window: Window,
}

impl RegionOps for WindowOps {
    fn read(&self, offset: u64, size: u8) -> u64 {
        match self.window {
            Window::Common => self.transport.read_common(offset).into(),
            Window::Isr => self.transport.read_isr().into(),
            Window::Device => self.transport.read_config(offset, size),
            Window::Notify => 0,
        }
    }

    fn write(&self, offset: u64, size: u8, value: u64) {
        match self.window {
            Window::Common => self.transport.write_common(offset, value as u32),
            Window::Isr => {}
            Window::Device => self.transport.write_config(offset, size, value),
            Window::Notify => {
                trace::emit!(virtio_pci_notify_write, offset, value, size);
                if let Ok(queue) = u16::try_from(offset / self.transport.notify_stride()) {
                    self.transport.kick(queue);
                }
            }
        }
    }

    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(1, 8).implemented(1, 4)
    }
}

/// The port to which drivers write the number of a queue (`modern-pio-notify`).
pub(super) struct NotifyPort(pub(super) Arc<Transport>);

impl RegionOps for NotifyPort {
    fn read(&self, _offset: u64, _size: u8) -> u64 {
        0
    }

    fn write(&self, _offset: u64, size: u8, value: u64) {
        trace::emit!(virtio_pci_notify_write_pio, 0u64, value, size);
        if let Ok(queue) = u16::try_from(value) {
            self.0.kick(queue);
        }
    }

    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(1, 4).implemented(1, 4)
    }
}

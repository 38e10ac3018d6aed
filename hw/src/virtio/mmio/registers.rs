//! The registers (virtio 1.3 §4.2.2 and, for legacy drivers, §4.2.4).
//!
//! | legacy | modern |
//! | --- | --- |
//! | a queue starts when its page number is written | when it is said to be ready |
//! | features have 32 bits | 64 bits, taken over with FEATURES_OK |
//!
//! All but the configuration space are 32 bits wide; accesses of another width read 0 and change nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memory::{AccessConstraints, RegionOps};
use vmstate::{LoadError, Result, vmstate};

use crate::core::irq::IrqLine;
use crate::virtio::features::{ANY_LAYOUT, NOTIFY_ON_EMPTY, RING_PACKED, status};
use crate::virtio::state::{StatusChange, VirtioState};
use crate::virtio::transport::Transport;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VENDOR: u32 = u32::from_le_bytes(*b"QEMU");
const CONFIG: u64 = 0x100;
/// Says that there is no shared memory.
const NOWHERE: u32 = u32::MAX;
const LOW: u64 = 0xffff_ffff;

/// A slot of the board, with what its registers hold besides the device's state.
pub(super) struct Slot {
    legacy: bool,
    line: Arc<IrqLine>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    transport: Option<Arc<Transport>>,
    selectors: Selectors,
}

#[derive(Debug, Default)]
struct Selectors {
    device_feature: u32,
    driver_feature: u32,
    /// What the driver accepted, by halves.
    driver: [u32; 2],
    /// Legacy: bits in a page number that are not there.
    page_shift: u32,
    /// Legacy: what the used ring is aligned to.
    align: u32,
}

vmstate! {
    /// What a migration takes along of a slot.
    pub(in crate::virtio) struct MmioState: "virtio_mmio", version 1 {
        legacy: bool,
        host_features_sel: u32,
        guest_features_sel: u32,
        guest_features: [u32; 2],
        guest_page_shift: u32,
        align: u32,
    }
}

impl Slot {
    /// The state of now.
    pub(super) fn saved_state(&self) -> MmioState {
        let inner = self.lock();
        let Inner { transport: _, selectors } = &*inner;
        let Selectors { device_feature, driver_feature, driver, page_shift, align } = selectors;
        MmioState {
            legacy: self.legacy,
            host_features_sel: *device_feature,
            guest_features_sel: *driver_feature,
            guest_features: *driver,
            guest_page_shift: *page_shift,
            align: *align,
        }
    }

    /// Takes over what the same slot had elsewhere.
    ///
    /// # Errors
    /// It was a slot of another kind.
    pub(super) fn load_state(&self, saved: &MmioState) -> Result<()> {
        let MmioState {
            legacy,
            host_features_sel,
            guest_features_sel,
            guest_features,
            guest_page_shift,
            align,
        } = saved;
        if *legacy != self.legacy {
            return Err(LoadError::invalid("'force-legacy' differs"));
        }
        if *guest_page_shift > 31 {
            return Err(LoadError::invalid(format!("Invalid page shift {guest_page_shift}")));
        }
        self.lock().selectors = Selectors {
            device_feature: *host_features_sel,
            driver_feature: *guest_features_sel,
            driver: *guest_features,
            page_shift: *guest_page_shift,
            align: *align,
        };
        Ok(())
    }

    pub(super) fn new(legacy: bool, line: Arc<IrqLine>) -> Self {
        Self { legacy, line, inner: Mutex::default() }
    }

    pub(super) fn line(&self) -> &Arc<IrqLine> {
        &self.line
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Registers are assigned whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn transport(&self) -> Option<Arc<Transport>> {
        self.lock().transport.clone()
    }

    /// Changes what is behind the registers; gives what was there.
    pub(super) fn set_transport(&self, transport: Option<Arc<Transport>>) -> Option<Arc<Transport>> {
        std::mem::replace(&mut self.lock().transport, transport)
    }

    /// A reset of the machine.
    pub(super) fn reset(&self) {
        let transport = {
            let mut inner = self.lock();
            inner.selectors = Selectors::default();
            inner.transport.clone()
        };
        if let Some(transport) = transport {
            transport.reset();
        }
    }

    fn read(&self, transport: &Transport, offset: u64) -> u32 {
        let offered = |state: &VirtioState| {
            let legacy = transport.backend().common().generic();
            let bit = |on: bool, bit: u64| if on { bit } else { 0 };
            match self.legacy {
                true => {
                    state.offered() & LOW
                        | bit(legacy.notify_on_empty, NOTIFY_ON_EMPTY)
                        | bit(legacy.any_layout, ANY_LAYOUT)
                }
                false => state.offered(),
            }
        };
        let (select, shift) = {
            let inner = self.lock();
            (inner.selectors.device_feature, inner.selectors.page_shift)
        };
        transport.with_state(|state| {
            let queue = state.selected();
            match offset {
                0x08 => u32::from(transport.backend().device_id()),
                0x10 if select < 2 => (offered(state) >> (32 * select)) as u32,
                // Of what the device has, not QEMU's 1024 for every queue: a driver takes all there is.
                0x34 => queue.map_or(0, |queue| queue.default_size().into()),
                0x40 if self.legacy => queue.map_or(0, |queue| (queue.desc >> shift) as u32),
                0x44 if !self.legacy => queue.map_or(0, |queue| queue.is_enabled().into()),
                0x60 => state.isr().into(),
                0x70 => state.status().into(),
                0xb0..=0xbc if !self.legacy => NOWHERE,
                0xfc if !self.legacy => state.generation().into(),
                _ => 0,
            }
        })
    }

    fn write(&self, transport: &Transport, offset: u64, value: u32) {
        match offset {
            0x14 => self.lock().selectors.device_feature = value,
            0x20 => self.write_features(transport, value),
            0x24 => self.lock().selectors.driver_feature = value,
            0x28 if self.legacy => {
                let shift = value.trailing_zeros();
                self.lock().selectors.page_shift = if shift > 31 { 0 } else { shift };
            }
            0x30 => transport.change(|state| state.select_queue(value as u16)),
            0x38 => transport.change(|state| {
                let packed = state.accepted() & RING_PACKED != 0;
                if let Some(queue) = state.selected_mut().filter(|queue| !queue.is_enabled()) {
                    queue.set_size(u16::try_from(value).unwrap_or(0), packed);
                }
            }),
            0x3c if self.legacy => self.lock().selectors.align = value,
            0x40 if self.legacy => self.write_page(transport, value),
            0x44 if !self.legacy => match value {
                0 => transport.change(|state| state.reset_selected(&**transport.backend())),
                _ => transport.finish_write(|state| state.enable_selected(1)),
            },
            0x50 => {
                if let Ok(queue) = u16::try_from(value) {
                    transport.kick(queue);
                }
            }
            0x64 => transport.acknowledge(value as u8),
            0x70 => self.write_status(transport, value as u8),
            0xc0 if !self.legacy && value == 1 => {
                transport.change(|state| state.reset_selected(&**transport.backend()))
            }
            0x80..=0xa4 if !self.legacy => write_address(transport, offset, value),
            _ => {}
        }
    }

    fn write_features(&self, transport: &Transport, value: u32) {
        let mut inner = self.lock();
        let select = inner.selectors.driver_feature as usize;
        if let Some(half) = inner.selectors.driver.get_mut(select) {
            *half = value;
        }
        let low = u64::from(inner.selectors.driver[0]);
        drop(inner);
        if self.legacy {
            transport.change(|state| state.accept(low));
        }
    }

    fn write_status(&self, transport: &Transport, value: u8) {
        if !self.legacy && value & status::FEATURES_OK != 0 {
            let [low, high] = self.lock().selectors.driver.map(u64::from);
            transport.change(|state| state.accept(high << 32 | low));
        }
        if transport.write_status(value) == StatusChange::Reset {
            // A driver says the size of its pages once, before its reset: that and what is selected stay, as on QEMU, until the machine is reset.
            self.lock().selectors.driver = [0; 2];
        }
    }

    /// Legacy: a ring in one piece at a page (§2.7.2), or with 0 the end of everything.
    fn write_page(&self, transport: &Transport, page: u32) {
        if page == 0 {
            self.write_status(transport, 0);
            return;
        }
        let (shift, align) = {
            let inner = self.lock();
            (inner.selectors.page_shift, u64::from(inner.selectors.align.max(1)))
        };
        transport.finish_write(|state| {
            if let Some(queue) = state.selected_mut().filter(|queue| !queue.is_enabled()) {
                let size = u64::from(queue.size());
                queue.desc = u64::from(page) << shift;
                queue.avail = queue.desc + 16 * size;
                // Behind the index at the end of the ring of available buffers.
                queue.used = (queue.avail + 4 + 2 * size).next_multiple_of(align);
            }
            state.enable_selected(1)
        });
    }
}

/// The three parts of a ring, by halves.
fn write_address(transport: &Transport, offset: u64, value: u32) {
    transport.change(|state| {
        let Some(queue) = state.selected_mut().filter(|queue| !queue.is_enabled()) else { return };
        let address = match offset & !7 {
            0x80 => &mut queue.desc,
            0x90 => &mut queue.avail,
            0xa0 => &mut queue.used,
            _ => return,
        };
        *address = match offset & 4 {
            0 => *address & !LOW | u64::from(value),
            _ => *address & LOW | u64::from(value) << 32,
        };
    });
}

/// The registers of a slot as a region.
pub(super) struct Registers(pub(super) Arc<Slot>);

impl RegionOps for Registers {
    fn read(&self, offset: u64, size: u8) -> u64 {
        let slot = &self.0;
        let transport = slot.transport();
        match (offset, &transport) {
            (CONFIG.., Some(transport)) => transport.read_config(offset - CONFIG, size),
            _ if size != 4 => 0,
            (0x00, _) => MAGIC.into(),
            (0x04, _) => {
                if slot.legacy {
                    1
                } else {
                    2
                }
            }
            (0x0c, _) => VENDOR.into(),
            (_, Some(transport)) => slot.read(transport, offset).into(),
            (_, None) => 0,
        }
    }

    fn write(&self, offset: u64, size: u8, value: u64) {
        let slot = &self.0;
        let Some(transport) = slot.transport() else { return };
        if offset >= CONFIG {
            transport.write_config(offset - CONFIG, size, value);
        } else if size == 4 {
            slot.write(&transport, offset, value as u32);
        } else {
            trace::guest_error!("virtio-mmio: a register is written with {size} bytes");
        }
    }

    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(1, 4).implemented(1, 4)
    }
}

//! Event descriptors that the driver's notifications signal: one for each queue, on the notify register.
//!
//! They are mapped when a driver first starts the device, for as long as the device is there: each one that comes or goes makes the
//! kernel wait for all vCPUs, and a guest may reset its devices as often as it likes. A device that does not run takes no
//! notice of them. Where the host has none left, the notification is served where the driver writes.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mainloop::{Interest, Watch};
use memory::{Memory, RegionId};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// See the module.
#[derive(Default)]
pub(super) struct Kicks(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// Where notifications arrive, while the device is there.
    doorbells: Option<Doorbells>,
    /// By queue.
    mapped: Vec<Kick>,
}

/// Where a driver notifies.
#[derive(Debug, Clone, Copy)]
pub(in crate::virtio) struct Doorbells {
    /// Registers of the queues, one behind the other: region, and bytes from one to the next.
    pub(in crate::virtio) registers: Option<(RegionId, u64)>,
    /// A register that takes the queue's number: region, offset and bytes.
    pub(in crate::virtio) shared: Option<(RegionId, u64, u8)>,
}

impl Doorbells {
    /// Calls `each` for every place where the event of `queue` is signalled: region, offset, bytes, value.
    fn of(&self, queue: u16, mut each: impl FnMut(RegionId, u64, u8, Option<u64>)) {
        if let Some((region, stride)) = self.registers {
            each(region, u64::from(queue) * stride, 0, None);
        }
        if let Some((region, offset, size)) = self.shared {
            each(region, offset, size, Some(queue.into()));
        }
    }
}

struct Kick {
    event: Arc<EventFd>,
    /// Absent where somebody else waits for the event.
    _watch: Option<Watch>,
}

impl Kicks {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Lists are changed by whole steps.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where notifications arrive; needed before the driver starts the device.
    pub(super) fn set_doorbells(&self, doorbells: Doorbells) {
        self.lock().doorbells = Some(doorbells);
    }

    /// Maps an event descriptor for each of `queues` queues, unless that was done before. `serve(queue)` gives the loop of a queue and what is
    /// called there when its event is signalled; without it somebody else waits for them.
    pub(super) fn start<F: FnMut() + Send + 'static>(
        &self,
        queues: u16,
        memory: &Memory,
        serve: Option<impl Fn(u16) -> (mainloop::Handle, F)>,
    ) {
        let mut inner = self.lock();
        let Some(doorbells) = inner.doorbells.filter(|_| inner.mapped.is_empty()) else { return };
        for queue in 0..queues {
            match Kick::new(serve.as_ref().map(|serve| serve(queue))) {
                Ok(kick) => inner.mapped.push(kick),
                Err(error) => {
                    tracing::warn!(%error, "no event descriptor for a virtqueue");
                    break;
                }
            }
        }
        let mut tx = memory.transaction();
        for (queue, kick) in (0..).zip(&inner.mapped) {
            doorbells.of(queue, |region, offset, size, value| {
                tx.add_ioeventfd(region, offset, size, value, Arc::clone(&kick.event));
            });
        }
    }

    /// For good: the region goes next.
    pub(super) fn stop(&self, memory: Option<Arc<Memory>>) {
        let mut inner = self.lock();
        let Some(doorbells) = inner.doorbells.take() else { return };
        let Some(memory) = memory.filter(|_| !inner.mapped.is_empty()) else { return };
        let mut tx = memory.transaction();
        for (queue, kick) in (0..).zip(&inner.mapped) {
            doorbells.of(queue, |region, offset, size, value| {
                tx.del_ioeventfd(region, offset, size, value, &kick.event);
            });
        }
        drop(tx);
        inner.mapped.clear();
    }

    /// The queues whose event is signalled, which it is not any more.
    pub(super) fn take_signalled(&self) -> Vec<u16> {
        let inner = self.lock();
        let signalled = (0..).zip(&inner.mapped).filter(|(_, kick)| kick.event.read().is_ok());
        signalled.map(|(queue, _)| queue).collect()
    }

    /// The event of a queue.
    pub(super) fn event(&self, queue: u16) -> Option<Arc<EventFd>> {
        self.lock().mapped.get(usize::from(queue)).map(|kick| Arc::clone(&kick.event))
    }
}

impl Kick {
    fn new(serve: Option<(mainloop::Handle, impl FnMut() + Send + 'static)>) -> io::Result<Self> {
        let event = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let watch = serve.map(|(mainloop, mut serve)| {
            let seen = Arc::clone(&event);
            mainloop.watch(memory::event_descriptor(&event)?, Interest::READ, move |_| {
                // Empty already when two watches of one descriptor raced: nothing to do then.
                if seen.read().is_ok() {
                    serve();
                }
            })
        });
        Ok(Self { event, _watch: watch.transpose()? })
    }
}

//! The transport of a device whose rings somebody else serves ([`RingServer`]).
//!
//! Starting and stopping takes another process's time, which no vCPU waits for: a driver that resets the device sees the old status until
//! the rings were let go of (virtio 1.3 §2.4.2 has it wait for 0), and what it writes meanwhile is lost. The server interrupts through
//! an event descriptor a queue, which stays the same whatever the driver does with its vectors.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use mainloop::Interest;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Transport;
use crate::pci::MsixSource;
use crate::virtio::ring_server::{RingServer, RingSetup, RingStart};

/// Offset of the status in the common configuration structure.
const STATUS: u64 = 20;
/// Offset of the register with a queue's vector.
pub(super) const QUEUE_VECTOR: u64 = 26;
/// Offset of the register that resets one queue.
const QUEUE_RESET: u64 = 58;

/// What a transport has in addition.
pub(super) struct External {
    pub(super) server: Arc<dyn RingServer>,
    /// Held from a change of the state to what is asked of the server for it, so that it hears of changes in their order. Before
    /// the transport's own lock.
    order: Mutex<()>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Whether the server was asked for anything since the last reset.
    used: bool,
    /// The reset that is under way.
    resetting: Option<u64>,
    /// Resets so far.
    resets: u64,
    /// What the server interrupts with, by queue; made once.
    calls: Vec<Arc<MsixSource>>,
}

impl External {
    pub(super) fn new(server: Arc<dyn RingServer>) -> Self {
        Self { server, order: Mutex::default(), inner: Mutex::default() }
    }

    /// Takes the lock that keeps changes in their order.
    pub(super) fn order(&self) -> MutexGuard<'_, ()> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Fields are assigned whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device was reset; a reset that was under way is overtaken.
    pub(super) fn reset(&self) {
        let mut inner = self.lock();
        (inner.used, inner.resetting) = (false, None);
    }
}

impl Transport {
    /// Whether a write to the common configuration structure ends here.
    pub(super) fn takes_over(&self, offset: u64, value: u32) -> bool {
        let Some(external) = self.external() else { return false };
        let mut inner = external.lock();
        if inner.resetting.is_some() {
            return true;
        }
        match offset {
            // The server would not hear of it.
            QUEUE_RESET => true,
            STATUS if value as u8 == 0 && inner.used => {
                inner.resets += 1;
                let reset = inner.resets;
                inner.resetting = Some(reset);
                let me = self.me.clone();
                external.server.reset(Box::new(move || {
                    if let Some(transport) = me.upgrade() {
                        transport.end_reset(reset);
                    }
                }));
                true
            }
            _ => false,
        }
    }

    /// The server let go of the rings.
    fn end_reset(&self, reset: u64) {
        let Some(external) = self.external() else { return };
        let _ordered = external.order();
        // A reset of the machine may have come first.
        if external.lock().resetting == Some(reset) {
            self.reset_state();
        }
    }

    /// The driver runs: tells the server of the rings.
    pub(super) fn start_external(&self) {
        let Some(external) = self.external() else { return };
        let Some(memory) = self.parts.memory.upgrade() else { return };
        self.kicks.start(self.queue_count(), &memory, None::<fn(u16) -> (mainloop::Handle, fn())>);
        if let Err(error) = self.make_calls(external) {
            tracing::error!(%error, "no event descriptors for the interrupts of virtqueues");
            return;
        }
        self.connect_calls(external);
        let mut inner = external.lock();
        inner.used = true;
        let start = self.with_state(|state| {
            let enabled = (0..).zip(state.queues()).filter(|(_, queue)| queue.is_enabled());
            let rings = enabled.filter_map(|(number, queue)| {
                Some(RingSetup {
                    queue: number,
                    size: queue.size(),
                    desc: queue.desc,
                    avail: queue.avail,
                    used: queue.used,
                    kick: self.kicks.event(number)?,
                    call: Arc::clone(inner.calls.get(usize::from(number))?.event()),
                })
            });
            RingStart { features: state.accepted(), rings: rings.collect() }
        });
        external.server.start(start);
    }

    /// The event descriptors of a queue that somebody else serves: what the driver signals, and what it is interrupted with.
    pub fn ring_events(&self, queue: u16) -> Option<(Arc<EventFd>, Arc<EventFd>)> {
        let call = Arc::clone(self.external()?.lock().calls.get(usize::from(queue))?.event());
        Some((self.kicks.event(queue)?, call))
    }

    /// Makes what the server interrupts with.
    fn make_calls(&self, external: &External) -> io::Result<()> {
        let mut inner = external.lock();
        for queue in inner.calls.len() as u16..self.queue_count() {
            let event = Arc::new(EventFd::new(EFD_NONBLOCK)?);
            let (me, seen) = (Weak::clone(&self.me), Arc::clone(&event));
            let watch =
                self.parts.mainloop.watch(memory::event_descriptor(&event)?, Interest::READ, move |_| {
                    if seen.read().is_ok()
                        && let Some(transport) = me.upgrade()
                    {
                        transport.interrupt(queue);
                    }
                })?;
            inner.calls.push(MsixSource::new(event, watch));
        }
        Ok(())
    }

    /// Connects each queue's event to the queue's vector, whatever it was connected to before.
    pub(super) fn connect_calls(&self, external: &External) {
        let Some(msix) = self.parts.msix() else { return };
        let calls = external.lock().calls.clone();
        let vectors: Vec<_> =
            self.with_state(|state| state.queues().iter().map(|queue| queue.vector).collect());
        for (call, vector) in calls.iter().zip(vectors) {
            msix.connect(vector, call);
        }
    }

    /// The server used buffers of a queue.
    fn interrupt(&self, queue: u16) {
        let due = self.lock().state.queue_used(queue);
        self.deliver(due);
    }

    /// A notification that no event descriptor took.
    pub(super) fn pass_kick(&self, queue: u16) {
        if let Some(event) = self.kicks.event(queue)
            && let Err(error) = event.write(1)
        {
            trace::emit!(pliant_virtio_kick_full, queue, &error);
        }
    }
}

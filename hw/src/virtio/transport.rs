//! The transport of one realized device, over PCI or with registers in memory: rings, notifications, interrupts (virtio 1.3 §4.1.4, §4.1.5).
//!
//! - [`common`] is the common configuration structure, registers to state and back;
//! - [`serving`] is when rings are served, [`kicks`] how notifications arrive, [`turns`] what is left to the main loop's turns, and [`linger`] how a
//!   ring is looked at a little longer;
//! - [`external`] is what is different where somebody else serves the rings;
//! - [`migration`] is what goes along when the machine is moved;
//! - [`stop`] has all transports of a machine follow its stops.
//!
//! One lock guards the state. It is held while the back end serves buffers and let go before interrupts are raised,
//! the back end settles, or event descriptors are mapped.

mod common;
mod external;
mod kicks;
mod linger;
mod migration;
mod serving;
mod stop;
mod turns;

use std::sync::{Arc, Mutex, MutexGuard, Weak};

use memory::{AddressSpace, Memory};

use self::common::{Effect, Selectors};
use self::external::{External, QUEUE_VECTOR};
pub(super) use self::kicks::Doorbells;
use self::kicks::Kicks;
use self::linger::Linger;
pub(super) use self::migration::TransportState;
pub(super) use self::stop::follow_run_state;
use self::turns::Turns;
use crate::core::{IoThread, IrqLine};
use crate::pci::{Msix, PciDevice};
use crate::virtio::backend::VirtioBackend;
use crate::virtio::device::Notifier;
use crate::virtio::features::status;
use crate::virtio::ring::NO_VECTOR;
use crate::virtio::state::{Due, Served, StatusChange, VirtioState};
use crate::virtio::unpoisoned;

/// What a transport is made from.
pub(super) struct Parts {
    pub(super) backend: Arc<dyn VirtioBackend>,
    pub(super) wiring: Wiring,
    /// Weak, because the memory owns the regions that lead here.
    pub(super) memory: Weak<Memory>,
    /// The device's view of memory.
    pub(super) space: Arc<AddressSpace>,
    pub(super) mainloop: mainloop::Handle,
    /// Whether notifications go through event descriptors.
    pub(super) ioeventfd: bool,
    /// Bytes between the notification registers of two queues, if they have registers of their own.
    pub(super) notify_stride: u64,
}

/// How interrupts go.
pub(super) enum Wiring {
    /// By messages, or the pin of a PCI function.
    Pci(Weak<dyn PciDevice>, Option<Arc<Msix>>),
    /// By a line of the board's, high while there is a cause.
    Line(Arc<IrqLine>),
}

impl Parts {
    fn msix(&self) -> Option<&Arc<Msix>> {
        match &self.wiring {
            Wiring::Pci(_, msix) => msix.as_ref(),
            Wiring::Line(_) => None,
        }
    }
}

/// See the module.
pub struct Transport {
    me: Weak<Self>,
    parts: Parts,
    inner: Mutex<Inner>,
    kicks: Kicks,
    /// What is there in addition if somebody else serves the rings.
    external: Option<External>,
    /// Taken while the pin's level is computed and set, so that two threads cannot leave the older level.
    pin: Mutex<()>,
    turns: Turns,
    /// Interrupts that the state came to that was loaded, until the machine runs.
    owed: Mutex<Due>,
    linger: Linger,
    /// By queue: who serves it, if not the main loop's thread.
    iothreads: Vec<Option<Arc<IoThread>>>,
}

struct Inner {
    state: VirtioState,
    selectors: Selectors,
}

impl Transport {
    pub(super) fn new(parts: Parts) -> Arc<Self> {
        let generic = parts.backend.common().generic();
        let state = VirtioState::new(&*parts.backend, generic.features);
        let external = parts.backend.ring_server().map(External::new);
        let queues = state.queues().len();
        // There are 1024 at most.
        let iothreads = (0..queues).map(|queue| parts.backend.iothread(queue as u16)).collect();
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            parts,
            inner: Mutex::new(Inner { state, selectors: Selectors::default() }),
            kicks: Kicks::default(),
            external,
            pin: Mutex::default(),
            turns: Turns::new(queues),
            owed: Mutex::default(),
            linger: Linger::new(queues),
            iothreads,
        })
    }

    /// The back end.
    pub fn backend(&self) -> &Arc<dyn VirtioBackend> {
        &self.parts.backend
    }

    /// Bytes between the notification registers of two queues.
    pub(super) fn notify_stride(&self) -> u64 {
        self.parts.notify_stride
    }

    /// Looks at the state.
    pub fn with_state<T>(&self, look: impl FnOnce(&VirtioState) -> T) -> T {
        look(&self.lock().state)
    }

    /// Fills `buf` from the memory that the device reaches, without making a page; false where there is none.
    pub fn read_ram(&self, addr: u64, buf: &mut [u8]) -> bool {
        crate::inspect::physical::read_ram(&self.parts.space, addr, buf)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        unpoisoned(&self.inner)
    }

    /// Interrupt vectors there are.
    fn vectors(&self) -> u16 {
        self.parts.msix().map_or(0, |msix| msix.vectors())
    }

    /// Where notifications arrive; needed before the driver starts the device.
    pub(super) fn set_doorbells(&self, doorbells: Doorbells) {
        self.kicks.set_doorbells(doorbells);
    }

    /// Everything that follows from serving, without the lock.
    fn finish(&self, served: Served) {
        if let Some(violation) = served.violation {
            tracing::error!("{violation}");
        }
        self.deliver(served.due);
        self.parts.backend.settle();
    }

    fn deliver(&self, due: Due) {
        if due == Due::default() {
            return;
        }
        match self.parts.msix().filter(|msix| msix.is_enabled()) {
            Some(msix) => {
                for vector in [due.queue, due.config].into_iter().flatten().filter(|v| *v != NO_VECTOR) {
                    trace::emit!(virtio_pci_notify, vector);
                    msix.notify(vector);
                }
            }
            None => {
                trace::emit!(virtio_pci_notify, NO_VECTOR);
                self.update_pin();
            }
        }
    }

    /// Sets the interrupt pin to what the causes say.
    fn update_pin(&self) {
        let _ordered = unpoisoned(&self.pin);
        let isr = self.lock().state.isr();
        match &self.parts.wiring {
            Wiring::Pci(function, msix) => {
                let by_message = msix.as_ref().is_some_and(|msix| msix.is_enabled());
                if let Some(function) = function.upgrade() {
                    function.pci().set_intx(isr & 1 != 0 && !by_message);
                }
            }
            Wiring::Line(line) => line.set(isr != 0),
        }
    }

    /// A reset of the machine or the bus.
    pub(super) fn reset(&self) {
        if let Some(external) = &self.external {
            external.server.reset_now();
        }
        let _ordered = self.external.as_ref().map(External::order);
        self.reset_state();
    }

    /// Everything of ours back to its value after power-on.
    fn reset_state(&self) {
        {
            let mut inner = self.lock();
            inner.state.reset();
            inner.selectors = Selectors::default();
        }
        // Of a state that is gone.
        *unpoisoned(&self.owed) = Due::default();
        if let Some(external) = &self.external {
            external.reset();
            self.connect_calls(external);
        }
        self.parts.backend.driver_reset();
        self.update_pin();
    }

    /// The machine runs, or stopped. Main loop thread.
    fn set_machine_running(&self, running: bool) {
        match &self.external {
            Some(external) => external.server.set_machine_running(running),
            None => {
                for queue in self.turns.set_running(running) {
                    self.post_turn(queue);
                }
                if running {
                    self.deliver_owed();
                } else {
                    self.finish_notified();
                }
            }
        }
    }

    /// Bus mastering went off or on: without it the device stops.
    pub(super) fn set_bus_master(&self, on: bool) {
        let _ordered = self.external.as_ref().map(External::order);
        let mut inner = self.lock();
        inner.state.set_disabled(!on);
        let running = inner.state.status() & status::DRIVER_OK != 0;
        if !on && running {
            let stopped = inner.state.status() & !status::DRIVER_OK;
            inner.state.set_status(&*self.parts.backend, stopped);
            if let Some(external) = &self.external {
                external.server.halt();
            }
        }
    }

    /// Ends it: nothing is served any more. A vCPU that is inside a register access now may still start the device; without a
    /// region there is nothing that it could map event descriptors on.
    pub(super) fn shut_down(&self) {
        self.kicks.stop(self.parts.memory.upgrade());
        {
            let _ordered = self.external.as_ref().map(External::order);
            let mut inner = self.lock();
            inner.state.reset();
            inner.state.set_disabled(true);
        }
        if let Some(external) = &self.external {
            self.connect_calls(external);
        }
        self.update_pin();
    }

    fn status_changed(&self, change: StatusChange) {
        match change {
            StatusChange::None => {}
            StatusChange::Stopped => {
                if let Some(external) = &self.external {
                    external.server.halt();
                }
            }
            StatusChange::Started if self.external.is_some() => self.start_external(),
            StatusChange::Started => {
                self.start_kicks();
                // Buffers may be there already; their notification came before anybody listened.
                for queue in 0..self.queue_count() {
                    self.kick(queue);
                }
            }
            StatusChange::Reset => {
                self.parts.backend.driver_reset();
                self.update_pin();
            }
        }
    }

    fn queue_count(&self) -> u16 {
        // Devices have a handful of queues.
        self.with_state(|state| state.queues().len() as u16)
    }

    /// Has the loops of the queues hear of notifications.
    fn start_kicks(&self) {
        let Some(memory) = self.parts.memory.upgrade().filter(|_| self.parts.ioeventfd) else { return };
        let serve = |queue| {
            let me = self.me.clone();
            let signalled = move || {
                if let Some(transport) = me.upgrade() {
                    transport.signalled(queue);
                }
            };
            (self.loop_of(queue).clone(), signalled)
        };
        self.kicks.start(self.queue_count(), &memory, Some(serve));
    }

    pub(super) fn read_common(&self, offset: u64) -> u32 {
        let inner = self.lock();
        common::read(&inner.selectors, &inner.state, offset)
    }

    /// What only devices have whose rings are served elsewhere.
    fn external(&self) -> Option<&External> {
        self.external.as_ref()
    }

    pub(super) fn write_common(&self, offset: u64, value: u32) {
        let _ordered = self.external.as_ref().map(External::order);
        if self.takes_over(offset, value) {
            return;
        }
        let vectors = self.vectors();
        let effect = {
            let mut inner = self.lock();
            let Inner { state, selectors } = &mut *inner;
            common::write(selectors, state, &*self.parts.backend, vectors, offset, value)
        };
        match effect {
            Effect::None => {
                if let Some(external) = self.external.as_ref().filter(|_| offset == QUEUE_VECTOR) {
                    self.connect_calls(external);
                }
            }
            Effect::Status(change) => self.status_changed(change),
            Effect::Served(served) => self.finish(served),
        }
    }

    /// Changes registers without any effect but on their values.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut VirtioState) -> T) -> T {
        change(&mut self.lock().state)
    }

    /// The same for a register that may break the device.
    pub(super) fn finish_write(&self, change: impl FnOnce(&mut VirtioState) -> Served) {
        let served = self.change(change);
        self.finish(served);
    }

    /// A write to the status register of a transport that is not PCI.
    pub(super) fn write_status(&self, value: u8) -> StatusChange {
        let change = self.lock().state.set_status(&*self.parts.backend, value);
        self.status_changed(change);
        change
    }

    /// The driver saw these causes; the line falls with the last one.
    pub(super) fn acknowledge(&self, causes: u8) {
        self.lock().state.acknowledge(causes);
        self.update_pin();
    }

    /// Reading the causes clears them and lowers the pin.
    pub(super) fn read_isr(&self) -> u8 {
        let causes = self.lock().state.take_isr();
        self.update_pin();
        causes
    }

    pub(super) fn read_config(&self, offset: u64, size: u8) -> u64 {
        let bytes = {
            // Under the transport's lock, so that the generation a driver reads belongs to what it reads.
            let _inner = self.lock();
            self.parts.backend.config()
        };
        let byte = |at: u64| usize::try_from(at).ok().and_then(|at| bytes.get(at)).copied().unwrap_or(0xff);
        (0..u64::from(size)).rev().fold(0, |value, i| value << 8 | u64::from(byte(offset + i)))
    }

    pub(super) fn write_config(&self, offset: u64, size: u8, value: u64) {
        let bytes = value.to_le_bytes();
        if let Ok(offset) = usize::try_from(offset) {
            self.parts.backend.write_config(offset, &bytes[..usize::from(size.min(8))]);
        }
    }
}

impl Notifier for Transport {
    fn config_changed(&self) {
        let due = self.lock().state.config_changed();
        self.deliver(due);
    }

    fn queue_ready(&self, queue: u16) {
        if self.turns.may_run(queue) {
            self.post_turn(queue);
        }
    }
}

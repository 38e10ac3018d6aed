//! The transport of one realized device: its registers, rings and interrupts (virtio 1.3 §4.1.4, §4.1.5).
//!
//! One lock guards the state. It is held while the back end serves buffers and let go before interrupts are raised,
//! the back end settles, or event descriptors are mapped.

use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use memory::{AccessConstraints, AddressSpace, Memory, RegionOps};

use super::common::{self, Effect, Selectors};
use super::external::{External, QUEUE_VECTOR};
use super::kicks::{Doorbells, Kicks};
use super::linger::{LONGEST, Linger, Wait};
use super::turns::Turns;
use crate::core::IrqLine;
use crate::pci::{Msix, PciDevice};
use crate::virtio::backend::VirtioBackend;
use crate::virtio::device::Notifier;
use crate::virtio::features::status;
use crate::virtio::ring::NO_VECTOR;
use crate::virtio::state::{Due, Served, StatusChange, VirtioState};
use crate::virtio::unpoisoned;

/// Buffers served before the lock is let go once.
const BUDGET: usize = 64;
/// Buffers served before the rest is left to the main loop's next turn, so that a busy guest starves nobody.
const TURN_BUFFERS: usize = 1024;
/// Time after which the rest is left to the next turn: monitors get theirs in between.
const TURN_TIME: Duration = Duration::from_millis(10);
/// Queues that a layout has room for.
#[doc(alias = "VIRTIO_QUEUE_MAX")]
const MAX_QUEUES: u64 = 1024;

/// What a transport is made from.
pub(in crate::virtio) struct Parts {
    pub(in crate::virtio) backend: Arc<dyn VirtioBackend>,
    pub(in crate::virtio) wiring: Wiring,
    /// Weak, because the memory owns the regions that lead here.
    pub(in crate::virtio) memory: Weak<Memory>,
    /// The device's view of memory.
    pub(in crate::virtio) space: Arc<AddressSpace>,
    pub(in crate::virtio) mainloop: mainloop::Handle,
    /// Whether notifications go through event descriptors.
    pub(in crate::virtio) ioeventfd: bool,
    /// Bytes between the notification registers of two queues, if they have registers of their own.
    pub(in crate::virtio) notify_stride: u64,
}

/// How interrupts go.
pub(in crate::virtio) enum Wiring {
    /// By messages, or the pin of a PCI function.
    Pci(Weak<dyn PciDevice>, Option<Arc<Msix>>),
    /// By a line of the board's, high while there is a cause.
    Line(Arc<IrqLine>),
}

impl Parts {
    pub(super) fn msix(&self) -> Option<&Arc<Msix>> {
        match &self.wiring {
            Wiring::Pci(_, msix) => msix.as_ref(),
            Wiring::Line(_) => None,
        }
    }
}

/// See the module.
pub struct Transport {
    pub(super) me: Weak<Self>,
    pub(super) parts: Parts,
    inner: Mutex<Inner>,
    pub(super) kicks: Kicks,
    /// What is there in addition if somebody else serves the rings.
    external: Option<External>,
    /// Taken while the pin's level is computed and set, so that two threads cannot leave the older level.
    pin: Mutex<()>,
    pub(super) turns: Turns,
    linger: Linger,
}

pub(super) struct Inner {
    pub(super) state: VirtioState,
    pub(super) selectors: Selectors,
}

impl Transport {
    pub(in crate::virtio) fn new(parts: Parts) -> Arc<Self> {
        let generic = parts.backend.common().generic();
        let state = VirtioState::new(&*parts.backend, generic.features);
        let external = parts.backend.ring_server().map(External::new);
        let queues = state.queues().len();
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            parts,
            inner: Mutex::new(Inner { state, selectors: Selectors::default() }),
            kicks: Kicks::default(),
            external,
            pin: Mutex::default(),
            turns: Turns::new(queues),
            linger: Linger::new(queues),
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

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        unpoisoned(&self.inner)
    }

    /// Interrupt vectors there are.
    fn vectors(&self) -> u16 {
        self.parts.msix().map_or(0, |msix| msix.vectors())
    }

    /// Where notifications arrive; needed before the driver starts the device.
    pub(in crate::virtio) fn set_doorbells(&self, doorbells: Doorbells) {
        self.kicks.set_doorbells(doorbells);
    }

    /// Serves a queue until it is empty, or leaves the rest to the main loop's next turns. Called on the main loop for event
    /// descriptors, else where the driver writes.
    pub fn kick(&self, queue: u16) {
        trace::emit!(virtio_queue_notify, trace::Id::of(&*self.parts.backend), queue, self.queue_id(queue));
        match &self.external {
            Some(_) => self.pass_kick(queue),
            None => {
                self.serve(queue, TURN_TIME);
            }
        }
    }

    /// How a trace names a queue; one that is not there has no name.
    fn queue_id(&self, queue: u16) -> trace::Id {
        self.with_state(|state| state.queues().get(usize::from(queue)).map_or(trace::Id::NONE, trace::Id::of))
    }

    /// The event of a queue was signalled. Main loop thread.
    fn signalled(&self, queue: u16) {
        trace::emit!(virtio_queue_notify, trace::Id::of(&*self.parts.backend), queue, self.queue_id(queue));
        let start = Instant::now();
        // Buffers that were found by looking were notified of too, and nothing is left when that is heard.
        if !self.serve(queue, TURN_TIME) {
            return;
        }
        self.linger.notified(queue, start);
        while start.elapsed() < LONGEST
            && self.linger.wait(queue, || self.look(queue), Instant::now) == Wait::Found
            && self.serve(queue, TURN_TIME)
        {}
        self.linger.rests(queue, Instant::now());
    }

    /// Whether there are buffers in a queue; nothing if the main loop is wanted elsewhere.
    fn look(&self, queue: u16) -> Option<bool> {
        let found = {
            let inner = self.lock();
            inner.state.has_buffers(queue, self.parts.space.view().guest_memory())
        };
        (found || !self.parts.mainloop.has_work()).then_some(found)
    }

    /// Tells whether all that was there was used.
    fn serve(&self, queue: u16, patience: Duration) -> bool {
        let start = Instant::now();
        let mut used = false;
        // Few at first: one buffer may ask for a lot (memory that is allocated at once), and time is looked at in between.
        let (mut budget, mut left) = (1, TURN_BUFFERS);
        loop {
            let served = {
                let mut inner = self.lock();
                let view = self.parts.space.view();
                inner.state.serve(queue, view.guest_memory(), &*self.parts.backend, budget)
            };
            let (more, again) = (served.more, served.again);
            used |= served.used;
            let empty = served.empty;
            self.finish(served);
            if !more {
                return used && empty;
            }
            // What is being worked on ends by itself; only time counts.
            if !again {
                left = left.saturating_sub(budget);
                budget = (budget * 2).min(BUDGET);
            }
            if left == 0 || start.elapsed() >= patience {
                break;
            }
        }
        self.post_turn(queue);
        false
    }

    /// Has the main loop's next turn serve a queue.
    fn post_turn(&self, queue: u16) {
        // One posted turn is enough, however often a guest notifies a queue that never runs empty.
        if !self.turns.begin(queue) {
            return;
        }
        let me = self.me.clone();
        self.parts.mainloop.post(move || {
            if let Some(transport) = me.upgrade() {
                transport.turns.end(queue);
                transport.kick(queue);
            }
        });
    }

    /// Serves what the driver notified of and the main loop has not seen yet, or left to a later turn. Main loop thread,
    /// vCPUs stopped; the longest queue is shorter than what is served at once.
    pub(super) fn finish_notified(&self) {
        if self.external.is_some() {
            return;
        }
        let notified = self.kicks.take_signalled();
        for queue in 0..self.queue_count() {
            if notified.contains(&queue) || self.turns.is_posted(queue) {
                self.serve(queue, Duration::MAX);
            }
        }
    }

    /// Everything that follows from serving, without the lock.
    fn finish(&self, served: Served) {
        if let Some(violation) = served.violation {
            tracing::error!("{violation}");
        }
        self.deliver(served.due);
        self.parts.backend.settle();
    }

    pub(super) fn deliver(&self, due: Due) {
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
    pub(super) fn update_pin(&self) {
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
    pub(in crate::virtio) fn reset(&self) {
        if let Some(external) = &self.external {
            external.server.reset_now();
        }
        let _ordered = self.external.as_ref().map(External::order);
        self.reset_state();
    }

    /// Everything of ours back to its value after power-on.
    pub(super) fn reset_state(&self) {
        {
            let mut inner = self.lock();
            inner.state.reset();
            inner.selectors = Selectors::default();
        }
        if let Some(external) = &self.external {
            external.reset();
            self.connect_calls(external);
        }
        self.parts.backend.driver_reset();
        self.update_pin();
    }

    /// The machine runs, or stopped. Main loop thread.
    pub(super) fn set_machine_running(&self, running: bool) {
        match &self.external {
            Some(external) => external.server.set_machine_running(running),
            None => {
                for queue in self.turns.set_running(running) {
                    self.post_turn(queue);
                }
                if !running {
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
    pub(in crate::virtio) fn shut_down(&self) {
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

    pub(super) fn queue_count(&self) -> u16 {
        // Devices have a handful of queues.
        self.with_state(|state| state.queues().len() as u16)
    }

    /// Has the main loop hear of notifications.
    fn start_kicks(&self) {
        let Some(memory) = self.parts.memory.upgrade().filter(|_| self.parts.ioeventfd) else { return };
        let serve = |queue| {
            let me = self.me.clone();
            move || {
                if let Some(transport) = me.upgrade() {
                    transport.signalled(queue);
                }
            }
        };
        self.kicks.start(self.queue_count(), &memory, &self.parts.mainloop, Some(serve));
    }

    pub(super) fn read_common(&self, offset: u64) -> u32 {
        let inner = self.lock();
        common::read(&inner.selectors, &inner.state, offset)
    }

    /// What only devices have whose rings are served elsewhere.
    pub(super) fn external(&self) -> Option<&External> {
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
    pub(in crate::virtio) fn change<T>(&self, change: impl FnOnce(&mut VirtioState) -> T) -> T {
        change(&mut self.lock().state)
    }

    /// The same for a register that may break the device.
    pub(in crate::virtio) fn finish_write(&self, change: impl FnOnce(&mut VirtioState) -> Served) {
        let served = self.change(change);
        self.finish(served);
    }

    /// A write to the status register of a transport that is not PCI.
    pub(in crate::virtio) fn write_status(&self, value: u8) -> StatusChange {
        let change = self.lock().state.set_status(&*self.parts.backend, value);
        self.status_changed(change);
        change
    }

    /// The driver saw these causes; the line falls with the last one.
    pub(in crate::virtio) fn acknowledge(&self, causes: u8) {
        self.lock().state.acknowledge(causes);
        self.update_pin();
    }

    /// Reading the causes clears them and lowers the pin.
    pub(super) fn read_isr(&self) -> u8 {
        let causes = self.lock().state.take_isr();
        self.update_pin();
        causes
    }

    pub(in crate::virtio) fn read_config(&self, offset: u64, size: u8) -> u64 {
        let bytes = {
            // Under the transport's lock, so that the generation a driver reads belongs to what it reads.
            let _inner = self.lock();
            self.parts.backend.config()
        };
        let byte = |at: u64| usize::try_from(at).ok().and_then(|at| bytes.get(at)).copied().unwrap_or(0xff);
        (0..u64::from(size)).rev().fold(0, |value, i| value << 8 | u64::from(byte(offset + i)))
    }

    pub(in crate::virtio) fn write_config(&self, offset: u64, size: u8, value: u64) {
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
                if let Ok(queue) = u16::try_from(offset / self.transport.parts.notify_stride) {
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

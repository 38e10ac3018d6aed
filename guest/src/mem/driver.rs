//! The driver's policy: grow from the bottom of the region, shrink from its top, as many blocks a request as possible.
//!
//! A refusal (BUSY, NACK, ERROR) halves the number of blocks; success doubles it again. A single block that is refused is
//! retried later (BUSY, NACK) or its state is asked for and believed (ERROR).

use super::blocks::UNKNOWN;
use super::{
    BlockMap, BlockState, Config, F_ACPI_PXM, F_UNPLUGGED_INACCESSIBLE, MAX_BLOCKS, REQUEST_SIZE,
    RESPONSE_SIZE, Request, Response, Run, Touch,
};
use crate::arena::Arena;
use crate::bus::Bus;
use crate::pci::Function;
use crate::virtio::queue::{Buffer, Queue, QueueMemory};
use crate::virtio::{Transport, VirtioError};

/// First and longest pause before something refused is tried again.
const RETRY_FIRST_NS: u64 = 100_000_000;
const RETRY_LAST_NS: u64 = 3_200_000_000;
/// Memory written or verified between two looks at the serial line.
const STRETCH: u64 = 256 << 20;
/// Looks at the used ring between two looks at the status register.
const POLLS_PER_STATUS: u32 = 256;

/// What a [`Driver::step`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing to do until the configuration changes or a pause is over.
    Idle,
    /// Something was done; call again.
    Progress,
    /// The device has a request and has not answered.
    Waiting,
    /// Something worth a line happened; call again.
    Event(Event),
}

/// What is worth reporting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// As much is plugged as is requested.
    Reached,
    /// Less is plugged than requested, and no block is left in the usable region.
    Full,
    /// The device answered BUSY for a single block (or for UNPLUG_ALL); tried again later.
    Busy,
    /// The device refused a single block that was within its limits; tried again later.
    Refused,
    /// Memory was still plugged when the driver started, and was unplugged.
    UnpluggedAll,
    /// Memory that is about to be unplugged does not hold what was written: bytes from this address, wrong words.
    Mismatch(u64, u64),
}

/// One virtio memory device at work.
#[derive(Clone, Copy, Debug)]
pub struct Driver {
    // Found once.
    pub(super) transport: Transport,
    memory: QueueMemory,
    pub(super) touch: Touch,
    // Since the last device initialisation.
    pub(super) queue: Queue,
    features: u64,
    pub(super) config: Config,
    generation: u8,
    // What the driver is doing.
    pub(super) map: BlockMap,
    pub(super) pattern: u8,
    pub(super) inflight: Option<Request>,
    polls: u32,
    limit: u64,
    unplug_all: bool,
    stale: bool,
    settled: bool,
    retry_at: Option<u64>,
    pause: u64,
    busy_reported: bool,
    pub(super) event: Option<Event>,
    held: bool,
}

impl Driver {
    /// Initialises the device behind `function` and takes RAM for its queue and block map.
    ///
    /// # Errors
    /// When the device or its configuration cannot be used, or the arena is too small (one byte a block, 8 KiB more).
    pub fn open(
        bus: &mut impl Bus,
        function: Function,
        arena: &mut Arena,
        touch: Touch,
    ) -> Result<Self, VirtioError> {
        let transport = Transport::open(bus, function)?;
        let memory = QueueMemory::take(arena)?;
        let (queue, features, config, generation) = Self::initialise(bus, &transport, memory)?;
        let map = BlockMap::take(arena, config.region_size / config.block_size).ok_or(VirtioError::NoMemory);
        if map.is_err() {
            transport.set_failed(bus);
        }
        Ok(Self {
            transport,
            memory,
            touch,
            queue,
            features,
            config,
            generation,
            map: map?,
            pattern: 0,
            inflight: None,
            polls: 0,
            limit: MAX_BLOCKS,
            unplug_all: config.plugged_size != 0,
            stale: false,
            settled: false,
            retry_at: None,
            pause: RETRY_FIRST_NS,
            busy_reported: false,
            event: None,
            held: false,
        })
    }

    fn initialise(
        bus: &mut impl Bus,
        transport: &Transport,
        memory: QueueMemory,
    ) -> Result<(Queue, u64, Config, u8), VirtioError> {
        let features = transport.negotiate(bus, F_ACPI_PXM | F_UNPLUGGED_INACCESSIBLE)?;
        let queue = transport.setup_queue(bus, 0, memory)?;
        let (config, generation) = Config::read(bus, transport);
        if !config.is_sane() {
            transport.set_failed(bus);
            return Err(VirtioError::BadConfig);
        }
        transport.driver_ok(bus);
        Ok((queue, features, config, generation))
    }

    /// Resets and initialises the device again. What is plugged is unplugged first: after a broken conversation nobody
    /// knows what the device did.
    ///
    /// # Errors
    /// As [`Driver::open`]; also when the region is another one now.
    pub fn restart(&mut self, bus: &mut impl Bus) -> Result<(), VirtioError> {
        let (queue, features, config, generation) = Self::initialise(bus, &self.transport, self.memory)?;
        if (config.addr, config.block_size, config.region_size)
            != (self.config.addr, self.config.block_size, self.config.region_size)
        {
            self.transport.set_failed(bus);
            return Err(VirtioError::BadConfig);
        }
        (self.queue, self.features, self.config, self.generation) = (queue, features, config, generation);
        self.map.clear_all();
        self.unplug_all = config.plugged_size != 0;
        (self.inflight, self.retry_at, self.event) = (None, None, None);
        (self.stale, self.settled, self.limit) = (false, false, MAX_BLOCKS);
        Ok(())
    }

    /// The configuration as last read.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Reads the configuration anew.
    pub fn refresh(&mut self, bus: &mut impl Bus) {
        let (config, generation) = Config::read(bus, &self.transport);
        let aims = |config: &Config| (config.requested_size, config.usable_region_size);
        if aims(&config) != aims(&self.config) {
            // Whoever looks first, the driver acts on it.
            (self.settled, self.retry_at) = (false, None);
        }
        // The fixed fields were validated when the map was made; only the moving ones are taken over.
        self.config.usable_region_size = config.usable_region_size;
        self.config.plugged_size = config.plugged_size;
        self.config.requested_size = config.requested_size;
        self.generation = generation;
        self.stale = false;
    }

    /// The PCI function.
    #[must_use]
    pub const fn function(&self) -> Function {
        self.transport.function()
    }

    /// The node the memory belongs to, if the device says.
    #[must_use]
    pub const fn node(&self) -> Option<u16> {
        if self.features & F_ACPI_PXM != 0 { Some(self.config.node_id) } else { None }
    }

    /// Whether the device still is as the driver left it (DRIVER_OK), not reset or replaced behind its back.
    pub fn is_live(&self, bus: &mut impl Bus) -> bool {
        self.transport.is_driver_ok(bus)
    }

    /// Bytes plugged, as the driver counts.
    #[must_use]
    pub const fn plugged(&self) -> u64 {
        self.map.plugged() * self.config.block_size
    }

    /// While held, nothing is given back: a device has buffers in plugged memory. Growing goes on.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// Whether memory is being given back, or will be once nobody holds it.
    #[must_use]
    pub const fn wants_less(&self) -> bool {
        self.unplug_all
            || self.config.requested_size < self.plugged()
            || matches!(self.inflight, Some(Request::Unplug(_) | Request::UnplugAll))
    }

    /// The part that is never written by the driver itself of the lowest plugged block at or after number `from`: the number
    /// after the block, address, bytes (0 where every byte is written).
    pub fn room(&self, bus: &mut impl Bus, from: u64) -> Option<(u64, u64, u64)> {
        let (run, _) = self.map.find_plugged(bus, from, 1)?;
        let touched = self.touch.len(self.config.block_size);
        Some((run.first + 1, self.block_addr(run.first) + touched, self.config.block_size - touched))
    }

    /// Whether [`Bus::idle`] wakes for this device.
    #[must_use]
    pub const fn has_interrupts(&self) -> bool {
        self.queue.has_interrupts()
    }

    /// Does the next thing, without waiting.
    ///
    /// # Errors
    /// When device and driver cannot go on; [`Driver::restart`] is the way out.
    pub fn step(&mut self, bus: &mut impl Bus) -> Result<Step, VirtioError> {
        if let Some(event) = self.event.take() {
            return Ok(Step::Event(event));
        }
        if self.transport.uses_pin() {
            // Before the look at what it announced: what comes later raises the pin again.
            self.transport.isr(bus);
        }
        if let Some(request) = self.inflight {
            let Some(response) = self.poll(bus)? else { return Ok(Step::Waiting) };
            self.complete(bus, request, response);
            return Ok(Step::Progress);
        }
        if self.stale || self.transport.config_generation(bus) != self.generation {
            self.refresh(bus);
            (self.settled, self.retry_at) = (false, None);
        }
        if let Some(at) = self.retry_at {
            if bus.now_ns() < at {
                return Ok(Step::Idle);
            }
            self.retry_at = None;
        }
        if self.settled {
            return Ok(Step::Idle);
        }
        Ok(self.decide(bus))
    }

    fn decide(&mut self, bus: &mut impl Bus) -> Step {
        let (want, have) = (self.config.requested_size / self.config.block_size, self.map.plugged());
        let touched = self.touch.len(self.config.block_size);
        let stretch = STRETCH.checked_div(touched).unwrap_or(MAX_BLOCKS).max(1);
        let most = self.limit.min(stretch);
        if self.held && (self.unplug_all || have > want) {
            return Step::Idle;
        }
        if self.unplug_all {
            self.submit(bus, Request::UnplugAll);
        } else if have < want {
            let Some(run) = self.map.find_unplugged(bus, self.config.usable_blocks(), most.min(want - have))
            else {
                self.settled = true;
                return Step::Event(Event::Full);
            };
            self.submit(bus, Request::Plug(run));
        } else if have > want {
            let Some(run) = self.map.find_last_plugged(bus, most.min(have - want)) else { return Step::Idle };
            self.verify_before_unplug(bus, run);
            self.submit(bus, Request::Unplug(run));
        } else {
            self.settled = true;
            return Step::Event(Event::Reached);
        }
        Step::Progress
    }

    fn submit(&mut self, bus: &mut impl Bus, request: Request) {
        let scratch = self.queue.scratch();
        let response = scratch + REQUEST_SIZE as u64 + 8;
        bus.ram_write(scratch, &request.encode(&self.config));
        // A device that answers nothing must not be mistaken for one that answers ACK, which is 0.
        bus.ram_write(response, &[0xff; RESPONSE_SIZE as usize]);
        self.queue.submit(
            bus,
            &[
                Buffer { addr: scratch, len: REQUEST_SIZE as u32, device_writes: false },
                Buffer { addr: response, len: RESPONSE_SIZE, device_writes: true },
            ],
        );
        (self.inflight, self.polls) = (Some(request), 0);
    }

    fn poll(&mut self, bus: &mut impl Bus) -> Result<Option<Response>, VirtioError> {
        let Some(len) = self.queue.poll(bus)? else {
            self.polls = self.polls.wrapping_add(1);
            if self.polls.is_multiple_of(POLLS_PER_STATUS) && self.transport.needs_reset(bus) {
                return Err(VirtioError::NeedsReset);
            }
            return Ok(None);
        };
        let mut bytes = [0; RESPONSE_SIZE as usize];
        bus.ram_read(self.queue.scratch() + REQUEST_SIZE as u64 + 8, &mut bytes);
        self.inflight = None;
        Ok(Some(Response::decode(&bytes, len)))
    }

    /// Sends one request and waits for its answer: for tests and tools that drive a device by hand. The driver's own
    /// records are not changed.
    ///
    /// # Errors
    /// When the device breaks down, or [`VirtioError::Stopped`].
    pub fn request(&mut self, bus: &mut impl Bus, request: Request) -> Result<Response, VirtioError> {
        self.submit(bus, request);
        loop {
            if let Some(response) = self.poll(bus)? {
                return Ok(response);
            }
            if bus.stopped() {
                return Err(VirtioError::Stopped);
            }
            bus.relax();
        }
    }

    fn complete(&mut self, bus: &mut impl Bus, request: Request, response: Response) {
        match (request, response) {
            (Request::Plug(run), Response::Ack(_)) => self.plugged_run(bus, run),
            (Request::Unplug(run), Response::Ack(_)) => {
                self.map.set(bus, run, 0);
                self.succeeded();
            }
            (Request::UnplugAll, Response::Ack(_)) => {
                self.map.clear_all();
                self.unplug_all = false;
                self.stale = true;
                self.event = Some(Event::UnpluggedAll);
                self.succeeded();
            }
            (Request::State(run), Response::Ack(state)) => self.believe(bus, run, state),
            (Request::State(_), _) => self.later(bus, Event::Refused),
            (Request::Plug(run) | Request::Unplug(run), _) if run.count > 1 => {
                self.limit = run.count / 2;
                self.stale |= response == Response::Nack;
            }
            (Request::Plug(run) | Request::Unplug(run), Response::Error) => {
                self.submit(bus, Request::State(run));
            }
            (_, Response::Nack) => {
                // The requested size may have moved since it was read; if it has not, the device contradicts itself.
                let before = self.config.requested_size;
                self.refresh(bus);
                if self.config.requested_size == before {
                    self.later(bus, Event::Refused);
                }
            }
            (_, Response::Busy) => self.later(bus, Event::Busy),
            (Request::UnplugAll, Response::Error) => self.later(bus, Event::Refused),
        }
    }

    fn plugged_run(&mut self, bus: &mut impl Bus, run: Run) {
        let value = if self.touch == Touch::None { UNKNOWN } else { self.next_pattern() };
        self.map.set(bus, run, value);
        self.write_run(bus, run, value);
        self.succeeded();
    }

    fn believe(&mut self, bus: &mut impl Bus, run: Run, state: BlockState) {
        let known = self.map.get(bus, run.first) != 0;
        match (state, known) {
            (BlockState::Plugged, false) => self.map.set(bus, run, UNKNOWN),
            (BlockState::Unplugged, true) => self.map.set(bus, run, 0),
            _ => self.later(bus, Event::Refused),
        }
    }

    fn succeeded(&mut self) {
        self.limit = self.limit.saturating_mul(2).min(MAX_BLOCKS);
        (self.pause, self.busy_reported) = (RETRY_FIRST_NS, false);
    }

    fn later(&mut self, bus: &mut impl Bus, event: Event) {
        self.retry_at = Some(bus.now_ns().saturating_add(self.pause));
        self.pause = (self.pause * 2).min(RETRY_LAST_NS);
        if !self.busy_reported {
            self.busy_reported = true;
            self.event = Some(event);
        }
    }

    pub(super) fn block_addr(&self, block: u64) -> u64 {
        self.config.addr + block * self.config.block_size
    }

    /// Forgets a request in flight, for [`Driver::garbage`](super::Driver::garbage).
    pub(super) fn forget(&mut self) {
        self.inflight = None;
    }
}

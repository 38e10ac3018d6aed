//! The driver: up to [`CHAINS`] requests in flight on each of up to [`MAX_QUEUES`] queues.
//!
//! What the device says is believed only as far as it was asked: a used element must name a chain that is in flight, and a status
//! byte is a [`Status`] whatever it holds. Everything else ends in an error, after which [`Driver::restart`] is the way out.

use super::{Config, F_BLK_SIZE, F_FLUSH, F_MQ, F_RO, F_SIZE_MAX, HEADER_SIZE, Request, SECTOR, Status};
use crate::arena::Arena;
use crate::bus::Bus;
use crate::pci::Function;
use crate::virtio::queue::{Buffer, Queue, QueueMemory};
use crate::virtio::{Transport, VirtioError};

/// Queues that are used; further ones are left alone.
pub const MAX_QUEUES: usize = 4;
/// Requests in flight on one queue, where the queue has room for them.
pub const CHAINS: usize = 8;
/// Header, data, status.
const CHAIN_DESCRIPTORS: u16 = 3;
/// Bytes of a chain's header and status in the queue's scratch page.
const CHAIN_SCRATCH: u64 = 32;
/// What a status byte holds before the device writes it: no status there is.
const NO_STATUS: u8 = 0xff;
/// Fruitless looks at the used rings between two looks at the status register.
const POLLS_PER_STATUS: u32 = 256;

/// The guest RAM of a device's queues, to be used again for the next device in its place.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    queues: [QueueMemory; MAX_QUEUES],
}

impl Memory {
    /// Takes the memory: 32 KiB.
    ///
    /// # Errors
    /// [`VirtioError::NoMemory`].
    pub fn take(arena: &mut Arena) -> Result<Self, VirtioError> {
        let first = QueueMemory::take(arena)?;
        let mut queues = [first; MAX_QUEUES];
        for queue in &mut queues[1..] {
            *queue = QueueMemory::take(arena)?;
        }
        Ok(Self { queues })
    }
}

/// A request in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Its queue.
    pub queue: u8,
    /// Its chain, below [`CHAINS`].
    pub chain: u8,
}

/// A request that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// What [`Driver::submit`] gave for it.
    pub tag: Tag,
    /// The request.
    pub request: Request,
    /// The answer.
    pub status: Status,
    /// Bytes that the device says it wrote, with the status byte.
    pub written: u32,
}

/// One block device at work.
#[derive(Clone, Copy, Debug)]
pub struct Driver {
    // Found once.
    transport: Transport,
    memory: Memory,
    // Since the last device initialisation.
    queues: [Option<Queue>; MAX_QUEUES],
    features: u64,
    config: Config,
    generation: u8,
    // What the device has.
    chains: [[Option<Request>; CHAINS]; MAX_QUEUES],
    /// The queue that is looked at first: no queue waits for another one's flood.
    next: usize,
    polls: u32,
}

impl Driver {
    /// Initialises the device behind `function` with queues in `memory`.
    ///
    /// # Errors
    /// When the device or its configuration cannot be used.
    pub fn open(bus: &mut impl Bus, function: Function, memory: Memory) -> Result<Self, VirtioError> {
        let transport = Transport::open(bus, function)?;
        let mut driver = Self {
            transport,
            memory,
            queues: [None; MAX_QUEUES],
            features: 0,
            config: Config::default(),
            generation: 0,
            chains: [[None; CHAINS]; MAX_QUEUES],
            next: 0,
            polls: 0,
        };
        driver.restart(bus)?;
        Ok(driver)
    }

    /// Resets and initialises the device again. Requests in flight are forgotten, and their buffers are the caller's again.
    ///
    /// # Errors
    /// As [`Driver::open`]. The device is of no use then, but a later call may succeed.
    pub fn restart(&mut self, bus: &mut impl Bus) -> Result<(), VirtioError> {
        self.queues = [None; MAX_QUEUES];
        let wanted = F_SIZE_MAX | F_RO | F_BLK_SIZE | F_FLUSH | F_MQ;
        self.features = self.transport.negotiate(bus, wanted)?;
        // A device that did reset has given its buffers back.
        (self.chains, self.polls) = ([[None; CHAINS]; MAX_QUEUES], 0);
        (self.config, self.generation) = Config::read(bus, &self.transport, self.features);
        if !self.config.is_sane() {
            self.transport.set_failed(bus);
            return Err(VirtioError::BadConfig);
        }
        let there = self.transport.queues(bus).min(self.config.num_queues);
        let mut queues = [None; MAX_QUEUES];
        for (index, place) in (0..there).zip(&mut queues) {
            let queue = self.transport.setup_queue(bus, index, self.memory.queues[usize::from(index)])?;
            if queue.size() < CHAIN_DESCRIPTORS {
                self.transport.set_failed(bus);
                return Err(VirtioError::NoQueue(index));
            }
            *place = Some(queue);
        }
        if queues[0].is_none() {
            self.transport.set_failed(bus);
            return Err(VirtioError::NoQueue(0));
        }
        self.queues = queues;
        self.transport.driver_ok(bus);
        Ok(())
    }

    /// The PCI function.
    #[must_use]
    pub const fn function(&self) -> Function {
        self.transport.function()
    }

    /// The configuration as last read.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Reads the capacity anew if the device has announced a change.
    pub fn refresh(&mut self, bus: &mut impl Bus) {
        if self.transport.config_generation(bus) != self.generation {
            let (config, generation) = Config::read(bus, &self.transport, self.features);
            // The other fields were judged when the queues were made.
            (self.config.capacity, self.generation) = (config.capacity, generation);
        }
    }

    /// Whether the device refuses writes.
    #[must_use]
    pub const fn is_read_only(&self) -> bool {
        self.features & F_RO != 0
    }

    /// Whether the device takes [`Request::Flush`].
    #[must_use]
    pub const fn can_flush(&self) -> bool {
        self.features & F_FLUSH != 0
    }

    /// Whether the device still is as the driver left it (DRIVER_OK), not reset or replaced behind its back.
    pub fn is_live(&self, bus: &mut impl Bus) -> bool {
        self.transport.is_driver_ok(bus)
    }

    /// Queues in use, 1 to [`MAX_QUEUES`]; none after a failed [`Driver::restart`].
    #[must_use]
    pub fn queues(&self) -> usize {
        self.queues.iter().flatten().count()
    }

    /// Entries of the first queue.
    #[must_use]
    pub fn queue_size(&self) -> u16 {
        self.queues[0].map_or(0, |queue| queue.size())
    }

    /// Whether [`Bus::idle`] wakes when a request is done.
    #[must_use]
    pub fn has_interrupts(&self) -> bool {
        self.queues.iter().flatten().all(Queue::has_interrupts)
    }

    /// Bytes of data that a request may have, at most `wanted`: whole sectors.
    #[must_use]
    pub fn max_len(&self, wanted: u32) -> u32 {
        wanted.min(self.config.size_max) & !(SECTOR as u32 - 1)
    }

    /// The requests that the device has and has not answered.
    pub fn in_flight(&self) -> impl Iterator<Item = Request> + '_ {
        self.chains.iter().flatten().flatten().copied()
    }

    /// Hands a request to the device. `None` when this queue is not there, or has no room until another request comes back.
    pub fn submit(&mut self, bus: &mut impl Bus, queue: usize, request: Request) -> Option<Tag> {
        let place = self.queues.get_mut(queue)?.as_mut()?;
        let room = usize::from(place.size() / CHAIN_DESCRIPTORS).min(CHAINS);
        let chain = self.chains[queue][..room].iter().position(Option::is_none)?;
        let header = place.scratch() + CHAIN_SCRATCH * chain as u64;
        let status = header + u64::from(HEADER_SIZE);
        bus.ram_write(header, &request.header());
        bus.ram_write(status, &[NO_STATUS]);
        let header = Buffer { addr: header, len: HEADER_SIZE, device_writes: false };
        let status = Buffer { addr: status, len: 1, device_writes: true };
        let head = CHAIN_DESCRIPTORS * chain as u16;
        match request.data() {
            Some((addr, len, device_writes)) => {
                place.submit_at(bus, head, &[header, Buffer { addr, len, device_writes }, status]);
            }
            None => place.submit_at(bus, head, &[header, status]),
        }
        self.chains[queue][chain] = Some(request);
        Some(Tag { queue: queue as u8, chain: chain as u8 })
    }

    /// The next request that came back, without waiting.
    ///
    /// # Errors
    /// When the device breaks down or uses a chain that it does not have.
    pub fn poll(&mut self, bus: &mut impl Bus) -> Result<Option<Done>, VirtioError> {
        if self.transport.uses_pin() {
            // Before the look at what it announced: what comes later raises the pin again.
            self.transport.isr(bus);
        }
        for turn in 0..MAX_QUEUES {
            let index = (self.next + turn) % MAX_QUEUES;
            let Some(queue) = &mut self.queues[index] else { continue };
            let Some((head, written)) = queue.take_used(bus)? else { continue };
            let scratch = queue.scratch();
            let chain = usize::from(head / CHAIN_DESCRIPTORS);
            let place = self.chains[index].get_mut(chain).filter(|_| head.is_multiple_of(CHAIN_DESCRIPTORS));
            let request = place.and_then(Option::take).ok_or(VirtioError::BadUsedRing)?;
            let mut status = [0];
            let header = scratch + CHAIN_SCRATCH * chain as u64;
            bus.ram_read(header + u64::from(HEADER_SIZE), &mut status);
            let tag = Tag { queue: index as u8, chain: chain as u8 };
            (self.next, self.polls) = (index + 1, 0);
            return Ok(Some(Done { tag, request, status: Status::decode(status[0]), written }));
        }
        self.polls = self.polls.wrapping_add(1);
        if self.polls.is_multiple_of(POLLS_PER_STATUS) && self.transport.needs_reset(bus) {
            return Err(VirtioError::NeedsReset);
        }
        Ok(None)
    }

    /// Sends one request on the first queue and waits for its answer: for tests and tools that drive a device by hand, with no
    /// other request in flight.
    ///
    /// # Errors
    /// When the device breaks down, or [`VirtioError::Stopped`].
    pub fn request(&mut self, bus: &mut impl Bus, request: Request) -> Result<Status, VirtioError> {
        self.submit(bus, 0, request).ok_or(VirtioError::NoQueue(0))?;
        loop {
            if let Some(done) = self.poll(bus)? {
                return Ok(done.status);
            }
            if bus.stopped() {
                return Err(VirtioError::Stopped);
            }
            bus.relax();
        }
    }
}

//! A block device that keeps its sectors in memory, served over vhost-user by the crate `vhost-user-backend` (which brings the
//! protocol, the mappings and the rings); virtio 1.3 §5.2 for the requests. What it has mapped can be asked for at any time.
//!
//! It misbehaves on its rings on demand; what it says on its socket is honest, and [`Relay`](super::Relay) is there to spoil that.
//!
//! Left out: discard and its like, indirect descriptors, event index, requests in flight that outlive the back end.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, RwLock};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rustix::net::{Shutdown, shutdown};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Backend as Channel, Listener};
use vhost_user_backend::{ShutdownHandle, VhostUserBackend, VhostUserDaemon, VringRwLock, VringT};
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{DescriptorChain, QueueT as _};
use vm_memory::{
    Bytes as _, GuestAddress, GuestAddressSpace as _, GuestMemoryAtomic, GuestMemoryBackend as _,
    GuestMemoryMmap, GuestMemoryRegion as _,
};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

use super::Region;
use crate::wire::patience;

const SECTOR: usize = 512;
/// `VIRTIO_BLK_F_FLUSH`, `VIRTIO_BLK_F_MQ`, `VIRTIO_F_VERSION_1`.
const FEATURES: u64 = 1 << 9 | 1 << 12 | 1 << 32;
/// Bytes of the configuration space.
const CONFIG: usize = 60;

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// What the device is.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Sectors of 512 bytes.
    pub capacity: u64,
    /// Request queues.
    pub queues: u16,
    /// Whether regions of memory may come and go one by one.
    pub configure_mem_slots: bool,
    /// Whether it keeps the socket for requests of its own open, of which it has none.
    pub keep_channel: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { capacity: 64 << 11, queues: 1, configure_mem_slots: true, keep_channel: true }
    }
}

/// What it does wrong with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Takes no request off its rings until the fault is lifted.
    Stall,
    /// Answers with a descriptor that no chain begins with.
    WrongId(u32),
    /// Moves the used index by this much, without an answer.
    Jump(u16),
    /// Answers with this status and does nothing.
    Status(u8),
}

#[derive(Default)]
struct State {
    sectors: BTreeMap<u64, [u8; SECTOR]>,
    regions: Vec<Region>,
    fault: Option<Fault>,
    /// Requests carried out, requests that were spoiled, requests whose buffers are not in the memory there is.
    served: u64,
    spoiled: u64,
    unmapped: u64,
    /// Requests that are being worked on, and connections that have ended.
    busy: u64,
    ended: usize,
    connection: Option<ShutdownHandle>,
    channel: Option<Channel>,
    ending: bool,
}

struct Shared {
    options: Options,
    state: Mutex<State>,
    changed: Condvar,
}

/// One connection's view of the device.
#[derive(Clone)]
struct Device {
    shared: Arc<Shared>,
    memory: Arc<RwLock<Memory>>,
    /// Whether the connection is there: changed under the lock of the state.
    alive: Arc<AtomicBool>,
}

/// See the module.
pub struct Backend {
    shared: Arc<Shared>,
    path: PathBuf,
    listener: UnixListener,
    thread: Option<JoinHandle<()>>,
}

impl Backend {
    /// Listens at `path`; one connection after the other is served.
    ///
    /// # Panics
    ///
    /// If `path` cannot be listened at.
    pub fn start(path: &Path, options: Options) -> Self {
        let listener = UnixListener::bind(path).expect("a fresh path");
        let mut twin = Listener::from(listener.try_clone().expect("a copy"));
        let shared = Arc::new(Shared { options, state: Mutex::default(), changed: Condvar::new() });
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || serve(&shared, &mut twin)
        });
        Self { shared, path: path.to_owned(), listener, thread: Some(thread) }
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The memory that is mapped now, by address.
    pub fn regions(&self) -> Vec<Region> {
        self.shared.lock().regions.clone()
    }

    /// Waits until exactly this is mapped.
    ///
    /// # Panics
    ///
    /// If it does not come to that in time.
    pub fn wait_for_regions(&self, regions: &[Region]) {
        let state = self.wait(|state| state.regions == regions);
        assert_eq!(state.regions, regions);
    }

    /// What it does wrong from now on.
    pub fn fault(&self, fault: Option<Fault>) {
        self.shared.lock().fault = fault;
        self.shared.changed.notify_all();
    }

    /// Ends the connection between two requests, as a process that is killed does: nothing is touched once this returns.
    ///
    /// # Panics
    ///
    /// If `hang_up` does not end it in time.
    pub fn die(&self, hang_up: impl FnOnce()) {
        let ended = self.shared.lock().ended;
        self.stall();
        hang_up();
        let mut state = self.wait(|state| state.ended > ended);
        assert!(state.ended > ended, "the connection does not end");
        state.fault = None;
    }

    /// Takes no request off the rings until [`Backend::fault`] lifts it. What it is at now is done when this returns.
    ///
    /// # Panics
    ///
    /// If it is not done in time.
    pub fn stall(&self) {
        self.fault(Some(Fault::Stall));
        assert_eq!(self.wait(|state| state.busy == 0).busy, 0, "requests are worked on for ever");
    }

    /// Waits until so many requests were carried out in all.
    ///
    /// # Panics
    ///
    /// If it does not come to that in time.
    pub fn wait_for_served(&self, count: u64) {
        let state = self.wait(|state| state.served >= count);
        assert!(state.served >= count, "{} requests were carried out", state.served);
    }

    /// Waits until so many requests were answered wrong in all.
    ///
    /// # Panics
    ///
    /// If it does not come to that in time.
    pub fn wait_for_spoiled(&self, count: u64) {
        let state = self.wait(|state| state.spoiled >= count);
        assert!(state.spoiled >= count, "{} requests were spoiled", state.spoiled);
    }

    /// Requests carried out.
    pub fn served(&self) -> u64 {
        self.shared.lock().served
    }

    /// Requests answered wrong.
    pub fn spoiled(&self) -> u64 {
        self.shared.lock().spoiled
    }

    /// Requests that named memory which is not mapped.
    pub fn unmapped(&self) -> u64 {
        self.shared.lock().unmapped
    }

    fn wait(&self, mut done: impl FnMut(&State) -> bool) -> MutexGuard<'_, State> {
        let until = Instant::now() + patience();
        let mut state = self.shared.lock();
        while !done(&state) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.shared.changed.wait_timeout(state, left).expect("nobody panicked").0;
        }
        state
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state.lock().unwrap_or_else(|e| e.into_inner());
            (state.ending, state.fault) = (true, None);
            if let Some(connection) = &state.connection {
                connection.shutdown();
            }
        }
        self.shared.changed.notify_all();
        // Wakes the thread that waits for connections.
        let _ = shutdown(&self.listener, Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panicked")
    }
}

/// Serves one connection after the other, each with rings and mappings of its own.
fn serve(shared: &Arc<Shared>, listener: &mut Listener) {
    while !shared.lock().ending {
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let device = Device {
            shared: Arc::clone(shared),
            memory: Arc::new(RwLock::new(memory.clone())),
            alive: Arc::new(AtomicBool::new(true)),
        };
        let alive = Arc::clone(&device.alive);
        let mut daemon =
            VhostUserDaemon::new("vhost-user-blk".into(), device, memory).expect("threads are left");
        if daemon.start(listener).is_err() {
            return;
        }
        {
            let mut state = shared.lock();
            state.connection = daemon.shutdown_handle();
            if state.ending {
                daemon.request_shutdown();
            }
        }
        // A front end that goes away is no failure of ours; what else it was helps whoever reads of a failed test.
        if let Err(error) = daemon.wait() {
            eprintln!("vhost-user-blk back end: {error}");
        }
        {
            let mut state = shared.lock();
            alive.store(false, Ordering::Relaxed);
            state.regions.clear();
            (state.connection, state.channel) = (None, None);
        }
        shared.changed.notify_all();
        for handler in daemon.get_epoll_handlers() {
            handler.send_exit_event();
        }
        // Waits for its threads.
        drop(daemon);
        shared.lock().ended += 1;
        shared.changed.notify_all();
    }
}

impl VhostUserBackend for Device {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        self.shared.options.queues.into()
    }

    fn max_queue_size(&self) -> usize {
        256
    }

    fn features(&self) -> u64 {
        FEATURES | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        let always = VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::BACKEND_REQ;
        if self.shared.options.configure_mem_slots {
            always | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
        } else {
            always
        }
    }

    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let mut config = [0; CONFIG];
        config[..8].copy_from_slice(&self.shared.options.capacity.to_le_bytes());
        config[34..36].copy_from_slice(&self.shared.options.queues.to_le_bytes());
        let byte = |at: u32| config.get(at as usize).copied().unwrap_or(0);
        (offset..offset.saturating_add(size)).map(byte).collect()
    }

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        let view = memory.memory();
        let regions = view.iter().map(|region| Region {
            guest: region.start_addr().0,
            size: region.len(),
            offset: region.file_offset().map_or(0, vm_memory::FileOffset::start),
        });
        self.shared.lock().regions = regions.collect();
        self.shared.changed.notify_all();
        *self.memory.write().expect("nobody panicked") = memory;
        Ok(())
    }

    fn set_backend_req_fd(&self, channel: Channel) {
        if self.shared.options.keep_channel {
            self.shared.lock().channel = Some(channel);
        }
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC).ok()
    }

    fn handle_event(
        &self,
        queue: u16,
        _set: EventSet,
        vrings: &[VringRwLock],
        _thread: usize,
    ) -> io::Result<()> {
        let Some(vring) = vrings.get(usize::from(queue)) else { return Ok(()) };
        let memory = self.memory.read().expect("nobody panicked").clone();
        loop {
            if !self.begin() {
                return Ok(());
            }
            // A new view for each: regions come and go meanwhile.
            let chain = vring.get_mut().get_queue_mut().pop_descriptor_chain(memory.memory());
            let found = chain.is_some();
            if let Some(chain) = chain {
                let head = chain.head_index();
                self.answer(vring, &memory, head, chain);
                let _ = vring.signal_used_queue();
            }
            self.count(|state| state.busy -= 1);
            if !found {
                return Ok(());
            }
        }
    }
}

/// Data buffers of a request: address, bytes, whether the device writes them.
type Buffers = Vec<(GuestAddress, usize, bool)>;

impl Device {
    /// Waits until work may begin; false once the connection is gone.
    fn begin(&self) -> bool {
        let mut state = self.shared.lock();
        while state.fault == Some(Fault::Stall) && self.alive.load(Ordering::Relaxed) {
            state = self.shared.changed.wait(state).expect("nobody panicked");
        }
        let alive = self.alive.load(Ordering::Relaxed);
        state.busy += u64::from(alive);
        alive
    }

    fn answer<M>(&self, vring: &VringRwLock, memory: &Memory, head: u16, chain: DescriptorChain<M>)
    where
        M: std::ops::Deref<Target = GuestMemoryMmap> + Clone,
    {
        let parts: Buffers = chain.map(part).collect();
        let fault = self.shared.lock().fault;
        let (id, len) = match fault {
            Some(Fault::WrongId(id)) => (id, 1),
            Some(Fault::Jump(by)) => {
                spoil_index(vring, memory, by);
                self.count(|state| state.spoiled += 1);
                return;
            }
            Some(Fault::Status(status)) => (head.into(), finish(memory, &parts, status)),
            Some(Fault::Stall) | None => {
                (head.into(), finish(memory, &parts, self.carry_out(memory, &parts)))
            }
        };
        match u16::try_from(id) {
            Ok(id) if vring.add_used(id, len).is_ok() => {}
            // The crate does not put what is no descriptor on the ring.
            _ => spoil_element(vring, memory, id),
        }
        self.count(|state| match fault {
            Some(Fault::WrongId(_) | Fault::Status(_)) => state.spoiled += 1,
            _ => state.served += 1,
        });
    }

    fn count(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.lock());
        self.shared.changed.notify_all();
    }

    /// The status byte.
    fn carry_out(&self, memory: &Memory, parts: &Buffers) -> u8 {
        let view = memory.memory();
        let [(header, 16, false), data @ .., (_, 1, true)] = &parts[..] else { return 1 };
        let Ok((kind, sector)) = view
            .read_obj::<u32>(*header)
            .and_then(|kind| Ok((kind, view.read_obj::<u64>(GuestAddress(header.0 + 8))?)))
        else {
            return 1;
        };
        let mut state = self.shared.lock();
        let mut at = sector;
        for &(addr, len, writable) in data {
            let end = at.checked_add((len / SECTOR) as u64);
            let fits = len % SECTOR == 0 && end.is_some_and(|end| end <= self.shared.options.capacity);
            let mut bytes = vec![0; len];
            let moved = match kind {
                0 if fits && writable => {
                    for (sector, bytes) in (at..).zip(bytes.chunks_exact_mut(SECTOR)) {
                        bytes.copy_from_slice(state.sectors.get(&sector).unwrap_or(&[0; SECTOR]));
                    }
                    view.write_slice(&bytes, addr)
                }
                1 if fits && !writable => {
                    let read = view.read_slice(&mut bytes, addr);
                    if read.is_ok() {
                        let (sectors, _) = bytes.as_chunks::<SECTOR>();
                        state.sectors.extend((at..).zip(sectors.iter().copied()));
                    }
                    read
                }
                8 if writable => {
                    let mut id = [0; 20];
                    id[..6].copy_from_slice(b"pliant");
                    view.write_slice(&id[..len.min(20)], addr)
                }
                0 | 1 | 8 => return 1,
                _ => return 2,
            };
            if moved.is_err() {
                state.unmapped += 1;
                return 1;
            }
            at += (len / SECTOR) as u64;
        }
        if matches!(kind, 0 | 1 | 4 | 8) { 0 } else { 2 }
    }
}

fn part(descriptor: Descriptor) -> (GuestAddress, usize, bool) {
    (descriptor.addr(), descriptor.len() as usize, descriptor.is_write_only())
}

/// Writes the status byte; bytes that the device wrote in all.
fn finish(memory: &Memory, parts: &Buffers, status: u8) -> u32 {
    if let Some((addr, _, true)) = parts.last() {
        let _ = memory.memory().write_obj(status, *addr);
    }
    parts.iter().filter(|part| part.2).map(|part| part.1 as u32).sum()
}

/// Puts an element with this id on the used ring, whatever it is.
fn spoil_element(vring: &VringRwLock, memory: &Memory, id: u32) {
    let (ring, size) = {
        let state = vring.get_ref();
        (state.get_queue().used_ring(), state.get_queue().size())
    };
    let view = memory.memory();
    let Ok(index) = view.read_obj::<u16>(GuestAddress(ring + 2)) else { return };
    let element = ring + 4 + 8 * u64::from(index % size);
    let _ = view.write_obj(u64::from(id) | 1 << 32, GuestAddress(element));
    let _ = view.write_obj(index.wrapping_add(1), GuestAddress(ring + 2));
}

/// Moves the used index without an element.
fn spoil_index(vring: &VringRwLock, memory: &Memory, by: u16) {
    let ring = GuestAddress(vring.get_ref().get_queue().used_ring() + 2);
    let view = memory.memory();
    if let Ok(index) = view.read_obj::<u16>(ring) {
        let _ = view.write_obj(index.wrapping_add(by), ring);
    }
}

//! Devices whose rings somebody else serves: another process that maps the guest's memory (vhost).
//!
//! The transport keeps the registers and the interrupts. When the driver runs it says where the rings are and which event
//! descriptors belong to them ([`RingStart`]), and it neither reads nor writes them from then on.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

/// One ring that the driver set up.
#[derive(Debug, Clone)]
pub struct RingSetup {
    /// Number of the queue.
    pub queue: u16,
    /// Entries.
    pub size: u16,
    /// Guest-physical address of the descriptor table.
    pub desc: u64,
    /// Of the available ring.
    pub avail: u64,
    /// Of the used ring.
    pub used: u64,
    /// Signalled when the driver notifies the device.
    pub kick: Arc<EventFd>,
    /// To signal when the driver is to be interrupted.
    pub call: Arc<EventFd>,
}

impl RingSetup {
    /// The three parts as address and bytes (virtio 1.3 §2.7). The used ring is written.
    pub fn parts(&self) -> [(u64, u64); 3] {
        let entries = u64::from(self.size);
        // The indices that suppress notifications sit behind both rings.
        [(self.desc, 16 * entries), (self.avail, 6 + 2 * entries), (self.used, 6 + 8 * entries)]
    }
}

/// What a driver started.
#[derive(Debug)]
pub struct RingStart {
    /// Features that the driver accepted.
    pub features: u64,
    /// The queues it enabled.
    pub rings: Vec<RingSetup>,
}

/// Called when rings were let go of.
pub type Done = Box<dyn FnOnce() + Send>;

/// Serves the rings of one device.
///
/// The functions that do not wait may be called from any thread, also with the transport's lock held. What they ask for is carried
/// out in the order in which they were called.
pub trait RingServer: Send + Sync {
    /// The driver started the device. A ring goes on where it stopped, or at its beginning after a reset. Does not wait.
    fn start(&self, start: RingStart);

    /// The device may not work any more, but was not reset. Does not wait.
    fn halt(&self);

    /// The driver reset the device. Does not wait; `done` is called on another thread, with no lock held, once nobody touches
    /// the rings any more.
    fn reset(&self, done: Done);

    /// The same, but nobody touches the rings any more when it returns. May wait for a bounded time: not for vCPU threads.
    fn reset_now(&self);

    /// The machine runs, or stopped: rings are only served while it runs. Returns, after a bounded time, when that is so;
    /// main loop thread.
    fn set_machine_running(&self, running: bool);

    /// What is known of the other side, for people.
    fn status(&self) -> RingServerStatus;
}

/// What `info virtio-status` has of rings that are served elsewhere.
#[derive(Debug, Clone, Default)]
pub struct RingServerStatus {
    /// Whether they are served now.
    pub started: bool,
    /// Queues that the other side has.
    pub max_queues: u64,
    /// Pieces of memory that it has.
    pub memory_sections: u64,
    /// Pieces of memory that it may have.
    pub visible_sections: u64,
    /// Features it has.
    pub features: u64,
    /// Features in use.
    pub acked_features: u64,
    /// Whether the other side could note which memory it writes, as a migration needs.
    pub can_log: bool,
    /// Features of the protocol that are in use, a sentence each.
    pub protocol_texts: Vec<&'static str>,
}

//! What one device has going with its back end: the connection, the memory that was given away, and the rings.
//!
//! Plain state under one lock of [`super::VhostUser`]; it talks to the back end and to nobody else. Rings outlive connections: a back end
//! that takes over from one that died goes on where the used ring ends, or where the shared notes of requests under way say.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use memory::FlatView;
use vm_memory::{Bytes as _, GuestAddress};

use super::backend_channel::BackendChannel;
use super::channel::{Deadline, Fault};
use super::frontend::FrontEnd;
use super::message::{F_PROTOCOL_FEATURES, InflightBody, protocol};
use super::regions::Regions;
use crate::virtio::ring_server::{RingSetup, RingStart};

/// A connection in use.
pub(super) struct Link {
    /// The character device's number of it.
    pub(super) id: u64,
    pub(super) front: FrontEnd,
    /// Where the back end's own requests come in.
    pub(super) requests: Option<BackendChannel>,
}

impl Link {
    /// Why the back end's own requests came to an end.
    pub(super) fn own_fault(&self) -> Option<Fault> {
        self.requests.as_ref().and_then(BackendChannel::fault)
    }
}

/// Where a ring goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// At this entry of the available ring.
    At(u16),
    /// Behind what has been used: whoever knew more is gone.
    #[doc(alias = "virtio_queue_restore_last_avail_idx")]
    BehindUsed,
}

/// Why rings could not be started.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StartError {
    /// The connection is of no use any more.
    Fault(Fault),
    /// The back end cannot get at them.
    NotShared,
}

impl From<Fault> for StartError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Session {
    link: Option<Link>,
    pub(super) regions: Regions,
    /// By queue.
    positions: Vec<Position>,
    running: Option<Arc<RingStart>>,
    inflight: Option<(InflightBody, OwnedFd)>,
    /// Whether the present back end has been given memory: from the first start on, so that a guest without a driver gives
    /// nothing away.
    shares: bool,
    /// The last connection that was looked at, of use or not.
    seen: Option<u64>,
}

impl Session {
    pub(super) fn new(queues: usize) -> Self {
        Self { positions: vec![Position::At(0); queues], ..Self::default() }
    }

    pub(super) fn link(&self) -> Option<&Link> {
        self.link.as_ref()
    }

    /// The number of the last connection that was looked at: one that was of no use is not looked at again.
    pub(super) fn seen(&self) -> Option<u64> {
        self.seen
    }

    /// Sets it.
    pub(super) fn set_seen(&mut self, id: u64) {
        self.seen = Some(id);
    }

    /// What is served now.
    pub(super) fn running(&self) -> Option<&Arc<RingStart>> {
        self.running.as_ref()
    }

    /// Takes a new connection into use.
    pub(super) fn connect(&mut self, link: Link) {
        debug_assert!(self.link.is_none(), "the old one was lost first");
        self.seen = Some(link.id);
        self.regions.forget();
        self.shares = false;
        self.link = Some(link);
    }

    /// The back end is gone, or good for nothing any more. Gives the connection, to be dropped by whoever holds no lock that
    /// it might want.
    pub(super) fn lose(&mut self) -> Option<Link> {
        if let Some(running) = self.running.take() {
            for ring in &running.rings {
                self.set_position(ring.queue, Position::BehindUsed);
            }
        }
        self.regions.forget();
        self.shares = false;
        self.link.take()
    }

    /// The driver reset the device: rings begin anew, and no request is under way.
    pub(super) fn forget_rings(&mut self) {
        debug_assert!(self.running.is_none(), "stopped first");
        self.positions.fill(Position::At(0));
        self.inflight = None;
    }

    fn set_position(&mut self, queue: u16, position: Position) {
        if let Some(slot) = self.positions.get_mut(usize::from(queue)) {
            *slot = position;
        }
    }

    /// Where a ring goes on. The used index is the guest's memory, and so may be any number.
    fn position(&self, ring: &RingSetup, view: &FlatView) -> u16 {
        match self.positions.get(usize::from(ring.queue)) {
            None => 0,
            Some(Position::At(index)) => *index,
            Some(Position::BehindUsed) => {
                let index = GuestAddress(ring.used.wrapping_add(2));
                let index = view.guest_memory().load::<u16>(index, Ordering::Acquire);
                index.map_or(0, u16::from_le)
            }
        }
    }

    /// Has the back end serve `start`. Memory is looked at through `view`.
    ///
    /// # Errors
    /// The connection failed and must be lost, or the rings are where the back end cannot get; nothing runs then.
    pub(super) fn start(
        &mut self,
        start: &Arc<RingStart>,
        view: &FlatView,
        deadline: Deadline,
    ) -> Result<(), StartError> {
        let reachable = |ring: &RingSetup| ring.parts().iter().all(|&(at, len)| self.regions.covers(at, len));
        if !start.rings.iter().all(reachable) {
            return Err(StartError::NotShared);
        }
        let Some(link) = &self.link else { return Ok(()) };
        let front = &link.front;
        front.set_features(acked(front, start.features), deadline)?;
        self.regions.give(front, deadline)?;
        self.shares = true;
        if front.has(protocol::INFLIGHT_SHMFD) {
            let (body, file) = match self.inflight.take() {
                Some(inflight) => inflight,
                None => {
                    let largest = start.rings.iter().map(|ring| ring.size).max().unwrap_or(0);
                    front.inflight(self.positions.len() as u16, largest, deadline)?
                }
            };
            // Kept even if this fails: the next back end needs it.
            let (body, file) = self.inflight.insert((body, file));
            front.set_inflight(*body, file, deadline)?;
        }
        // From here on the back end may serve rings, whatever becomes of the connection.
        trace::emit!(vhost_dev_start, trace::Id::of(self), start.rings.len());
        self.running = Some(Arc::clone(start));
        for ring in &start.rings {
            front.set_ring_size(ring.queue, ring.size, deadline)?;
            front.set_ring_base(ring.queue, self.position(ring, view), deadline)?;
            front.set_ring_addresses(ring.queue, [ring.desc, ring.avail, ring.used], deadline)?;
            front.set_ring_call(ring.queue, &ring.call, deadline)?;
            front.set_ring_kick(ring.queue, &ring.kick, deadline)?;
        }
        for ring in &start.rings {
            front.enable_ring(ring.queue, true, deadline)?;
            // Buffers may be there already, and whoever heard of them be gone.
            if let Err(error) = ring.kick.write(1) {
                trace::emit!(pliant_virtio_kick_full, ring.queue, &error);
            }
        }
        Ok(())
    }

    /// Stops what runs.
    ///
    /// # Errors
    /// The connection must be lost.
    pub(super) fn stop(&mut self, deadline: Deadline) -> Result<(), Fault> {
        let (Some(running), Some(link)) = (self.running.clone(), &self.link) else { return Ok(()) };
        trace::emit!(vhost_dev_stop, trace::Id::of(self), running.rings.len());
        let mut stopped = Vec::new();
        for ring in &running.rings {
            link.front.enable_ring(ring.queue, false, deadline)?;
            stopped.push((ring.queue, link.front.stop_ring(ring.queue, deadline)?));
        }
        for (queue, index) in stopped {
            self.set_position(queue, Position::At(index));
        }
        self.running = None;
        Ok(())
    }

    /// Sections changed: the back end is told. What is going has gone when this returns.
    ///
    /// # Errors
    /// The connection must be lost.
    pub(super) fn update_memory(&mut self, deadline: Deadline) -> Result<(), Fault> {
        let tells = self.shares && self.regions.is_changed();
        trace::emit!(vhost_commit, self.running.is_some().into(), tells.into());
        match &self.link {
            Some(link) if self.shares && self.regions.is_changed() => {
                self.regions.give(&link.front, deadline)
            }
            _ => Ok(()),
        }
    }
}

/// What the back end is told of the features that a driver accepted.
pub(super) fn acked(front: &FrontEnd, accepted: u64) -> u64 {
    (accepted | F_PROTOCOL_FEATURES) & front.features
}

//! The front end's half of the vhost-user protocol over one connection: what is negotiated, and the requests as functions.
//!
//! Every function ends within its deadline. A request whose effect must be there before we go on asks for an answer
//! (`REPLY_ACK`) or, where the back end does not do that, is followed by a question that it answers in order.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use vmm_sys_util::eventfd::EventFd;

use super::channel::{Channel, Deadline, Fault};
use super::message::{self, F_PROTOCOL_FEATURES, InflightBody, RegionBody, Request, protocol, short, word};

/// Memory regions of a back end that takes them one by one, at most.
#[doc(alias = "VHOST_USER_MAX_RAM_SLOTS")]
pub(super) const MAX_SLOTS: u64 = 509;
/// Memory regions of a back end that takes them all at once.
#[doc(alias = "VHOST_MEMORY_BASELINE_NREGIONS")]
pub(super) const TABLE_SLOTS: u64 = 8;
/// Queues that a back end may claim to have.
const MAX_QUEUES: u64 = 0x8000;

/// A connection to a back end that answered the first questions.
#[derive(Debug)]
pub(super) struct FrontEnd {
    channel: Channel,
    /// Virtio features that the back end has.
    pub(super) features: u64,
    /// Protocol features in use.
    pub(super) protocol: u64,
    /// Protocol features that it has, also those that we do not use.
    pub(super) offered: u64,
    /// Queues that it has.
    pub(super) max_queues: u64,
    /// Memory regions that it takes.
    pub(super) max_slots: u64,
}

impl FrontEnd {
    /// Introduces us: features, protocol features, numbers of queues and memory regions.
    ///
    /// # Errors
    /// Nobody there, or nobody who speaks the protocol. That a back end lacks what a device needs is for the device to say.
    pub(super) fn negotiate(channel: Channel, deadline: Deadline) -> Result<Self, Fault> {
        let mut front =
            Self { channel, features: 0, offered: 0, protocol: 0, max_queues: 1, max_slots: TABLE_SLOTS };
        front.features = front.ask(Request::GetFeatures, deadline)?;
        if front.features & F_PROTOCOL_FEATURES != 0 {
            front.offered = front.ask(Request::GetProtocolFeatures, deadline)?;
            let known = front.offered & protocol::KNOWN;
            front.tell(Request::SetProtocolFeatures, &message::words(&[known]), &[], deadline)?;
            front.protocol = known;
        }
        if front.has(protocol::MQ) {
            front.max_queues = front.ask(Request::GetQueueNum, deadline)?;
            if front.max_queues > MAX_QUEUES {
                return Err(Fault::Unusable(format!("The back end claims {} queues.", front.max_queues)));
            }
        }
        if front.has(protocol::CONFIGURE_MEM_SLOTS) {
            front.max_slots = front.ask(Request::GetMaxMemSlots, deadline)?.min(MAX_SLOTS);
        }
        front.tell(Request::SetOwner, &[], &[], deadline)?;
        Ok(front)
    }

    /// Whether a protocol feature is in use.
    pub(super) fn has(&self, feature: u64) -> bool {
        self.protocol & feature == feature
    }

    /// A request that is answered with a number.
    fn ask(&self, request: Request, deadline: Deadline) -> Result<u64, Fault> {
        self.channel.send(request, false, &[], &[], deadline)?;
        let answer = self.channel.answer(request, 8, 0, deadline)?;
        word(&answer.body, 0).ok_or(Fault::Size)
    }

    /// A request that nobody waits for.
    fn tell(
        &self,
        request: Request,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
        deadline: Deadline,
    ) -> Result<(), Fault> {
        self.channel.send(request, false, body, fds, deadline)
    }

    /// A request that has taken effect when this returns.
    fn order(
        &self,
        request: Request,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
        deadline: Deadline,
    ) -> Result<(), Fault> {
        if self.has(protocol::REPLY_ACK) {
            self.channel.send(request, true, body, fds, deadline)?;
            return self.channel.acknowledged(request, deadline);
        }
        self.tell(request, body, fds, deadline)?;
        // Requests are served in order: this one's answer comes after the other one's effect.
        self.ask(Request::GetFeatures, deadline).map(drop)
    }

    /// Gives the back end its end of a socket for its own requests.
    pub(super) fn set_backend_channel(&self, theirs: &OwnedFd, deadline: Deadline) -> Result<(), Fault> {
        self.order(Request::SetBackendReqFd, &[], &[theirs.as_fd()], deadline)
    }

    /// What the driver accepted.
    pub(super) fn set_features(&self, features: u64, deadline: Deadline) -> Result<(), Fault> {
        self.tell(Request::SetFeatures, &message::words(&[features]), &[], deadline)
    }

    /// The first `size` bytes of the configuration space.
    pub(super) fn config(&self, size: usize, deadline: Deadline) -> Result<Vec<u8>, Fault> {
        let body = message::config(0, &vec![0; size]);
        self.channel.send(Request::GetConfig, false, &body, &[], deadline)?;
        let answer = self.channel.answer(Request::GetConfig, body.len(), 0, deadline)?;
        let (head, content) = answer.body.split_at(message::CONFIG_HEADER);
        if short(head, 0) != Some(0) || short(head, 4) != Some(size as u32) {
            return Err(Fault::Size);
        }
        Ok(content.to_vec())
    }

    /// Writes into the configuration space.
    pub(super) fn set_config(&self, offset: u32, data: &[u8], deadline: Deadline) -> Result<(), Fault> {
        self.order(Request::SetConfig, &message::config(offset, data), &[], deadline)
    }

    /// Has the back end map a region.
    pub(super) fn add_region(
        &self,
        region: RegionBody,
        file: BorrowedFd<'_>,
        deadline: Deadline,
    ) -> Result<(), Fault> {
        self.order(Request::AddMemReg, &region.single(), &[file], deadline)
    }

    /// Has the back end let go of a region.
    pub(super) fn remove_region(&self, region: RegionBody, deadline: Deadline) -> Result<(), Fault> {
        self.order(Request::RemMemReg, &region.single(), &[], deadline)
    }

    /// Has the back end map these regions and no others.
    pub(super) fn set_table(
        &self,
        regions: &[RegionBody],
        files: &[BorrowedFd<'_>],
        deadline: Deadline,
    ) -> Result<(), Fault> {
        self.order(Request::SetMemTable, &RegionBody::table(regions), files, deadline)
    }

    /// A file in which the back end notes the requests that it has under way.
    pub(super) fn inflight(
        &self,
        queues: u16,
        queue_size: u16,
        deadline: Deadline,
    ) -> Result<(InflightBody, OwnedFd), Fault> {
        let wanted = InflightBody { queues, queue_size, ..InflightBody::default() };
        self.channel.send(Request::GetInflightFd, false, &wanted.to_bytes(), &[], deadline)?;
        let answer = self.channel.answer(Request::GetInflightFd, InflightBody::SIZE, 1, deadline)?;
        let body = InflightBody::from_bytes(&answer.body).ok_or(Fault::Size)?;
        let file = answer.fds.into_iter().next();
        let file = file.filter(|_| body.size > 0);
        let file = file.ok_or_else(|| Fault::Unusable("Received no inflight buffer.".into()))?;
        Ok((body, file))
    }

    /// Gives a back end the file that it, or the one before it, made.
    pub(super) fn set_inflight(
        &self,
        body: InflightBody,
        file: &OwnedFd,
        deadline: Deadline,
    ) -> Result<(), Fault> {
        self.tell(Request::SetInflightFd, &body.to_bytes(), &[file.as_fd()], deadline)
    }

    /// Entries of a ring.
    pub(super) fn set_ring_size(&self, queue: u16, size: u16, deadline: Deadline) -> Result<(), Fault> {
        let body = message::vring_state(queue, size.into());
        self.tell(Request::SetVringNum, &body, &[], deadline)
    }

    /// The entry of the available ring that is looked at first.
    pub(super) fn set_ring_base(&self, queue: u16, base: u16, deadline: Deadline) -> Result<(), Fault> {
        let body = message::vring_state(queue, base.into());
        self.tell(Request::SetVringBase, &body, &[], deadline)
    }

    /// Where the parts of a ring are, in guest addresses.
    pub(super) fn set_ring_addresses(
        &self,
        queue: u16,
        [desc, avail, used]: [u64; 3],
        deadline: Deadline,
    ) -> Result<(), Fault> {
        let body = message::vring_addr(queue, desc, avail, used);
        self.tell(Request::SetVringAddr, &body, &[], deadline)
    }

    fn set_ring_event(
        &self,
        request: Request,
        queue: u16,
        event: &EventFd,
        deadline: Deadline,
    ) -> Result<(), Fault> {
        let event = memory::event_descriptor(event)
            .map_err(|error| Fault::Unusable(format!("no descriptor is left: {error}")))?;
        self.tell(request, &message::words(&[queue.into()]), &[event.as_fd()], deadline)
    }

    /// What interrupts the driver.
    pub(super) fn set_ring_call(&self, queue: u16, call: &EventFd, deadline: Deadline) -> Result<(), Fault> {
        self.set_ring_event(Request::SetVringCall, queue, call, deadline)
    }

    /// What tells of new buffers. The ring is started with it.
    pub(super) fn set_ring_kick(&self, queue: u16, kick: &EventFd, deadline: Deadline) -> Result<(), Fault> {
        self.set_ring_event(Request::SetVringKick, queue, kick, deadline)
    }

    /// Has buffers of a ring served, or not. Without protocol features a ring is served as soon as it is started.
    pub(super) fn enable_ring(&self, queue: u16, on: bool, deadline: Deadline) -> Result<(), Fault> {
        if self.features & F_PROTOCOL_FEATURES == 0 {
            return Ok(());
        }
        let body = message::vring_state(queue, on.into());
        self.order(Request::SetVringEnable, &body, &[], deadline)
    }

    /// Stops a ring; gives the entry of the available ring that would be looked at next.
    pub(super) fn stop_ring(&self, queue: u16, deadline: Deadline) -> Result<u16, Fault> {
        let body = message::vring_state(queue, 0);
        self.channel.send(Request::GetVringBase, false, &body, &[], deadline)?;
        let answer = self.channel.answer(Request::GetVringBase, body.len(), 0, deadline)?;
        let (index, base) = (short(&answer.body, 0), short(&answer.body, 4));
        match (index, base.and_then(|base| u16::try_from(base).ok())) {
            (Some(index), Some(base)) if index == u32::from(queue) => Ok(base),
            _ => Err(Fault::Unusable(format!("Queue {queue} stopped at {index:?}, {base:?}."))),
        }
    }
}

#[cfg(test)]
mod tests;

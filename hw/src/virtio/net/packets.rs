//! Packets, both ways (virtio 1.3 §5.1.6): one a buffer, or several buffers a packet where the driver merges them.

use ::net::{HEADER, MAX_PACKET, Received, Sent};

use super::features::MRG_RXBUF;
use super::{Live, VirtioNet};
use crate::virtio::ring::Chain;
use crate::virtio::{Outcome, Violation};

/// Packets that are not for the guest are read so often before somebody else has a turn.
const FILTERED: usize = 64;
/// Where in the header the number of buffers is.
const BUFFERS: usize = 10;

impl VirtioNet {
    /// Fills a buffer with the next packet that is for the guest.
    pub(super) fn receive(&self, buffer: &mut Chain<'_>) -> Result<Outcome, Violation> {
        let room = buffer.writable_len();
        if room == 0 {
            return Err(Violation("virtio-net receive queue contains no in buffers".into()));
        }
        let Some(nic) = self.nic() else { return Ok(Outcome::Later) };
        let from = if nic.header().is_some() { 0 } else { HEADER };
        let mut live = self.live();
        let Live { features, filter, rx, pending, .. } = &mut *live;
        for _ in 0..FILTERED {
            let length = match *pending {
                Some(length) => length,
                None => match nic.receive(&mut rx[from..]) {
                    Received::Nothing => return Ok(Outcome::Later),
                    Received::Packet(length) => {
                        rx[..from].fill(0);
                        from + length
                    }
                },
            };
            if pending.is_none() && !rx.get(HEADER..length).is_some_and(|packet| filter.passes(packet)) {
                continue;
            }
            if room < length as u64 {
                if *features & MRG_RXBUF != 0 && !buffer.is_complete() {
                    *pending = Some(length);
                    return Ok(Outcome::More);
                }
                trace::guest_error!("virtio-net: there is no room for a packet of {length} bytes");
                *pending = None;
                if buffer.buffers() > 1 {
                    // The next packet is given as few as it needs.
                    break;
                }
                continue;
            }
            *pending = None;
            rx[BUFFERS..HEADER].copy_from_slice(&buffer.buffers().to_le_bytes());
            return Ok(Outcome::Done(buffer.write(&rx[..length]) as u32));
        }
        nic.again();
        Ok(Outcome::Later)
    }

    /// Sends what is in a buffer.
    pub(super) fn transmit(&self, buffer: &Chain<'_>) -> Result<Outcome, Violation> {
        let length = buffer.readable_len();
        if length < HEADER as u64 {
            return Err(Violation("virtio-net header incorrect".into()));
        }
        if length > MAX_PACKET as u64 {
            trace::guest_error!("virtio-net: a packet of {length} bytes is too long");
            return Ok(Outcome::Done(0));
        }
        let Some(nic) = self.nic() else { return Ok(Outcome::Done(0)) };
        let mut live = self.live();
        // A few dozen kilobytes.
        live.tx.resize(length as usize, 0);
        if buffer.read(&mut live.tx) < live.tx.len() {
            trace::guest_error!("virtio-net: a packet cannot be read");
            return Ok(Outcome::Done(0));
        }
        let from = if nic.header().is_some() { 0 } else { HEADER };
        let packet = &live.tx[from..];
        Ok(match packet.is_empty() {
            true => Outcome::Done(0),
            false => match nic.send(packet) {
                Sent::Done => Outcome::Done(0),
                Sent::Later => Outcome::Later,
            },
        })
    }
}

//! A network device as its host end sees it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use qapi::types::RxFilterInfo;

use crate::announce::frame;
use crate::host_end::{Header, Offloads};
use crate::mac::MacAddr;
use crate::netdev::Netdev;
use crate::set::NetSet;

/// What a device is told. On the loop thread, with no lock of this crate held.
pub trait NicHandler: Send + Sync {
    /// There are packets, for a device that was told that there are none. Once.
    fn readable(&self);

    /// The host takes packets again, for a device that was told to wait. Once.
    fn writable(&self);

    /// The link may be up or down now: [`Nic::link_is_up`].
    fn link_changed(&self);

    /// The network is being told where the device is; its guest may tell more.
    fn announce(&self) {}

    /// What it lets through to the guest, if it can tell; its name is filled in by others.
    fn rx_filter(&self) -> Option<RxFilterInfo> {
        None
    }
}

/// What became of a packet of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It is gone, perhaps for good.
    Done,
    /// The host takes nothing now; the handler hears when it does.
    Later,
}

/// What the host has for the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// A packet of so many bytes.
    Packet(usize),
    /// Nothing now; the handler hears when there is something.
    Nothing,
}

/// A device that is in the list of its [`NetSet`], and connected to a netdev if it has one. Dropping it ends both.
pub struct Nic {
    pub(crate) card: Arc<Card>,
    pub(crate) set: Weak<NetSet>,
}

/// The device in the list.
pub(crate) struct Card {
    pub(crate) name: String,
    pub(crate) model: &'static str,
    pub(crate) mac: Mutex<MacAddr>,
    /// The address that it had at first, which is counted.
    pub(crate) first_mac: MacAddr,
    pub(crate) link_down: AtomicBool,
    pub(crate) peer: Option<Arc<Netdev>>,
    pub(crate) handler: Weak<dyn NicHandler>,
}

impl Card {
    /// As QEMU writes it.
    pub(crate) fn info(&self) -> String {
        format!("model={},macaddr={}", self.model, self.mac())
    }

    pub(crate) fn mac(&self) -> MacAddr {
        *self.mac.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn link_is_up(&self) -> bool {
        !self.link_down.load(Ordering::Acquire)
    }

    /// Tells the network where it is.
    pub(crate) fn announce(&self) {
        if let Some(peer) = self.wire() {
            // What the host does not take is lost; there are more.
            peer.send(&frame(self.mac(), peer.header().is_some()));
        }
        if let Some(handler) = self.handler.upgrade() {
            handler.announce();
        }
    }

    /// Whether packets go through: both ends are plugged.
    fn wire(&self) -> Option<&Arc<Netdev>> {
        self.peer.as_ref().filter(|peer| self.link_is_up() && peer.link_is_up())
    }
}

impl Nic {
    /// What the list calls it.
    pub fn name(&self) -> &str {
        &self.card.name
    }

    /// Its address.
    pub fn mac(&self) -> MacAddr {
        self.card.mac()
    }

    /// The guest gave it another address.
    pub fn set_mac(&self, mac: MacAddr) {
        *self.card.mac.lock().unwrap_or_else(PoisonError::into_inner) = mac;
    }

    /// What the device is connected to.
    pub fn peer(&self) -> Option<&Arc<Netdev>> {
        self.card.peer.as_ref()
    }

    /// Whether its cable is plugged.
    pub fn link_is_up(&self) -> bool {
        self.card.link_is_up()
    }

    /// Plugs or unplugs it without a word to the device: the state of where a machine came from.
    pub fn restore_link(&self, up: bool) {
        self.card.link_down.store(!up, Ordering::Release);
        if let Some(peer) = &self.card.peer {
            peer.settle();
        }
    }

    /// What packets' headers may say; `None` if they have none.
    pub fn header(&self) -> Option<Header> {
        self.card.peer.as_ref().and_then(|peer| peer.header())
    }

    /// What the device takes from now on.
    pub fn set_offloads(&self, offloads: Offloads) {
        if let Some(peer) = &self.card.peer {
            peer.set_offloads(offloads);
        }
    }

    /// Sends a packet. Without a link it is lost.
    pub fn send(&self, packet: &[u8]) -> Sent {
        self.card.wire().map_or(Sent::Done, |peer| peer.send(packet))
    }

    /// Takes the next packet; what does not fit is cut off.
    pub fn receive(&self, room: &mut [u8]) -> Received {
        self.card.wire().map_or(Received::Nothing, |peer| peer.receive(room))
    }

    /// Has the handler hear of what is there although there was no [`Received::Nothing`] yet: the device has reasons to go on later.
    pub fn again(&self) {
        if let Some(peer) = self.card.wire() {
            peer.wait_readable();
        }
    }
}

impl Drop for Nic {
    fn drop(&mut self) {
        if let Some(set) = self.set.upgrade() {
            set.forget(&self.card);
        }
        if let Some(peer) = &self.card.peer {
            peer.disconnect(&self.card);
        }
    }
}

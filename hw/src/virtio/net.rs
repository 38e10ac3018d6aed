//! `virtio-net` (virtio 1.3 §5.1): an Ethernet card with a pair of queues, connected to a netdev of the host.
//!
//! - [`config`] is what the user says, and the configuration space; [`features`] what is offered;
//! - [`packets`] go both ways; [`filter`] decides which of them reach the guest;
//! - [`control`] are the driver's requests;
//! - [`migration`] is what goes along when the machine is moved.
//!
//! Packets are read of the host when the guest has room for them, so that what waits, waits there. Left out: more than one pair of
//! queues, hashes and steering by them, coalescing of received segments, standby for another device.

mod config;
mod control;
mod features;
mod filter;
mod migration;
mod packets;
mod properties;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};

use ::net::{MAX_PACKET, MacAddr, Model, Netdev, Nic, NicHandler, Rounds};
use mainloop::Clock;
use qapi::events::Event;
use qapi::types::RxFilterInfo;
use qapi::{Error, Result};
use qom::{Class, ObjectRef, cast};
use vmstate::Saved;

use self::config::{ANNOUNCE, Config, LINK_UP};
use self::control::{FAILED, HEAD, OK, Request};
use self::features::{CTRL_VLAN, CTRL_VQ, GUEST_ANNOUNCE, STATUS, TEXTS};
use self::filter::Filter;
pub(super) use self::properties::register;
use super::migration::Carrier;
use super::pci::{PciBackend, Proxy};
use super::ring::Chain;
use super::{Outcome, Violation, VirtioBackend, VirtioCommon, VirtioDevice, unpoisoned};
use crate::core::{Device, DeviceState, Machine};

const DEVICE_ID: u16 = 1;
/// PCI class of an Ethernet controller.
const CLASS_ETHERNET: u16 = 0x0200;
const RX: u16 = 0;
const TX: u16 = 1;

/// Requests are few.
const CONTROL_QUEUE_SIZE: u16 = 64;
/// A pair of queues, requests, changes of the configuration.
const VECTORS: u32 = 4;

/// What changes while the guest runs.
struct Live {
    /// Those of the device's own features that the driver accepted, once it runs.
    features: u64,
    /// What the driver takes, as feature bits.
    offloads: u64,
    filter: Filter,
    link_up: bool,
    /// The guest is to tell the network where it is, and has not said yet that it knows.
    announce: bool,
    /// A packet of the host with its header, as the guest gets it; as long as `pending` says.
    rx: Vec<u8>,
    /// It waits for room.
    pending: Option<usize>,
    tx: Vec<u8>,
    /// Whether a change of the filter is an event.
    tells_filter: bool,
    /// It is to be told.
    news: bool,
}

impl Live {
    fn new(mac: MacAddr) -> Self {
        Self {
            features: 0,
            offloads: 0,
            filter: Filter::new(mac),
            link_up: true,
            announce: false,
            rx: vec![0; MAX_PACKET],
            pending: None,
            tx: Vec::new(),
            tells_filter: true,
            news: false,
        }
    }

    /// The driver, or the machine, began anew. The cable stays where it is.
    fn reset(&mut self, mac: MacAddr) {
        (self.features, self.offloads, self.pending) = (0, 0, None);
        (self.filter, self.announce) = (Filter::new(mac), false);
    }

    fn filter_changed(&mut self) {
        self.news |= std::mem::take(&mut self.tells_filter);
    }

    fn status(&self) -> u16 {
        let bit = |on: bool, bit: u16| if on { bit } else { 0 };
        bit(self.link_up, LINK_UP) | bit(self.announce, ANNOUNCE)
    }
}

/// The device, behind `virtio-bus`.
pub(in crate::virtio) struct VirtioNet {
    common: VirtioCommon,
    me: Weak<Self>,
    config: Mutex<Config>,
    queue_sizes: OnceLock<[u16; 3]>,
    machine: Mutex<Weak<Machine>>,
    /// While it is realized.
    nic: RwLock<Option<Arc<Nic>>>,
    live: Mutex<Live>,
    /// When the guest is to be asked to announce itself, and how often it was, since it came from elsewhere.
    announcement: Mutex<Option<(mainloop::Timer, i64)>>,
}
crate::device_object!(VirtioNet, common.dev);

impl VirtioNet {
    fn new(class: &Arc<Class>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            common: VirtioCommon::new(class),
            me: me.clone(),
            config: Mutex::default(),
            queue_sizes: OnceLock::new(),
            machine: Mutex::default(),
            nic: RwLock::default(),
            live: Mutex::new(Live::new(MacAddr::default())),
            announcement: Mutex::default(),
        })
    }

    fn settings(&self) -> MutexGuard<'_, Config> {
        unpoisoned(&self.config)
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        unpoisoned(&self.live)
    }

    fn nic(&self) -> Option<Arc<Nic>> {
        self.nic.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_nic(&self, nic: Option<Arc<Nic>>) -> Option<Arc<Nic>> {
        std::mem::replace(&mut *self.nic.write().unwrap_or_else(PoisonError::into_inner), nic)
    }

    /// The PCI function that it is behind, whose id and class it is known by.
    fn pci_proxy(&self) -> Option<Arc<dyn Device>> {
        let is_pci = |proxy: &Arc<dyn Device>| cast::<dyn Proxy>(&(Arc::clone(proxy) as ObjectRef)).is_some();
        self.common.proxy().filter(is_pci)
    }

    /// The address that it has after a reset.
    fn own_mac(&self) -> MacAddr {
        self.settings().mac.unwrap_or_default()
    }

    /// The netdev that the property `name` names; none for an empty text.
    fn find_netdev(&self, id: &str, name: &str) -> Result<Option<Arc<Netdev>>> {
        if id.is_empty() {
            return Ok(None);
        }
        let error =
            |text: String| Error::generic(format!("Property 'virtio-net-device.{name}' can't {text}"));
        let machine = self.dev().machine();
        let netdev = machine.and_then(|machine| machine.net().find(id));
        let netdev = netdev.ok_or_else(|| error(format!("find value '{id}'")))?;
        if netdev.is_taken() {
            return Err(error(format!("take value '{id}', it's in use")));
        }
        Ok(Some(netdev))
    }

    /// The features of its own that are offered.
    fn offered(&self) -> u64 {
        let header = self.nic().and_then(|nic| nic.header());
        features::offered(&self.settings(), header)
    }

    /// Has the host end leave to the driver what it takes.
    fn tell_offloads(&self, offloads: u64) {
        if let Some(nic) = self.nic() {
            nic.set_offloads(features::to_host(offloads));
        }
    }

    /// Carries a request of the driver out; whether it was one that it may make.
    fn carry_out(&self, live: &mut Live, request: Request) -> bool {
        if live.features & request.needs() == 0 {
            return false;
        }
        match request {
            Request::Mode(mode, on) => live.filter.set(mode, on),
            Request::Tables { receivers, groups } => {
                (live.filter.receivers, live.filter.groups) = (receivers, groups);
            }
            Request::Mac(mac) => {
                live.filter.mac = mac;
                if let Some(nic) = self.nic() {
                    nic.set_mac(mac);
                }
            }
            Request::Tag { tag, through } => live.filter.set_tag(tag, through),
            Request::AnnounceSeen => {
                let asked = std::mem::take(&mut live.announce);
                if asked {
                    self.announce_again();
                }
                return asked;
            }
            // There is one pair.
            Request::Pairs(count) => return count == 1,
            Request::Offloads(offloads) => {
                if !features::may_take(live.features, offloads) {
                    return false;
                }
                live.offloads = offloads;
                self.tell_offloads(offloads);
                return true;
            }
        }
        live.filter_changed();
        true
    }

    fn control(&self, buffer: &mut Chain<'_>) -> std::result::Result<Outcome, Violation> {
        if buffer.writable_len() == 0 || buffer.readable_len() < HEAD {
            return Err(Violation("virtio-net ctrl missing headers".into()));
        }
        let request = Request::read(buffer);
        let done = request.is_some_and(|request| self.carry_out(&mut self.live(), request));
        if !done {
            trace::guest_error!("virtio-net: a request of the driver is not possible");
        }
        let answer = if done { OK } else { FAILED };
        Ok(Outcome::Done(buffer.write(&[answer]) as u32))
    }

    /// Goes on as where the machine came from: with the cable, the address and what is left to the driver.
    fn take_over(&self, link_up: bool, mac: MacAddr, offloads: u64) {
        let Some(nic) = self.nic() else { return };
        nic.restore_link(link_up);
        nic.set_mac(mac);
        self.tell_offloads(offloads);
        self.announce_in(0, 0);
    }

    /// Has the guest asked in `wait` nanoseconds of its clock, which runs when it does, once it was asked `asked` times.
    fn announce_in(&self, wait: i64, asked: i64) {
        let Some(machine) = unpoisoned(&self.machine).upgrade() else { return };
        let me = self.me.clone();
        let mainloop = machine.mainloop();
        let at = mainloop.now_ns(Clock::Virtual).saturating_add(wait);
        let timer = mainloop.timer(Clock::Virtual, at, move || {
            if let Some(device) = me.upgrade() {
                device.ask_guest();
            }
        });
        let old = unpoisoned(&self.announcement).replace((timer, asked));
        drop(old);
    }

    /// The guest has told the network where it is; it is asked again, as packets get lost.
    fn announce_again(&self) {
        let asked = unpoisoned(&self.announcement).as_ref().map(|(_, asked)| asked + 1);
        let Some(asked) = asked else { return };
        match Rounds::default().next(asked) {
            Some(wait) => self.announce_in(wait, asked),
            None => self.end_announcements(),
        }
    }

    fn end_announcements(&self) {
        let gone = unpoisoned(&self.announcement).take();
        drop(gone);
    }

    /// Has the guest tell the network where it is, if it can.
    fn ask_guest(&self) {
        let needed = GUEST_ANNOUNCE | CTRL_VQ | STATUS;
        let due = {
            let mut live = self.live();
            let can = live.features & needed == needed;
            live.announce |= can;
            can
        };
        if due {
            self.common.notifier.config_changed();
        }
    }
}

impl Device for VirtioNet {
    fn dev(&self) -> &DeviceState {
        &self.common.dev
    }

    fn realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        let config = {
            let mut config = self.settings();
            config.settle()?;
            config.clone()
        };
        self.queue_sizes.get_or_init(|| [config.rx_queue_size, config.tx_queue_size, CONTROL_QUEUE_SIZE]);
        *unpoisoned(&self.machine) = Arc::downgrade(machine);
        // On other buses it is known by itself.
        let known = self.pci_proxy().unwrap_or_else(|| Arc::clone(&self) as Arc<dyn Device>);
        let (class, id) = (known.core().class().name(), known.dev().id());
        let handler: Arc<dyn NicHandler> = Arc::clone(&self) as Arc<dyn NicHandler>;
        let model = Model { class, id: id.as_deref(), mac: config.mac };
        let nic = machine.net().connect(model, config.netdev, &handler);
        self.settings().mac = Some(nic.mac());
        *self.live() = Live::new(nic.mac());
        self.set_nic(Some(Arc::new(nic)));
        Ok(())
    }

    fn unrealize(self: Arc<Self>, _machine: &Arc<Machine>) {
        drop(self.set_nic(None));
        self.end_announcements();
    }

    fn saved(self: Arc<Self>) -> Saved {
        Saved::Nothing
    }
}

impl VirtioBackend for VirtioNet {
    fn common(&self) -> &VirtioCommon {
        &self.common
    }

    fn saved_behind(self: Arc<Self>, carrier: Carrier) -> Saved {
        migration::saved(self, carrier)
    }

    fn feature_texts(&self) -> &'static [(u64, &'static str)] {
        &TEXTS
    }
}

impl VirtioDevice for VirtioNet {
    fn name(&self) -> &'static str {
        "virtio-net"
    }

    fn device_id(&self) -> u16 {
        DEVICE_ID
    }

    fn queue_sizes(&self) -> &[u16] {
        self.queue_sizes.get().map_or(&[], |sizes| sizes.as_slice())
    }

    fn features(&self) -> u64 {
        self.offered()
    }

    fn config(&self) -> Vec<u8> {
        let features = self.offered();
        let (mac, status) = {
            let live = self.live();
            (live.filter.mac, live.status())
        };
        self.settings().space(features, mac, status)
    }

    fn started(&self, accepted: u64) {
        let features = accepted & self.offered();
        let offloads = features::offloads(features);
        {
            let mut live = self.live();
            (live.features, live.offloads) = (features, offloads);
            live.filter.filter_tags(features & CTRL_VLAN != 0);
        }
        self.tell_offloads(offloads);
    }

    fn serve(&self, queue: u16, buffer: &mut Chain<'_>) -> std::result::Result<Outcome, Violation> {
        match queue {
            RX => self.receive(buffer),
            TX => self.transmit(buffer),
            _ => self.control(buffer),
        }
    }

    fn driver_reset(&self) {
        let mac = self.own_mac();
        self.live().reset(mac);
        self.end_announcements();
        if let Some(nic) = self.nic() {
            nic.set_mac(mac);
        }
        self.tell_offloads(0);
    }

    fn queue_reset(&self, queue: u16) {
        if queue == RX {
            self.live().pending = None;
        }
    }

    fn settle(&self) {
        if !std::mem::take(&mut self.live().news) {
            return;
        }
        let name = self.pci_proxy().and_then(|proxy| proxy.dev().id());
        let machine = unpoisoned(&self.machine).upgrade();
        if let (Some(machine), Some(me)) = (machine, self.me.upgrade()) {
            let path = (me as ObjectRef).path();
            machine.send(Event::NicRxFilterChanged { name, path });
        }
    }
}

impl NicHandler for VirtioNet {
    fn readable(&self) {
        self.common.notifier.queue_ready(RX);
    }

    fn writable(&self) {
        self.common.notifier.queue_ready(TX);
    }

    fn link_changed(&self) {
        let Some(up) = self.nic().map(|nic| nic.link_is_up()) else { return };
        let changed = std::mem::replace(&mut self.live().link_up, up) != up;
        if changed {
            self.common.notifier.config_changed();
        }
    }

    fn announce(&self) {
        // Once it came from elsewhere it is asked anyway.
        if unpoisoned(&self.announcement).is_none() {
            self.ask_guest();
        }
    }

    fn rx_filter(&self) -> Option<RxFilterInfo> {
        let mut live = self.live();
        live.tells_filter = true;
        Some(live.filter.info())
    }
}

impl PciBackend for VirtioNet {
    type Own = properties::BootIndex;
    const HAS_LEGACY: bool = true;

    fn create(class: &Arc<Class>) -> Arc<Self> {
        Self::new(class)
    }

    fn pci_class(&self, _own: &Self::Own) -> u16 {
        CLASS_ETHERNET
    }

    fn default_vectors(&self, _machine: &Machine, _own: &Self::Own) -> u32 {
        VECTORS
    }
}

#[cfg(test)]
mod tests;

//! The host ends and network devices of one VM.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use chardev::fds::Fds;
use mainloop::{Handle, Timer};
use qapi::types::{Netdev as Options, NetdevType, PliantNetClient, PliantNetPeer, RxFilterInfo};
use qapi::{Error, Result};

use crate::announce::{Rounds, announce};
use crate::host_end::HostEnd;
use crate::mac::{MacAddr, MacPool};
use crate::netdev::Netdev;
use crate::nic::{Card, Nic, NicHandler};
use crate::options::{Written, kinds, parse};
use crate::{dgram, tap};

/// What a device is.
#[derive(Debug, Clone, Copy)]
pub struct Model<'a> {
    /// Its class, as `virtio-net-pci`, which it is called after if it has no id.
    pub class: &'static str,
    /// Its id.
    pub id: Option<&'a str>,
    /// The address that was chosen for it.
    pub mac: Option<MacAddr>,
}

/// See the module.
pub struct NetSet {
    me: Weak<Self>,
    handle: Handle,
    fds: Arc<Fds>,
    inner: Mutex<Inner>,
    /// What is to be told again, by id.
    announcements: Mutex<BTreeMap<String, Timer>>,
}

#[derive(Default)]
struct Inner {
    /// In the order in which they were made.
    clients: Vec<Client>,
    macs: MacPool,
}

#[derive(Clone)]
enum Client {
    Netdev(Arc<Netdev>),
    Card(Arc<Card>),
}

impl Client {
    fn name(&self) -> &str {
        match self {
            Self::Netdev(netdev) => netdev.id(),
            Self::Card(card) => &card.name,
        }
    }
}

impl fmt::Debug for NetSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.lock().clients.iter().map(Client::name)).finish()
    }
}

impl NetSet {
    /// An empty set whose ends are served on the loop of `handle`. Descriptors come from `fds`.
    pub fn new(handle: Handle, fds: Arc<Fds>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            handle,
            fds,
            inner: Mutex::default(),
            announcements: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Changed by whole insertions and removals only.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a host end.
    ///
    /// # Errors
    /// QEMU's texts: the id is no identifier or taken; what is named cannot be opened.
    pub fn add(&self, options: &Options) -> Result<Arc<Netdev>> {
        qom::valid_id(&options.id)?;
        let id = &options.id;
        if self.find(id).is_some() {
            return Err(Error::generic(format!("Duplicate ID '{id}'")));
        }
        let (kind, end, info): (_, Arc<dyn HostEnd>, _) = match &options.type_ {
            NetdevType::Tap(tap) => {
                let (end, info) = tap::open(id, tap, &self.fds)?;
                ("tap", Arc::new(end), info)
            }
            NetdevType::Dgram(dgram) => {
                let (end, info) = dgram::open(id, dgram, &self.fds)?;
                ("dgram", Arc::new(end), info)
            }
        };
        let netdev = Netdev::new(&self.handle, id.clone(), kind, info, end)?;
        self.lock().clients.push(Client::Netdev(Arc::clone(&netdev)));
        Ok(netdev)
    }

    /// The same of a text, as behind `-netdev`. Gives what is to be printed, if the text asks for help. Short forms are warned of.
    ///
    /// # Errors
    /// Those of [`Self::add`], and what is wrong with the text.
    pub fn add_text(&self, text: &str) -> Result<Option<String>> {
        match parse(text)? {
            Written::Help => Ok(Some(kinds())),
            Written::Netdev(options, short_forms) => {
                for (word, full) in short_forms {
                    tracing::warn!(
                        "short-form boolean option '{word}' deprecated\nPlease use {full} instead"
                    );
                }
                self.add(&options).map(|_| None)
            }
        }
    }

    /// The host end of that id.
    pub fn find(&self, id: &str) -> Option<Arc<Netdev>> {
        self.lock().clients.iter().find_map(|client| match client {
            Client::Netdev(netdev) if netdev.id() == id => Some(Arc::clone(netdev)),
            _ => None,
        })
    }

    /// Takes a host end away.
    ///
    /// # Errors
    /// `DeviceNotFound`.
    pub fn remove(&self, id: &str) -> Result<()> {
        let netdev = self.find(id).ok_or_else(|| Error::device_not_found(id))?;
        self.lock().clients.retain(|client| !matches!(client, Client::Netdev(n) if Arc::ptr_eq(n, &netdev)));
        netdev.delete();
        if let Some(card) = netdev.card() {
            card.link_down.store(true, std::sync::atomic::Ordering::Release);
            tell(&card);
        }
        Ok(())
    }

    /// Lists a device and connects it to `peer`.
    pub fn connect(
        self: &Arc<Self>,
        model: Model<'_>,
        peer: Option<Arc<Netdev>>,
        handler: &Arc<dyn NicHandler>,
    ) -> Nic {
        let card = {
            let mut inner = self.lock();
            let alike = |client: &&Client| matches!(client, Client::Card(card) if card.model == model.class);
            let number = inner.clients.iter().filter(alike).count();
            let name = model.id.map_or_else(|| format!("{}.{number}", model.class), str::to_owned);
            let mac = inner.macs.take(model.mac);
            let card = Arc::new(Card {
                name,
                model: model.class,
                mac: Mutex::new(mac),
                first_mac: mac,
                link_down: false.into(),
                peer,
                handler: Arc::downgrade(handler),
            });
            inner.clients.push(Client::Card(Arc::clone(&card)));
            card
        };
        if let Some(peer) = &card.peer {
            peer.connect(&card);
        }
        Nic { card, set: Arc::downgrade(self) }
    }

    /// A device is gone.
    pub(crate) fn forget(&self, card: &Arc<Card>) {
        let mut inner = self.lock();
        inner.macs.give_back(card.first_mac);
        inner.clients.retain(|client| !matches!(client, Client::Card(other) if Arc::ptr_eq(other, card)));
    }

    /// Plugs or unplugs the cable of everything called `name`; of a host end that of the device, too.
    ///
    /// # Errors
    /// `DeviceNotFound`.
    pub fn set_link(&self, name: &str, up: bool) -> Result<()> {
        let named: Vec<Client> = self.lock().clients.iter().filter(|c| c.name() == name).cloned().collect();
        if named.is_empty() {
            return Err(Error::device_not_found(name));
        }
        for client in named {
            let card = match client {
                Client::Netdev(netdev) => {
                    netdev.set_link(up);
                    let card = netdev.card();
                    if card.is_none() {
                        netdev.settle();
                    }
                    card
                }
                Client::Card(card) => Some(card),
            };
            if let Some(card) = card {
                card.link_down.store(!up, std::sync::atomic::Ordering::Release);
                tell(&card);
            }
        }
        Ok(())
    }

    /// Tells the network where the devices are: all, or those that are named. An announcement of the same `id` ends. Loop thread.
    pub fn announce_self(self: &Arc<Self>, rounds: Rounds, names: Option<Vec<String>>, id: &str) {
        announce(self, rounds, names, id);
    }

    pub(crate) fn me(&self) -> Option<Arc<Self>> {
        self.me.upgrade()
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// All devices.
    pub(crate) fn cards(&self) -> Vec<Arc<Card>> {
        let clients = self.lock().clients.clone();
        let cards = clients.into_iter().filter_map(|client| match client {
            Client::Card(card) => Some(card),
            Client::Netdev(_) => None,
        });
        cards.collect()
    }

    /// Keeps the timer of the announcement `id`, or none.
    pub(crate) fn keep_announcement(&self, id: &str, timer: Option<Timer>) {
        let mut all = self.announcements.lock().unwrap_or_else(PoisonError::into_inner);
        let old = match timer {
            Some(timer) => all.insert(id.to_owned(), timer),
            None => all.remove(id),
        };
        drop(all);
        drop(old);
    }

    /// What devices let through: of the one called `name`, or of all that can tell.
    ///
    /// # Errors
    /// QEMU's texts: there is no such thing, it is no device, or it cannot tell.
    pub fn rx_filters(&self, name: Option<&str>) -> Result<Vec<RxFilterInfo>> {
        let clients = self.lock().clients.clone();
        let of = |card: &Card| {
            let info = card.handler.upgrade().and_then(|handler| handler.rx_filter());
            info.map(|info| RxFilterInfo { name: card.name.clone(), ..info })
        };
        let Some(name) = name else {
            let cards = clients.iter().filter_map(|client| match client {
                Client::Card(card) => of(card),
                Client::Netdev(_) => None,
            });
            return Ok(cards.collect());
        };
        let error = |text: String| Err(Error::generic(text));
        match clients.iter().find(|client| client.name() == name) {
            None => error(format!("invalid net client name: {name}")),
            Some(Client::Netdev(_)) => error(format!("net client({name}) isn't a NIC")),
            Some(Client::Card(card)) => match of(card) {
                Some(info) => Ok(vec![info]),
                None => error(format!("net client({name}) doesn't support rx-filter querying")),
            },
        }
    }

    /// Devices with their host ends, and host ends that nobody is connected to.
    pub fn list(&self) -> Vec<PliantNetClient> {
        let clients = self.lock().clients.clone();
        let listed = clients.iter().filter_map(|client| match client {
            Client::Netdev(netdev) if netdev.is_taken() => None,
            Client::Netdev(netdev) => {
                let (name, type_, info) = described(netdev);
                Some(PliantNetClient { name, type_, info, peer: None })
            }
            Client::Card(card) => {
                let peer = card.peer.as_ref().map(|netdev| {
                    let (name, type_, info) = described(netdev);
                    PliantNetPeer { name, type_, info }
                });
                let (name, info) = (card.name.clone(), card.info());
                Some(PliantNetClient { name, type_: "nic".into(), info, peer })
            }
        });
        listed.collect()
    }

    /// One line for everything that is connected to nothing: `nic NAME has no peer`.
    pub fn lonely(&self) -> Vec<String> {
        let clients = self.lock().clients.clone();
        let lonely = clients.iter().filter_map(|client| match client {
            Client::Netdev(netdev) => {
                (!netdev.is_taken()).then(|| format!("netdev {} has no peer", netdev.id()))
            }
            Client::Card(card) => card.peer.is_none().then(|| format!("nic {} has no peer", card.name)),
        });
        lonely.collect()
    }
}

fn described(netdev: &Netdev) -> (String, String, String) {
    (netdev.id().to_owned(), netdev.kind().to_owned(), netdev.info().to_owned())
}

/// Has a device look at its link, and at what came meanwhile.
fn tell(card: &Card) {
    if let Some(peer) = &card.peer {
        peer.settle();
    }
    if let Some(handler) = card.handler.upgrade() {
        handler.link_changed();
        // What waited is lost where there is no link.
        handler.writable();
        if card.link_is_up() {
            handler.readable();
        }
    }
}

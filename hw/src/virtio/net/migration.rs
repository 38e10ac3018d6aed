//! What a migration takes along of a network device: what the driver chose, and whether the cable is plugged.
//!
//! Packets that wait are lost, as networks lose packets; those that the driver gave away are in its ring. Where it comes the guest is to
//! tell the network where it is now, once the machine runs.

use std::sync::Arc;

use ::net::MacAddr;
use vmstate::{LoadError, Result, Saved, vmstate};

use super::features::{CTRL_VLAN, may_take, offloads};
use super::filter::{Addresses, Filter, MAX_ADDRESSES, MODES, TAG_WORDS};
use super::{Live, VirtioNet};
use crate::virtio::migration::{BackendState, Carrier, section};

vmstate! {
    /// The device.
    pub(in crate::virtio) struct NetState: "virtio-net-device", version 1 {
        /// What the driver accepted, once it runs.
        features: u64,
        offloads: u64,
        mac: [u8; 6],
        /// In the order of the driver's commands.
        rx_modes: [bool; 6],
        receivers: AddressesState,
        groups: AddressesState,
        vlans: Option<Vec<u32>>,
        link_up: bool,
        announce: bool,
    }
}
vmstate! {
    /// A table.
    pub(in crate::virtio) struct AddressesState: "virtio-net-addresses", version 1 {
        list: Vec<[u8; 6]>,
        overflow: bool,
    }
}

impl BackendState for NetState {
    const SECTION: &'static str = "virtio-net";
}

impl AddressesState {
    fn of(table: &Addresses) -> Self {
        match table {
            Addresses::These(list) => Self { list: list.iter().map(|mac| mac.0).collect(), overflow: false },
            Addresses::TooMany => Self { list: Vec::new(), overflow: true },
        }
    }

    fn table(self) -> Addresses {
        let Self { list, overflow } = self;
        if overflow { Addresses::TooMany } else { Addresses::These(list.into_iter().map(MacAddr).collect()) }
    }
}

pub(super) fn saved(device: Arc<VirtioNet>, carrier: Carrier) -> Saved {
    let loaded = Arc::clone(&device);
    Saved::one(section(carrier, move || device.saved_state(), move |state| loaded.load_state(state)))
}

impl VirtioNet {
    fn saved_state(&self) -> NetState {
        let live = self.live();
        // What was read of the host and is not with the guest is lost; what the host is told is in the filter, too.
        let Live {
            features,
            offloads,
            filter,
            link_up,
            announce,
            rx: _,
            tx: _,
            pending: _,
            tells_filter: _,
            news: _,
        } = &*live;
        NetState {
            features: *features,
            offloads: *offloads,
            mac: filter.mac.0,
            rx_modes: MODES.map(|mode| filter.has(mode)),
            receivers: AddressesState::of(&filter.receivers),
            groups: AddressesState::of(&filter.groups),
            vlans: filter.tags.clone(),
            link_up: *link_up,
            announce: *announce,
        }
    }

    fn load_state(&self, saved: NetState) -> Result<()> {
        let NetState {
            features,
            offloads: taken,
            mac,
            rx_modes,
            receivers,
            groups,
            vlans,
            link_up,
            announce,
        } = saved;
        let invalid = |text: String| Err(LoadError::invalid(format!("virtio-net: {text}")));
        let offered = self.offered();
        if features & !offered != 0 {
            return invalid(format!("features {features:#x} are not among {offered:#x}"));
        }
        if taken != offloads(features) && !may_take(features, taken) {
            return invalid(format!("offloads {taken:#x} are not possible with features {features:#x}"));
        }
        if receivers.list.len() + groups.list.len() > MAX_ADDRESSES {
            return invalid("there are too many addresses".into());
        }
        let filters = features & CTRL_VLAN != 0;
        if vlans.as_ref().is_some_and(|words| words.len() != TAG_WORDS) || vlans.is_some() != filters {
            return invalid("the table of tags is none".into());
        }
        let mut filter = Filter::new(MacAddr(mac));
        MODES.into_iter().zip(rx_modes).for_each(|(mode, on)| filter.set(mode, on));
        (filter.receivers, filter.groups, filter.tags) = (receivers.table(), groups.table(), vlans);
        {
            let mut live = self.live();
            live.filter = filter;
            (live.features, live.offloads) = (features, taken);
            (live.link_up, live.announce, live.pending) = (link_up, announce, None);
        }
        self.take_over(link_up, MacAddr(mac), taken);
        Ok(())
    }
}

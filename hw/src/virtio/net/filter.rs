//! What a network device lets through to its guest (virtio 1.3 §5.1.6.5): pure, by modes, tables and tags.

use ::net::MacAddr;
use qapi::types::{RxFilterInfo, RxState};

/// Addresses in both tables together at most.
pub(super) const MAX_ADDRESSES: usize = 64;
/// Tags there are.
pub(super) const TAGS: usize = 4096;
/// Words of 32 that the tags are.
pub(super) const TAG_WORDS: usize = TAGS / 32;
/// Bytes of an Ethernet header.
pub(super) const ETHERNET: usize = 14;
/// Type of a packet with a tag.
const TAGGED: [u8; 2] = [0x81, 0x00];

/// A mode that the driver switches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Promiscuous,
    AllGroups,
    AllReceivers,
    NoGroups,
    NoReceivers,
    NoBroadcast,
}

/// All of them, in the order of the driver's commands.
pub(super) const MODES: [Mode; 6] = [
    Mode::Promiscuous,
    Mode::AllGroups,
    Mode::AllReceivers,
    Mode::NoGroups,
    Mode::NoReceivers,
    Mode::NoBroadcast,
];

/// A table of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Addresses {
    These(Vec<MacAddr>),
    /// There were too many, so every one is.
    TooMany,
}

impl Addresses {
    fn contain(&self, mac: MacAddr) -> bool {
        match self {
            Self::These(list) => list.contains(&mac),
            Self::TooMany => true,
        }
    }

    /// How many entries it takes.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::These(list) => list.len(),
            Self::TooMany => 0,
        }
    }

    /// The last one first, as QEMU tells them.
    fn texts(&self) -> Vec<String> {
        match self {
            Self::These(list) => list.iter().rev().map(MacAddr::to_string).collect(),
            Self::TooMany => Vec::new(),
        }
    }
}

/// The state. A driver that accepted nothing gets everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) mac: MacAddr,
    modes: [bool; MODES.len()],
    pub(super) receivers: Addresses,
    pub(super) groups: Addresses,
    /// Tags that are let through, a bit each; all, if the driver filters none.
    pub(super) tags: Option<Vec<u32>>,
}

impl Filter {
    /// That of a device with the address `mac` after a reset.
    pub(super) fn new(mac: MacAddr) -> Self {
        let mut filter = Self {
            mac,
            modes: [false; MODES.len()],
            receivers: Addresses::These(Vec::new()),
            groups: Addresses::These(Vec::new()),
            tags: None,
        };
        filter.set(Mode::Promiscuous, true);
        filter
    }

    /// Whether a mode is on.
    pub(super) fn has(&self, mode: Mode) -> bool {
        self.modes[mode as usize]
    }

    /// Switches a mode.
    pub(super) fn set(&mut self, mode: Mode, on: bool) {
        self.modes[mode as usize] = on;
    }

    /// The driver filters tags, none of which is let through at first; or it does not.
    pub(super) fn filter_tags(&mut self, on: bool) {
        self.tags = on.then(|| vec![0; TAG_WORDS]);
    }

    /// Lets a tag below [`TAGS`] through, or not any more.
    pub(super) fn set_tag(&mut self, tag: u16, through: bool) {
        let Some(word) = self.tags.as_mut().and_then(|tags| tags.get_mut(usize::from(tag / 32))) else {
            return;
        };
        let bit = 1 << (tag % 32);
        if through { *word |= bit } else { *word &= !bit }
    }

    fn lets_tag(&self, tag: u16) -> bool {
        let Some(tags) = &self.tags else { return true };
        tags.get(usize::from(tag / 32)).is_some_and(|word| word >> (tag % 32) & 1 != 0)
    }

    /// Whether a packet goes to the guest. One that is too short to be one does not.
    pub(super) fn passes(&self, packet: &[u8]) -> bool {
        let (Some(to), true) = (packet.first_chunk::<6>(), packet.len() >= ETHERNET) else { return false };
        if self.has(Mode::Promiscuous) {
            return true;
        }
        if packet[12..14] == TAGGED {
            let tag = packet.get(14..16).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]) & 0xfff);
            if !self.lets_tag(tag) {
                return false;
            }
        }
        let to = MacAddr(*to);
        if to == MacAddr::BROADCAST {
            !self.has(Mode::NoBroadcast)
        } else if to.is_group() {
            !self.has(Mode::NoGroups) && (self.has(Mode::AllGroups) || self.groups.contain(to))
        } else {
            let wanted = self.has(Mode::AllReceivers) || to == self.mac || self.receivers.contain(to);
            !self.has(Mode::NoReceivers) && wanted
        }
    }

    /// What `query-rx-filter` says, but for the name.
    pub(super) fn info(&self) -> RxFilterInfo {
        let state = |none: Mode, all: Mode| match (self.has(none), self.has(all)) {
            (true, _) => RxState::None,
            (false, true) => RxState::All,
            (false, false) => RxState::Normal,
        };
        let too_many = |table: &Addresses| *table == Addresses::TooMany;
        // The last one first, as QEMU tells them.
        let tags: Vec<i64> =
            (0..TAGS as u16).rev().filter(|tag| self.lets_tag(*tag)).map(i64::from).collect();
        RxFilterInfo {
            name: String::new(),
            promiscuous: self.has(Mode::Promiscuous),
            multicast: state(Mode::NoGroups, Mode::AllGroups),
            unicast: state(Mode::NoReceivers, Mode::AllReceivers),
            vlan: match (&self.tags, tags.is_empty()) {
                (None, _) => RxState::All,
                (Some(_), true) => RxState::None,
                (Some(_), false) => RxState::Normal,
            },
            broadcast_allowed: !self.has(Mode::NoBroadcast),
            multicast_overflow: too_many(&self.groups),
            unicast_overflow: too_many(&self.receivers),
            main_mac: self.mac.to_string(),
            vlan_table: tags,
            unicast_table: self.receivers.texts(),
            multicast_table: self.groups.texts(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 7]);
    const OTHER: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 8]);
    const GROUP: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

    fn packet(to: MacAddr) -> Vec<u8> {
        let mut bytes = to.0.to_vec();
        bytes.resize(60, 0);
        bytes
    }

    fn tagged(to: MacAddr, tag: u16) -> Vec<u8> {
        let mut bytes = packet(to);
        bytes[12..14].copy_from_slice(&TAGGED);
        bytes[14..16].copy_from_slice(&(0xe000 | tag).to_be_bytes());
        bytes
    }

    /// To itself, another one, a group, everybody.
    fn passes(filter: &Filter) -> [bool; 4] {
        [OWN, OTHER, GROUP, MacAddr::BROADCAST].map(|to| filter.passes(&packet(to)))
    }

    #[test]
    fn everything_passes_at_first_and_what_is_meant_for_it_later() {
        let mut filter = Filter::new(OWN);
        assert_eq!(passes(&filter), [true; 4]);
        assert!(!filter.passes(&[0xff; 13]), "that is no packet");
        filter.set(Mode::Promiscuous, false);
        assert_eq!(passes(&filter), [true, false, false, true]);
        filter.receivers = Addresses::These(vec![OTHER]);
        filter.groups = Addresses::These(vec![GROUP]);
        assert_eq!(passes(&filter), [true; 4]);
        filter.receivers = Addresses::These(vec![GROUP]);
        filter.groups = Addresses::TooMany;
        assert_eq!(passes(&filter), [true, false, true, true]);
    }

    #[test]
    fn each_mode_does_one_thing() {
        for (mode, expected) in [
            (Mode::Promiscuous, [true; 4]),
            (Mode::AllGroups, [true, false, true, true]),
            (Mode::AllReceivers, [true, true, false, true]),
            (Mode::NoGroups, [true, false, false, true]),
            (Mode::NoReceivers, [false, false, false, true]),
            (Mode::NoBroadcast, [true, false, false, false]),
        ] {
            let mut filter = Filter::new(OWN);
            filter.set(Mode::Promiscuous, false);
            filter.set(mode, true);
            assert_eq!(passes(&filter), expected, "{mode:?}");
        }
    }

    #[test]
    fn tags_are_let_through_one_by_one() {
        let mut filter = Filter::new(OWN);
        filter.set(Mode::Promiscuous, false);
        assert!(filter.passes(&tagged(OWN, 7)), "a driver that filters none gets all");
        assert_eq!(filter.info().vlan, RxState::All);
        filter.filter_tags(true);
        assert!(!filter.passes(&tagged(OWN, 7)) && filter.passes(&packet(OWN)));
        assert_eq!(filter.info().vlan, RxState::None);
        filter.set_tag(7, true);
        filter.set_tag(4095, true);
        assert!(filter.passes(&tagged(OWN, 7)) && !filter.passes(&tagged(OTHER, 7)));
        assert_eq!((filter.info().vlan, filter.info().vlan_table), (RxState::Normal, vec![4095, 7]));
        filter.set_tag(7, false);
        assert!(!filter.passes(&tagged(OWN, 7)) && filter.passes(&tagged(OWN, 4095)));
    }
}

//! Feature bits of network devices (virtio 1.3 §5.1.3), which of them a device offers, and what they mean for its host end.

use ::net::{Header, Offloads};

use super::config::Config;
use crate::virtio::features::BAD_FEATURE;

/// Checksums that are left to the device.
pub(super) const CSUM: u64 = 1;
/// Checksums that are left to the driver.
pub(super) const GUEST_CSUM: u64 = 1 << 1;
/// What is left to the driver can be changed.
pub(super) const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
pub(super) const MTU: u64 = 1 << 3;
pub(super) const MAC: u64 = 1 << 5;
/// Of old drivers: all of the `HOST_` ones.
const GSO: u64 = 1 << 6;
pub(super) const GUEST_TSO4: u64 = 1 << 7;
pub(super) const GUEST_TSO6: u64 = 1 << 8;
const GUEST_ECN: u64 = 1 << 9;
const GUEST_UFO: u64 = 1 << 10;
const HOST_TSO4: u64 = 1 << 11;
const HOST_TSO6: u64 = 1 << 12;
const HOST_ECN: u64 = 1 << 13;
const HOST_UFO: u64 = 1 << 14;
pub(super) const MRG_RXBUF: u64 = 1 << 15;
pub(super) const STATUS: u64 = 1 << 16;
pub(super) const CTRL_VQ: u64 = 1 << 17;
pub(super) const CTRL_RX: u64 = 1 << 18;
pub(super) const CTRL_VLAN: u64 = 1 << 19;
pub(super) const CTRL_RX_EXTRA: u64 = 1 << 20;
pub(super) const GUEST_ANNOUNCE: u64 = 1 << 21;
pub(super) const MQ: u64 = 1 << 22;
pub(super) const CTRL_MAC_ADDR: u64 = 1 << 23;
const GUEST_USO4: u64 = 1 << 54;
const GUEST_USO6: u64 = 1 << 55;
const HOST_USO: u64 = 1 << 56;
pub(super) const SPEED_DUPLEX: u64 = 1 << 63;

/// A feature that can be switched: its property, what that is at first, and the bit.
pub(super) type Switch = (&'static str, bool, u64);

/// The properties in the order in which QEMU lists them; [`LATE_SWITCHES`] come after the others.
pub(super) const SWITCHES: [Switch; 21] = [
    ("csum", true, CSUM),
    ("guest_csum", true, GUEST_CSUM),
    ("gso", true, GSO),
    ("guest_tso4", true, GUEST_TSO4),
    ("guest_tso6", true, GUEST_TSO6),
    ("guest_ecn", true, GUEST_ECN),
    ("guest_ufo", true, GUEST_UFO),
    ("guest_announce", true, GUEST_ANNOUNCE),
    ("host_tso4", true, HOST_TSO4),
    ("host_tso6", true, HOST_TSO6),
    ("host_ecn", true, HOST_ECN),
    ("host_ufo", true, HOST_UFO),
    ("mrg_rxbuf", true, MRG_RXBUF),
    ("status", true, STATUS),
    ("ctrl_vq", true, CTRL_VQ),
    ("ctrl_rx", true, CTRL_RX),
    ("ctrl_vlan", true, CTRL_VLAN),
    ("ctrl_rx_extra", true, CTRL_RX_EXTRA),
    ("ctrl_mac_addr", true, CTRL_MAC_ADDR),
    ("ctrl_guest_offloads", true, CTRL_GUEST_OFFLOADS),
    ("mq", false, MQ),
];

/// See [`SWITCHES`].
pub(super) const LATE_SWITCHES: [Switch; 3] =
    [("guest_uso4", true, GUEST_USO4), ("guest_uso6", true, GUEST_USO6), ("host_uso", true, HOST_USO)];

/// What needs a host end whose packets have headers.
const IN_HEADER: u64 =
    CSUM | GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | HOST_TSO4 | HOST_TSO6 | HOST_ECN | UFO | USO;
const UFO: u64 = GUEST_UFO | HOST_UFO;
const USO: u64 = GUEST_USO4 | GUEST_USO6 | HOST_USO;
/// What a driver takes off the host end's hands, and may change its mind about.
const OFFLOADS: u64 = GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | GUEST_UFO | GUEST_USO4 | GUEST_USO6;

/// What a device offers whose host end has such headers.
pub(super) fn offered(config: &Config, header: Option<Header>) -> u64 {
    let on = |condition: bool, bits: u64| if condition { bits } else { 0 };
    let wanted = config.switched
        | MAC
        | on(config.host_mtu > 0, MTU)
        | on(config.speed >= 0 || config.duplex.is_some(), SPEED_DUPLEX);
    let impossible = match header {
        None => IN_HEADER,
        Some(Header { ufo, uso }) => on(!ufo, UFO) | on(!uso, USO),
    };
    wanted & !impossible
}

/// What a driver that accepted `features` takes at first.
pub(super) fn offloads(features: u64) -> u64 {
    features & OFFLOADS
}

/// Whether a driver that accepted `features` may choose `wanted`.
pub(super) fn may_take(features: u64, wanted: u64) -> bool {
    features & CTRL_GUEST_OFFLOADS != 0 && wanted & !offloads(features) == 0
}

/// The same in the host end's words.
pub(super) fn to_host(offloads: u64) -> Offloads {
    let on = |bit: u64| offloads & bit != 0;
    Offloads {
        csum: on(GUEST_CSUM),
        tso4: on(GUEST_TSO4),
        tso6: on(GUEST_TSO6),
        ecn: on(GUEST_ECN),
        ufo: on(GUEST_UFO),
        uso4: on(GUEST_USO4),
        uso6: on(GUEST_USO6),
    }
}

/// What is said of them, in QEMU's order.
pub(super) const TEXTS: [(u64, &str); 28] = [
    (BAD_FEATURE, "VHOST_USER_F_PROTOCOL_FEATURES: Vhost-user protocol features negotiation supported"),
    (GSO, "VIRTIO_NET_F_GSO: Handling GSO-type packets supported"),
    (SPEED_DUPLEX, "VIRTIO_NET_F_SPEED_DUPLEX: Device set linkspeed and duplex"),
    (HOST_USO, "VIRTIO_NET_F_HOST_USO: Device can receive USO"),
    (GUEST_USO6, "VIRTIO_NET_F_GUEST_USO4: Driver can receive USOv6"),
    (GUEST_USO4, "VIRTIO_NET_F_GUEST_USO4: Driver can receive USOv4"),
    (CTRL_MAC_ADDR, "VIRTIO_NET_F_CTRL_MAC_ADDR: MAC address set through control channel"),
    (MQ, "VIRTIO_NET_F_MQ: Multiqueue with automatic receive steering supported"),
    (GUEST_ANNOUNCE, "VIRTIO_NET_F_GUEST_ANNOUNCE: Driver sending gratuitous packets supported"),
    (CTRL_RX_EXTRA, "VIRTIO_NET_F_CTRL_RX_EXTRA: Extra RX mode control supported"),
    (CTRL_VLAN, "VIRTIO_NET_F_CTRL_VLAN: Control channel VLAN filtering supported"),
    (CTRL_RX, "VIRTIO_NET_F_CTRL_RX: Control channel RX mode supported"),
    (CTRL_VQ, "VIRTIO_NET_F_CTRL_VQ: Control channel available"),
    (STATUS, "VIRTIO_NET_F_STATUS: Configuration status field available"),
    (MRG_RXBUF, "VIRTIO_NET_F_MRG_RXBUF: Driver can merge receive buffers"),
    (HOST_UFO, "VIRTIO_NET_F_HOST_UFO: Device can receive UFO"),
    (HOST_ECN, "VIRTIO_NET_F_HOST_ECN: Device can receive TSO with ECN"),
    (HOST_TSO6, "VIRTIO_NET_F_HOST_TSO6: Device can receive TSOv6"),
    (HOST_TSO4, "VIRTIO_NET_F_HOST_TSO4: Device can receive TSOv4"),
    (GUEST_UFO, "VIRTIO_NET_F_GUEST_UFO: Driver can receive UFO"),
    (GUEST_ECN, "VIRTIO_NET_F_GUEST_ECN: Driver can receive TSO with ECN"),
    (GUEST_TSO6, "VIRTIO_NET_F_GUEST_TSO6: Driver can receive TSOv6"),
    (GUEST_TSO4, "VIRTIO_NET_F_GUEST_TSO4: Driver can receive TSOv4"),
    (MAC, "VIRTIO_NET_F_MAC: Device has given MAC address"),
    (MTU, "VIRTIO_NET_F_MTU: Device max MTU reporting supported"),
    (CTRL_GUEST_OFFLOADS, "VIRTIO_NET_F_CTRL_GUEST_OFFLOADS: Control channel offloading reconfig. supported"),
    (GUEST_CSUM, "VIRTIO_NET_F_GUEST_CSUM: Driver handling packets with partial checksum supported"),
    (CSUM, "VIRTIO_NET_F_CSUM: Device handling packets with partial checksum supported"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_headers_is_offered_where_there_are_headers_that_can_say_it() {
        let config = Config::default();
        let plain = offered(&config, None);
        assert_eq!(plain & (IN_HEADER | MQ | MTU | SPEED_DUPLEX), 0);
        assert_eq!(plain & (MAC | MRG_RXBUF | CTRL_VQ | GSO), MAC | MRG_RXBUF | CTRL_VQ | GSO);
        let full = offered(&config, Some(Header { ufo: true, uso: true }));
        assert_eq!(full, plain | IN_HEADER);
        let old = offered(&config, Some(Header { ufo: true, uso: false }));
        assert_eq!(full & !old, USO);
        let switched = full & !GUEST_TSO4;
        assert!(may_take(switched, GUEST_CSUM) && may_take(switched, 0) && !may_take(switched, GUEST_TSO4));
        assert!(!may_take(full & !CTRL_GUEST_OFFLOADS, 0));
        assert!(!may_take(full, MRG_RXBUF), "that is no such thing");
    }
}

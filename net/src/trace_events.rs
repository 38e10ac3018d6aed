//! Trace events of this crate: packets that are lost, and ends that break.

trace::events! {
    /// The host did not take a packet of `len` bytes; it is lost.
    pliant_net_lost(netdev: &str, len: usize, error: impl std::fmt::Display) "{netdev}: {len} bytes: {error}";
    /// Reading from the host failed; what was there is lost.
    pliant_net_read_err(netdev: &str, error: impl std::fmt::Display) "{netdev}: {error}";
    /// The network is told where a device is, or is not (`skip`), in the announcement `id`.
    qemu_announce_self_iter(id: &str, name: &str, mac: crate::MacAddr, skip: i32) "{id}:{name}:{mac} skip: {skip}";
    /// Packets were thrown away, as nobody may have them.
    pliant_net_discarded(netdev: &str, count: usize) "{netdev}: {count} packets";
}

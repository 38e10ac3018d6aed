//! Trace events of this crate: peers that come, go and fail. A stream is the descriptors behind a device; of a socket's `pliant_chr_socket_connect`
//! tells which it is.

trace::events! {
    /// Reading from a stream failed; it ends.
    pliant_chr_read_err(stream: trace::Id, error: impl std::fmt::Display) "stream {stream}: {error}";
    /// Writing to a stream failed; what was queued is lost.
    pliant_chr_write_err(stream: trace::Id, error: impl std::fmt::Display) "stream {stream}: {error}";
    /// The peer has closed its end, and what it sent is read.
    pliant_chr_recv_eof(stream: trace::Id) "stream {stream}";
    /// The socket `label` has a peer, named as in `query-chardev`.
    pliant_chr_socket_connect(stream: trace::Id, label: &str, peer: &str) "chardev socket connect stream {stream} ({label}) {peer}";
    /// The socket `label` has none any more.
    chr_socket_disconnect(chr: trace::Id, label: &str) "chardev socket disconnect {chr} ({label})";
    /// There is no inotify for a pseudo-terminal; it is looked at once a second.
    pliant_chr_pty_poll(chr: trace::Id, error: impl std::fmt::Display) "{chr}: {error}";
}

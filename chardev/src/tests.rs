//! Claims about devices as their users see them, on real sockets, pipes and terminals.

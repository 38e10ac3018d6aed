//! Claims about the mux.

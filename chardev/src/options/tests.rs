//! Claims about `-chardev`.

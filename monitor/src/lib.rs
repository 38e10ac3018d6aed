//! Monitors; the modules join when `chardev` is there.

//! Schema language, checks, introspection, and agreement with QEMU 10.0.2.

//! The schema as a page of documentation, `docs/qmp-reference.md`.

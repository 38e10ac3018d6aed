//! Errors of the generated readers, through the self-test schema.

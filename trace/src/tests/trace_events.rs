//! Events of the tests of this crate.

crate::events! {
    /// Something was said: `who` said `what`.
    test_said(who: &str, what: impl std::fmt::Display) "{who} said '{what}'";
    /// Nothing to add.
    test_bare() "";
    /// Of a test of its own, as switches are the process's.
    test_counted(who: &str, what: u32) "{who} said '{what}'";
}

//! How much is tried of what could be tried without end.

/// Of `usual` cases so many as `PLIANT_TEST_CASES` says, in percent (100); one at least.
///
/// # Panics
///
/// If that is no number.
#[must_use]
pub fn share_of(usual: usize) -> usize {
    let percent = std::env::var("PLIANT_TEST_CASES")
        .map_or(100, |text| text.parse().expect("PLIANT_TEST_CASES is a number of percent"));
    usual.saturating_mul(percent).div_ceil(100).max(1)
}

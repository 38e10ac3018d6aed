//! Two boots say the same in other numbers.

use super::normal;

#[test]
fn times_and_numbers_do_not_count() {
    assert_eq!(
        normal("<4>[    0.123456] pci 0000:00:1f.0: BAR 0 [mem 0xfebd1000-0xfebd1fff] cafe"),
        "pci N:N:N.N: BAR N [mem N-N] cafe"
    );
    assert_eq!(normal("<3>[1.0] virtio_mem virtio3: bad"), "virtio_mem virtio3: bad");
}

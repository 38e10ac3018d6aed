//! Formulas against the values the oracle shows.

use super::*;

const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

#[test]
fn the_usable_region_is_the_requested_size_plus_256_mib_in_blocks() {
    let cases = [
        (0, G, 2 * M, 0),
        (2 * M, G, 2 * M, 258 * M),
        (64 * M, G, 2 * M, 320 * M),
        (768 * M, G, 2 * M, G),
        (G, G, 2 * M, G),
        (500 * M, 8 * G, 2 * M, 756 * M),
        (G, 8 * G, G, 2 * G),
        (2 * G, 500 * G, 2 * M, 2304 * M),
        (u64::MAX - M, G, 2 * M, G),
    ];
    for (requested, region, block, usable) in cases {
        assert_eq!(usable_region(requested, region, block), usable, "requested {requested:#x}");
    }
}

#[test]
fn the_default_block_is_a_transparent_huge_page_or_the_backends_own_page() {
    assert_eq!(default_block_size(4096, 4096, 2 * M), 2 * M);
    assert_eq!(default_block_size(4096, 4096, M), M);
    assert_eq!(default_block_size(2 * M, 4096, 2 * M), 2 * M);
    assert_eq!(default_block_size(G, 4096, 2 * M), G);
    assert_eq!(default_block_size(65536, 4096, 2 * M), M);
}

#[test]
fn the_huge_page_size_is_assumed_only_when_sysfs_is_there_but_unreadable() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(thp_size_in(&dir.path().join("none")), ThpSize { bytes: M, guessed: false });
    assert_eq!(thp_size_in(dir.path()), ThpSize { bytes: 2 * M, guessed: true });
    std::fs::write(dir.path().join("hpage_pmd_size"), "4194304\n").unwrap();
    assert_eq!(thp_size_in(dir.path()), ThpSize { bytes: 4 * M, guessed: false });
    std::fs::write(dir.path().join("hpage_pmd_size"), "many").unwrap();
    assert_eq!(thp_size_in(dir.path()), ThpSize { bytes: 2 * M, guessed: true });
}

//! Where mappings lie.

use super::*;

#[test]
fn a_large_mapping_shares_no_upper_page_table_entry_at_its_start() {
    let map = |len, align| {
        let request = MapRequest { len, align, file: None, shared: false, reserve: false, writable: true };
        let mapping = Mapping::new(&request).unwrap();
        assert_eq!(mapping.len(), len);
        mapping
    };
    // Several, since one might lie well by chance.
    let large: Vec<_> = (0..8).map(|extra| map(UPPER_ENTRY + extra * (2 << 20), 2 << 20)).collect();
    let small: Vec<_> = (0..8).map(|_| map(UPPER_ENTRY - (2 << 20), 2 << 20)).collect();
    let aligned = |mappings: &[Mapping], to: usize| {
        mappings.iter().filter(|mapping| (mapping.addr() as usize).is_multiple_of(to)).count()
    };
    assert_eq!((aligned(&large, UPPER_ENTRY), aligned(&small, 2 << 20)), (8, 8));
    assert_eq!(aligned(&[map(UPPER_ENTRY, UPPER_ENTRY << 2)], UPPER_ENTRY << 2), 1);
}

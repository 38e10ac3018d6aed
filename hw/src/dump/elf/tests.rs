//! Claims about the layout: QEMU's headers, and places that add up.

use proptest::prelude::*;

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn headers_are_qemus() {
    // q35 after its reset, the first page of memory, one vCPU. QEMU gives 8 for the size of the header, which is 64.
    let layout = Layout::new(false, true, 1, 624, 4096);
    let header = "7f454c460201010000000000000000000400030001000000000000000000000000c00000000000000040";
    assert_eq!(
        hex(&layout.header()),
        header.replace("0000000000000000c0", "00000000000000c0").to_owned()
            + "00000000000000"
            + "00000000"
            + "4000"
            + "3800"
            + "0200"
            + "4000"
            + "0200"
            + "0100"
    );
    let names = format!("{:016x}", u64::from_be(8192));
    assert_eq!(
        hex(&layout.sections()),
        "00".repeat(64)
            + "0100000003000000"
            + &"00".repeat(16)
            + &names
            + "0b00000000000000"
            + &"00".repeat(24)
    );
}

/// The little-endian number of `size` bytes at `at`.
fn number(bytes: &[u8], at: usize, size: usize) -> u64 {
    let mut le = [0; 8];
    le[..size].copy_from_slice(&bytes[at..at + size]);
    u64::from_le_bytes(le)
}

#[test]
fn more_segments_than_16_bits_count_are_counted_in_the_first_section() {
    for (loads, in_header, in_section) in
        [(1, 2, 0), (0xfffd, 0xfffe, 0), (0xfffe, 0xffff, 0xffff), (70_000, 0xffff, 70_001)]
    {
        let layout = Layout::new(true, false, loads, 100, 0);
        assert_eq!(number(&layout.header(), 56, 2), in_header);
        assert_eq!(number(&layout.sections(), 44, 4), in_section);
    }
}

#[test]
fn fields_are_as_wide_as_they_have_to_be() {
    let class = |long_mode, large, memory| {
        let header = Layout::new(long_mode, large, 3, 100, memory).header();
        (header[4], number(&header, 18, 2))
    };
    assert_eq!(class(false, false, 1 << 30), (1, 3));
    assert_eq!(class(false, true, 1 << 30), (2, 3));
    assert_eq!(class(true, false, 1 << 30), (2, 62));
    // 4 GiB less a page are addressed by 32 bits, but not in a file that has headers.
    assert_eq!(class(false, false, (4 << 30) - 4096), (2, 3));
}

proptest! {
    #[test]
    fn parts_follow_one_another(
        long_mode in any::<bool>(),
        loads in 0usize..200,
        notes in prop_oneof![Just(0), 0u64..5000],
        pages in 0u64..1000,
    ) {
        let layout = Layout::new(long_mode, false, loads, notes, pages * 4096);
        let mut segments = Vec::new();
        layout.note_segment(&mut segments);
        for at in 0..loads as u64 {
            layout.load_segment(&mut segments, &Load { linear: 1, physical: 2, position: at * 4096, len: 4096 });
        }
        let (header, sections) = (layout.header(), layout.sections());
        let wide = header[4] == 2;
        let word = |bytes: &[u8], narrow: usize, wide_at: usize| {
            if wide { number(bytes, wide_at, 8) } else { number(bytes, narrow, 4) }
        };
        let mut at = header.len() as u64;
        prop_assert_eq!(word(&header, 32, 40), at, "sections");
        at += sections.len() as u64;
        prop_assert_eq!(word(&header, 28, 32), at, "segments");
        at += segments.len() as u64;
        if notes > 0 {
            prop_assert_eq!(word(&segments, 4, 8), at, "notes");
        }
        at += notes + layout.padding();
        prop_assert_eq!(at % 4096, 0);
        let entry = if wide { 56 } else { 32 };
        let all = segments.chunks_exact(entry);
        prop_assert_eq!(all.len(), loads + usize::from(notes > 0));
        for (index, segment) in all.skip(usize::from(notes > 0)).enumerate() {
            prop_assert_eq!(word(segment, 4, 8), at + 4096 * index as u64, "memory");
            prop_assert_eq!((word(segment, 8, 16), word(segment, 12, 24)), (1, 2));
            prop_assert_eq!((word(segment, 16, 32), word(segment, 20, 40)), (4096, 4096));
        }
        at += pages * 4096;
        let names = if wide { number(&sections, 64 + 24, 8) } else { number(&sections, 40 + 16, 4) };
        prop_assert_eq!(names, at);
    }
}

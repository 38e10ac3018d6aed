//! Placement as the oracle's start-up transcripts show it.

use proptest::prelude::*;

use super::*;

const G: u64 = 1 << 30;
const M: u64 = 1 << 20;

/// `-machine pc -m 1G,maxmem=8G`.
const AREA: Area = Area { base: 4 * G, size: 7 * G, limit: 7 * G };

fn wanted(size: u64, block: u64, addr: Option<u64>) -> Wanted {
    Wanted { size, region_align: 2 * M, device_align: block, addr }
}

fn placed(id: Option<&str>, addr: u64, size: u64) -> Placed {
    Placed { id: id.map(str::to_owned), addr, size }
}

fn error(area: Option<&Area>, present: &[Placed], wanted: &Wanted) -> String {
    place(area, present, wanted, &mut |_| {}).unwrap_err().desc().to_owned()
}

#[test]
fn devices_go_first_fit_from_the_base() {
    let mut quiet = |w: String| panic!("{w}");
    assert_eq!(place(Some(&AREA), &[], &wanted(G, 2 * M, None), &mut quiet), Ok(4 * G));
    let first = placed(Some("vm0"), 4 * G, G);
    assert_eq!(
        place(Some(&AREA), std::slice::from_ref(&first), &wanted(G, 2 * M, None), &mut quiet),
        Ok(5 * G)
    );
    // S051: one in the middle leaves room in front.
    let middle = placed(Some("vm0"), 5 * G, G);
    assert_eq!(
        place(Some(&AREA), std::slice::from_ref(&middle), &wanted(G, 2 * M, None), &mut quiet),
        Ok(4 * G)
    );
    assert_eq!(place(Some(&AREA), &[middle], &wanted(2 * G, 2 * M, None), &mut quiet), Ok(6 * G));
}

#[test]
fn an_alignment_beyond_the_bases_is_warned_about() {
    let area = Area { base: 5 * G, size: 16 * G, limit: 16 * G };
    let mut warnings = Vec::new();
    let at = place(Some(&area), &[], &wanted(4 * G, 4 * G, None), &mut |w| warnings.push(w));
    assert_eq!(at, Ok(8 * G));
    assert_eq!(
        warnings,
        [
            "the alignment (0x100000000) exceeds the expected maximum alignment, memory will get fragmented and not all \
          'maxmem' might be usable for memory devices."
        ]
    );
    let small = Area { base: 5 * G, size: 4 * G, limit: 4 * G };
    assert_eq!(
        error(Some(&small), &[], &wanted(4 * G, 4 * G, None)),
        "could not find position in guest address space for memory device - memory fragmented due to alignments"
    );
}

#[test]
fn every_refusal_has_qemus_sentence() {
    assert_eq!(
        error(None, &[], &wanted(G, 2 * M, None)),
        "the configuration is not prepared for memory devices (e.g., for memory hotplug), consider specifying the \
         maxmem option"
    );
    let full = Area { base: 4 * G, size: G, limit: G };
    assert_eq!(
        error(Some(&full), &[], &wanted(2 * G, 2 * M, None)),
        "not enough space, currently 0x0 in use of total space for memory devices 0x40000000"
    );
    assert_eq!(
        error(Some(&full), &[placed(None, 4 * G, G)], &wanted(512 * M, 2 * M, None)),
        "not enough space, currently 0x40000000 in use of total space for memory devices 0x40000000"
    );
    assert_eq!(
        error(Some(&AREA), &[], &wanted(3 * M, 2 * M, None)),
        "backend memory size must be multiple of 0x200000"
    );
    assert_eq!(
        error(Some(&AREA), &[], &wanted(G, 2 * M, Some(4 * G + M))),
        "address must be aligned to 0x200000 bytes"
    );
    assert_eq!(
        error(Some(&AREA), &[], &wanted(G, 2 * M, Some(2 * G))),
        "can't add memory device [0x80000000:0x40000000], usable range for memory devices [0x100000000:0x1c0000000]"
    );
    let present = [placed(Some("vm0"), 4 * G, G)];
    assert_eq!(
        error(Some(&AREA), &present, &wanted(G, 2 * M, Some(0x1_2000_0000))),
        "address range conflicts with memory device id='vm0'"
    );
    assert_eq!(
        error(Some(&AREA), &[placed(None, 4 * G, G)], &wanted(G, 2 * M, Some(0x1_2000_0000))),
        "address range conflicts with memory device id='(unnamed)'"
    );
    // S052
    assert_eq!(
        error(Some(&AREA), &[placed(Some("vm0"), 6 * G, G)], &wanted(6 * G, 2 * M, None)),
        "could not find position in guest address space for memory device - memory fragmented due to alignments"
    );
}

proptest! {
    #[test]
    fn what_is_placed_is_aligned_inside_and_alone(
        sizes in proptest::collection::vec((1u64..8, 0u32..6, proptest::option::of(0u64..64)), 1..12),
    ) {
        let area = Area { base: 4 * G, size: 64 * 64 * M, limit: 64 * 64 * M };
        let mut present: Vec<Placed> = Vec::new();
        for (n, shift, addr) in sizes {
            let w = wanted(n * 64 * M, (2 * M) << shift, addr.map(|a| 4 * G + a * 64 * M));
            if let Ok(at) = place(Some(&area), &present, &w, &mut |_| {}) {
                prop_assert!(at.is_multiple_of(w.align()) && at >= area.base && at + w.size <= area.base + area.size);
                prop_assert!(present.iter().all(|p| p.addr + p.size <= at || at + w.size <= p.addr));
                prop_assert!(w.addr.is_none_or(|a| a == at));
                present.push(placed(None, at, w.size));
            }
        }
    }
}

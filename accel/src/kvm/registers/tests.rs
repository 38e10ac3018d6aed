//! Claims about reading an XSAVE area.

use super::*;

/// Each word of the area holds its own offset.
fn area() -> Area {
    let mut area = kvm_xsave::default();
    for (word, offset) in area.region.iter_mut().zip((0..).step_by(4)) {
        *word = offset;
    }
    Area(area)
}

/// As some processor has them.
fn offset(component: u32) -> Option<usize> {
    [(YMM_HIGH, 576), (OPMASK, 1088), (ZMM_HIGH, 1152), (ZMM_MORE, 1664)]
        .into_iter()
        .find_map(|(part, at)| (part == component).then_some(at))
}

/// The 8 bytes at an offset.
fn long(at: u64) -> u64 {
    at | (at + 4) << 32
}

#[test]
fn floats_are_in_the_legacy_part() {
    let mut area = area();
    area.0.region[0] = 0x3800_037f;
    area.0.region[1] = 0xffff_ff81;
    let fpu = area.fpu(1, offset);
    assert_eq!((fpu.fcw, fpu.fsw, fpu.ftw, fpu.mxcsr), (0x37f, 0x3800, 0x81, 24));
    assert_eq!((fpu.st[0], fpu.st[7]), ((long(32), 40), (long(144), 152)));
    assert_eq!(fpu.vectors[1], [long(176), long(184), 0, 0, 0, 0, 0, 0]);
    assert_eq!((fpu.vectors[16], fpu.opmask), ([0; 8], [0; 8]));
}

#[test]
fn vectors_are_as_wide_as_the_guest_enabled() {
    let fpu = area().fpu(0b111, offset);
    assert_eq!(fpu.vector_bits(), 256);
    assert_eq!(fpu.vectors[15], [long(400), long(408), long(816), long(824), 0, 0, 0, 0]);
    let fpu = area().fpu(0xe7, offset);
    assert_eq!(fpu.vector_bits(), 512);
    assert_eq!(fpu.vectors[1][4..], [1184, 1192, 1200, 1208].map(long));
    assert_eq!((fpu.vectors[31][0], fpu.opmask[7]), (long(2624), long(1144)));
    // Masks alone are none of AVX-512.
    assert_eq!(area().fpu(0x27, offset).opmask, [0; 8]);
    // A host without them, and one that lies about where they are.
    assert_eq!(area().fpu(0xe7, |_| None).vectors[1][2..], [0; 6]);
    assert_eq!(area().fpu(0xe7, |_| Some(usize::MAX / 2)).vectors[16], [0; 8]);
}

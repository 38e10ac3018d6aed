//! Packets of random pages, and contents that no packer made.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use memory::{Memory, RamSpec};
use proptest::prelude::*;

use super::*;

const LEN: usize = PAGE as usize;
const BOTH: [Compression; 2] = [Compression::Zlib(1), Compression::Zstd(1)];

fn block(len: usize) -> Arc<RamBlock> {
    Memory::new().create_ram(RamSpec::anonymous("block", len as u64)).unwrap()
}

fn both(compression: Compression) -> (Packer, Unpacker) {
    (Packer::new(compression).unwrap().unwrap(), Unpacker::new(compression).unwrap().unwrap())
}

/// What a receiver makes of contents.
fn unpack(unpacker: &mut Unpacker, contents: &[u8], pages: usize) -> std::result::Result<Vec<u8>, String> {
    unpacker.room(contents.len()).copy_from_slice(contents);
    let plain = unpacker.unpack(contents.len(), pages);
    plain.map(<[u8]>::to_vec).map_err(|error| error.lines.join("; "))
}

/// Bytes that nothing is shorter than.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

/// A page: of one byte, of words that come again, of noise.
fn page() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<u8>().prop_map(|byte| vec![byte; LEN]),
        (any::<u32>(), 1..40u32).prop_map(|(start, every)| {
            (0..LEN as u32 / 4).flat_map(|word| start.wrapping_add(word % every).to_le_bytes()).collect()
        }),
        any::<u64>().prop_map(|seed| noise(seed, LEN)),
    ]
}

fn compression() -> impl Strategy<Value = Compression> {
    prop_oneof![(0..=9u8).prop_map(Compression::Zlib), (0..=9u8).prop_map(Compression::Zstd)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pages_of_any_kind_survive_packet_after_packet(
        compression in compression(),
        packets in prop::collection::vec((prop::collection::vec(page(), 1..12), 0..3u64), 1..8),
    ) {
        let (mut packer, mut unpacker) = both(compression);
        let block = block(64 * LEN);
        for (pages, gap) in packets {
            // Two runs, or one.
            let half = pages.len() as u64 / 2 * PAGE;
            let second = half + gap * PAGE..(pages.len() as u64 + gap) * PAGE;
            let plain = pages.concat();
            let mut runs = Vec::new();
            for (run, bytes) in [(0..half, &plain[..half as usize]), (second, &plain[half as usize..])] {
                if !bytes.is_empty() {
                    block.write(run.start, bytes).unwrap();
                    runs.push(run);
                }
            }
            let contents = packer.pack(&block, &runs).unwrap();
            prop_assert_eq!(unpack(&mut unpacker, contents, pages.len()), Ok(plain));
        }
    }

    #[test]
    fn contents_with_a_changed_byte_or_none_of_ours_are_expanded_or_refused(
        compression in compression(),
        pages in prop::collection::vec(page(), 1..6),
        change in (any::<prop::sample::Index>(), 1..=u8::MAX),
        cut in any::<prop::sample::Index>(),
        rubbish in prop::collection::vec(any::<u8>(), 1..200),
    ) {
        let (mut packer, _) = both(compression);
        let plain = pages.concat();
        let block = block(plain.len());
        block.write(0, &plain).unwrap();
        let whole = 0..plain.len() as u64;
        let contents = packer.pack(&block, std::slice::from_ref(&whole)).unwrap().to_vec();
        let mut changed = contents.clone();
        changed[change.0.index(contents.len())] ^= change.1;
        let short = &contents[..cut.index(contents.len())];
        for bytes in [&changed[..], short, &rubbish, &[&rubbish[..], &contents].concat(), &[&contents[..], &rubbish].concat()] {
            let (_, mut unpacker) = both(compression);
            // Whatever comes of it has the length that was asked for, and what follows is refused or not, too.
            for _ in 0..2 {
                let got = unpack(&mut unpacker, bytes, pages.len());
                prop_assert!(got.is_err() || got.is_ok_and(|bytes| bytes.len() == plain.len()));
            }
        }
    }
}

#[test]
fn the_longest_packet_fits_at_low_and_high_levels_whatever_is_in_it() {
    let block = block(PLAIN);
    let zstd = [0, 1, 3, 9, 15, 20].map(Compression::Zstd);
    let levels = [0, 1, 6, 9].map(Compression::Zlib).into_iter().chain(zstd);
    let mixed = [noise(3, PLAIN / 2), vec![7; PLAIN / 2]].concat();
    for compression in levels {
        let (mut packer, mut unpacker) = both(compression);
        for bytes in [&noise(1, PLAIN), &mixed] {
            block.write(0, bytes).unwrap();
            let contents = packer.pack(&block, std::slice::from_ref(&(0..PLAIN as u64))).unwrap();
            assert!(contents.len() < PLAIN + PLAIN / 8, "{compression:?}: {}", contents.len());
            assert_eq!(unpack(&mut unpacker, contents, PLAIN / LEN).as_ref(), Ok(bytes), "{compression:?}");
        }
        assert!(packer.pack(&block, &[0..PLAIN as u64, 0..PAGE]).is_err());
    }
}

#[test]
fn a_page_that_comes_again_costs_little_and_level_0_of_zlib_compresses_nothing() {
    let block = block(LEN);
    block.write(0, &noise(5, LEN)).unwrap();
    let twice = |compression| {
        let (mut packer, _) = both(compression);
        [0; 2].map(|_| packer.pack(&block, std::slice::from_ref(&(0..PAGE))).unwrap().len())
    };
    for compression in BOTH {
        let [first, second] = twice(compression);
        assert!(first >= LEN && second < LEN / 8, "{compression:?}: {first} {second}");
    }
    assert!(twice(Compression::Zlib(0)).iter().all(|len| *len > LEN));
}

#[test]
fn what_the_guest_writes_meanwhile_is_in_the_packet_or_not() {
    let block = block(16 * LEN);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let bytes = noise(9, 16 * LEN + 64);
            for at in (0..64).cycle().take_while(|_| !done.load(Ordering::Relaxed)) {
                block.write(0, &bytes[at..at + 16 * LEN]).unwrap();
            }
        });
        // Nothing panics before the other thread is told to end.
        let alike = BOTH.map(|compression| {
            let (mut packer, mut unpacker) = both(compression);
            (0..50).all(|_| {
                let Ok(contents) = packer.pack(&block, std::slice::from_ref(&(0..16 * PAGE))) else {
                    return false;
                };
                let contents = contents.to_vec();
                unpack(&mut unpacker, &contents, 16).as_deref() == Ok(&packer.plain[..16 * LEN])
            })
        });
        done.store(true, Ordering::Relaxed);
        assert_eq!(alike, [true; 2]);
    });
}

#[test]
fn contents_stand_for_the_pages_that_are_named_and_no_others() {
    let block = block(4 * LEN);
    block.write(0, &noise(2, 4 * LEN)).unwrap();
    for compression in BOTH {
        let of = |pages: u64, named: usize| {
            let (mut packer, mut unpacker) = both(compression);
            let contents = packer.pack(&block, std::slice::from_ref(&(0..pages * PAGE))).unwrap();
            unpack(&mut unpacker, contents, named).map(|bytes| bytes.len())
        };
        assert_eq!(of(3, 3), Ok(3 * LEN));
        assert_eq!(of(3, 4), Err("contents of a packet: less than its pages".into()), "{compression:?}");
        // A page of noise is a block of the stream's: what is left of it comes with the next packet at the latest, and has no place there.
        let (mut packer, mut unpacker) = both(compression);
        let contents = packer.pack(&block, std::slice::from_ref(&(0..4 * PAGE))).unwrap();
        let refused = (0..4).find_map(|_| unpack(&mut unpacker, contents, 1).err());
        assert!(refused.is_some(), "{compression:?}");
    }
}

#[test]
fn a_little_that_becomes_very_much_fills_no_more_than_the_pages() {
    let much = vec![0; 64 << 20];
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(9));
    zlib.write_all(&much).unwrap();
    let mut zstd = vec![0; 1 << 20];
    let mut stream = CCtx::create();
    stream.set_parameter(CParameter::WindowLog(WINDOW)).unwrap();
    let len = stream.compress2(&mut zstd[..], &much).unwrap();
    for (compression, contents) in [(BOTH[0], &zlib.finish().unwrap()[..]), (BOTH[1], &zstd[..len])] {
        let (_, mut unpacker) = both(compression);
        let error = unpack(&mut unpacker, contents, PLAIN / LEN).unwrap_err();
        assert_eq!(error, "contents of a packet: more than its pages", "{compression:?}");
        assert_eq!((unpacker.plain.len(), unpacker.packed.len()), (PLAIN, PACKED));
    }
}

#[test]
fn a_stream_that_looks_back_too_far_or_ends_is_refused() {
    let mut stream = CCtx::create();
    stream.set_parameter(CParameter::WindowLog(27)).unwrap();
    let (bytes, mut packed) = (noise(1, LEN), [0; 2 * LEN]);
    let (mut from, mut to) = (InBuffer::around(&bytes), OutBuffer::around(&mut packed[..]));
    stream.compress_stream2(&mut to, &mut from, ZSTD_EndDirective::ZSTD_e_flush).unwrap();
    let len = to.pos();
    let (_, mut unpacker) = both(Compression::Zstd(1));
    let error = unpack(&mut unpacker, &packed[..len], 1).unwrap_err();
    assert_eq!(error, "contents of a packet: Frame requires too much memory for decoding");
    let mut stream = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(1));
    stream.write_all(&bytes).unwrap();
    let (_, mut unpacker) = both(Compression::Zlib(1));
    let error = unpack(&mut unpacker, &stream.finish().unwrap(), 1).unwrap_err();
    assert_eq!(error, "contents of a packet: the stream ends");
}

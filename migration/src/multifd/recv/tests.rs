//! Channels whose other end is a test.

use std::io::Write as _;
use std::os::unix::net::UnixStream;

use super::super::compression::Packer;
use super::super::{begin, flag};
use super::*;
use crate::ram::Form;
use crate::ram::load::Loader;
use crate::testing::{Loop, Rig, SIZE};
use crate::wire::Input;

/// Sends `bytes` over the only channel of a machine; what that gives.
fn feed(main: &Loop, compression: Compression, bytes: &[u8]) -> (Rig, Option<String>) {
    let rig = Rig::new(main, "fake");
    let receivers = Receivers::new(1);
    let mut loader = Loader::new(rig.machine.memory_of(), Form::default(), Some(Arc::clone(&receivers)));
    let file = Channel::new(tempfile::tempfile().unwrap().into()).unwrap();
    loader.open(&Input::new(Arc::new(file))).unwrap();
    let (mut theirs, ours) = UnixStream::pair().unwrap();
    let channel = Arc::new(Channel::new(ours.into()).unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if let Err(error) = receivers.serve(&channel, [7; 16], compression) {
                receivers.fail(error);
            }
        });
        // Who is refused early need not be listened to.
        let _ = theirs.write_all(&bytes[4..]);
        drop(theirs);
        // Either it fails, or it waits for the others.
        let _ = receivers.flush();
        receivers.end();
    });
    assert_eq!(Arc::strong_count(&channel), 1, "nobody keeps a channel that has ended");
    let error = receivers.error().map(|error| error.lines.join("; "));
    (rig, error)
}

/// The first channel's beginning, a packet, and one to wait after.
fn packet(head: &Head, contents: &[u8]) -> Vec<u8> {
    let last = Head { sync: true, number: 1, ..Head::default() };
    [&begin([7; 16], 0)[..], &head.to_bytes(), contents, &last.to_bytes()].concat()
}

/// Two pages, apart from each other, compressed.
fn compressed(main: &Loop, compression: Compression) -> (Head, Vec<u8>) {
    let from = Rig::new(main, "fake");
    from.machine.whole.write(0x3000, b"first").unwrap();
    from.machine.whole.write(0x5ffc, b"last").unwrap();
    let mut packer = Packer::new(compression).unwrap().unwrap();
    let contents = packer.pack(&from.machine.whole, &[0x3000..0x4000, 0x5000..0x6000]).unwrap().to_vec();
    let head = Head {
        compression: compression.flag(),
        size: contents.len() as u32,
        block: "whole".into(),
        normal: vec![0x3000, 0x5000],
        ..Head::default()
    };
    (head, contents)
}

const BOTH: [Compression; 2] = [Compression::Zlib(1), Compression::Zstd(1)];

#[test]
fn compressed_pages_go_where_the_head_says() {
    let main = Loop::start();
    for compression in BOTH {
        let (head, contents) = compressed(&main, compression);
        let (to, error) = feed(&main, compression, &packet(&head, &contents));
        assert_eq!(error, None, "{compression:?}");
        let mut bytes = vec![0; 0x6000];
        to.machine.whole.read(0, &mut bytes).unwrap();
        assert_eq!((&bytes[0x3000..0x3005], &bytes[0x5ffc..]), (&b"first"[..], &b"last"[..]));
        assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), 9);
    }
}

#[test]
fn both_sides_must_compress_alike() {
    let main = Loop::start();
    let plain = Head { block: "whole".into(), zero: vec![0], ..Head::default() };
    let texts = [
        (feed(&main, BOTH[0], &packet(&plain, &[])).1, "multifd 0: flags received 0 flags expected 2"),
        (feed(&main, BOTH[1], &packet(&plain, &[])).1, "multifd 0: flags received 0 flags expected 4"),
    ];
    for (got, text) in texts {
        assert_eq!(got.as_deref(), Some(text));
    }
    for (from, to, text) in [
        (BOTH[0], BOTH[1], "multifd 0: flags received 2 flags expected 4"),
        (BOTH[1], BOTH[0], "multifd 0: flags received 4 flags expected 2"),
        (BOTH[0], Compression::None, "multifd 0: flags received 2 flags expected 0"),
    ] {
        let (head, contents) = compressed(&main, from);
        assert_eq!(feed(&main, to, &packet(&head, &contents)).1.as_deref(), Some(text));
    }
    let unknown = Head { compression: flag::COMPRESSION, ..plain };
    let (_, error) = feed(&main, Compression::None, &packet(&unknown, &[]));
    assert_eq!(error.as_deref(), Some("multifd 0: flags received e flags expected 0"));
}

#[test]
fn of_a_packet_that_is_refused_nothing_is_written() {
    let main = Loop::start();
    for compression in BOTH {
        let (head, contents) = compressed(&main, compression);
        let three = Head { normal: vec![0x3000, 0x5000, 0x7000], ..head.clone() };
        let outside = Head { normal: vec![0x3000, SIZE], ..head.clone() };
        let one = Head { normal: vec![0x3000], ..head.clone() };
        let unplugged = Head { normal: vec![0, SIZE / 2], block: "sparse".into(), ..head.clone() };
        let cut = Head { size: head.size - 8, ..head.clone() };
        for (head, what) in [
            (three, "less than its pages"),
            (outside, "Illegal RAM offset 100000"),
            (unplugged, "Illegal RAM offset 80000"),
            (cut, "less than its pages"),
        ] {
            let (to, error) = feed(&main, compression, &packet(&head, &contents[..head.size as usize]));
            let error = error.unwrap();
            assert!(error.contains(what), "{compression:?}: {error}");
            for block in [&to.machine.whole, &to.machine.sparse] {
                let mut bytes = vec![1; SIZE as usize / 2];
                block.read(0, &mut bytes).unwrap();
                assert!(bytes.iter().all(|byte| *byte == 0), "{compression:?}: {error}");
            }
        }
        // What is left over of a page more goes nowhere.
        let (to, _) = feed(&main, compression, &packet(&one, &contents));
        let mut bytes = vec![1; 0x4000];
        to.machine.whole.read(0x4000, &mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0));
    }
}

//! Claims about streams, on socket pairs.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::{End, FdKind, Stream};
use crate::sink::Sink;
use crate::tests::{Bench, Recorder};

struct Pair {
    bench: Bench,
    sink: Arc<Sink>,
    stream: Arc<Stream>,
    front: Recorder,
    peer: UnixStream,
}

impl Pair {
    fn new(room: usize) -> Self {
        let bench = Bench::new();
        let (near, peer) = UnixStream::pair().unwrap();
        peer.set_nonblocking(true).unwrap();
        let sink = Sink::new(bench.main.handle(), false);
        let front = Recorder::with_room(room);
        let port = sink.reserve(std::sync::Weak::new()).unwrap();
        sink.set_handler(port, Box::new(front.clone()));
        let stream = Stream::new(&sink, Box::new(|| ()));
        let end = End::new(near.into(), FdKind::Socket);
        stream.open(Some(end.clone()), Some(end), None).unwrap();
        Self { bench, sink, stream, front, peer }
    }
}

#[test]
fn a_stream_that_could_not_be_opened_leaves_nothing_behind() {
    let bench = Bench::new();
    let sink = Sink::new(bench.main.handle(), false);
    drop(bench.main);
    let stream = Stream::new(&sink, Box::new(|| ()));
    let end = End::new(UnixStream::pair().unwrap().0.into(), FdKind::Socket);
    assert!(stream.open(Some(end.clone()), Some(end), None).is_err());
    assert_eq!(stream.write(b"lost", 10), 4);
    assert_eq!(stream.queued(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn input_arrives_whole_and_in_order_however_little_room_there_is(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..12),
        rooms in proptest::collection::vec(1usize..200, 1..8),
    ) {
        let mut pair = Pair::new(0);
        let sent: Vec<u8> = chunks.concat();
        for chunk in &chunks {
            pair.peer.write_all(chunk).unwrap();
        }
        let mut rooms = rooms.iter().cycle();
        while pair.front.got().len() < sent.len() {
            let seen = pair.front.got().len();
            pair.front.room.store(*rooms.next().unwrap(), Ordering::SeqCst);
            pair.stream.accept_input();
            let front = pair.front.clone();
            pair.bench.until(|| front.got().len() > seen);
        }
        prop_assert_eq!(pair.front.got(), sent);
    }

    #[test]
    fn output_arrives_whole_and_in_order_however_slow_the_reader(
        sizes in proptest::collection::vec(1usize..60_000, 1..12), limit in 1usize..100_000, read in 500usize..50_000,
    ) {
        let mut pair = Pair::new(0);
        let (mut sent, mut got): (Vec<u8>, Vec<u8>) = Default::default();
        let mut buffer = vec![0; read];
        for (at, size) in sizes.iter().enumerate() {
            let chunk: Vec<u8> = (0..*size).map(|byte| (byte * 7 + at) as u8).collect();
            let taken = pair.stream.write(&chunk, limit);
            prop_assert!(taken == chunk.len() || pair.stream.queued() == limit);
            sent.extend(&chunk[..taken]);
            if let Ok(count) = pair.peer.read(&mut buffer) {
                got.extend(&buffer[..count]);
            }
            pair.bench.settle();
        }
        let total = sent.len();
        pair.bench.until(|| {
            // All there is: only the loop can bring more.
            while let Ok(count) = pair.peer.read(&mut buffer) {
                got.extend(&buffer[..count]);
            }
            got.len() == total
        });
        prop_assert!(got == sent);
        prop_assert_eq!(pair.stream.queued(), 0);
        prop_assert!(pair.sink.is_busy());
    }
}

//! Streams that are cut, changed or nothing of the kind: the program that reads them ends with a message, or takes the machine in.

use std::fs;
use std::ops::Range;
use std::sync::OnceLock;

use serde_json::json;
use tests::stream::Stream;
use tests::{Need, Vm, VmBuilder, WireError, have, share_of};

use super::{capabilities, file, migrate, plug, reached};

/// A small machine with devices of many kinds.
fn small() -> VmBuilder {
    Vm::new()
        .line("-machine pc -m 16M,maxmem=1G -object memory-backend-ram,id=mem0,size=64M")
        .line("-device virtio-mem-pci,id=vm0,memdev=mem0 -device virtio-rng-pci -device virtio-balloon-pci")
        .line("-device virtio-serial-pci,max_ports=3 -device isa-serial -device vmgenid")
        .qmp()
}

/// The stream of such a machine, whose driver has plugged memory.
fn stream() -> &'static [u8] {
    static STREAM: OnceLock<Vec<u8>> = OnceLock::new();
    STREAM.get_or_init(|| {
        let mut vm = small().qtest().start();
        capabilities(&mut vm, &["events"]);
        plug(&mut vm);
        let path = file(&vm, "stream");
        migrate(&mut vm, &format!("file:{}", path.display()));
        reached(&mut vm, "completed");
        fs::read(path).unwrap()
    })
}

/// Feeds a program with a stream; whether it took the machine in. Otherwise it has ended as it should.
fn taken_in(what: &str, bytes: &[u8]) -> bool {
    let builder = small().line("-incoming defer");
    let path = builder.scratch().join("stream");
    fs::write(&path, bytes).unwrap();
    let mut vm = builder.start();
    capabilities(&mut vm, &["events"]);
    let uri = format!("file:{}", path.display());
    // It may end before it answers.
    let _ = vm.qmp().send_raw(
        format!("{}\n", json!({ "execute": "migrate-incoming", "arguments": { "uri": uri } })).as_bytes(),
    );
    loop {
        match vm.qmp().recv() {
            Ok(message) if message["data"]["status"] == "completed" => break,
            Ok(message) => assert!(message["error"].is_null(), "{what}: {message}"),
            Err(WireError::Deadline { .. }) => panic!("{what}: it hangs; stderr: {}", vm.stderr()),
            Err(_) => {
                let exited = vm.wait();
                assert_eq!((exited.code, exited.signal), (Some(1), None), "{what}: {}", exited.stderr);
                assert!(!exited.stderr.contains("panicked"), "{what}: {}", exited.stderr);
                let last = exited.stderr.lines().last().unwrap_or_default();
                assert!(last.contains("load of migration failed: "), "{what}: {}", exited.stderr);
                return false;
            }
        }
    }
    // A machine like others.
    vm.qmp().ok("query-memory-devices", json!({}));
    vm.qmp().ok("system_reset", json!({}));
    vm.qmp().wait_event("RESET", |_| true);
    let exited = vm.quit();
    assert_eq!((exited.code, exited.signal), (Some(0), None), "{what}: {}", exited.stderr);
    assert!(!exited.stderr.contains("panicked"), "{what}: {}", exited.stderr);
    true
}

/// Where the device sections end and the description begins.
fn end_of_state(stream: &[u8]) -> usize {
    // The end mark, the description's mark, its length, and its first character.
    let at = stream.windows(7).rposition(|w| w[0] == 0 && w[1] == 6 && w[6] == b'{').unwrap();
    at + 1
}

/// Numbers below `below`, the same each time.
fn numbers(seed: u64, count: usize, below: usize) -> Vec<usize> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn a_whole_stream_is_taken_in_with_its_description_and_without() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let stream = stream();
    assert!(taken_in("the whole", stream));
    assert!(taken_in("without description", &stream[..end_of_state(stream)]));
}

#[test]
fn streams_cut_where_sections_end_are_refused() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let stream = stream();
    let end = end_of_state(stream);
    let parts = Stream::take_apart(stream).unwrap();
    // Before and behind each, and between a section's last byte and its footer.
    let ends = |range: &Range<usize>| [range.start, range.end - 5, range.end];
    let mut places = vec![0, 4, 8];
    places.extend(ends(&parts.configuration));
    places.extend(parts.parts.iter().flat_map(|part| ends(&part.range)));
    places.sort_unstable();
    places.dedup();
    assert!(places.len() > 30, "{places:?}");
    for at in places {
        assert!(!taken_in(&format!("cut at {at} of {end}"), &stream[..at]));
    }
}

#[test]
fn streams_cut_anywhere_are_refused() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let stream = stream();
    let end = end_of_state(stream);
    for at in numbers(1, share_of(30), end - 1) {
        assert!(!taken_in(&format!("cut at {at} of {end}"), &stream[..at]));
    }
    // Devices are the smaller part, and the more interesting one.
    for at in numbers(2, share_of(30), 5000) {
        let at = end - 1 - at;
        assert!(!taken_in(&format!("cut at {at} of {end}"), &stream[..at]));
    }
}

/// Streams with one byte that is another.
fn changed(seed: u64) {
    if !have(&[Need::Pliant]) {
        return;
    }
    let stream = stream();
    let end = end_of_state(stream);
    let mut places = numbers(seed, share_of(5), end);
    places.extend(numbers(seed + 1, share_of(5), 1000));
    places.extend(numbers(seed + 2, share_of(20), 5500).iter().map(|at| end - 1 - at));
    let flips = numbers(seed + 3, places.len(), 255);
    for (at, flip) in places.into_iter().zip(flips) {
        let mut bytes = stream.to_vec();
        bytes[at] ^= flip as u8 + 1;
        taken_in(&format!("byte {at} of {end} is {:#x}, not {:#x}", bytes[at], stream[at]), &bytes);
    }
}

#[test]
fn changed_bytes_are_refused_or_harmless() {
    changed(10);
}

#[test]
fn more_changed_bytes_are_refused_or_harmless() {
    changed(20);
}

#[test]
fn what_is_no_stream_is_refused() {
    if !have(&[Need::Pliant]) {
        return;
    }
    for (n, len) in numbers(30, 5, 100_000).into_iter().enumerate() {
        let mut bytes: Vec<u8> =
            numbers(31 + n as u64, len, 256).into_iter().map(|byte| byte as u8).collect();
        assert!(!taken_in(&format!("{len} random bytes"), &bytes));
        // With a beginning that is right.
        let head = stream().len().min(101 + 8 * n);
        bytes.splice(..0, stream()[..head].iter().copied());
        assert!(!taken_in(&format!("{len} random bytes after {head}"), &bytes));
    }
    assert!(!taken_in("nothing", b""));
}

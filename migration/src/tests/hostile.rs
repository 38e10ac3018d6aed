//! Streams that are cut or changed.

use proptest::test_runner::{Config, TestRunner};

use super::moving::full;
use crate::testing::{Loop, Rig};

/// A stream of a whole machine.
fn stream(main: &Loop) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    let from = full(main);
    from.migrate(&format!("file:{}", path.display())).unwrap();
    from.until("completed");
    std::fs::read(path).unwrap()
}

/// What becomes of it: `completed` or `failed`.
fn load(main: &Loop, bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let to = Rig::new(main, "fake");
    to.expect(&format!("file:{}", file.path().display())).unwrap();
    let end = to.end();
    assert_eq!(to.machine.run_state_now() == qapi::types::RunState::Inmigrate, end == "failed");
    end
}

/// Where sections begin, and the end of the last.
fn boundaries(bytes: &[u8]) -> Vec<usize> {
    let text = |needle: &[u8]| bytes.windows(needle.len()).position(|w| w == needle).unwrap();
    let footers = (0..bytes.len() - 5).filter(|at| bytes[*at] == 0x7e && bytes[at + 1..at + 4] == [0; 3]);
    let mut all: Vec<usize> = footers.flat_map(|at| [at, at + 5]).collect();
    all.extend([4, 8, 9, text(b"fake"), text(b"{\"configuration\"")]);
    all
}

#[test]
fn a_stream_that_ends_early_is_refused_wherever_it_ends() {
    let main = Loop::start();
    let bytes = stream(&main);
    let end_of_state = bytes.windows(2).rposition(|w| w == [0, 6]).unwrap() + 1;
    let mut cuts = boundaries(&bytes);
    assert!(cuts.len() > 12, "{cuts:?}");
    let step = (bytes.len() / 500).max(1);
    cuts.extend((0..bytes.len()).step_by(step));
    for cut in cuts {
        // The machine is here with the last byte before the description, whatever becomes of that.
        let whole = cut >= end_of_state;
        assert_eq!(load(&main, &bytes[..cut]), if whole { "completed" } else { "failed" }, "{cut}");
    }
    assert_eq!(load(&main, &bytes), "completed");
}

#[test]
fn a_stream_with_a_changed_byte_ends_one_way_or_the_other() {
    let main = Loop::start();
    let bytes = stream(&main);
    let mut runner = TestRunner::new(Config { cases: 500, failure_persistence: None, ..Config::default() });
    let change = (0..bytes.len(), 1..=u8::MAX);
    let run = |(at, flip): (usize, u8)| {
        let mut changed = bytes.clone();
        changed[at] ^= flip;
        load(&main, &changed);
        Ok(())
    };
    runner.run(&change, run).unwrap();
}

//! Streams that are cut or changed, of every kind: in one piece, with pages at places of their own, over several channels, and the
//! answers on the way back. Whoever reads one ends, one way or the other, and a source whose peer talks nonsense has its machine as before.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use qapi::types::{MigrationCapability as Capability, MultiFDCompression, RunState};

use super::compressed::compress;
use crate::testing::{Loop, Rig, full};

/// How many cuts and how many changes of the plain stream.
const CASES: u32 = 1000;

/// A kind of stream.
#[derive(Debug, Clone, Copy)]
enum Form {
    Plain,
    /// Pages at places of their own.
    Mapped,
    /// The main channel and two more.
    Channels(MultiFDCompression),
}

impl Form {
    fn ask(self, rig: &Rig) {
        match self {
            Self::Plain => {}
            Self::Mapped => rig.capability(Capability::MappedRam),
            Self::Channels(kind) => compress(rig, kind, 2),
        }
    }

    /// What differs from the plain stream is little, so there are fewer cases of it.
    fn runner(self) -> TestRunner {
        runner(if matches!(self, Self::Plain) { CASES } else { CASES / 4 })
    }
}

/// What a whole machine is sent as: one stream, or one for each channel, the main one first.
fn streams(main: &Loop, form: Form) -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    let from = full(main);
    form.ask(&from);
    let Form::Channels(_) = form else {
        from.migrate(&format!("file:{}", path.display())).unwrap();
        from.until("completed");
        return vec![std::fs::read(path).unwrap()];
    };
    let listener = UnixListener::bind(&path).unwrap();
    let reader = thread::spawn(move || {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let mut channel = listener.accept().unwrap().0;
                thread::spawn(move || {
                    let mut bytes = Vec::new();
                    channel.read_to_end(&mut bytes).unwrap();
                    bytes
                })
            })
            .collect();
        readers.into_iter().map(|reader| reader.join().unwrap()).collect::<Vec<_>>()
    });
    from.migrate(&format!("unix:{}", path.display())).unwrap();
    from.until("completed");
    let mut all = reader.join().unwrap();
    all.sort_by_key(|stream| !stream.starts_with(b"QEVM"));
    all
}

/// What becomes of them: `completed` or `failed`.
fn load(main: &Loop, form: Form, streams: &[&[u8]]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    let to = Rig::new(main, "fake");
    form.ask(&to);
    if let Form::Channels(_) = form {
        to.expect(&format!("unix:{}", path.display())).unwrap();
        play(&path, streams);
    } else {
        std::fs::write(&path, streams[0]).unwrap();
        to.expect(&format!("file:{}", path.display())).unwrap();
    }
    let end = to.end();
    assert_eq!(to.machine.run_state_now() == RunState::Inmigrate, end == "failed");
    end
}

/// Sends each over a connection of its own, which then ends.
fn play(path: &Path, streams: &[&[u8]]) {
    thread::scope(|scope| {
        for stream in streams {
            // Who is refused early listens to nobody else.
            let Ok(mut channel) = UnixStream::connect(path) else { return };
            scope.spawn(move || {
                let _ = channel.write_all(stream);
            });
        }
    });
}

/// Where sections begin, and the end of the last.
fn boundaries(bytes: &[u8]) -> Vec<usize> {
    let text = |needle: &[u8]| bytes.windows(needle.len()).position(|w| w == needle).unwrap();
    let footers = (0..bytes.len() - 5).filter(|at| bytes[*at] == 0x7e && bytes[at + 1..at + 4] == [0; 3]);
    let mut all: Vec<usize> = footers.flat_map(|at| [at, at + 5]).collect();
    all.extend([4, 8, 9, text(b"fake"), text(b"{\"configuration\"")]);
    all
}

/// Where the description begins, which may be missing.
fn end_of_state(bytes: &[u8]) -> usize {
    bytes.windows(7).rposition(|w| w[..2] == [0, 6] && w[6] == b'{').unwrap() + 1
}

/// Tries so many cases, or the share of them that `PLIANT_TEST_CASES` wants, in percent.
fn runner(usual: u32) -> TestRunner {
    let share = std::env::var("PLIANT_TEST_CASES").map_or(100, |text| text.parse().expect("percent"));
    let cases = (usual * share).div_ceil(100);
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

/// Cuts one of the streams anywhere; half of the cuts are near an end, where there is more to go wrong.
fn cut(form: Form) {
    let main = Loop::start();
    let whole = streams(&main, form);
    let whole: Vec<&[u8]> = whole.iter().map(Vec::as_slice).collect();
    assert_eq!(load(&main, form, &whole), "completed");
    let check = |which: usize, at: usize| {
        let mut cut = whole.clone();
        cut[which] = &cut[which][..at];
        // The machine is here with the last byte before the description, whatever becomes of that.
        let end = if which == 0 && at >= end_of_state(whole[0]) { "completed" } else { "failed" };
        assert_eq!(load(&main, form, &cut), end, "{form:?}: {at} of {} in {which}", whole[which].len());
    };
    let places = boundaries(whole[0]);
    assert!(places.len() > 12, "{places:?}");
    places.into_iter().for_each(|at| check(0, at));
    let places = (any::<Index>(), any::<Index>(), any::<bool>());
    let run = |(which, at, near): (Index, Index, bool)| {
        let which = which.index(whole.len());
        let len = whole[which].len();
        let last = if near { len.min(2000) } else { len };
        check(which, len - 1 - at.index(last));
        Ok(())
    };
    form.runner().run(&places, run).unwrap();
}

/// Changes a byte of one of the streams.
fn change(form: Form) {
    let main = Loop::start();
    let whole = streams(&main, form);
    let places = (any::<Index>(), any::<Index>(), any::<bool>(), 1..=u8::MAX);
    let run = |(which, at, near, flip): (Index, Index, bool, u8)| {
        let mut changed = whole.clone();
        let stream = &mut changed[which.index(whole.len())];
        let len = stream.len();
        // Of a stream in one piece the end is devices, of a channel for pages the beginning is heads.
        let at = match (near, stream.starts_with(b"QEVM")) {
            (false, _) => at.index(len),
            (true, true) => len - 1 - at.index(len.min(2000)),
            (true, false) => at.index(len.min(2000)),
        };
        stream[at] ^= flip;
        load(&main, form, &changed.iter().map(Vec::as_slice).collect::<Vec<_>>());
        Ok(())
    };
    form.runner().run(&places, run).unwrap();
}

#[test]
fn a_stream_that_ends_early_is_refused_wherever_it_ends() {
    cut(Form::Plain);
}

#[test]
fn a_file_with_places_that_ends_early_is_refused_wherever_it_ends() {
    cut(Form::Mapped);
}

#[test]
fn channels_of_which_one_ends_early_are_refused_wherever_it_ends() {
    cut(Form::Channels(MultiFDCompression::None));
}

#[test]
fn compressed_channels_of_which_one_ends_early_are_refused_wherever_it_ends() {
    cut(Form::Channels(MultiFDCompression::Zstd));
}

#[test]
fn a_stream_with_a_changed_byte_ends_one_way_or_the_other() {
    change(Form::Plain);
}

#[test]
fn a_file_with_places_and_a_changed_byte_ends_one_way_or_the_other() {
    change(Form::Mapped);
}

#[test]
fn channels_with_a_changed_byte_end_one_way_or_the_other() {
    change(Form::Channels(MultiFDCompression::None));
}

#[test]
fn compressed_channels_with_a_changed_byte_end_one_way_or_the_other() {
    change(Form::Channels(MultiFDCompression::Zlib));
}

#[test]
fn only_one_channel_is_the_main_one() {
    let main = Loop::start();
    let form = Form::Channels(MultiFDCompression::None);
    let whole = streams(&main, form);
    assert_eq!(load(&main, form, &[&whole[0], &whole[0], &whole[1]]), "failed");
}

/// A source whose peer reads everything and answers `answers`, then hangs up; how that ends.
fn answered(from: &Rig, listener: &UnixListener, uri: &str, answers: &[u8]) -> String {
    *from.machine.state.lock().unwrap() = RunState::Running;
    from.migrate(uri).unwrap();
    let mut peer = listener.accept().unwrap().0;
    peer.write_all(answers).unwrap();
    let _ = peer.shutdown(std::net::Shutdown::Write);
    // Until the source hangs up, which may be before all was read.
    let _ = std::io::copy(&mut peer, &mut std::io::sink());
    let end = from.end();
    let state = from.machine.run_state_now();
    assert_eq!(
        state,
        if end == "completed" { RunState::Postmigrate } else { RunState::Running },
        "{answers:?}"
    );
    end
}

#[test]
fn answers_that_are_cut_or_changed_leave_the_source_its_machine() {
    let main = Loop::start();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    let (listener, uri) = (UnixListener::bind(&path).unwrap(), format!("unix:{}", path.display()));
    let from = full(&main);
    for capability in [Capability::ReturnPath, Capability::SwitchoverAck] {
        from.capability(capability);
    }
    // A pong, the word that the guest may be stopped, and that all is well.
    let answers = [&[0, 2, 0, 4, 0, 0, 0, 1][..], &[0, 7, 0, 0], &[0, 1, 0, 4, 0, 0, 0, 0]].concat();
    assert_eq!(answered(&from, &listener, &uri, &answers), "completed");
    for at in 0..answers.len() {
        assert_eq!(answered(&from, &listener, &uri, &answers[..at]), "failed", "{at}");
    }
    // The last word before its time.
    for end in 0..2 {
        assert_eq!(answered(&from, &listener, &uri, &[0, 1, 0, 4, 0, 0, 0, end]), "failed", "{end}");
    }
    let run = |(at, flip): (usize, u8)| {
        let mut changed = answers.clone();
        changed[at] ^= flip;
        let end = answered(&from, &listener, &uri, &changed);
        // What a pong says is not looked at.
        assert_eq!(end == "completed", (4..8).contains(&at), "{at} {flip:#x}: {:?}", from.errors());
        Ok(())
    };
    // A source each, and few answers.
    runner(CASES / 5).run(&(0..answers.len(), 1..=u8::MAX), run).unwrap();
}

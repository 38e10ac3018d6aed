//! Memory that follows a guest.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use qapi::commands::MigrationCommands as _;
use qapi::types::{
    MigrationCapability as Capability, MigrationParameters, MigrationStatus as Status, RunState,
};

use super::moving::check;
use super::relay::Relay;
use crate::testing::{Loop, Rig, SIZE, full};

/// Both machines, as they are meant to be.
fn pair(main: &Loop, capabilities: &[Capability]) -> (Rig, Rig) {
    let (from, to) = (full(main), Rig::new(main, "fake"));
    for rig in [&from, &to] {
        capabilities.iter().for_each(|capability| rig.capability(*capability));
    }
    (from, to)
}

const PLAIN: &[Capability] = &[Capability::PostcopyRam];
const PREEMPT: &[Capability] = &[Capability::PostcopyRam, Capability::PostcopyPreempt];

/// Sends the machine so that nothing of its memory goes before it does.
fn follow(rig: &Rig, uri: &str) {
    let uri = uri.to_owned();
    rig.command(move |migration| {
        migration.migrate(Some(uri), None, None, None).unwrap();
        migration.migrate_start_postcopy().unwrap();
    });
}

/// Bytes a second that go unasked. With few of them the first block goes, and of the other what is asked for.
fn unasked(rig: &Rig, limit: u64) {
    let change =
        MigrationParameters { max_postcopy_bandwidth: Some(limit), ..MigrationParameters::default() };
    rig.migration.migrate_set_parameters(change).unwrap();
}

fn status(rig: &Rig) -> Status {
    rig.migration.query_migrate().unwrap().status.unwrap()
}

/// The end of the populated half of a block, read by somebody who has to wait for it.
fn reader(rig: &Rig) -> JoinHandle<[u8; 4]> {
    let block = Arc::clone(&rig.machine.sparse);
    thread::spawn(move || {
        let mut bytes = [0; 4];
        block.read(SIZE / 2 - 4, &mut bytes).unwrap();
        bytes
    })
}

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).display().to_string()
}

#[test]
fn all_memory_follows_and_goes_once() {
    let main = Loop::start();
    let dir = tempfile::tempdir().unwrap();
    for (capabilities, name) in [(PLAIN, "a"), (PREEMPT, "b")] {
        let uri = format!("unix:{}", path(dir.path(), name));
        let (from, to) = pair(&main, capabilities);
        // What is there before is not what is there afterwards.
        to.machine.whole.write(0, &vec![0xee; SIZE as usize]).unwrap();
        to.expect(&uri).unwrap();
        to.until("setup");
        follow(&from, &uri);
        let source =
            ["setup", "pass 1", "active", "Stop", "device", "pass 2", "postcopy-active", "completed"];
        assert_eq!(from.until("completed"), source);
        assert_eq!(to.until("completed"), ["active", "postcopy-active", "Resume", "completed"]);
        check(&to);
        let mut byte = [1];
        to.machine.whole.read(SIZE - 1, &mut byte).unwrap();
        assert_eq!(byte, [0]);
        let states = (from.machine.run_state_now(), to.machine.run_state_now());
        assert_eq!(states, (RunState::Postmigrate, RunState::Running));
        let ram = from.migration.query_migrate().unwrap().ram.unwrap();
        assert_eq!((ram.normal, ram.duplicate), (2, (SIZE + SIZE / 2) as i64 / 4096 - 2));
        assert!(ram.remaining == 0 && ram.postcopy_bytes > 2 * 4096, "{ram:?}");
        assert!(!to.machine.whole.is_arriving() && !to.machine.memory_of().discard_policy().is_suspended());
    }
}

#[test]
fn what_is_waited_for_comes_first() {
    let main = Loop::start();
    let dir = tempfile::tempdir().unwrap();
    for (capabilities, name) in [(PLAIN, "a"), (PREEMPT, "b")] {
        let uri = format!("unix:{}", path(dir.path(), name));
        let (from, to) = pair(&main, capabilities);
        unasked(&from, 1);
        to.expect(&uri).unwrap();
        follow(&from, &uri);
        to.until("Resume");
        from.until("postcopy-active");
        assert_eq!(reader(&to).join().unwrap(), *b"half");
        assert_eq!((status(&from), status(&to)), (Status::PostcopyActive, Status::PostcopyActive));
        let info = from.migration.query_migrate().unwrap();
        assert!(info.downtime.is_some() && info.ram.unwrap().postcopy_requests >= 1);
        assert!(to.machine.memory_of().discard_policy().is_suspended(), "a balloon leaves memory alone");
        let cancel = from.command(|migration| migration.migrate_cancel()).unwrap_err();
        assert_eq!(cancel.desc(), "Postcopy migration in progress, cannot cancel.");
        unasked(&from, 0);
        assert_eq!((from.end(), to.end()), ("completed".into(), "completed".into()));
        check(&to);
    }
}

#[test]
fn a_connection_that_breaks_again_and_again_is_taken_up_again() {
    let main = Loop::start();
    let dir = tempfile::tempdir().unwrap();
    for (capabilities, name) in [(PLAIN, "a"), (PREEMPT, "b")] {
        let at = path(dir.path(), name);
        let (from, to) = pair(&main, capabilities);
        unasked(&from, 1);
        to.expect(&format!("unix:{at}")).unwrap();
        let relay = Relay::start(dir.path(), &at, None);
        follow(&from, relay.uri());
        to.until("Resume");
        from.until("postcopy-active");
        // The guest writes what it has.
        to.machine.whole.write(5000, b"of the guest").unwrap();
        for round in 0..3 {
            match round {
                0 => relay.cut(),
                1 => from.migration.migrate_pause().unwrap(),
                _ => to.migration.migrate_pause().unwrap(),
            }
            from.until("postcopy-paused");
            to.until("postcopy-paused");
            assert_eq!(from.machine.run_state_now(), RunState::FinishMigrate);
            assert_eq!(to.machine.run_state_now(), RunState::Running);
            assert!(from.migration.migrate_pause().is_err() && to.migration.migrate_pause().is_err());
            let waiting = (round == 0).then(|| reader(&to));
            let nowhere = "unix:/nonexistent/x".to_owned();
            from.command(|migration| migration.migrate(Some(nowhere), None, None, Some(true))).unwrap();
            assert_eq!(from.until("postcopy-paused"), ["postcopy-recover-setup", "postcopy-paused"]);
            let error = from.migration.query_migrate().unwrap().error_desc.unwrap();
            assert_eq!(error, "Failed to connect to '/nonexistent/x': No such file or directory");
            let next = format!("{at}-{round}");
            // Not on the main loop, which may wait for memory.
            to.migration.migrate_recover("foo:x".to_owned()).unwrap_err();
            to.migration.migrate_recover(format!("unix:{next}-other")).unwrap();
            to.migration.migrate_recover(format!("unix:{next}")).unwrap();
            let again = Relay::start(dir.path(), &next, None);
            let uri = again.uri().to_owned();
            from.command(|migration| migration.migrate(Some(uri), None, None, Some(true))).unwrap();
            let source = ["postcopy-recover-setup", "postcopy-recover", "postcopy-active"];
            assert_eq!(from.until("postcopy-active"), source);
            assert_eq!(to.until("postcopy-active"), ["postcopy-recover", "postcopy-active"]);
            if let Some(reader) = waiting {
                assert_eq!(reader.join().unwrap(), *b"half");
            }
        }
        unasked(&from, 0);
        assert_eq!((from.end(), to.end()), ("completed".into(), "completed".into()));
        let mut bytes = [0; 12];
        to.machine.whole.read(5000, &mut bytes).unwrap();
        assert_eq!(&bytes, b"of the guest", "what the guest wrote stays");
        assert_eq!(from.machine.run_state_now(), RunState::Postmigrate);
    }
}

/// What is sent to a destination breaks after so many bytes: never do both run, and if none does the machine can be had.
#[test]
fn wherever_it_breaks_one_machine_runs_or_can_be_taken_up() {
    let main = Loop::start();
    let dir = tempfile::tempdir().unwrap();
    let measure = {
        let (from, to) = pair(&main, PLAIN);
        let uri = format!("unix:{}", path(dir.path(), "whole"));
        to.expect(&uri).unwrap();
        follow(&from, &uri);
        assert_eq!(from.end(), "completed");
        from.migration.query_migrate().unwrap().ram.unwrap().transferred as usize
    };
    let mut seen = Vec::new();
    // Finer where it is decided who runs.
    let head = (0..2048).step_by(64);
    let tail = (measure.saturating_sub(64)..measure).step_by(4);
    for cut in head.chain((2048..measure).step_by(measure / 16)).chain(tail) {
        let at = path(dir.path(), &cut.to_string());
        let (from, to) = pair(&main, PLAIN);
        to.expect(&format!("unix:{at}")).unwrap();
        let relay = Relay::start(dir.path(), &at, Some(cut));
        follow(&from, relay.uri());
        let ends = ["failed", "completed", "postcopy-paused"];
        let (source, there) = (from.until_any(&ends), to.until_any(&ends));
        let runs = |rig: &Rig| rig.machine.run_state_now() == RunState::Running;
        assert!(!(runs(&from) && runs(&to)), "{cut}: {source} {there}");
        assert_eq!(runs(&from), source == "failed", "{cut}");
        assert!(runs(&from) || there != "failed", "{cut}: nobody has the machine");
        seen.push(format!("{source} {there}"));
        [&from, &to].iter().for_each(|rig| rig.migration.shut_down());
    }
    for kind in ["failed failed", "postcopy-paused postcopy-paused"] {
        assert!(seen.iter().any(|one| one == kind), "{seen:?}");
    }
}

/// A destination that a test plays: it takes what comes and says `answers` when the first byte was there.
fn played(main: &Loop, dir: &Path, answers: Vec<u8>) -> Rig {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let at = path(dir, &format!("played{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    let listener = UnixListener::bind(&at).unwrap();
    let (from, _) = pair(main, PLAIN);
    unasked(&from, 1);
    follow(&from, &format!("unix:{at}"));
    let (mut stream, _) = listener.accept().unwrap();
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    stream.write_all(&answers).unwrap();
    thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));
    from
}

/// A message of the way back.
fn message(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &(data.len() as u16).to_be_bytes(), data].concat()
}

fn request(block: &str, offset: u64, len: u32) -> Vec<u8> {
    let name = [&[block.len() as u8], block.as_bytes()].concat();
    message(3, &[&offset.to_be_bytes()[..], &len.to_be_bytes(), &name].concat())
}

#[test]
fn requests_for_what_there_is_not_end_it_or_pause_it() {
    let main = Loop::start();
    let dir = tempfile::tempdir().unwrap();
    let bad = [
        (request("nowhere", 0, 4096), "pages are asked for of no block: 'nowhere'"),
        (request("whole", SIZE, 4096), "request outside of block 'whole'"),
        (request("whole", u64::MAX - 4095, 4096), "request outside of block 'whole'"),
        (request("sparse", SIZE / 2, 4096), "request outside of block 'sparse'"),
        (request("sparse", SIZE / 2 - 4096, 8192), "request outside of block 'sparse'"),
        (request("whole", 1, 4096), "Misaligned page request"),
        (request("whole", 0, 0), "Misaligned page request"),
        (message(4, &[0; 12]), "pages are asked for of no block"),
        (message(9, &[]), "Received invalid message 0x0009"),
        (message(6, &[0, 0, 0, 9]), "illegal resume_ack value 9"),
        (message(3, &[0; 14]), "a block's name is not as long as it says"),
    ];
    for (answer, text) in bad {
        let from = played(&main, dir.path(), answer.clone());
        assert_eq!(from.until_any(&["failed", "postcopy-active"]), "failed", "{text}");
        assert_eq!(from.machine.run_state_now(), RunState::Running);
        assert!(from.errors()[0].contains(text), "{:?}, not {text}", from.errors());
        // The same once the guest runs there.
        let devices = message(2, &3u32.to_be_bytes());
        let from = played(&main, dir.path(), [devices, answer].concat());
        let end = from.until_any(&["failed", "postcopy-paused"]);
        assert_eq!(from.machine.run_state_now() == RunState::Running, end == "failed");
        assert!(from.errors()[0].contains(text), "{:?}, not {text}", from.errors());
        from.migration.shut_down();
    }
}

#[test]
fn commands_where_they_do_not_belong() {
    let main = Loop::start();
    let (from, to) = pair(&main, &[]);
    let text = |error: qapi::Error| error.desc().to_owned();
    let start = from.command(|migration| migration.migrate_start_postcopy());
    assert_eq!(
        text(start.unwrap_err()),
        "Enable postcopy with migrate_set_capability before the start of migration"
    );
    from.capability(Capability::PostcopyRam);
    let start = from.command(|migration| migration.migrate_start_postcopy());
    assert_eq!(text(start.unwrap_err()), "Postcopy must be started after migration has been started");
    for rig in [&from, &to] {
        assert_eq!(
            text(rig.migration.migrate_pause().unwrap_err()),
            "migrate-pause is currently only supported during postcopy-active or postcopy-recover state"
        );
        assert_eq!(
            text(rig.migration.migrate_recover("unix:x".into()).unwrap_err()),
            "Migrate recover can only be run when postcopy is paused."
        );
    }
    let resume = from.migration.migrate(Some("unix:x".into()), None, None, Some(true));
    assert_eq!(text(resume.unwrap_err()), "Cannot resume if there is no paused migration");
    // There is no way back.
    from.migrate("exec:cat >/dev/null").unwrap();
    assert_eq!(from.end(), "failed");
    assert_eq!(from.errors(), ["Unable to open return-path for postcopy"]);
    let alone = |capability| {
        let state = qapi::types::MigrationCapabilityStatus { capability, state: true };
        text(to.migration.migrate_set_capabilities(vec![state]).unwrap_err())
    };
    assert_eq!(alone(Capability::PostcopyPreempt), "Postcopy preempt requires postcopy-ram");
    to.capability(Capability::PostcopyRam);
    assert_eq!(alone(Capability::Multifd), "Postcopy is not yet compatible with multifd");
    assert_eq!(alone(Capability::XIgnoreShared), "Postcopy is not compatible with ignore-shared");
    assert_eq!(alone(Capability::MappedRam), "Mapped-ram migration is incompatible with postcopy");
}

#[test]
fn a_side_that_knows_nothing_of_it_is_no_peer() {
    let main = Loop::start();
    let dir = tempfile::tempdir().unwrap();
    let uri = format!("unix:{}", path(dir.path(), "m"));
    let (from, to) = (full(&main), Rig::new(&main, "fake"));
    from.capability(Capability::PostcopyRam);
    to.expect(&uri).unwrap();
    from.migrate(&uri).unwrap();
    assert_eq!((from.end(), to.end()), ("failed".into(), "failed".into()));
    assert_eq!(from.machine.run_state_now(), RunState::Running);
}

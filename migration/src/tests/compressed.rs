//! Memory that is compressed on its way.

use qapi::commands::MigrationCommands as _;
use qapi::types::{MigrationCapability, MigrationParameters, MultiFDCompression, RunState};

use super::moving::check;
use crate::testing::{Loop, Rig, SIZE, full};

const BOTH: [MultiFDCompression; 2] = [MultiFDCompression::Zlib, MultiFDCompression::Zstd];

/// Several channels, compressed so.
pub(super) fn compress(rig: &Rig, kind: MultiFDCompression, channels: u8) {
    rig.capability(MigrationCapability::Multifd);
    let change = MigrationParameters {
        multifd_channels: Some(channels),
        multifd_compression: Some(kind),
        ..MigrationParameters::default()
    };
    rig.migration.migrate_set_parameters(change).unwrap();
}

#[test]
fn memory_arrives_over_any_number_of_channels_and_what_is_counted_is_what_was_sent() {
    let main = Loop::start();
    let dir = tempfile::tempdir().unwrap();
    let pages: Vec<u8> = (0..SIZE / 4).flat_map(|word| (word as u32 / 7).to_be_bytes()).collect();
    for kind in BOTH {
        for channels in [1, 4, 16] {
            let uri = format!("unix:{}", dir.path().join(format!("{kind:?}{channels}")).display());
            let (from, to) = (full(&main), Rig::new(&main, "fake"));
            from.machine.sparse.write(0, &pages[..SIZE as usize / 2 - 4]).unwrap();
            compress(&from, kind, channels);
            compress(&to, kind, channels);
            to.expect(&uri).unwrap();
            from.migrate(&uri).unwrap();
            let ends = (from.end(), to.end());
            assert_eq!(ends, ("completed".into(), "completed".into()), "{:?}", to.errors());
            check(&to);
            let mut there = vec![0; SIZE as usize / 2 - 4];
            to.machine.sparse.read(0, &mut there).unwrap();
            assert!(there == pages[..there.len()], "{kind:?} over {channels}");
            let ram = from.migration.query_migrate().unwrap().ram.unwrap();
            assert_eq!(ram.normal, 1 + SIZE as i64 / 2 / 4096);
            // Every page that was sent is counted whole, but the bytes are fewer.
            assert!(ram.multifd_bytes > 4096 && (ram.multifd_bytes as i64) < ram.normal_bytes / 2, "{ram:?}");
            assert!(ram.transferred > ram.multifd_bytes as i64);
        }
    }
}

#[test]
fn a_destination_that_was_told_otherwise_refuses_and_the_source_goes_on() {
    let main = Loop::start();
    let dir = tempfile::tempdir().unwrap();
    for (number, (ours, theirs)) in
        [(BOTH[0], BOTH[1]), (BOTH[1], MultiFDCompression::None), (MultiFDCompression::None, BOTH[0])]
            .into_iter()
            .enumerate()
    {
        let uri = format!("unix:{}", dir.path().join(number.to_string()).display());
        let (from, to) = (full(&main), Rig::new(&main, "fake"));
        for rig in [&from, &to] {
            rig.capability(MigrationCapability::ReturnPath);
        }
        compress(&from, ours, 2);
        compress(&to, theirs, 2);
        to.expect(&uri).unwrap();
        from.migrate(&uri).unwrap();
        assert_eq!((from.end(), to.end()), ("failed".into(), "failed".into()));
        assert_eq!(from.machine.run_state_now(), RunState::Running);
    }
}

#[test]
fn pages_at_places_of_their_own_are_not_compressed() {
    let main = Loop::start();
    let rig = full(&main);
    rig.capability(MigrationCapability::MappedRam);
    // As QEMU: the mistake is told by whatever is changed next, and by the attempt.
    compress(&rig, MultiFDCompression::Zlib, 2);
    let again = MigrationParameters { downtime_limit: Some(1), ..MigrationParameters::default() };
    let error = rig.migration.migrate_set_parameters(again).unwrap_err();
    assert_eq!(error.desc(), "Mapped-ram only available for non-compressed non-TLS multifd migration");
    let now = rig.migration.query_migrate_parameters().unwrap();
    assert_eq!((now.downtime_limit, now.multifd_compression), (Some(300), Some(MultiFDCompression::Zlib)));
    let dir = tempfile::tempdir().unwrap();
    let error = rig.migrate(&format!("file:{}", dir.path().join("m").display())).unwrap_err();
    assert_eq!(error.desc(), "Cannot use compression with mapped-ram");
    assert!(!dir.path().join("m").exists());
}

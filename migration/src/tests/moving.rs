//! From one machine to another.

use std::sync::Arc;

use memory::DirtyClient;
use qapi::commands::MigrationCommands as _;
use qapi::types::{MigrationCapability, MigrationStatus, RunState};

use crate::FreePages;
use crate::testing::{Loop, Rig, SIZE, full};

pub(super) fn check(rig: &Rig) {
    let mut bytes = [0; 12];
    rig.machine.whole.read(5000, &mut bytes).unwrap();
    assert_eq!(&bytes, b"of the whole");
    rig.machine.sparse.read(SIZE / 2 - 4, &mut bytes[..4]).unwrap();
    assert_eq!(&bytes[..4], b"half");
    let device = rig.machine.device.lock().unwrap();
    assert_eq!((device.value, &*device.list), (42, &[1, 2, 3][..]));
}

#[test]
fn everything_arrives_over_a_socket_and_each_side_tells_how_it_goes() {
    let main = Loop::start();
    let dir = tempfile::tempdir().unwrap();
    let uri = format!("unix:{}", dir.path().join("m").display());
    let (from, to) = (full(&main), Rig::new(&main, "fake"));
    to.expect(&uri).unwrap();
    assert_eq!(to.until("setup"), ["setup"]);
    from.migrate(&uri).unwrap();
    let source = ["setup", "pass 1", "active", "Stop", "device", "pass 2", "completed"];
    assert_eq!(from.until("completed"), source);
    assert_eq!(to.until("completed"), ["active", "Resume", "completed"]);
    check(&to);
    assert_eq!(
        (from.machine.run_state_now(), to.machine.run_state_now()),
        (RunState::Postmigrate, RunState::Running)
    );
    let info = from.migration.query_migrate().unwrap();
    let ram = info.ram.unwrap();
    assert_eq!((ram.total, ram.remaining, ram.dirty_sync_count), (2 * SIZE as i64, 0, 2));
    // What is not populated was not sent, and of what is only what is not zero.
    assert_eq!((ram.normal, ram.duplicate), (2, (SIZE + SIZE / 2) as i64 / 4096 - 2));
    assert!(info.downtime.is_some() && info.setup_time.is_some());
    assert_eq!(to.migration.query_migrate().unwrap().status, Some(MigrationStatus::Completed));
}

#[test]
fn pages_that_the_guest_calls_free_are_not_sent_unless_they_are_written() {
    let main = Loop::start();
    let dir = tempfile::tempdir().unwrap();
    let uri = format!("unix:{}", dir.path().join("m").display());
    let (from, to) = (full(&main), Rig::new(&main, "fake"));
    let (memory, block) = (Arc::clone(from.machine.memory_of()), Arc::clone(&from.machine.whole));
    block.write(SIZE / 2, &vec![1; SIZE as usize / 2]).unwrap();
    *from.machine.answer.lock().unwrap() = Some(Box::new(move || {
        // Of the first and of the last page a part is in use.
        memory.forget_dirty(DirtyClient::Migration, &block, SIZE / 2 + 1..SIZE - 1);
        block.write(SIZE - 3 * 4096, b"used again").unwrap();
    }));
    to.expect(&uri).unwrap();
    from.migrate(&uri).unwrap();
    from.until("completed");
    to.until("completed");
    check(&to);
    let page = |offset: u64| {
        let mut bytes = [0; 2];
        to.machine.whole.read(offset, &mut bytes).unwrap();
        bytes
    };
    assert_eq!(page(SIZE / 2), [1, 1]);
    assert_eq!(page(SIZE / 2 + 4096), [0, 0], "not sent");
    assert_eq!(page(SIZE - 3 * 4096), *b"us");
    assert_eq!(page(SIZE - 2 * 4096), [0, 0], "not sent");
    assert_eq!(page(SIZE - 4096), [1, 1]);
    let ram = from.migration.query_migrate().unwrap().ram.unwrap();
    assert_eq!(ram.normal, 2 + 3);
    let steps = [FreePages::Ask, FreePages::Stop, FreePages::Done, FreePages::Done];
    assert_eq!(*from.machine.asked.lock().unwrap(), steps);
}

#[test]
fn a_machine_goes_into_a_file_behind_what_is_there_and_comes_back() {
    let main = Loop::start();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    std::fs::write(&path, b"header and what an earlier one left").unwrap();
    let uri = format!("file:{},offset=6", path.display());
    let from = full(&main);
    from.migrate(&uri).unwrap();
    from.until("completed");
    assert!(std::fs::read(&path).unwrap().starts_with(b"headerQEVM"));
    let to = Rig::new(&main, "fake");
    to.expect(&uri).unwrap();
    to.until("completed");
    check(&to);
}

#[test]
fn whoever_cancels_has_the_machine_as_before_and_may_try_again() {
    let main = Loop::start();
    let from = full(&main);
    from.capability(MigrationCapability::PauseBeforeSwitchover);
    from.migrate("exec:cat >/dev/null").unwrap();
    from.until("pre-switchover");
    assert_eq!(from.machine.run_state_now(), RunState::FinishMigrate);
    let again = from.migrate("exec:cat >/dev/null").unwrap_err();
    assert_eq!(again.desc(), "There's a migration process in progress");
    from.command(|migration| migration.migrate_cancel()).unwrap();
    assert_eq!(from.until("cancelled"), ["cancelling", "Resume", "cancelled"]);
    assert_eq!(from.machine.run_state_now(), RunState::Running);
    from.migrate("exec:cat >/dev/null").unwrap();
    from.until("pre-switchover");
    let wrong = from.command(|migration| migration.migrate_continue(MigrationStatus::Device)).unwrap_err();
    assert_eq!(wrong.desc(), "Migration not in expected state: pre-switchover");
    from.command(|migration| migration.migrate_continue(MigrationStatus::PreSwitchover)).unwrap();
    assert_eq!(from.until("completed"), ["device", "pass 2", "completed"]);
}

#[test]
fn a_peer_that_is_another_machine_ends_and_the_source_goes_on() {
    let main = Loop::start();
    let dir = tempfile::tempdir().unwrap();
    let uri = format!("unix:{}", dir.path().join("m").display());
    let (from, to) = (full(&main), Rig::new(&main, "other"));
    to.expect(&uri).unwrap();
    // More than the socket takes, so that the source hears of it.
    from.machine.whole.write(0, &vec![1; SIZE as usize]).unwrap();
    from.migrate(&uri).unwrap();
    to.until("failed");
    assert_eq!(from.end(), "failed");
    assert_eq!(from.machine.run_state_now(), RunState::Running);
    let error = from.migration.query_migrate().unwrap().error_desc.unwrap();
    assert!(error.starts_with("Unable to write to socket: "), "{error}");
}

#[test]
fn an_address_that_cannot_be_used_is_an_error_of_the_command_or_of_the_migration() {
    let main = Loop::start();
    let rig = full(&main);
    let error = rig.migrate("file:/nonexistent/x").unwrap_err();
    assert_eq!(error.desc(), "Could not create '/nonexistent/x': No such file or directory");
    let info = rig.migration.query_migrate().unwrap();
    assert_eq!(info.error_desc.as_deref(), Some(error.desc()));
    assert_eq!(rig.until("failed"), ["setup", "failed"]);
    rig.migrate("unix:/nonexistent/x").unwrap();
    rig.until("failed");
    let error = rig.migration.query_migrate().unwrap().error_desc.unwrap();
    assert_eq!(error, "Failed to connect to '/nonexistent/x': No such file or directory");
    assert!(!*rig.machine.ended.lock().unwrap());
    let none = rig.command(|migration| migration.migrate_incoming(Some("unix:x".into()), None, None));
    assert_eq!(none.unwrap_err().desc(), "'-incoming' was not specified on the command line");
}

#[test]
fn a_port_that_the_host_chose_is_told() {
    let main = Loop::start();
    let (from, to) = (full(&main), Rig::new(&main, "fake"));
    to.expect("defer").unwrap();
    assert_eq!(to.migration.query_migrate().unwrap().status, None);
    let listen =
        |migration: &crate::Migration| migration.migrate_incoming(Some("tcp:127.0.0.1:0".into()), None, None);
    to.command(listen).unwrap();
    let twice = to.command(listen).unwrap_err();
    assert_eq!(twice.desc(), "The incoming migration has already been started");
    let info = to.migration.query_migrate().unwrap();
    let Some(qapi::types::SocketAddress::Inet(at)) =
        info.socket_address.and_then(|list| list.into_iter().next())
    else {
        panic!("no address")
    };
    from.migrate(&format!("tcp:{}:{}", at.host, at.port)).unwrap();
    to.until("completed");
    check(&to);
}

#[test]
fn pages_of_a_file_have_places_of_their_own() {
    let main = Loop::start();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    let uri = format!("file:{},offset=4096", path.display());
    let from = full(&main);
    from.capability(MigrationCapability::MappedRam);
    let socket = from.migrate("unix:/nonexistent").unwrap_err();
    assert_eq!(socket.desc(), "Migration requires seekable transport (e.g. file)");
    from.capability(MigrationCapability::PauseBeforeSwitchover);
    from.migrate(&uri).unwrap();
    from.until("pre-switchover");
    // Written again after it was sent, and zero where it was not.
    from.machine.whole.write(5000, b"of the whole").unwrap();
    from.machine.whole.write(0, &[9; 4096]).unwrap();
    from.command(|migration| migration.migrate_continue(MigrationStatus::PreSwitchover)).unwrap();
    from.until("completed");
    let file = std::fs::read(&path).unwrap();
    let start = file.windows(12).position(|w| w == b"of the whole").unwrap() - 5000;
    assert!(start.is_multiple_of(1 << 20) && file[start..start + 4096] == [9; 4096]);
    let to = Rig::new(&main, "fake");
    to.capability(MigrationCapability::MappedRam);
    to.expect(&uri).unwrap();
    to.until("completed");
    check(&to);
    let without = Rig::new(&main, "fake");
    without.expect(&uri).unwrap();
    without.until("failed");
}

#[test]
fn with_a_way_back_the_source_is_not_done_before_the_destination_is() {
    let main = Loop::start();
    let dir = tempfile::tempdir().unwrap();
    let uri = format!("unix:{}", dir.path().join("m").display());
    for (name, end) in [("fake", "completed"), ("other", "failed")] {
        let (from, to) = (full(&main), Rig::new(&main, name));
        for rig in [&from, &to] {
            rig.capability(MigrationCapability::ReturnPath);
            rig.capability(MigrationCapability::SwitchoverAck);
        }
        to.expect(&uri).unwrap();
        // What there is to send fits into the socket, so that writing alone would never fail.
        from.migrate(&uri).unwrap();
        assert_eq!((from.end(), to.end()), (end.to_owned(), end.to_owned()));
        let state = if end == "completed" { RunState::Postmigrate } else { RunState::Running };
        assert_eq!(from.machine.run_state_now(), state);
    }
}

#[test]
fn memory_goes_over_channels_of_its_own() {
    let main = Loop::start();
    let dir = tempfile::tempdir().unwrap();
    for (number, count) in [1, 4, 16].into_iter().enumerate() {
        let uri = format!("unix:{}", dir.path().join(number.to_string()).display());
        let (from, to) = (full(&main), Rig::new(&main, "fake"));
        for rig in [&from, &to] {
            rig.capability(MigrationCapability::Multifd);
            let channels =
                qapi::types::MigrationParameters { multifd_channels: Some(count), ..Default::default() };
            rig.migration.migrate_set_parameters(channels).unwrap();
        }
        let pipe = from.migrate("exec:cat>/dev/null").unwrap_err();
        assert_eq!(pipe.desc(), "Migration requires multi-channel URIs (e.g. tcp)");
        to.expect(&uri).unwrap();
        from.migrate(&uri).unwrap();
        assert_eq!((from.end(), to.end()), ("completed".into(), "completed".into()), "{:?}", to.errors());
        check(&to);
        let ram = from.migration.query_migrate().unwrap().ram.unwrap();
        assert!(ram.multifd_bytes > 2 * 4096 && ram.normal == 2, "{ram:?}");
    }
}

#[test]
fn several_threads_put_pages_into_a_file() {
    let main = Loop::start();
    let dir = tempfile::tempdir().unwrap();
    let uri = format!("file:{}", dir.path().join("m").display());
    let (from, to) = (full(&main), Rig::new(&main, "fake"));
    for rig in [&from, &to] {
        rig.capability(MigrationCapability::Multifd);
        rig.capability(MigrationCapability::MappedRam);
    }
    from.migrate(&uri).unwrap();
    assert_eq!(from.end(), "completed");
    to.expect(&uri).unwrap();
    assert_eq!(to.end(), "completed", "{:?}", to.errors());
    check(&to);
}

#[test]
fn memory_that_both_sides_share_by_name_is_not_sent() {
    use qom::{Registry, Tree};
    let main = Loop::start();
    let dir = tempfile::tempdir().unwrap();
    let uri = format!("unix:{}", dir.path().join("m").display());
    let share = |rig: &Rig| {
        let mut registry = Registry::new();
        Tree::register(&mut registry);
        memory::register(&mut registry, rig.machine.memory_of());
        let tree = Arc::new(Tree::new(registry));
        let path = dir.path().join("shared").display().to_string();
        let options = [
            ("qom-type", "memory-backend-file"),
            ("id", "m"),
            ("size", "1M"),
            ("share", "on"),
            ("mem-path", &path),
        ];
        let pairs: Vec<_> = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        tree.add_object(tree.object_from_text(&pairs).unwrap()).unwrap();
        let block = rig.machine.memory_of().ram_blocks().into_iter().find(|b| b.is_shared_by_name()).unwrap();
        block.register_name(None);
        (tree, block)
    };
    let (from, to) = (full(&main), Rig::new(&main, "fake"));
    let (_source, block) = share(&from);
    let _destination = share(&to);
    block.write(77, b"shared").unwrap();
    for rig in [&from, &to] {
        rig.capability(MigrationCapability::XIgnoreShared);
    }
    to.expect(&uri).unwrap();
    from.migrate(&uri).unwrap();
    assert_eq!((from.end(), to.end()), ("completed".into(), "completed".into()), "{:?}", to.errors());
    check(&to);
    assert_eq!(from.migration.query_migrate().unwrap().ram.unwrap().normal, 2);
}

#[test]
fn a_migration_that_waits_for_its_peer_can_be_yanked() {
    use qapi::commands::YankCommands as _;
    use qapi::types::YankInstance;
    let main = Loop::start();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let from = full(&main);
    from.machine.whole.write(0, &vec![1; SIZE as usize]).unwrap();
    from.migrate(&format!("unix:{}", path.display())).unwrap();
    // Somebody who never reads.
    let peer = listener.accept().unwrap();
    from.until("active");
    let yank = from.migration.chardevs().yank();
    assert_eq!(yank.query_yank().unwrap(), [YankInstance::Migration]);
    yank.yank(vec![YankInstance::Migration]).unwrap();
    assert_eq!(from.end(), "failed");
    assert_eq!(from.machine.run_state_now(), RunState::Running);
    assert_eq!(yank.query_yank().unwrap(), []);
    drop(peer);
}

#[test]
fn a_pass_that_is_broken_off_has_arrived_before_its_pages_come_again() {
    use crate::channel::Channel;
    use crate::multifd::compression::Compression;
    use crate::multifd::send::{Senders, Sink};
    use crate::progress::Counters;
    use crate::ram::{Form, save::Sender};
    use crate::wire::{Output, ram};
    let main = Loop::start();
    let rig = full(&main);
    let file = || Arc::new(Channel::new(tempfile::tempfile().unwrap().into()).unwrap());
    let (stream, counters) = (tempfile::NamedTempFile::new().unwrap(), Arc::<Counters>::default());
    let packets = (0..2).map(|number| (file(), Sink::Packets([0; 16], number, Compression::None))).collect();
    let senders = Senders::start(packets, &counters).unwrap();
    let channel = Channel::new(stream.reopen().unwrap().into()).unwrap();
    let mut out = Output::new(Arc::new(channel), Arc::default());
    let mut sender = Sender::new(rig.machine.memory_of(), Form::default(), Some(senders)).unwrap();
    assert!(!sender.send(&mut out, &counters, |_| Ok(true)).unwrap(), "there are two blocks");
    rig.machine.whole.write(0, b"again").unwrap();
    sender.sync();
    sender.begin_pass();
    assert!(sender.send(&mut out, &counters, |_| Ok(false)).unwrap());
    out.flush().unwrap();
    let words: Vec<u64> = std::fs::read(stream.path())
        .unwrap()
        .chunks(8)
        .map(|bytes| u64::from_be_bytes(bytes.try_into().unwrap()))
        .collect();
    assert_eq!(words, [ram::END, ram::FLUSH, ram::FLUSH, ram::END]);
}

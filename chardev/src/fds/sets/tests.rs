//! Which set a name means, which member fits, and when a set is gone.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};

use super::*;

fn shape(sets: &FdSets) -> Vec<(i64, usize)> {
    sets.list().iter().map(|set| (set.fdset_id, set.fds.len())).collect()
}

fn null() -> OwnedFd {
    File::options().read(true).write(true).open("/dev/null").unwrap().into()
}

fn desc<T: std::fmt::Debug>(result: std::result::Result<T, OpenError>) -> (Errno, String) {
    let error = result.unwrap_err();
    (error.errno, error.or_else(|reason| format!("system: {reason}")).desc().to_owned())
}

#[test]
fn a_new_set_takes_the_lowest_free_number() {
    let sets = FdSets::default();
    let add = |id| sets.add(null(), id, None).unwrap().fdset_id;
    assert_eq!([add(None), add(Some(5)), add(Some(2)), add(None), add(None)], [0, 5, 2, 1, 3]);
    sets.remove(1, None).unwrap();
    assert_eq!(add(None), 1);
    assert_eq!(shape(&sets), [(5, 1), (3, 1), (2, 1), (1, 1), (0, 1)]);
    let negative = sets.add(null(), Some(-1), None).unwrap_err();
    assert_eq!(negative.desc(), "Parameter 'fdset-id' expects a non-negative value");
}

#[test]
fn members_go_one_by_one_or_all_at_once() {
    let sets = FdSets::default();
    let fds = [(); 3].map(|()| sets.add(null(), Some(7), None).unwrap().fd);
    sets.remove(7, Some(fds[1])).unwrap();
    let left: Vec<_> = sets.list()[0].fds.iter().map(|member| member.fd).collect();
    assert_eq!(left, [fds[0], fds[2]]);
    let desc = |id, fd| sets.remove(id, fd).unwrap_err().desc().to_owned();
    assert_eq!(desc(7, Some(-1)), "File descriptor named 'fdset-id:7, fd:-1' not found");
    assert_eq!(desc(8, None), "File descriptor named 'fdset-id:8' not found");
    sets.remove(7, None).unwrap();
    assert_eq!(desc(7, None), "File descriptor named 'fdset-id:7' not found");
}

#[test]
fn a_copy_is_of_the_member_that_may_do_what_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    fs::write(&path, "old").unwrap();
    let sets = FdSets::default();
    let open = |flags| sets.open("/dev/fdset/ 03", flags, Mode::empty());
    assert_eq!(desc(open(OFlags::RDONLY)), (Errno::NOENT, "Failed to find fdset /dev/fdset/3".into()));
    sets.add(File::open(&path).unwrap().into(), Some(3), None).unwrap();
    let text = "Failed to find file descriptor with matching flags=0x241";
    let new = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    assert_eq!(desc(open(new | OFlags::NONBLOCK)), (Errno::ACCESS, text.into()));
    sets.add(File::options().write(true).open(&path).unwrap().into(), Some(3), None).unwrap();
    let mut text = String::new();
    File::from(open(OFlags::RDONLY).unwrap().fd).read_to_string(&mut text).unwrap();
    assert_eq!(text, "old");
    File::from(open(OFlags::WRONLY | OFlags::APPEND).unwrap().fd).write_all(b" and new").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "old and new");
    let _emptied = open(new).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "");
}

#[test]
fn what_is_no_set_is_refused_and_other_paths_are_files() {
    let sets = FdSets::default();
    for path in ["/dev/fdset/", "/dev/fdset/-1", "/dev/fdset/x", "/dev/fdset/0x1", "/dev/fdset/99999999999"] {
        let error = desc(sets.open(path, OFlags::RDONLY, Mode::empty()));
        assert_eq!(error, (Errno::INVAL, format!("Could not parse fdset {path}")));
    }
    assert!(sets.open("/dev/null", OFlags::RDONLY, Mode::empty()).unwrap().claim.is_none());
    let missing = desc(sets.open("/nowhere/at/all", OFlags::RDONLY, Mode::empty()));
    assert_eq!(missing, (Errno::NOENT, "system: No such file or directory".into()));
}

#[test]
fn a_set_stays_until_nobody_uses_a_copy() {
    let sets = FdSets::default();
    let add = || sets.add(null(), Some(1), None).unwrap();
    add();
    let copy = sets.open("/dev/fdset/1", OFlags::RDWR, Mode::empty()).unwrap();
    sets.remove(1, None).unwrap();
    assert_eq!(shape(&sets), [(1, 0)]);
    sets.remove(1, None).unwrap();
    add();
    sets.remove(1, None).unwrap();
    drop(copy);
    assert_eq!(shape(&sets), []);
    // The other way round, and with the sets gone first.
    add();
    let copy = sets.open("/dev/fdset/1", OFlags::RDWR, Mode::empty()).unwrap();
    let second = sets.open("/dev/fdset/1", OFlags::RDWR, Mode::empty()).unwrap();
    drop(copy);
    sets.remove(1, None).unwrap();
    assert_eq!(shape(&sets), [(1, 0)]);
    drop(sets);
    drop(second);
}

#[test]
fn a_pipe_cannot_be_emptied_and_the_set_is_as_before() {
    let sets = FdSets::default();
    let (_reader, writer) = std::io::pipe().unwrap();
    let number = sets.add(writer.into(), Some(1), None).unwrap().fd;
    let result = sets.open("/dev/fdset/1", OFlags::WRONLY | OFlags::TRUNC, Mode::empty());
    assert_eq!(desc(result), (Errno::INVAL, format!("Failed to dup() given file descriptor fd={number}")));
    sets.remove(1, None).unwrap();
    assert_eq!(shape(&sets), []);
}

//! Descriptors are kept until they are taken or replaced, and found by the commands of their own monitor only.

use std::io::Read as _;
use std::os::unix::net::UnixStream;

use super::*;

fn names() -> Arc<NamedFds> {
    Arc::default()
}

#[test]
fn a_descriptor_is_taken_once_and_closed_when_another_takes_its_name() {
    let names = names();
    let (mut first, write_first) = std::io::pipe().unwrap();
    let (_second, write_second) = std::io::pipe().unwrap();
    names.put("a".into(), write_first.into());
    assert!(names.take("b").is_none());
    names.put("a".into(), write_second.into());
    // The end of the first pipe comes once nobody can write to it.
    assert_eq!(first.read(&mut [0]).unwrap(), 0);
    assert!(names.take("a").is_some());
    assert!(names.take("a").is_none());
}

#[test]
fn a_command_finds_the_names_of_its_own_monitor() {
    let (fds, mine, other) = (Fds::default(), names(), names());
    mine.put("a".into(), std::io::pipe().unwrap().1.into());
    let missing = |result: Result<OwnedFd>| {
        assert_eq!(result.unwrap_err().desc(), "File descriptor named 'a' has not been found");
    };
    missing(fds.take("a"));
    fds.during(&mine, || {
        // A console within has names of its own, and so has a command on another thread.
        fds.during(&other, || missing(fds.take("a")));
        thread::scope(|s| s.spawn(|| fds.during(&other, || missing(fds.take("a")))).join().unwrap());
        assert!(fds.take("a").is_ok());
        missing(fds.take("a"));
    });
}

#[test]
fn a_command_that_panics_leaves_its_monitor() {
    let (fds, mine) = (Fds::default(), names());
    mine.put("a".into(), std::io::pipe().unwrap().1.into());
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| fds.during(&mine, || panic!()))).unwrap_err();
    assert!(fds.take("a").is_err());
}

#[test]
fn an_address_is_a_name_in_a_command_and_a_number_on_the_command_line() {
    use std::os::fd::AsRawFd as _;
    let (fds, mine) = (Fds::default(), names());
    let desc = |result: Result<OwnedFd>| result.unwrap_err().desc().to_owned();
    let (end, _peer) = UnixStream::pair().unwrap();
    let number = end.as_raw_fd().to_string();
    assert!(fds.socket(&number).is_ok());
    assert_eq!(desc(fds.socket("a")), "Unable to parse FD number a");
    assert_eq!(desc(fds.socket("-1")), "File descriptor '-1' is not a socket");
    fds.during(&mine, || {
        assert_eq!(desc(fds.socket(&number)), format!("File descriptor named '{number}' has not been found"));
        mine.put("s".into(), end.try_clone().unwrap().into());
        assert!(fds.socket("s").is_ok());
        mine.put("p".into(), std::io::pipe().unwrap().1.into());
        assert_eq!(desc(fds.socket("p")), "File descriptor 'p' is not a socket");
        assert_eq!(desc(fds.socket("p")), "File descriptor named 'p' has not been found");
    });
}

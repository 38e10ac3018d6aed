//! Waiting, and its end.

use std::sync::Arc;
use std::thread;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::*;

fn pair() -> (Arc<Channel>, Channel) {
    let (a, b) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    (Arc::new(Channel::new(a).unwrap()), Channel::new(b).unwrap())
}

#[test]
fn a_writer_that_waits_is_let_go() {
    let (a, b) = pair();
    let writer = Arc::clone(&a);
    let thread = thread::spawn(move || writer.write_all(&vec![1; 64 << 20]));
    // Something arrived, so it writes.
    assert_ne!(b.read(&mut [0; 8]).unwrap(), 0);
    a.shut();
    thread.join().unwrap().unwrap_err();
    assert!(a.is_shut() && !b.is_shut());
}

#[test]
fn a_writer_learns_when_all_was_read() {
    const LEN: usize = 100 << 10;
    let (a, b) = pair();
    a.write_all(&[1; LEN]).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    let writer = Arc::clone(&a);
    let thread = thread::spawn(move || {
        writer.await_read().unwrap();
        sender.send(()).unwrap();
        writer.write_all(&vec![2; 1 << 20]).unwrap();
    });
    let mut bytes = vec![0; LEN];
    // All but the last of it.
    b.read_exact(&mut bytes[1..]).unwrap();
    receiver.recv_timeout(std::time::Duration::from_millis(20)).unwrap_err();
    b.read_exact(&mut bytes[..1]).unwrap();
    receiver.recv().unwrap();
    // It holds as much as before, and goes on.
    b.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, [2; LEN]);
    drop(b);
    let _ = thread.join();
}

#[test]
fn who_waits_for_a_reader_is_let_go() {
    let (a, _b) = pair();
    a.write_all(&[1; 5000]).unwrap();
    let writer = Arc::clone(&a);
    let thread = thread::spawn(move || writer.await_read());
    a.shut();
    thread.join().unwrap().unwrap_err();
}

#[test]
fn a_reader_that_waits_is_let_go() {
    let (read, _write) = rustix::pipe::pipe().unwrap();
    let channel = Arc::new(Channel::new(read).unwrap());
    assert_eq!(channel.kind(), Kind::Pipe);
    let reader = Arc::clone(&channel);
    let thread = thread::spawn(move || reader.read(&mut [0; 8]));
    channel.shut();
    thread.join().unwrap().unwrap_err();
}

#[test]
fn what_was_written_before_the_end_arrives() {
    let (a, b) = pair();
    a.write_all(b"all of it").unwrap();
    Arc::into_inner(a).unwrap().finish().unwrap();
    let mut buf = [0; 64];
    assert_eq!(b.read(&mut buf).unwrap(), 9);
    assert_eq!(b.read(&mut buf).unwrap(), 0);
}

#[test]
fn a_program_that_fails_is_an_error_of_the_end() {
    for (script, good) in [("cat >/dev/null", true), ("cat >/dev/null; exit 3", false)] {
        let mut command = std::process::Command::new("/bin/sh");
        command.args(["-c", script]).stdin(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let channel = Channel::of_child(stdin.into(), child).unwrap();
        channel.write_all(b"x").unwrap();
        assert_eq!(channel.finish().is_ok(), good);
    }
}

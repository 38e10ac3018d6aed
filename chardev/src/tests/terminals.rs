//! Claims about pseudo terminals and the program's own terminal.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::pipe::pipe;
use rustix::termios::{InputModes, LocalModes, tcgetattr};

use super::{Bench, Recorder};
use crate::backend::Backend as _;
use crate::sink::Sink;
use crate::stdio::Stdio;
use crate::{CharEvent, Notice};

fn open_tty(path: &str) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

#[test]
fn a_pty_announces_itself_and_follows_who_opens_and_leaves_it() {
    let mut bench = Bench::new();
    let pty = bench.add("serial0", "pty");
    let path = pty.pty_path().unwrap().to_owned();
    assert_eq!(pty.filename(), format!("pty:{path}"));
    let line = format!("char device redirected to {path} (label serial0)");
    assert_eq!(bench.notices, [Notice::Redirected(line)]);

    let front = Recorder::with_room(100);
    let port = front.attach(&pty);
    bench.settle();
    assert_eq!(front.events(), []);
    assert_eq!(port.write(b"lost"), 4, "nobody is there");
    for round in 1..=2 {
        let mut user = open_tty(&path);
        bench.until(|| front.events().len() == 2 * round - 1);
        assert_eq!(front.events().last(), Some(&CharEvent::Opened));
        user.write_all(b"typed\r").unwrap();
        bench.until(|| front.got() == b"typed\r".repeat(round));
        port.write(b"seen\n");
        let mut data = [0; 5];
        user.read_exact(&mut data).unwrap();
        assert_eq!(&data, b"seen\n", "raw: nothing was added");
        drop(user);
        bench.until(|| front.events().len() == 2 * round);
        assert_eq!(front.events().last(), Some(&CharEvent::Closed));
    }
}

#[test]
fn a_pty_can_have_a_link_which_goes_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("link");
    let mut bench = Bench::new();
    let pty = bench.try_chardev(&format!("pty,id=a,path={}", link.display())).unwrap();
    assert_eq!(std::fs::read_link(&link).unwrap().to_str(), pty.pty_path());
    drop(pty);
    bench.set.remove("a").unwrap();
    assert!(!link.is_symlink());
    let error = bench.try_chardev("pty,id=a,path=/nonexistent/x").unwrap_err();
    assert_eq!(error.desc(), "Failed to create PTY symlink: No such file or directory");
}

#[test]
fn the_terminal_is_in_character_mode_while_used_and_put_back_afterwards() {
    let mut bench = Bench::new();
    // The near side of one pty plays the person, the far side the program's terminal.
    let pty = bench.add("person", "pty");
    let tty = open_tty(pty.pty_path().unwrap());
    let person = Recorder::with_room(100);
    let typing = person.attach(&pty);
    let before = tcgetattr(&tty).unwrap();
    let mut cooked = before.clone();
    cooked.local_modes |= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
    crate::tty::set(tty.as_fd(), &cooked);

    let sink = Sink::new(bench.main.handle(), false);
    let in_use = Arc::default();
    let stdio = Stdio::on(&sink, false, &in_use, tty.as_fd(), tty.as_fd()).unwrap();
    let error = Stdio::on(&sink, false, &in_use, tty.as_fd(), tty.as_fd()).err().unwrap();
    assert_eq!(error.desc(), "cannot use stdio by multiple character devices");
    let mode = tcgetattr(&tty).unwrap();
    assert!(!mode.local_modes.intersects(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG));
    assert!(!mode.input_modes.contains(InputModes::ICRNL));
    stdio.set_echo(true);
    assert!(tcgetattr(&tty).unwrap().local_modes.contains(LocalModes::ECHO));
    stdio.set_echo(false);

    // The shell got the terminal while the program was stopped, and gave it back in its own mode.
    crate::tty::set(tty.as_fd(), &cooked);
    super::send_to_this_thread(mainloop::Signal::CONT);
    bench.until(|| !tcgetattr(&tty).unwrap().local_modes.contains(LocalModes::ICANON));

    let front = Recorder::with_room(100);
    let id = sink.reserve(std::sync::Weak::new()).unwrap();
    sink.set_handler(id, Box::new(front.clone()));
    bench.until(|| person.events() == [CharEvent::Opened]);
    typing.write(b"\x03x");
    bench.until(|| front.got() == b"\x03x");
    stdio.write(b"shown", 100);
    bench.until(|| person.got() == b"shown");

    drop(stdio);
    let after = tcgetattr(&tty).unwrap();
    assert_eq!(after.local_modes.bits(), cooked.local_modes.bits());
    drop(Stdio::on(&sink, true, &in_use, tty.as_fd(), tty.as_fd()).unwrap());
}

#[test]
fn on_pipes_the_shared_descriptors_stay_blocking_and_input_ends_once() {
    let bench = &mut Bench::new();
    let (program_in, mut script) = pipe().map(|(r, w)| (r, File::from(w))).unwrap();
    let (output, program_out) = pipe().map(|(r, w)| (File::from(r), w)).unwrap();
    let sink = Sink::new(bench.main.handle(), false);
    let front = Recorder::monitor();
    let id = sink.reserve(std::sync::Weak::new()).unwrap();
    sink.set_handler(id, Box::new(front.clone()));
    let stdio = Stdio::on(&sink, true, &Arc::default(), program_in.as_fd(), program_out.as_fd()).unwrap();
    for fd in [program_in.as_fd(), program_out.as_fd()] {
        assert!(!rustix::fs::fcntl_getfl(fd).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
    }
    script.write_all(b"quit\n").unwrap();
    drop(script);
    bench.until(|| front.events() == [CharEvent::Opened, CharEvent::Closed]);
    assert_eq!(front.got(), b"quit\n");
    stdio.write(b"bye", 100);
    drop((stdio, program_out));
    assert_eq!(std::io::read_to_string(output).unwrap(), "bye");
}

#[test]
fn with_daemonize_there_is_no_stdio() {
    let mut bench = Bench::new();
    bench.set.set_daemonized();
    assert_eq!(bench.try_add("a", "stdio").unwrap_err().desc(), "cannot use stdio with -daemonize");
}

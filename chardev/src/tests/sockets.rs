//! Claims about sockets, with real peers.

use std::io::{IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use mainloop::MainLoop;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::{Bench, Recorder};
use crate::CharEvent::{self, Closed, Opened};
use crate::{ChardevSet, Legacy, Notice, parse_legacy};

struct Server {
    bench: Bench,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Server {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut bench = Bench::new();
        bench.add("a", &format!("unix:{},server=on,wait=off", path.display()));
        Self { bench, path, _dir: dir }
    }

    fn device(&self) -> std::sync::Arc<crate::Chardev> {
        self.bench.set.get("a").unwrap()
    }
}

fn read_some(stream: &mut impl std::io::Read, count: usize) -> Vec<u8> {
    let mut data = vec![0; count];
    stream.read_exact(&mut data).unwrap();
    data
}

#[test]
fn a_unix_server_shows_its_state_in_its_name_and_removes_its_path() {
    let mut server = Server::new();
    let device = server.device();
    let path = server.path.display().to_string();
    assert_eq!(device.filename(), format!("disconnected:unix:{path},server=on"));
    let client = UnixStream::connect(&path).unwrap();
    server.bench.until(|| device.is_open());
    assert_eq!(device.filename(), format!("unix:{path},server=on"), "served without a front end, too");
    drop(client);
    server.bench.until(|| !device.is_open());
    assert_eq!(device.filename(), format!("disconnected:unix:{path},server=on"));
    drop(device);
    server.bench.set.remove("a").unwrap();
    assert!(!Path::new(&path).exists());
}

#[test]
fn clients_are_served_one_after_the_other() {
    let mut server = Server::new();
    let front = Recorder::monitor();
    let port = front.attach(&server.device());
    let mut first = UnixStream::connect(&server.path).unwrap();
    let mut second = UnixStream::connect(&server.path).unwrap();
    second.write_all(b"second").unwrap();
    first.write_all(b"first ").unwrap();
    server.bench.until(|| front.got() == b"first ");
    server.bench.settle();
    assert_eq!(front.events(), [Opened]);
    port.write(b"to first");
    assert_eq!(read_some(&mut first, 8), b"to first");
    drop(first);
    server.bench.until(|| front.got() == b"first second");
    assert_eq!(front.events(), [Opened, Closed, Opened]);
}

#[test]
fn a_monitor_reads_what_a_peer_that_left_had_sent_and_a_serial_port_makes_way() {
    for must_drain in [true, false] {
        let mut server = Server::new();
        let front = Recorder { must_drain, ..Recorder::with_room(0) };
        let port = front.attach(&server.device());
        let mut client = UnixStream::connect(&server.path).unwrap();
        client.write_all(b"quit").unwrap();
        server.bench.until(|| front.events() == [Opened]);
        drop(client);
        if must_drain {
            server.bench.settle();
            assert_eq!(front.events(), [Opened]);
            front.give_room(&port, 100);
        }
        server.bench.until(|| front.events() == [Opened, Closed]);
        assert_eq!(front.got(), if must_drain { b"quit".to_vec() } else { vec![] });
    }
}

#[test]
fn a_peer_that_does_not_read_costs_bounded_memory_and_no_time() {
    let mut server = Server::new();
    let front = Recorder::monitor();
    let port = front.attach(&server.device());
    let mut client = UnixStream::connect(&server.path).unwrap();
    server.bench.until(|| front.events() == [Opened]);
    let chunk = vec![b'x'; 1 << 20];
    let mut sent = 0;
    while !port.is_congested() {
        assert!(port.write_all(&chunk));
        sent += chunk.len();
    }
    server.bench.settle();
    assert_eq!(front.writable_calls(), 0);
    let reader = thread::spawn(move || {
        let data = read_some(&mut client, sent);
        (client, data.iter().all(|byte| *byte == b'x'))
    });
    server.bench.until(|| front.writable_calls() == 1);
    let (_client, intact) = reader.join().unwrap();
    assert!(intact);
    let mut queued = 0;
    while port.write_all(&chunk) {
        queued += chunk.len();
        assert!(queued <= crate::QUEUE_CAP + (4 << 20));
    }
    server.bench.until(|| front.events() == [Opened, Closed]);
    assert_eq!(port.chardev().queued(), 0);
}

#[test]
fn output_to_a_peer_that_left_is_lost_and_never_fatal() {
    let mut server = Server::new();
    let front = Recorder::with_room(0);
    let port = front.attach(&server.device());
    assert_eq!(port.write(b"nobody there"), 12);
    let client = UnixStream::connect(&server.path).unwrap();
    server.bench.until(|| front.events() == [Opened]);
    drop(client);
    assert_eq!(port.write(b"broken"), 6);
    assert!(port.write_all(b"pipe"));
    server.bench.until(|| front.events() == [Opened, Closed]);
}

#[test]
fn descriptors_come_with_the_input_and_the_next_ones_replace_them() {
    let mut server = Server::new();
    let front = Recorder::monitor();
    let port = front.attach(&server.device());
    let client = UnixStream::connect(&server.path).unwrap();
    let mut send = |data: &[u8], count: usize, so_far: usize| {
        let file = tempfile::tempfile().unwrap();
        let fds = vec![file.as_fd(); count];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&client, &[IoSlice::new(data)], &mut control, SendFlags::empty()).unwrap();
        server.bench.until(|| front.got().len() == so_far);
    };
    send(b"getfd", 3, 5);
    assert_eq!(port.take_fds().len(), 3);
    assert!(port.take_fds().is_empty());
    send(b"left!", 2, 10);
    send(b"getfd", 1, 15);
    assert_eq!(port.take_fds().len(), 1);
}

#[test]
fn a_stale_socket_file_is_replaced_and_a_directory_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(UnixListener::bind(&path).unwrap());
    let mut bench = Bench::new();
    bench.add("a", &format!("unix:{},server=on,wait=off", path.display()));
    UnixStream::connect(&path).unwrap();
    let error = bench.try_add("b", "unix:/tmp,server=on,wait=off").unwrap_err();
    assert_eq!(error.desc(), "Failed to unlink socket /tmp: Is a directory");
}

#[test]
fn addresses_that_do_not_work_are_refused_in_qemu_s_words() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut bench = Bench::new();
    let long = "x".repeat(120);
    let datagrams = UnixDatagram::unbound().unwrap();
    for (text, message) in [
        ("socket,id=a".into(), "Unable to parse FD number ".to_owned()),
        ("socket,id=a,port=1".into(), "Unable to parse FD number ".into()),
        ("socket,id=a,fd=x".into(), "Unable to parse FD number x".into()),
        ("socket,id=a,fd=99".into(), "File descriptor '99' is not a socket".into()),
        (
            format!("socket,id=a,fd={},server=on,wait=off", datagrams.as_raw_fd()),
            "Failed to listen on fd socket: Operation not supported".into(),
        ),
        ("socket,id=a,path=".into(), "Failed to connect to '': Connection refused".into()),
        (
            "socket,id=a,path=/nonexistent/s".into(),
            "Failed to connect to '/nonexistent/s': No such file or directory".into(),
        ),
        (
            "socket,id=a,path=/nonexistent/s,server=on,wait=off".into(),
            "Failed to bind socket to /nonexistent/s: No such file or directory".into(),
        ),
        (format!("socket,id=a,path={long}"), format!("UNIX socket path '{long}' is too long")),
        (
            "socket,id=a,host=localhost,port=1".into(),
            "Failed to connect to 'localhost:1': Connection refused".into(),
        ),
        (
            "socket,id=a,host=localhost,port=abc".into(),
            "address resolution failed for localhost:abc: Servname not supported for ai_socktype".into(),
        ),
        (
            "socket,id=a,host=localhost,port=1,ipv4=off,ipv6=off".into(),
            "Cannot disable IPv4 and IPv6 at same time".into(),
        ),
        (
            "socket,id=a,host=,port=1".into(),
            "address resolution failed for :1: Name or service not known".into(),
        ),
        (
            format!("socket,id=a,host=127.0.0.1,port={port},server=on,wait=off"),
            "Failed to find an available port: Address already in use".into(),
        ),
    ] {
        assert_eq!(bench.try_chardev(&text).expect_err(&text).desc(), message, "{text}");
    }
}

#[test]
fn a_tcp_server_names_both_ends_and_a_range_finds_a_free_port() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let first = taken.local_addr().unwrap().port();
    let mut bench = Bench::new();
    let text = format!(
        "socket,id=a,host=127.0.0.1,port={first},to={},server=on,wait=off,nodelay=on",
        first.saturating_add(100)
    );
    let device = bench.try_chardev(&text).unwrap();
    let name = device.filename();
    let at = name.strip_prefix("disconnected:tcp:").and_then(|at| at.strip_suffix(",server=on")).unwrap();
    let mut client = TcpStream::connect(at).unwrap();
    bench.until(|| device.is_open());
    let peer = client.local_addr().unwrap();
    assert_eq!(device.filename(), format!("tcp:{at},server=on <-> {peer}"));
    Recorder::default().attach(&device).write(b"hello");
    assert_eq!(read_some(&mut client, 5), b"hello");
}

#[test]
fn a_telnet_client_is_greeted_and_its_commands_are_taken_out() {
    let mut bench = Bench::new();
    let device = bench.add("a", "telnet:127.0.0.1:0,server=on,wait=off");
    let name = device.filename();
    let at = name.strip_prefix("disconnected:telnet:").and_then(|at| at.strip_suffix(",server=on")).unwrap();
    let front = Recorder::with_room(100);
    let _port = front.attach(&device);
    let mut client = TcpStream::connect(at).unwrap();
    client.write_all(b"\xff\xfd\x03ls\xff\xf3\n").unwrap();
    bench.until(|| front.got() == b"ls\n");
    assert_eq!(front.events(), [Opened, CharEvent::Break]);
    assert_eq!(read_some(&mut client, 12), b"\xff\xfb\x01\xff\xfb\x03\xff\xfb\x00\xff\xfd\x00");
}

#[test]
fn abstract_names_are_shown_as_qemu_shows_them() {
    let mut bench = Bench::new();
    let name = format!("pliant-test-{}", std::process::id());
    let text = format!("socket,id=a,path={name},abstract=on,server=on,wait=off");
    let device = bench.try_chardev(&text).unwrap();
    assert_eq!(device.filename(), format!("disconnected:unix:{name},abstract=on,tight=on,server=on"));
    let _client = UnixStream::connect_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    bench.until(|| device.is_open());
    assert_eq!(device.filename(), "unix:,server=on");
    let padded = format!("socket,id=b,path={name},abstract=on,tight=off,server=on,wait=off");
    let device = bench.try_chardev(&padded).unwrap();
    assert_eq!(device.filename(), format!("disconnected:unix:{name},abstract=on,server=on"));
}

#[test]
fn a_client_without_reconnect_connects_at_once_and_stays_away_when_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let mut bench = Bench::new();
    let device = bench.add("a", &format!("unix:{}", path.display()));
    assert_eq!(device.filename(), format!("unix:{}", path.display()));
    let front = Recorder::monitor();
    let _port = front.attach(&device);
    let (mut peer, _) = listener.accept().unwrap();
    peer.write_all(b"hi").unwrap();
    bench.until(|| front.got() == b"hi");
    drop(peer);
    bench.until(|| front.events() == [Opened, Closed]);
    assert_eq!(device.filename(), format!("disconnected:unix:{}", path.display()));
}

#[test]
fn a_client_with_reconnect_starts_without_its_peer_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut bench = Bench::new();
    let text = format!("socket,id=a,path={},reconnect-ms=10", path.display());
    let device = bench.try_chardev(&text).unwrap();
    let front = Recorder::monitor();
    let port = front.attach(&device);
    bench.settle();
    let listener = UnixListener::bind(&path).unwrap();
    for round in 1..=2 {
        bench.until(|| front.events().len() == 2 * round - 1);
        let (mut peer, _) = listener.accept().unwrap();
        port.write(b"hello");
        assert_eq!(read_some(&mut peer, 5), b"hello");
        drop(peer);
        bench.until(|| front.events().len() >= 2 * round);
    }
}

#[test]
fn a_passed_descriptor_is_listened_on() {
    let passed = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = passed.local_addr().unwrap();
    let mut bench = Bench::new();
    let text = format!("socket,id=a,fd={},server=on,wait=off", passed.as_raw_fd());
    let device = bench.try_chardev(&text).unwrap();
    assert_eq!(device.filename(), format!("disconnected:tcp:{at},server=on"));
    let _client = TcpStream::connect(at).unwrap();
    bench.until(|| device.is_open());
}

#[test]
fn a_passed_connection_is_shut_down_with_its_device() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut bench = Bench::new();
    bench.try_chardev(&format!("socket,id=a,fd={}", ours.as_raw_fd())).unwrap();
    bench.set.remove("a").unwrap();
    assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
}

#[test]
fn with_wait_start_up_says_so_and_goes_on_with_the_first_client() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s").display().to_string();
    let main = MainLoop::new().unwrap();
    let set = ChardevSet::new(main.handle());
    let Ok(Legacy::New(options)) = parse_legacy("a", &format!("unix:{path},server=on")) else { panic!() };
    let mut waiting = Vec::new();
    let client = std::cell::OnceCell::new();
    let device = set
        .add(&options, &mut |notice| {
            waiting.push(notice);
            // It listens already.
            let _ = client.set(UnixStream::connect(&path).unwrap());
        })
        .unwrap();
    let line = format!("info: QEMU waiting for connection on: disconnected:unix:{path},server=on");
    assert_eq!(waiting, [Notice::Waiting(line)]);
    assert!(device.is_open());
    assert_eq!(device.filename(), format!("unix:{path},server=on"));
}

#[test]
fn at_the_end_what_is_queued_still_reaches_the_peer() {
    let mut server = Server::new();
    let front = Recorder::monitor();
    let port = front.attach(&server.device());
    let mut client = UnixStream::connect(&server.path).unwrap();
    server.bench.until(|| front.events() == [Opened]);
    let data = vec![7; 4 << 20];
    assert!(port.write_all(&data));
    let reader = thread::spawn(move || read_some(&mut client, 4 << 20));
    server.bench.set.drain(&mut server.bench.main, Duration::from_secs(10));
    assert_eq!(port.chardev().queued(), 0);
    assert!(reader.join().unwrap() == data);
}

#[test]
fn a_passed_unix_listener_shows_its_path_which_goes_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let passed = UnixListener::bind(&path).unwrap();
    let mut bench = Bench::new();
    let device =
        bench.try_chardev(&format!("socket,id=a,fd={},server=on,wait=off", passed.as_raw_fd())).unwrap();
    assert_eq!(device.filename(), format!("disconnected:unix:{},server=on", path.display()));
    drop((device, passed));
    assert!(path.exists());
    bench.set.remove("a").unwrap();
    assert!(!path.exists());
}

#[test]
fn a_signal_ends_the_wait_for_a_first_client() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut bench = Bench::new();
    let _signals = bench.main.handle().watch_signals(&[mainloop::Signal::USR1], |_| ()).unwrap();
    super::send_to_this_thread(mainloop::Signal::USR1);
    let error = bench.try_add("a", &format!("unix:{},server=on", path.display())).unwrap_err();
    assert_eq!(error.desc(), "terminated by a signal while waiting for a connection");
    assert!(!path.exists());
}

//! Claims about front ends that speak on the socket themselves (vhost-user).

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::{Bench, Recorder};
use crate::CharEvent::{Closed, Opened};
use crate::{Chardev, Connection, Patience};

const SOON: Patience = Patience::Once(Duration::from_secs(10));

/// A loop, a folder, and in it the path of a socket.
struct Place {
    bench: Bench,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { bench: Bench::new(), path: dir.path().join("s"), _dir: dir }
    }

    fn device(&mut self, options: &str) -> Arc<Chardev> {
        let text = format!("socket,id=a,path={}{options}", self.path.display());
        self.bench.try_chardev(&text).unwrap()
    }
}

fn stream(connection: Connection) -> UnixStream {
    UnixStream::from(connection.socket)
}

#[test]
fn what_the_peer_says_waits_for_the_front_end_that_reads_the_socket_itself() {
    let mut place = Place::new();
    let listener = UnixListener::bind(&place.path).unwrap();
    let device = place.device("");
    let (mut peer, _) = listener.accept().unwrap();
    let front = Recorder::with_room(0);
    let port = front.attach(&device);
    peer.write_all(b"answer").unwrap();
    place.bench.until(|| front.events() == [Opened]);
    place.bench.settle();
    let mut ours = stream(port.connection().unwrap());
    let mut answer = [0; 6];
    ours.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
    drop(peer);
    place.bench.until(|| front.events() == [Opened, Closed]);
    assert!(port.connection().is_none());
    assert_eq!(ours.read(&mut answer).unwrap(), 0, "the copy is shut down, too");
}

#[test]
fn shutting_the_copy_down_sends_the_peer_away_and_a_client_with_reconnect_connects_again() {
    let mut place = Place::new();
    let listener = UnixListener::bind(&place.path).unwrap();
    let device = place.device(",reconnect-ms=10");
    let front = Recorder::with_room(0);
    let port = front.attach(&device);
    place.bench.until(|| front.events() == [Opened]);
    let first = port.connection().unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    let id = first.id;
    stream(first).shutdown(Shutdown::Both).unwrap();
    assert_eq!(peer.read(&mut [0]).unwrap(), 0, "at once, before the loop turns");
    place.bench.until(|| front.events() == [Opened, Closed, Opened]);
    let second = port.connection().unwrap();
    assert_ne!(id, second.id);
}

#[test]
fn waiting_takes_over_the_attempt_that_is_under_way() {
    let mut place = Place::new();
    let listener = UnixListener::bind(&place.path).unwrap();
    let device = place.device(",reconnect-ms=60000");
    let front = Recorder::with_room(0);
    let port = front.attach(&device);
    port.wait_connected(SOON).unwrap();
    let mine = port.connection().unwrap();
    place.bench.until(|| front.events() == [Opened]);
    place.bench.settle();
    assert_eq!(port.connection().unwrap().id, mine.id);
    listener.accept().unwrap();
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "one connection");
}

#[test]
fn a_single_attempt_that_fails_says_why_and_goes_on_in_the_background() {
    let mut place = Place::new();
    let device = place.device(",reconnect-ms=10");
    let front = Recorder::with_room(0);
    let port = front.attach(&device);
    let error = port.wait_connected(SOON).unwrap_err();
    let path = place.path.display();
    assert_eq!(error.desc(), format!("Failed to connect to '{path}': No such file or directory"));
    let _listener = UnixListener::bind(&place.path).unwrap();
    place.bench.until(|| front.events() == [Opened]);
}

#[test]
fn endless_patience_outlives_a_server_that_comes_late() {
    let mut place = Place::new();
    let device = place.device(",reconnect-ms=10");
    let front = Recorder::with_room(0);
    let port = front.attach(&device);
    let path = place.path.clone();
    let server = thread::spawn(move || {
        let listener = UnixListener::bind(path).unwrap();
        listener.accept().unwrap()
    });
    port.wait_connected(Patience::Endless).unwrap();
    assert!(port.connection().is_some());
    let _peer = server.join().unwrap();
}

#[test]
fn a_client_without_reconnect_connects_again_when_it_is_told_to() {
    let mut place = Place::new();
    let listener = UnixListener::bind(&place.path).unwrap();
    let device = place.device("");
    let front = Recorder::with_room(0);
    let port = front.attach(&device);
    let first = port.connection().unwrap();
    port.hang_up(first.id);
    assert!(port.connection().is_none());
    port.wait_connected(SOON).unwrap();
    let second = port.connection().unwrap();
    port.hang_up(first.id);
    assert_eq!(port.connection().map(|c| c.id), Some(second.id), "an old number means nobody");
    let (mut peer, _) = listener.accept().unwrap();
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    place.bench.until(|| front.events() == [Opened]);
}

#[test]
fn a_server_waits_for_its_client() {
    let mut place = Place::new();
    let device = place.device(",server=on,wait=off");
    let front = Recorder::with_room(0);
    let port = front.attach(&device);
    let late = port.wait_connected(Patience::Once(Duration::ZERO)).unwrap_err();
    assert_eq!(late.desc(), "nobody connected in time");
    let _client = UnixStream::connect(&place.path).unwrap();
    port.wait_connected(SOON).unwrap();
    assert!(port.connection().is_some());
    place.bench.until(|| front.events() == [Opened]);
}

#[test]
fn only_unix_sockets_pass_descriptors() {
    let mut bench = Bench::new();
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let tcp = bench.try_chardev(&format!("socket,id=t,host=127.0.0.1,port={port}")).unwrap();
    let null = bench.add("n", "null");
    for device in [tcp, null] {
        let port = Recorder::with_room(0).attach(&device);
        port.wait_connected(SOON).unwrap();
        assert!(port.connection().is_none());
    }
}

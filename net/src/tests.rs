//! Host ends and cards together: packets, links, ids, and an interface of this machine's kernel.

use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chardev::fds::{Fds, NamedFds};
use mainloop::MainLoop;
use qapi::Result;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};

use super::*;

/// Counts what it is told.
#[derive(Default)]
struct Card {
    readable: AtomicUsize,
    writable: AtomicUsize,
    links: AtomicUsize,
    announced: Mutex<usize>,
}

impl NicHandler for Card {
    fn readable(&self) {
        self.readable.fetch_add(1, Relaxed);
    }
    fn writable(&self) {
        self.writable.fetch_add(1, Relaxed);
    }
    fn link_changed(&self) {
        self.links.fetch_add(1, Relaxed);
    }
    fn announce(&self) {
        *self.announced.lock().unwrap() += 1;
    }
}

struct Rig {
    main: MainLoop,
    fds: Arc<Fds>,
    set: Arc<NetSet>,
}

impl Rig {
    fn new() -> Self {
        let main = MainLoop::new().unwrap();
        let fds = Arc::new(Fds::default());
        let set = NetSet::new(main.handle(), Arc::clone(&fds));
        Self { main, fds, set }
    }

    /// Adds what `text` says, as a monitor whose client sent `fd` as `end`.
    fn add(&self, text: &str, fd: impl Into<OwnedFd>) -> Result<()> {
        let names = Arc::new(NamedFds::default());
        names.put("end".into(), fd.into());
        self.fds.during(&names, || self.set.add_text(text)).map(drop)
    }

    /// Adds a socket as `id`; what is at its other end.
    fn socket(&self, id: &str) -> UnixDatagram {
        let (ours, host) = UnixDatagram::pair().unwrap();
        host.set_nonblocking(true).unwrap();
        self.add(&format!("dgram,id={id},local.type=fd,local.str=end"), ours).unwrap();
        host
    }

    fn card(&self, id: &'static str, netdev: &str) -> (Arc<Card>, Nic) {
        let card = Arc::new(Card::default());
        let handler: Arc<dyn NicHandler> = Arc::clone(&card) as _;
        let model = Model { class: "card", id: Some(id), mac: None };
        let nic = self.set.connect(model, self.set.find(netdev), &handler);
        (card, nic)
    }

    fn turn(&mut self) {
        for _ in 0..3 {
            self.main.turn(Some(Duration::ZERO)).unwrap();
        }
    }

    fn until(&mut self, done: impl Fn() -> bool) {
        for _ in 0..1000 {
            if done() {
                return;
            }
            self.main.turn(Some(Duration::from_millis(10))).unwrap();
        }
        panic!("it never came");
    }
}

#[test]
fn a_card_hears_of_packets_once_after_it_was_told_that_there_are_none() {
    let mut rig = Rig::new();
    let host = rig.socket("h");
    let (card, nic) = rig.card("n", "h");
    host.send(b"one").unwrap();
    rig.turn();
    assert_eq!(card.readable.load(Relaxed), 0, "it did not ask");
    let mut room = [0; 100];
    assert_eq!(nic.receive(&mut room), Received::Packet(3));
    assert_eq!(nic.receive(&mut room), Received::Nothing);
    host.send(b"two").unwrap();
    host.send(b"three").unwrap();
    rig.turn();
    assert_eq!(card.readable.load(Relaxed), 1);
    assert_eq!(nic.receive(&mut room[..2]), Received::Packet(2), "cut off");
    nic.again();
    rig.turn();
    assert_eq!(card.readable.load(Relaxed), 2);
    assert_eq!((nic.receive(&mut room), &room[..5]), (Received::Packet(5), &b"three"[..]));
}

#[test]
fn a_host_that_takes_nothing_is_waited_for() {
    let mut rig = Rig::new();
    let host = rig.socket("h");
    let (card, nic) = rig.card("n", "h");
    let sent = (0..10_000).take_while(|_| nic.send(&[7; 100]) == Sent::Done).count();
    assert!((1..10_000).contains(&sent));
    rig.turn();
    assert_eq!(card.writable.load(Relaxed), 0);
    while host.recv(&mut [0; 100]).is_ok() {}
    rig.turn();
    assert_eq!(card.writable.load(Relaxed), 1);
    assert_eq!(nic.send(&[7; 100]), Sent::Done);
}

#[test]
fn what_nobody_may_have_is_thrown_away() {
    let mut rig = Rig::new();
    let host = rig.socket("h");
    let fill = |rig: &mut Rig| {
        for _ in 0..2000 {
            while host.send(b"packet").is_err() {
                rig.turn();
            }
        }
    };
    fill(&mut rig);
    let (card, nic) = rig.card("n", "h");
    rig.set.set_link("n", false).unwrap();
    fill(&mut rig);
    assert_eq!((nic.receive(&mut [0; 9]), nic.send(b"x")), (Received::Nothing, Sent::Done));
    assert_eq!((card.links.load(Relaxed), card.readable.load(Relaxed)), (1, 0));
    rig.turn();
    rig.set.set_link("n", true).unwrap();
    assert_eq!(card.readable.load(Relaxed), 1, "it looks for itself");
    assert!(host.recv(&mut [0; 9]).is_err(), "what it sent meanwhile is lost");
}

#[test]
fn ids_are_those_of_one_thing_and_free_again_later() {
    let rig = Rig::new();
    let _host = rig.socket("h");
    let (ours, _) = UnixDatagram::pair().unwrap();
    let again = rig.add("dgram,id=h,local.type=fd,local.str=end", ours).unwrap_err();
    assert_eq!(again.desc(), "Duplicate ID 'h'");
    let (_, first) = rig.card("n", "h");
    assert!(rig.set.find("h").unwrap().is_taken());
    assert_eq!((first.name(), first.mac().to_string().as_str()), ("n", "52:54:00:12:34:56"));
    assert_eq!(rig.card("m", "none").1.mac().to_string(), "52:54:00:12:34:57");
    drop(first);
    assert_eq!(rig.set.lonely(), ["netdev h has no peer"]);
    assert_eq!(rig.card("m", "h").1.mac().to_string(), "52:54:00:12:34:56");
    rig.set.remove("h").unwrap();
    assert_eq!(rig.set.remove("h").unwrap_err().desc(), "Device 'h' not found");
    assert_eq!(rig.set.set_link("h", true).unwrap_err().desc(), "Device 'h' not found");
    let _host = rig.socket("h");
}

#[test]
fn streams_and_files_are_no_datagram_sockets() {
    let rig = Rig::new();
    let text = "dgram,id=h,local.type=fd,local.str=end";
    let (stream, _other) = UnixStream::pair().unwrap();
    let refused = rig.add(text, stream).unwrap_err();
    assert!(refused.desc().ends_with("is no datagram socket"), "{}", refused.desc());
    let refused = rig.add(text, std::io::pipe().unwrap().0).unwrap_err();
    assert_eq!(refused.desc(), "Unable to query local socket address: Socket operation on non-socket");
}

#[test]
fn a_socket_of_a_path_takes_it_over_and_away() {
    let rig = Rig::new();
    let folder = tempfile::tempdir().unwrap();
    let [ours, theirs] = ["ours", "theirs"].map(|name| folder.path().join(name));
    std::fs::write(&ours, "of somebody before").unwrap();
    let text = format!(
        "dgram,id=h,local.type=unix,local.path={},remote.type=unix,remote.path={}",
        ours.display(),
        theirs.display()
    );
    rig.set.add_text(&text).unwrap();
    let (_, nic) = rig.card("n", "h");
    assert_eq!(nic.send(b"to nobody"), Sent::Done);
    let host = UnixDatagram::bind(&theirs).unwrap();
    assert_eq!(nic.send(b"there"), Sent::Done);
    let mut room = [0; 100];
    assert_eq!((host.recv(&mut room).unwrap(), &room[..5]), (5, &b"there"[..]));
    host.send_to(b"back", &ours).unwrap();
    assert_eq!(nic.receive(&mut room), Received::Packet(4));
    drop(nic);
    rig.set.remove("h").unwrap();
    assert!(!ours.exists() && theirs.exists());
    rig.set.add_text(&text).unwrap();
    std::fs::remove_file(&ours).unwrap();
    let _taken_over = UnixDatagram::bind(&ours).unwrap();
    rig.set.remove("h").unwrap();
    assert!(ours.exists(), "that is somebody else's");
}

#[test]
fn a_connection_that_its_peer_ends_is_not_watched_any_more() {
    let mut rig = Rig::new();
    let (ours, host) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    rig.add("dgram,id=h,local.type=fd,local.str=end", ours).unwrap();
    let (card, nic) = rig.card("n", "h");
    send(&host, b"one", SendFlags::empty()).unwrap();
    let mut room = [0; 100];
    assert_eq!(nic.receive(&mut room), Received::Packet(3));
    assert_eq!(nic.receive(&mut room), Received::Nothing);
    drop(host);
    rig.turn();
    assert_eq!(card.readable.load(Relaxed), 1, "it hears of the end");
    assert_eq!((nic.receive(&mut room), nic.send(b"lost")), (Received::Nothing, Sent::Done));
    let (start, pause) = (Instant::now(), Duration::from_millis(50));
    rig.main.turn(Some(pause)).unwrap();
    assert!(start.elapsed() >= pause, "the loop sleeps");
}

#[test]
fn an_announcement_is_told_in_rounds_until_another_one_of_its_name() {
    let mut rig = Rig::new();
    let host = rig.socket("h");
    let (card, _nic) = rig.card("n", "h");
    let (other, _other) = rig.card("m", "none");
    let rounds = Rounds { initial: 0, max: 0, rounds: 3, step: 0 };
    rig.set.announce_self(rounds, Some(vec!["n".into()]), "");
    rig.until(|| *card.announced.lock().unwrap() == 3);
    rig.turn();
    let frames = std::iter::from_fn(|| host.recv(&mut [0; 100]).ok()).collect::<Vec<_>>();
    assert_eq!((frames, *other.announced.lock().unwrap()), (vec![60; 3], 0));
    let late = Rounds { initial: 3_600_000, max: 3_600_000, ..rounds };
    rig.set.announce_self(late, None, "");
    rig.set.announce_self(Rounds { rounds: 0, ..rounds }, None, "");
    rig.turn();
    assert_eq!((*card.announced.lock().unwrap(), *other.announced.lock().unwrap()), (4, 1));
}

/// An interface `name` of this machine, as somebody else would open it. `None` where that is not allowed, which CI must be.
fn interface(name: &str) -> Option<OwnedFd> {
    match tap::testing::open(name) {
        Ok(fd) => Some(fd),
        Err(error) => {
            let owed = std::env::var("CI").is_ok_and(|ci| ci == "true");
            assert!(!owed, "CI must have tap interfaces: {error}");
            println!("SKIPPED: /dev/net/tun: {error}");
            None
        }
    }
}

#[test]
fn an_interface_has_headers_and_goes_with_its_netdev() {
    let rig = Rig::new();
    let name = format!("plt{}u", std::process::id());
    let Some(fd) = interface(&name) else { return };
    let shown = Path::new("/sys/class/net").join(&name);
    assert!(shown.exists());
    rig.add("tap,id=h,fd=end", fd).unwrap();
    let (_, nic) = rig.card("n", "h");
    let header = nic.header().expect("it was opened with them");
    assert!(nic.peer().unwrap().info().starts_with("fd="));
    nic.set_offloads(Offloads { csum: true, tso4: true, tso6: true, ufo: header.ufo, ..Offloads::default() });
    assert_eq!(nic.receive(&mut [0; MAX_PACKET]), Received::Nothing);
    // It is down: what is sent is lost.
    assert_eq!(nic.send(&[0; HEADER + 60]), Sent::Done);
    rig.set.remove("h").unwrap();
    assert!(!shown.exists(), "nobody has it any more");
}

/// As libvirt asks for it on a host that has vhost-net.
#[test]
fn packets_are_carried_here_where_vhost_is_asked_for() {
    let rig = Rig::new();
    let name = format!("plt{}v", std::process::id());
    let Some(fd) = interface(&name) else { return };
    let names = Arc::new(NamedFds::default());
    names.put("end".into(), fd);
    let (mut peer, vhost) = UnixStream::pair().unwrap();
    names.put("vhost".into(), vhost.into());
    let text = r#"{"type":"tap","id":"h","fd":"end","vhost":true,"vhostfd":"vhost"}"#;
    rig.fds.during(&names, || rig.set.add_text(text)).unwrap();
    assert_eq!(peer.read(&mut [0]).unwrap(), 0, "nobody has it any more");
    let (_, nic) = rig.card("n", "h");
    assert!(nic.header().is_some());
}

#[test]
fn what_is_no_interface_is_refused() {
    let rig = Rig::new();
    let refused = rig.add("tap,id=h,fd=end", std::io::pipe().unwrap().0).unwrap_err();
    assert!(refused.desc().starts_with("Unable to query TUNGETIFF on FD "), "{}", refused.desc());
    let refused = rig.set.add_text("tap,id=h,fd=99999").unwrap_err();
    assert_eq!(refused.desc(), "h: Can't use file descriptor 99999: Bad file descriptor");
}

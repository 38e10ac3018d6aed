//! Claims about devices as their users see them, on real sockets, pipes and terminals.

mod changing;
mod files;
mod lending;
mod sockets;
mod terminals;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mainloop::MainLoop;

use crate::{CharEvent, Chardev, ChardevSet, Frontend, Legacy, Notice, Port, parse_legacy};

/// A loop and a set of devices on it.
pub(crate) struct Bench {
    pub(crate) main: MainLoop,
    pub(crate) set: ChardevSet,
    pub(crate) notices: Vec<Notice>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let main = MainLoop::new().unwrap();
        let set = ChardevSet::new(main.handle());
        Self { main, set, notices: Vec::new() }
    }

    /// Makes a device from a short form.
    pub(crate) fn add(&mut self, label: &str, text: &str) -> Arc<Chardev> {
        self.try_add(label, text).unwrap()
    }

    pub(crate) fn try_add(&mut self, label: &str, text: &str) -> qapi::Result<Arc<Chardev>> {
        let options = match parse_legacy(label, text).map_err(|error| error.unwrap())? {
            Legacy::New(options) | Legacy::WithMonitor(options) => options,
            other => panic!("no device: {other:?}"),
        };
        self.set.add(&options, &mut |notice| self.notices.push(notice))
    }

    /// Makes a device from a `-chardev` list.
    pub(crate) fn try_chardev(&mut self, text: &str) -> qapi::Result<Arc<Chardev>> {
        let options = crate::ChardevOptions::parse(&crate::options::tests::pairs(text))?;
        self.set.add(&options, &mut |notice| self.notices.push(notice))
    }

    /// Turns the loop until `done`; gives up after some seconds.
    #[track_caller]
    pub(crate) fn until(&mut self, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !done() {
            assert!(Instant::now() < deadline, "nothing happened for ten seconds");
            // A short limit, because the condition may depend on what the loop cannot see (a peer's descriptor).
            self.main.turn(Some(Duration::from_millis(20))).unwrap();
        }
    }

    /// Turns the loop while anything is ready.
    pub(crate) fn settle(&mut self) {
        for _ in 0..8 {
            self.main.turn(Some(Duration::ZERO)).unwrap();
        }
    }
}

#[expect(unsafe_code, reason = "rustix cannot send a signal to one thread")]
pub(crate) fn send_to_this_thread(signal: mainloop::Signal) {
    // SAFETY: pthread_self is the calling thread, which lives; the signal number is valid.
    unsafe { libc::pthread_kill(libc::pthread_self(), signal.as_raw()) };
}

/// A front end that writes down what it gets.
#[derive(Clone, Default)]
pub(crate) struct Recorder {
    pub(crate) room: Arc<AtomicUsize>,
    got: Arc<Mutex<Vec<u8>>>,
    events: Arc<Mutex<Vec<CharEvent>>>,
    writable: Arc<AtomicUsize>,
    must_drain: bool,
    supports_change: bool,
}

impl Recorder {
    pub(crate) fn with_room(room: usize) -> Self {
        let recorder = Self::default();
        recorder.room.store(room, Ordering::SeqCst);
        recorder
    }

    /// Takes everything, also from peers that left.
    pub(crate) fn monitor() -> Self {
        Self { must_drain: true, ..Self::with_room(usize::MAX) }
    }

    /// Goes on when its device is replaced.
    pub(crate) fn changeable() -> Self {
        Self { supports_change: true, ..Self::with_room(usize::MAX) }
    }

    pub(crate) fn attach(&self, chardev: &Arc<Chardev>) -> Port {
        chardev.attach(Box::new(self.clone())).unwrap()
    }

    pub(crate) fn got(&self) -> Vec<u8> {
        self.got.lock().unwrap().clone()
    }

    pub(crate) fn events(&self) -> Vec<CharEvent> {
        self.events.lock().unwrap().clone()
    }

    pub(crate) fn writable_calls(&self) -> usize {
        self.writable.load(Ordering::SeqCst)
    }

    pub(crate) fn give_room(&self, port: &Port, room: usize) {
        self.room.store(room, Ordering::SeqCst);
        port.accept_input();
    }
}

impl Frontend for Recorder {
    fn can_read(&mut self) -> usize {
        self.room.load(Ordering::SeqCst)
    }

    fn read(&mut self, data: &[u8]) {
        let room = self.room.load(Ordering::SeqCst);
        assert!(!data.is_empty() && data.len() <= room, "{} bytes for room {room}", data.len());
        if room != usize::MAX {
            self.room.store(room - data.len(), Ordering::SeqCst);
        }
        self.got.lock().unwrap().extend(data);
    }

    fn event(&mut self, event: CharEvent) {
        self.events.lock().unwrap().push(event);
    }

    fn writable(&mut self) {
        self.writable.fetch_add(1, Ordering::SeqCst);
    }

    fn supports_change(&self) -> bool {
        self.supports_change
    }

    fn must_drain(&self) -> bool {
        self.must_drain
    }
}

#[test]
fn a_device_has_one_front_end_and_is_free_again_when_its_port_is_dropped() {
    let mut bench = Bench::new();
    let null = bench.add("a", "null");
    let port = Recorder::default().attach(&null);
    assert!(null.is_busy() && null.frontend_open());
    assert_eq!(null.reserve().unwrap_err().desc(), "chardev 'a' is already in use");
    assert_eq!(bench.set.remove("a").unwrap_err().desc(), "Chardev 'a' is busy");
    port.set_frontend_open(false);
    assert!(!null.frontend_open());
    drop(port);
    drop(null.reserve().unwrap());
    bench.set.remove("a").unwrap();
    assert_eq!(bench.set.remove("a").unwrap_err().desc(), "Chardev 'a' not found");
}

#[test]
fn ids_are_unique() {
    let mut bench = Bench::new();
    bench.add("a", "null");
    assert_eq!(bench.try_add("a", "null").unwrap_err().desc(), "Chardev with id 'a' already exists");
}

#[test]
fn the_list_tells_label_filename_and_whether_somebody_uses_it() {
    let mut bench = Bench::new();
    let used = bench.add("used", "null");
    bench.try_chardev("ringbuf,id=ring,size=16").unwrap();
    bench.try_chardev("null,id=m,mux=on").unwrap();
    let _port = Recorder::default().attach(&used);
    let list: Vec<_> = bench
        .set
        .list()
        .into_iter()
        .map(|info| format!("{} {} {}", info.label, info.filename, info.frontend_open))
        .collect();
    assert_eq!(list, ["used null true", "ring ringbuf false", "m-base null true", "m mux false"]);
}

#[test]
fn ringbuf_commands_find_their_device_or_say_why_not() {
    let mut bench = Bench::new();
    bench.add("n", "null");
    let ring = bench.try_chardev("ringbuf,id=r").unwrap();
    let front = Recorder::default();
    let port = front.attach(&ring);
    port.write(b"hello");
    bench.set.ringbuf_write("r", " you", crate::DataFormat::Utf8).unwrap();
    let read = |id: &str| bench.set.ringbuf_read(id, 100, crate::DataFormat::Utf8);
    assert_eq!(read("r").unwrap(), "hello you");
    assert_eq!(read("n").unwrap_err().desc(), "n is not a ringbuf device");
    assert_eq!(read("zz").unwrap_err().desc(), "Device 'zz' not found");
    drop(port);
    bench.settle();
    assert_eq!(front.events(), [], "it was gone before the loop ran");
}

#[test]
fn null_is_never_open_and_the_default_console_is() {
    let mut bench = Bench::new();
    let null = bench.add("n", "null");
    let vc = crate::ChardevOptions::new("serial0", crate::BackendOptions::Vc);
    let vc = bench.set.add(&vc, &mut |_| ()).unwrap();
    let (on_null, on_vc) = (Recorder::default(), Recorder::default());
    let _ports = (on_null.attach(&null), on_vc.attach(&vc));
    bench.settle();
    assert_eq!((on_null.events(), on_vc.events()), (vec![], vec![CharEvent::Opened]));
    assert_eq!(vc.filename(), "vc");
}

#[test]
fn the_log_file_gets_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let mut bench = Bench::new();
    let null = bench.try_chardev(&format!("null,id=a,logfile={}", log.display())).unwrap();
    Recorder::default().attach(&null).write(b"logged");
    assert_eq!(std::fs::read(&log).unwrap(), b"logged");
    let error = bench.try_chardev("null,id=b,logfile=/nonexistent/x").unwrap_err();
    assert_eq!(error.desc(), "Could not create '/nonexistent/x': No such file or directory");
}

#[test]
fn a_break_reaches_a_front_end_that_sends_it_itself() {
    struct Breaker(Option<Arc<Chardev>>, Recorder);
    impl Frontend for Breaker {
        fn can_read(&mut self) -> usize {
            0
        }
        fn read(&mut self, _data: &[u8]) {}
        fn event(&mut self, event: CharEvent) {
            self.1.event(event);
            if let Some(chardev) = self.0.take() {
                chardev.send_break();
            }
        }
    }
    let mut bench = Bench::new();
    let ring = bench.try_chardev("ringbuf,id=r").unwrap();
    let recorder = Recorder::default();
    let _port = ring.attach(Box::new(Breaker(Some(Arc::clone(&ring)), recorder.clone()))).unwrap();
    bench.until(|| recorder.events() == [CharEvent::Opened, CharEvent::Break]);
}

#[test]
fn a_handler_that_replaces_another_is_told_that_the_device_is_open() {
    let mut bench = Bench::new();
    let ring = bench.try_chardev("ringbuf,id=r").unwrap();
    let (first, second) = (Recorder::default(), Recorder::default());
    let port = first.attach(&ring);
    bench.settle();
    port.set_handler(Box::new(second.clone()));
    bench.settle();
    assert_eq!((first.events(), second.events()), (vec![CharEvent::Opened], vec![CharEvent::Opened]));
}

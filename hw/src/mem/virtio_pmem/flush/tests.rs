use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::Flusher;

/// A disk whose flushes end when the test says so, and how.
struct Disk {
    flusher: Flusher,
    begun: Receiver<()>,
    end: Sender<bool>,
    ready: Receiver<()>,
}

fn disk() -> Disk {
    let (begins, begun) = channel();
    let (end, ended) = channel();
    let (is_ready, ready) = channel();
    let work = move || {
        begins.send(()).unwrap();
        ended.recv().unwrap()
    };
    Disk { flusher: Flusher::start(work, move || is_ready.send(()).unwrap()).unwrap(), begun, end, ready }
}

/// Asks for a flush and sees it begin.
fn begin(disk: &Disk) {
    assert_eq!(disk.flusher.poll(), None);
    disk.begun.recv().unwrap();
}

#[test]
fn every_flush_is_done_once_and_ends_as_the_disk_says() {
    let disk = disk();
    for well in [true, false, true] {
        begin(&disk);
        assert_eq!(disk.flusher.poll(), None, "asking again begins no second one");
        disk.end.send(well).unwrap();
        disk.ready.recv().unwrap();
        assert_eq!(disk.flusher.poll(), Some(well));
        assert!(disk.begun.try_recv().is_err());
    }
}

#[test]
fn a_flush_that_was_forgotten_is_nobodys_answer() {
    let disk = disk();
    begin(&disk);
    disk.flusher.forget();
    assert_eq!(disk.flusher.poll(), None, "what was written since may not be in it");
    disk.end.send(true).unwrap();
    disk.begun.recv().unwrap();
    assert!(disk.ready.try_recv().is_err());
    disk.end.send(false).unwrap();
    disk.ready.recv().unwrap();
    // The answer is there, but who asked is gone.
    disk.flusher.forget();
    begin(&disk);
    disk.end.send(true).unwrap();
    disk.ready.recv().unwrap();
    assert_eq!(disk.flusher.poll(), Some(true));
}

#[test]
fn the_thread_ends_with_its_owner_after_what_it_is_at() {
    let Disk { flusher, begun, end, ready } = disk();
    assert_eq!(flusher.poll(), None);
    begun.recv().unwrap();
    drop(flusher);
    end.send(true).unwrap();
    let gone = ready.recv_timeout(Duration::from_secs(60));
    assert_eq!(gone, Err(RecvTimeoutError::Disconnected), "it told nobody, and went");
}

//! Claims about files, pipes and tty devices.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::sync::atomic::Ordering;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::{Bench, Recorder};
use crate::CharEvent;

fn mkfifo(path: &str) {
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

#[test]
fn a_file_is_emptied_unless_it_is_appended_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out").display().to_string();
    let mut bench = Bench::new();
    for (id, options, expected) in [("a", "", "one"), ("b", ",append=on", "oneone"), ("c", "", "one")] {
        let file = bench.try_chardev(&format!("file,id={id},path={path}{options}")).unwrap();
        assert_eq!(Recorder::default().attach(&file).write(b"one"), 3);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        assert_eq!(file.filename(), "file");
    }
}

#[test]
fn a_file_gives_its_input_and_then_closes() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in"), dir.path().join("out"));
    std::fs::write(&input, "all of it").unwrap();
    let mut bench = Bench::new();
    let text = format!("file,id=a,path={},input-path={}", output.display(), input.display());
    let file = bench.try_chardev(&text).unwrap();
    let front = Recorder::with_room(4);
    let port = front.attach(&file);
    bench.until(|| front.got() == b"all ");
    bench.settle();
    assert_eq!(front.got(), b"all ", "no room, no input");
    front.give_room(&port, 100);
    bench.until(|| front.events() == [CharEvent::Opened, CharEvent::Closed]);
    assert_eq!(front.got(), b"all of it");
    port.write(b"still writes");
    assert_eq!(std::fs::read(&output).unwrap(), b"still writes");
}

#[test]
fn what_cannot_be_opened_is_named_with_the_reason() {
    let mut bench = Bench::new();
    for (text, message) in [
        ("file,id=a,path=/nonexistent/x", "Could not open '/nonexistent/x': No such file or directory"),
        ("file,id=a,path=/tmp", "Could not open '/tmp': Is a directory"),
        (
            "file,id=a,path=/dev/null,input-path=/nonexistent",
            "Could not open '/nonexistent': No such file or directory",
        ),
        ("pipe,id=a,path=/nonexistent", "Could not open '/nonexistent': No such file or directory"),
        ("serial,id=a,path=/nonexistent", "Could not open '/nonexistent': No such file or directory"),
        ("ringbuf,id=a,size=100", "size of ringbuf chardev must be power of two"),
        ("mux,id=a,chardev=b", "mux: base chardev b not found"),
    ] {
        assert_eq!(bench.try_chardev(text).expect_err(text).desc(), message);
    }
    assert!(bench.set.list().is_empty());
}

#[test]
fn a_pair_of_pipes_carries_both_directions_and_outlives_its_peers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p").display().to_string();
    mkfifo(&format!("{path}.in"));
    mkfifo(&format!("{path}.out"));
    let mut bench = Bench::new();
    let pipe = bench.add("a", &format!("pipe:{path}"));
    let front = Recorder::with_room(100);
    let port = front.attach(&pipe);
    for _ in 0..2 {
        // A peer that opens, writes, and leaves.
        File::options().write(true).open(format!("{path}.in")).unwrap().write_all(b"in").unwrap();
    }
    bench.until(|| front.got() == b"inin");
    port.write(b"out");
    let mut data = [0; 3];
    File::options()
        .read(true)
        .write(true)
        .open(format!("{path}.out"))
        .unwrap()
        .read_exact(&mut data)
        .unwrap();
    assert_eq!((&data, front.events()), (b"out", vec![CharEvent::Opened]));
}

#[test]
fn a_pipe_nobody_reads_takes_a_bounded_amount_and_tells_when_it_has_drained() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p").display().to_string();
    mkfifo(&path);
    let mut bench = Bench::new();
    // Also: a file back end on a pipe does not wait for a reader.
    let pipe = bench.add("a", &format!("file:{path}"));
    let front = Recorder::default();
    let port = front.attach(&pipe);
    let chunk = vec![b'x'; 1 << 20];
    let taken = port.write(&chunk);
    assert!(taken < chunk.len() && pipe.queued() == crate::WRITE_QUEUE, "took {taken}");
    assert_eq!(port.write(b"more"), 0);
    bench.settle();
    assert_eq!(front.writable_calls(), 0);
    let mut reader = File::open(&path).unwrap();
    let mut seen = vec![0; taken - crate::WRITE_QUEUE];
    reader.read_exact(&mut seen).unwrap();
    bench.until(|| front.writable_calls() == 1);
    assert_eq!((pipe.queued(), port.write(b"more")), (0, 4));
}

#[test]
fn a_front_end_that_makes_room_from_another_thread_is_not_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p").display().to_string();
    mkfifo(&path);
    let mut bench = Bench::new();
    let pipe = bench.add("a", &format!("pipe:{path}"));
    let front = Recorder::with_room(0);
    let port = std::sync::Arc::new(front.attach(&pipe));
    let mut writer = File::options().write(true).open(&path).unwrap();
    writer.write_all(&[7; 500]).unwrap();
    let giver = std::thread::spawn({
        let (front, port) = (front.clone(), std::sync::Arc::clone(&port));
        move || {
            while front.got().len() < 500 {
                if front.room.load(Ordering::SeqCst) == 0 {
                    front.give_room(&port, 1);
                }
                std::thread::yield_now();
            }
        }
    });
    bench.until(|| front.got().len() == 500);
    giver.join().unwrap();
}

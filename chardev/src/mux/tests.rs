//! Claims about the mux, over a pseudo socket: what is typed on the socket is typed on the terminal.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crate::tests::{Bench, Recorder};
use crate::{CharEvent, Chardev, Port};

struct Muxed {
    bench: Bench,
    mux: Arc<Chardev>,
    terminal: UnixStream,
    _dir: tempfile::TempDir,
}

impl Muxed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut bench = Bench::new();
        let mux = bench.add("m", &format!("mon:unix:{},server=on,wait=off", path.display()));
        let terminal = UnixStream::connect(path).unwrap();
        terminal.set_nonblocking(true).unwrap();
        Self { bench, mux, terminal, _dir: dir }
    }

    fn attach(&self, room: usize) -> (Recorder, Port) {
        let front = Recorder::with_room(room);
        let port = front.attach(&self.mux);
        (front, port)
    }

    /// Types and waits until `done`.
    #[track_caller]
    fn type_until(&mut self, text: &[u8], done: impl FnMut() -> bool) {
        self.terminal.write_all(text).unwrap();
        self.bench.until(done);
    }

    #[track_caller]
    fn shows(&mut self, expected: &str) {
        let mut seen = Vec::new();
        let terminal = &mut self.terminal;
        self.bench.until(|| {
            let mut data = [0; 1024];
            if let Ok(count) = terminal.read(&mut data) {
                seen.extend(&data[..count]);
            }
            seen.len() >= expected.len()
        });
        assert_eq!(String::from_utf8(seen).unwrap(), expected);
    }
}

#[test]
fn the_last_to_attach_has_the_terminal_and_ctrl_a_c_hands_it_round() {
    use CharEvent::{MuxIn, MuxOut, Opened};
    let mut muxed = Muxed::new();
    let (monitor, _monitor_port) = muxed.attach(100);
    let (serial, _serial_port) = muxed.attach(100);
    muxed.type_until(b"guest", || serial.got() == b"guest");
    assert_eq!(monitor.events(), [MuxOut, Opened]);
    assert_eq!(serial.events(), [MuxIn, Opened]);
    muxed.type_until(b"\x01cinfo\x01cg", || serial.got() == b"guestg");
    assert_eq!(monitor.got(), b"info");
    assert_eq!(monitor.events(), [MuxOut, Opened, MuxIn, MuxOut]);
    assert_eq!(serial.events(), [MuxIn, Opened, MuxOut, MuxIn]);
}

#[test]
fn everybody_s_output_is_shown() {
    let mut muxed = Muxed::new();
    let (monitor, monitor_port) = muxed.attach(100);
    let (_serial, serial_port) = muxed.attach(100);
    muxed.bench.until(|| !monitor.events().is_empty());
    muxed.bench.settle();
    monitor_port.write(b"one ");
    serial_port.write(b"two");
    muxed.shows("one two");
}

#[test]
fn ctrl_a_works_while_the_guest_does_not_read() {
    let mut muxed = Muxed::new();
    let (monitor, _monitor_port) = muxed.attach(100);
    let (serial, serial_port) = muxed.attach(0);
    muxed.type_until(b"abc\x01cquit", || monitor.got() == b"quit");
    assert_eq!(serial.got(), b"");
    serial.give_room(&serial_port, 2);
    muxed.bench.until(|| serial.got() == b"ab");
    serial.give_room(&serial_port, 2);
    muxed.bench.until(|| serial.got() == b"abc");
}

#[test]
fn a_terminal_that_types_too_much_waits_for_the_guest() {
    let mut muxed = Muxed::new();
    let (serial, port) = muxed.attach(0);
    let text = [b'x'; 1000];
    muxed.terminal.write_all(&text).unwrap();
    muxed.bench.until(|| !serial.events().is_empty());
    muxed.bench.settle();
    let mut seen = 0;
    while seen < text.len() {
        serial.give_room(&port, 10);
        muxed.bench.until(|| serial.got().len() > seen);
        seen = serial.got().len();
    }
}

#[test]
fn help_and_exit_are_written_as_qemu_writes_them() {
    let mut muxed = Muxed::new();
    let (serial, _port) = muxed.attach(100);
    muxed.terminal.write_all(b"\x01h\x01b\x01z\x01\x01").unwrap();
    muxed.shows(
        "\n\rC-a h    print this help\n\rC-a x    exit emulator\n\rC-a s    save disk data back to file (if \
         -snapshot)\n\rC-a t    toggle console timestamps\n\rC-a b    send break (magic sysrq)\n\rC-a c    switch \
         between console and monitor\n\rC-a C-a  sends C-a\n\r",
    );
    muxed.bench.until(|| serial.got() == b"\x01");
    assert_eq!(serial.events().last(), Some(&CharEvent::Break));
    muxed.terminal.write_all(b"\x01x").unwrap();
    assert_eq!(muxed.bench.main.run(), 0, "without a handler it ends the loop");
    muxed.shows("QEMU: Terminated\n\r");
}

#[test]
fn timestamps_stand_at_the_start_of_lines() {
    let mut muxed = Muxed::new();
    let (serial, port) = muxed.attach(100);
    muxed.type_until(b"\x01tx", || serial.got() == b"x");
    port.write(b"tail\nnext\n");
    muxed.shows("tail\n[00:00:00.000] next\n");
}

#[test]
fn a_mux_takes_four_front_ends_and_keeps_its_base_busy() {
    let mut muxed = Muxed::new();
    let ports: Vec<_> = (0..4).map(|_| muxed.attach(0).1).collect();
    assert_eq!(
        muxed.mux.reserve().unwrap_err().desc(),
        "too many uses of multiplexed chardev 'm' (maximum is 4)"
    );
    assert_eq!(muxed.bench.set.remove("m-base").unwrap_err().desc(), "Chardev 'm-base' is busy");
    drop(ports);
    muxed.bench.settle();
    muxed.bench.set.remove("m").unwrap();
    drop(muxed.mux);
    muxed.bench.set.remove("m-base").unwrap();
}

#[test]
fn what_is_typed_before_the_front_ends_are_there_waits_for_them() {
    let mut muxed = Muxed::new();
    muxed.bench.set.hold_input();
    let (monitor, _monitor_port) = muxed.attach(100);
    muxed.terminal.write_all(b"\x01cinfo").unwrap();
    muxed.bench.settle();
    assert!(monitor.got().is_empty() && monitor.events().is_empty(), "nor is it told anything");
    let (serial, _serial_port) = muxed.attach(100);
    muxed.bench.set.release_input();
    // Ctrl-A c went from the serial port, which came last, to the monitor.
    muxed.bench.until(|| monitor.got() == b"info");
    assert!(serial.got().is_empty());
}

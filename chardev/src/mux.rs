//! Several front ends on one device: Ctrl-A and a letter switch between them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use qapi::Result;

use crate::backend::Backend;
use crate::device::{Chardev, Port};
use crate::frontend::{CharEvent, Frontend};
use crate::set::OnExit;
use crate::sink::Sink;
use crate::tty::Terminal;

/// Ctrl-A.
const ESCAPE: u8 = 1;
/// Input kept for a front end that has no room, so that Ctrl-A still works while the guest does not read.
const BUFFER: usize = 32;
/// What Ctrl-A h prints.
const HELP: &[&str] = &[
    "C-a h    print this help",
    "C-a x    exit emulator",
    "C-a s    save disk data back to file (if -snapshot)",
    "C-a t    toggle console timestamps",
    "C-a b    send break (magic sysrq)",
    "C-a c    switch between console and monitor",
    "C-a C-a  sends C-a",
];

/// The back end `mux`.
pub(crate) struct Mux {
    base: Port,
    input: Arc<Input>,
}

struct Input {
    sink: Arc<Sink>,
    on_exit: OnExit,
    /// Front ends are still to come: whose input it is, is not known yet.
    held: Arc<AtomicBool>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    escaped: bool,
    /// Input by port, in order of arrival.
    buffers: Vec<(u64, VecDeque<u8>)>,
    /// A flush is on its way through the loop.
    flush_posted: bool,
    /// Timestamps are on; when the first was printed.
    timestamps: bool,
    first_stamp: Option<Instant>,
    at_line_start: bool,
}

/// The front end of the device below.
struct Below {
    input: Arc<Input>,
    /// Where the mux's own texts go. Weak by way of the chardev: the port is the mux's.
    base: std::sync::Weak<Chardev>,
}

impl Mux {
    pub(crate) fn new(
        base: &Arc<Chardev>,
        sink: &Arc<Sink>,
        on_exit: OnExit,
        held: Arc<AtomicBool>,
    ) -> Result<Self> {
        let port = base.reserve()?;
        let state = State { at_line_start: true, ..State::default() };
        let input = Arc::new(Input { sink: Arc::clone(sink), on_exit, held, state: Mutex::new(state) });
        port.set_handler(Box::new(Below { input: Arc::clone(&input), base: Arc::downgrade(base) }));
        Ok(Self { base: port, input })
    }
}

impl Backend for Mux {
    fn filename(&self) -> String {
        "mux".to_owned()
    }

    fn write(&self, data: &[u8], limit: usize) -> usize {
        let below = self.base.chardev();
        let base = below.backend();
        if !self.input.lock().timestamps {
            return base.write(data, limit);
        }
        // Stamps are extra: a line is taken with its stamp or not at all.
        let mut done = 0;
        for line in data.split_inclusive(|byte| *byte == b'\n') {
            let stamp = self.input.stamp();
            if base.queued() + stamp.len() > limit {
                break;
            }
            base.write(stamp.as_bytes(), limit);
            let taken = base.write(line, limit);
            done += taken;
            self.input.lock().at_line_start = taken == line.len() && line.ends_with(b"\n");
            if taken < line.len() {
                break;
            }
        }
        done
    }

    fn give_up(&self) {
        self.base.chardev().backend().give_up();
    }

    fn queued(&self) -> usize {
        self.base.chardev().queued()
    }

    fn accept_input(&self) {
        let flush = {
            let mut state = self.input.lock();
            let waiting = state.buffers.iter().any(|(_, buffer)| !buffer.is_empty());
            // One posted flush is enough however often the guest reads meanwhile.
            waiting && !std::mem::replace(&mut state.flush_posted, true)
        };
        if flush {
            let input = Arc::clone(&self.input);
            let base = Arc::downgrade(&self.base.chardev());
            self.input.sink.handle().post(move || {
                input.flush();
                if let Some(base) = base.upgrade() {
                    base.backend().accept_input();
                }
            });
        }
    }

    fn set_echo(&self, on: bool) {
        self.base.set_echo(on);
    }

    fn take_fds(&self) -> Vec<std::os::fd::OwnedFd> {
        self.base.take_fds()
    }

    fn terminal(&self) -> Option<Terminal> {
        self.base.chardev().terminal()
    }
}

impl Input {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `[hh:mm:ss.mmm] ` since the first line, at the start of a line.
    fn stamp(&self) -> String {
        let mut state = self.lock();
        if !state.at_line_start {
            return String::new();
        }
        let first = *state.first_stamp.get_or_insert_with(Instant::now);
        let ms = first.elapsed().as_millis();
        format!("[{:02}:{:02}:{:02}.{:03}] ", ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000)
    }

    /// Room for the front end that has the terminal.
    fn room(&self) -> usize {
        let Some(port) = self.sink.focus() else { return BUFFER };
        let state = self.lock();
        let used =
            state.buffers.iter().find(|(known, _)| *known == port).map_or(0, |(_, buffer)| buffer.len());
        BUFFER.saturating_sub(used)
    }

    fn keep(&self, byte: u8) {
        let Some(port) = self.sink.focus() else { return };
        let mut state = self.lock();
        match state.buffers.iter_mut().find(|(known, _)| *known == port) {
            Some((_, buffer)) => buffer.push_back(byte),
            None => state.buffers.push((port, VecDeque::from([byte]))),
        }
    }

    /// Hands kept input to the front ends that have room. Loop thread only.
    fn flush(&self) {
        let ports: Vec<u64> = {
            let mut state = self.lock();
            state.flush_posted = false;
            state.buffers.iter().map(|(port, _)| *port).collect()
        };
        for port in ports {
            while let Some(room) = self.sink.can_read_of(port).filter(|room| *room > 0) {
                let data: Vec<u8> = {
                    let mut state = self.lock();
                    let buffer = state.buffers.iter_mut().find(|(known, _)| *known == port);
                    buffer
                        .map(|(_, buffer)| buffer.drain(..room.min(buffer.len())).collect())
                        .unwrap_or_default()
                };
                if data.is_empty() {
                    break;
                }
                self.sink.read_of(port, &data);
            }
        }
        // Front ends that are gone want nothing.
        self.lock().buffers.retain(|(port, buffer)| !buffer.is_empty() && self.sink.has_port(*port));
    }
}

impl Below {
    fn say(&self, text: &str) {
        if let Some(base) = self.base.upgrade() {
            base.backend().write(text.as_bytes(), crate::QUEUE_CAP);
        }
    }

    fn command(&self, letter: u8) {
        match letter {
            b'?' | b'h' => self.say(&format!("\n\r{}\n\r", HELP.join("\n\r"))),
            b'x' => {
                self.say("QEMU: Terminated\n\r");
                (self.input.on_exit)();
            }
            b'b' => self.input.sink.send_break(),
            b'c' => self.input.sink.focus_next(),
            b't' => {
                let mut state = self.input.lock();
                state.timestamps = !state.timestamps;
                state.first_stamp = None;
                state.at_line_start = false;
            }
            ESCAPE => self.input.keep(ESCAPE),
            // `s` commits the disks of `-snapshot`, of which there are none; other letters mean nothing.
            _ => {}
        }
    }
}

impl Frontend for Below {
    fn can_read(&mut self) -> usize {
        if self.input.held.load(Ordering::Acquire) {
            return 0;
        }
        self.input.room()
    }

    fn read(&mut self, data: &[u8]) {
        for byte in data {
            let escaped = std::mem::replace(&mut self.input.lock().escaped, false);
            if escaped {
                self.input.flush();
                self.command(*byte);
            } else if *byte == ESCAPE {
                self.input.lock().escaped = true;
            } else {
                self.input.keep(*byte);
            }
        }
        self.input.flush();
    }

    fn event(&mut self, event: CharEvent) {
        match event {
            CharEvent::Opened => self.input.sink.set_open_now(true),
            CharEvent::Closed => self.input.sink.set_open_now(false),
            CharEvent::Break => self.input.sink.send_break(),
            // A mux on a mux: the lower one's focus says nothing about ours.
            CharEvent::MuxIn | CharEvent::MuxOut => {}
        }
    }

    fn writable(&mut self) {
        self.input.sink.writable();
    }

    fn must_drain(&self) -> bool {
        self.input.sink.must_drain()
    }
}

#[cfg(test)]
mod tests;

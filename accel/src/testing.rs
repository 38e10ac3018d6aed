//! What the tests of several accelerators use: patience, a serial port and start information for the built-in guest.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use memory::{AccessConstraints, RegionOps};

/// How long a test waits for what is to happen at once: a bound on a hang, which a busy host does not reach.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// Asks again and again until it is so, where nothing tells.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "not {what}");
        thread::yield_now();
    }
}

/// The line status register: room to send, something received.
const LSR_IDLE: u64 = 0x60;
const LSR_DATA: u64 = 1;

/// A serial port at 3f8h.
pub(crate) struct Serial {
    output: Mutex<Sender<u8>>,
    input: Mutex<Receiver<u8>>,
    next: Mutex<Option<u8>>,
    accesses: AtomicU64,
    scratch: AtomicU64,
}

impl RegionOps for Serial {
    fn read(&self, offset: u64, _size: u8) -> u64 {
        self.accesses.fetch_add(1, Ordering::SeqCst);
        let mut next = self.next.lock().unwrap();
        if next.is_none() {
            *next = self.input.lock().unwrap().try_recv().ok();
        }
        match offset {
            0 => next.take().map_or(0, u64::from),
            7 => self.scratch.load(Ordering::SeqCst),
            5 => LSR_IDLE | if next.is_some() { LSR_DATA } else { 0 },
            _ => 0,
        }
    }

    fn write(&self, offset: u64, _size: u8, value: u64) {
        match offset {
            // The test may have seen enough.
            0 => _ = self.output.lock().unwrap().send(value as u8),
            7 => self.scratch.store(value, Ordering::SeqCst),
            _ => {}
        }
    }

    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(1, 1)
    }
}

impl Serial {
    pub(crate) fn new() -> (Arc<Self>, Console) {
        let (sender, output) = mpsc::channel();
        let (input, receiver) = mpsc::channel();
        let serial = Self {
            output: Mutex::new(sender),
            input: Mutex::new(receiver),
            next: Mutex::default(),
            accesses: AtomicU64::new(0),
            scratch: AtomicU64::new(0),
        };
        (Arc::new(serial), Console { output, input })
    }

    /// Reads so far.
    pub(crate) fn accesses(&self) -> u64 {
        self.accesses.load(Ordering::SeqCst)
    }
}

/// The person at the other end of a [`Serial`].
pub(crate) struct Console {
    output: Receiver<u8>,
    input: Sender<u8>,
}

impl Console {
    /// Output up to `end`.
    pub(crate) fn read_until(&self, end: &str) -> String {
        let mut text = String::new();
        while !text.ends_with(end) {
            match self.output.recv_timeout(PATIENCE) {
                Ok(byte) => text.push(char::from(byte)),
                Err(_) => panic!("no {end:?} after {text:?}"),
            }
        }
        text
    }

    pub(crate) fn type_line(&self, line: &str) {
        line.bytes().chain([b'\r']).for_each(|byte| self.input.send(byte).unwrap());
    }

    pub(crate) fn drain(&self) {
        while self.output.try_recv().is_ok() {}
    }
}

/// PVH start information to be put at `addr`: RAM from 0 to `ram`.
pub(crate) fn start_info(addr: u32, ram: u64) -> [u8; 0x118] {
    let mut info = [0; 0x118];
    info[0..4].copy_from_slice(&0x336e_c578_u32.to_le_bytes());
    info[4] = 1;
    info[40..48].copy_from_slice(&(u64::from(addr) + 0x100).to_le_bytes());
    info[48] = 1;
    info[0x108..0x110].copy_from_slice(&ram.to_le_bytes());
    info[0x110] = 1;
    info
}

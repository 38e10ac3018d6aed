//! What a relay can see of a connection's rings without asking anybody: for the text of a test that has waited in vain.
//!
//! The descriptors that pass are kept: those of memory, to read ring indices from, and those of events, for their counters.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::process::Pid;

use super::message::{Message, Request};

/// Memory that the back end was given.
#[derive(Debug)]
struct Memory {
    guest: u64,
    size: u64,
    /// Where the front end says that it has it, which is how it tells where rings are.
    user: u64,
    offset: u64,
    file: OwnedFd,
}

/// A ring as the back end was told of it.
#[derive(Debug, Default)]
struct Ring {
    used: u64,
    available: u64,
    kick: Option<OwnedFd>,
    call: Option<OwnedFd>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Witness {
    memory: Vec<Memory>,
    rings: BTreeMap<u8, Ring>,
}

impl Witness {
    /// Takes note of a request that is passed on.
    pub(super) fn note(&mut self, message: &Message) {
        let ring = |witness: &mut Self| {
            let number = message.word(0) as u8;
            let fd = message.fds.first().and_then(|fd| fd.try_clone().ok());
            (std::mem::take(witness.rings.entry(number).or_default()), number, fd)
        };
        match message.request {
            Request::SET_MEM_TABLE => self.memory = Self::memory(message),
            Request::ADD_MEM_REG => self.memory.append(&mut Self::memory(message)),
            Request::REM_MEM_REG => {
                let gone = message.regions();
                self.memory.retain(|has| !gone.iter().any(|r| (r.guest, r.size) == (has.guest, has.size)));
            }
            Request::SET_VRING_ADDR => {
                let (old, number, _) = ring(self);
                let (used, available) = (message.word(16), message.word(24));
                self.rings.insert(number, Ring { used, available, ..old });
            }
            Request::SET_VRING_KICK => {
                let (old, number, kick) = ring(self);
                self.rings.insert(number, Ring { kick, ..old });
            }
            Request::SET_VRING_CALL => {
                let (old, number, call) = ring(self);
                self.rings.insert(number, Ring { call, ..old });
            }
            _ => {}
        }
    }

    fn memory(message: &Message) -> Vec<Memory> {
        // Each region is four words, the third of which is the front end's address.
        let regions = message.regions().into_iter().enumerate().zip(&message.fds);
        let memory = regions.filter_map(|((index, region), fd)| {
            let file = fd.try_clone().ok()?;
            let (guest, size, offset) = (region.guest, region.size, region.offset);
            Some(Memory { guest, size, user: message.word(8 + 32 * index + 16), offset, file })
        });
        memory.collect()
    }

    /// Flags and index of one side of a ring.
    fn side(&self, address: u64) -> Option<[u16; 2]> {
        let holds = |memory: &&Memory| address.checked_sub(memory.user).is_some_and(|at| at < memory.size);
        let memory = self.memory.iter().find(holds)?;
        let mut bytes = [0; 4];
        let read =
            rustix::io::pread(&memory.file, &mut bytes, memory.offset + (address - memory.user)).ok()?;
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        (read == bytes.len()).then(|| [word(0), word(2)])
    }

    /// A line for each ring: what is available and used, and what its events have counted that nobody took.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for (number, ring) in &self.rings {
            let (available, used) = (self.side(ring.available), self.side(ring.used));
            let waiting = available.zip(used).map(|(available, used)| available[1].wrapping_sub(used[1]));
            let (kick, call) = (counter(ring.kick.as_ref()), counter(ring.call.as_ref()));
            let _ = writeln!(
                text,
                "ring {number}: {waiting:?} in flight; flags and index available {available:?}, used {used:?}; \
                 kick {kick}, call {call}"
            );
        }
        text
    }
}

/// What an event descriptor has counted.
fn counter(event: Option<&OwnedFd>) -> String {
    let Some(event) = event else { return "none".into() };
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", event.as_raw_fd())).unwrap_or_default();
    let count = info.lines().find_map(|line| line.strip_prefix("eventfd-count:"));
    count.map_or_else(|| "unknown".into(), |count| count.trim().to_owned())
}

/// A line for each thread of a process: its name, its state, where it waits in the kernel and how often it has slept.
pub fn threads(pid: Pid) -> String {
    let mut text = String::new();
    let tasks = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).into_iter().flatten();
    for task in tasks.flatten() {
        let of = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let status = of("status");
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("").trim();
        let (name, state, slept) = (field("Name:"), field("State:"), field("voluntary_ctxt_switches:"));
        let _ = writeln!(text, "{name}: {state}, in {}, slept {slept} times", of("wchan"));
    }
    text
}

//! A program that notices when its machine was not moved as it was: it runs in a guest, and writes memory, talks to devices and looks at clocks all the time.
//!
//! Each thread has memory of its own and goes over it page by page: what it wrote last must be there, whole, and then comes something else. A page of an earlier
//! round, of another place or of two rounds differs. How far everything is stands in [`STATUS`]; whoever sits at the shell reads that.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::nice;

/// A line for each thing that is counted, `NAME COUNT`, and `wrong TEXT` when something was found.
pub const STATUS: &str = "/tmp/stress";

/// How often the status is written.
const BEAT: Duration = Duration::from_millis(100);

/// How long the talk with devices rests between two lines: each of them costs exits, and timers are looked at on the way.
const REST: Duration = Duration::from_millis(10);

const PAGE: usize = 4096;

/// Where in the noise pages may begin.
const PLACES: usize = 1 << 16;

/// Memory, and what was written to it.
pub struct Area {
    bytes: Vec<u8>,
    rounds: Vec<u32>,
    noise: Arc<[u8]>,
    seed: usize,
}

impl Area {
    /// So many pages of zeroes, with noise that others share.
    pub fn new(pages: usize, seed: usize, noise: Arc<[u8]>) -> Self {
        Self { bytes: vec![0; pages * PAGE], rounds: vec![0; pages], noise, seed }
    }

    /// Pages that there are.
    pub fn pages(&self) -> usize {
        self.rounds.len()
    }

    /// Looks whether a page is as it was left, and writes its next round.
    ///
    /// # Errors
    ///
    /// Where it first differs.
    pub fn step(&mut self, page: usize) -> Result<(), String> {
        let at = page * PAGE..(page + 1) * PAGE;
        let round = self.rounds[page];
        let found = &self.bytes[at.clone()];
        let right = if round == 0 { found.iter().all(|&b| b == 0) } else { found == self.text(page, round) };
        if !right {
            return Err(self.difference(page, round));
        }
        let place = self.place(page, round + 1);
        self.bytes[at].copy_from_slice(&self.noise[place..place + PAGE]);
        self.rounds[page] = round + 1;
        Ok(())
    }

    /// What a round writes: no two rounds of a page that follow each other are the same, nor neighbours.
    fn text(&self, page: usize, round: u32) -> &[u8] {
        let place = self.place(page, round);
        &self.noise[place..place + PAGE]
    }

    fn place(&self, page: usize, round: u32) -> usize {
        (self.seed * 17 + page * 1031 + round as usize * 4099) % PLACES
    }

    fn difference(&self, page: usize, round: u32) -> String {
        let found = &self.bytes[page * PAGE..(page + 1) * PAGE];
        let older = (1..round).rev().take(64).find(|&older| found == self.text(page, older));
        let what = match older {
            Some(older) => format!("has round {older}"),
            None if found.iter().all(|&b| b == 0) => "is zero".to_owned(),
            None => {
                let text = self.text(page, round);
                let at = found.iter().zip(text).position(|(found, right)| found != right);
                format!("differs from byte {} on", at.unwrap_or_default())
            }
        };
        format!("page {page} of area {}, which is in round {round}, {what}", self.seed)
    }
}

/// Bytes without a pattern, as areas take them.
pub fn noise() -> Arc<[u8]> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..(PLACES + PAGE) / 8).flat_map(|_| word()).collect()
}

/// What threads have done, and what they found wrong first.
struct Said {
    counts: Vec<(String, AtomicU64)>,
    wrong: Mutex<Option<String>>,
    begun: Instant,
    /// The latest time that any thread has seen, in nanoseconds since then.
    latest: AtomicU64,
}

impl Said {
    fn did(&self, what: usize) {
        self.counts[what].1.fetch_add(1, Ordering::Relaxed);
    }

    fn wrong(&self, text: String) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
    }

    /// Looks at the clock: no thread sees a time before one that another has seen already.
    fn look_at_the_clock(&self) {
        let latest = self.latest.load(Ordering::SeqCst);
        let now = self.begun.elapsed().as_nanos() as u64;
        if now < latest {
            self.wrong(format!("it was {latest} ns, and then {now} ns"));
        }
        self.latest.fetch_max(now, Ordering::SeqCst);
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (name, count) in &self.counts {
            let _ = writeln!(text, "{name} {}", count.load(Ordering::Relaxed));
        }
        if let Some(wrong) = &*self.wrong.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = writeln!(text, "wrong {wrong}");
        }
        text
    }
}

/// Goes on until it is killed: so many threads with so many pages each, and one that writes a line with the next number to a port, draws from `/dev/hwrng` and
/// sleeps.
///
/// # Errors
///
/// A device cannot be opened, or the status cannot be written.
pub fn run(port: &Path, threads: usize, pages: usize) -> Result<(), String> {
    let open = |path: &Path, write: bool| {
        let file = File::options().read(!write).write(write).open(path);
        file.map_err(|e| format!("{}: {e}", path.display()))
    };
    let (port, entropy) = (open(port, true)?, open(Path::new("/dev/hwrng"), false)?);
    let names = (0..threads).map(|n| format!("pages{n}")).chain(["lines".to_owned()]);
    let counts = names.map(|name| (name, AtomicU64::new(0))).collect();
    let (wrong, latest) = (Mutex::default(), AtomicU64::default());
    let said = Arc::new(Said { counts, wrong, begun: Instant::now(), latest });
    let noise = noise();
    for number in 0..threads {
        let (area, said) = (Area::new(pages, number, Arc::clone(&noise)), Arc::clone(&said));
        thread::spawn(move || keep_writing(area, number, &said));
    }
    let tell = Arc::clone(&said);
    thread::spawn(move || keep_talking(port, entropy, threads, &tell));
    loop {
        let new = format!("{STATUS}.new");
        let written = fs::write(&new, said.text()).and_then(|()| fs::rename(&new, STATUS));
        written.map_err(|e| format!("{STATUS}: {e}"))?;
        thread::sleep(BEAT);
    }
}

/// Until something is wrong.
fn keep_writing(mut area: Area, number: usize, said: &Said) {
    // Of this thread: drivers and the shell go first, and so does the talk with devices.
    if let Err(e) = nice(19) {
        said.wrong(format!("nice: {e}"));
    }
    for page in (0..area.pages()).cycle() {
        if let Err(e) = area.step(page) {
            return said.wrong(e);
        }
        said.look_at_the_clock();
        said.did(number);
    }
}

/// Until something is wrong.
fn keep_talking(mut port: File, mut entropy: File, number: usize, said: &Said) {
    let mut last = [0; 32];
    for line in 1_u64.. {
        // In one piece, which is one buffer of the device's.
        if let Err(e) = port.write_all(format!("{line}\n").as_bytes()) {
            return said.wrong(format!("the port: {e}"));
        }
        let mut drawn = [0; 32];
        if let Err(e) = entropy.read_exact(&mut drawn) {
            return said.wrong(format!("/dev/hwrng: {e}"));
        }
        if drawn == last {
            return said.wrong(format!("/dev/hwrng gave {drawn:x?} twice"));
        }
        last = drawn;
        said.look_at_the_clock();
        said.did(number);
        thread::sleep(REST);
    }
}

#[cfg(test)]
mod tests;

//! One inner guest: a Linux that a VMM on KVM boots, its shell on the serial port, and the QMP of its VMM.
//!
//! The guest's first process (`tests/testbed/inner-init`) runs one line at a time; the answer comes between marks with the line's number, so that
//! nothing has to be guessed. Everything that the serial port said is kept for the report of a failure.

mod moving;
mod process;

use std::fmt;
use std::time::{Duration, Instant};

pub use process::Process;

use super::Images;
use super::machine::{ByCommandLine, Kind, Machine};
use crate::WireError;
use crate::wire::patience;

/// A machine to boot, and what is claimed of it.
#[derive(Debug)]
pub struct Boot<K: Kind = ByCommandLine> {
    /// Such as `q35-4`.
    pub name: &'static str,
    /// What the machine is made of.
    pub options: K::Options,
    /// What the kernel's command line has beyond the console.
    pub append: &'static str,
    /// What is looked at in this order. One that ends the machine is the last, or another boot follows it.
    pub claims: &'static [Claim<K>],
}

impl<K: Kind> Clone for Boot<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K: Kind> Copy for Boot<K> {}

/// One statement about a running guest; it panics where it does not hold.
pub struct Claim<K: Kind = ByCommandLine> {
    /// What is claimed, as a function's name.
    pub name: &'static str,
    /// Looks.
    pub check: for<'g> fn(&mut Linux<K::Machine<'g>>),
}

impl<K: Kind> fmt::Debug for Claim<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// A guest with a shell.
#[derive(Debug)]
pub struct Linux<M = Process> {
    machine: M,
    console: String,
    number: u32,
    line: String,
    images: Images,
    started: Instant,
    /// From the start of the VMM to the first line of the guest's first process.
    pub user_space_after: Duration,
    over: bool,
    kept: Vec<(String, String)>,
    skipped: Option<String>,
}

/// Two minutes, instead of twenty seconds, until the kernel complains that a processor is at one thing. An emulated one beside a build takes half a minute to
/// clear all free memory for a balloon that asks which pages are free; a guest that hangs is found out by what it does not answer.
const PATIENT: &str = "watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=120";

/// What a kernel is told of its console, and how loud it is to be there.
pub(super) fn command_line(images: &Images, append: &str) -> String {
    // A character on the serial port is two exits, and each of them costs the outer machine its translations: quiet boots take half the time.
    let quiet = if images.is_loud() { "" } else { "quiet" };
    format!("console=ttyS0 mitigations=off {PATIENT} {quiet} {append}").trim_end().to_owned()
}

impl<M: Machine> Linux<M> {
    /// A guest that boots, once its shell is reached.
    ///
    /// # Errors
    ///
    /// What the console and the VMM said, if it is not.
    pub(super) fn boots(machine: M, images: &Images, line: &str, started: Instant) -> Result<Self, Failure> {
        let mut guest = Self {
            machine,
            console: String::new(),
            number: 0,
            line: line.to_owned(),
            images: images.clone(),
            started,
            user_space_after: Duration::ZERO,
            over: false,
            kept: Vec::new(),
            skipped: None,
        };
        match guest.reach_the_shell() {
            Ok(()) => Ok(guest),
            Err(e) => Err(Failure { reason: short(&e), console: guest.autopsy() }),
        }
    }

    /// Waits for user space and for the shell; after a reboot again.
    ///
    /// # Errors
    ///
    /// They do not come, or the VMM ends.
    pub fn reach_the_shell(&mut self) -> Result<(), WireError> {
        self.take("USERSPACE", patience())?;
        self.user_space_after = self.started.elapsed();
        self.take("READY", patience())?;
        Ok(())
    }

    /// Runs a line in the guest's shell and returns what it printed, without the last line end.
    ///
    /// # Panics
    ///
    /// If it ends with another status than 0, or not in time.
    pub fn run(&mut self, line: &str) -> String {
        let (status, text) = self.try_run(line).unwrap_or_else(|e| panic!("`{line}`: {}", short(&e)));
        assert_eq!(status, 0, "`{line}` said {text:?}");
        text
    }

    /// As [`Linux::run`], with the status.
    ///
    /// # Errors
    ///
    /// The guest did not answer in time, or is gone.
    pub fn try_run(&mut self, line: &str) -> Result<(i32, String), WireError> {
        let number = self.send(line)?;
        self.answer(number)
    }

    /// What a line that was sent printed, and its status.
    ///
    /// # Errors
    ///
    /// As [`Linux::try_run`].
    pub fn answer(&mut self, number: u32) -> Result<(i32, String), WireError> {
        let mark = format!("@@{number}{{\r\n");
        // The console's line ends are the kernel's: `\r\n` of printk, `\n` of the shell (`stty -onlcr`).
        self.take(mark.trim_end(), patience())?;
        let end = format!("@@{number}}}");
        let mut text = self.take(&end, patience())?;
        text.truncate(text.len() - end.len());
        let status = self.take("\n", patience())?;
        let status = status.trim().parse().unwrap_or(-1);
        Ok((status, text.trim_matches(['\r', '\n']).replace("\r\n", "\n")))
    }

    /// Sends a line and does not wait for it; for those that end the guest.
    ///
    /// # Errors
    ///
    /// The VMM is gone.
    pub fn send(&mut self, line: &str) -> Result<u32, WireError> {
        self.number += 1;
        self.machine.serial().send(format!("{} {line}\n", self.number).as_bytes())?;
        Ok(self.number)
    }

    /// Inserts the modules that were left for later, those that are there already aside.
    pub fn insert_later(&mut self) {
        self.run("while read -r module; do insmod $module 2>/dev/null; done </later/order; true");
    }

    /// Runs a line again and again until what it prints is right: for what the guest does by itself a little later.
    ///
    /// # Panics
    ///
    /// If that does not happen in time.
    pub fn until(&mut self, line: &str, right: impl Fn(&str) -> bool) -> String {
        self.eventually(|guest| {
            let text = guest.run(line);
            if right(&text) { Ok(text) } else { Err(format!("`{line}` still says {text:?}")) }
        })
    }

    /// Looks again and again until it finds what it looks for, or says why not; what is looked at takes its time with the guest, which goes on meanwhile.
    ///
    /// # Panics
    ///
    /// If that does not happen in time.
    pub fn eventually<T>(&mut self, mut look: impl FnMut(&mut Self) -> Result<T, String>) -> T {
        let until = Instant::now() + patience();
        loop {
            match look(self) {
                Ok(found) => return found,
                Err(why) => assert!(Instant::now() < until, "{why}"),
            }
        }
    }

    /// A number that a line prints.
    ///
    /// # Panics
    ///
    /// If it prints something else.
    pub fn number(&mut self, line: &str) -> u64 {
        let text = self.run(line);
        text.trim().parse().unwrap_or_else(|_| panic!("`{line}` printed {text:?}, no number"))
    }

    /// Waits for a text on the console.
    ///
    /// # Panics
    ///
    /// If it does not come in time.
    pub fn see(&mut self, text: &str) -> String {
        self.take(text, patience()).unwrap_or_else(|e| panic!("{}", short(&e)))
    }

    /// Takes in what the console says until the VMM ends. A socket that nobody reads is full after a few hundred characters, and then the guest waits.
    ///
    /// # Panics
    ///
    /// If the VMM does not end in time.
    pub fn see_the_end(&mut self) -> &str {
        match self.machine.serial().rest() {
            Ok(rest) => self.console.push_str(&String::from_utf8_lossy(&rest)),
            Err(e) => panic!("{}", short(&e)),
        }
        self.over = true;
        &self.console
    }

    /// What it runs in.
    pub fn machine(&mut self) -> &mut M {
        &mut self.machine
    }

    /// The line of kernels.
    pub fn kernel(&self) -> &str {
        &self.line
    }

    /// The kernels and initial file systems.
    pub fn images(&self) -> &Images {
        &self.images
    }

    /// Whether the machine has ended.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// The claim cannot be looked at on this VMM.
    pub fn skip(&mut self, reason: &str) {
        self.skipped = Some(reason.to_owned());
    }

    /// Why the claim was not looked at.
    pub fn take_skipped(&mut self) -> Option<String> {
        self.skipped.take()
    }

    /// Keeps a text for the next run.
    pub fn keep(&mut self, name: String, text: String) {
        self.kept.push((name, text));
    }

    /// What is to be kept.
    pub fn take_kept(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.kept)
    }

    /// It has ended, as was wanted.
    pub fn ends(&mut self) {
        self.over = true;
    }

    /// What can be learned of a guest in which a claim failed: its console, the end of its kernel's log, its VMM's words and vCPUs.
    pub fn autopsy(&mut self) -> String {
        let serial = self.machine.serial();
        // Takes in all that was said by now; that it does not end is no surprise.
        let _ = serial.take_by(Instant::now(), "whatever there is", |_| None);
        let rest = serial.take("whatever there is", |got| Some(got.len()));
        self.console.push_str(&String::from_utf8_lossy(&rest.unwrap_or_default()));
        let console = self.console.replace('\r', "");
        format!("$ {}\n{console}\n--- VMM\n{}", self.machine.origin(), self.machine.last_words())
    }

    /// What comes up to and with a text, kept in the console's record too.
    fn take(&mut self, text: &str, within: Duration) -> Result<String, WireError> {
        let wanted = text.as_bytes();
        let end =
            |got: &[u8]| got.windows(wanted.len()).position(|w| w == wanted).map(|at| at + wanted.len());
        let bytes = self.machine.serial().take_by(Instant::now() + within, text, end)?;
        let came = String::from_utf8_lossy(&bytes).into_owned();
        self.console.push_str(&came);
        Ok(came)
    }
}

/// Whether QEMU is to emulate the guests' processors on this very machine (`PLIANT_TESTBED_EMULATED=1`): no proof of anything about KVM, but a claim
/// that is being written is looked at in a tenth of the time.
pub fn emulated() -> bool {
    std::env::var_os("PLIANT_TESTBED_EMULATED").is_some()
}

/// Why a boot did not reach its shell.
#[derive(Debug)]
pub struct Failure {
    /// In a line.
    pub reason: String,
    /// The console and what else was to be learned.
    pub console: String,
}

/// An error without what had come so far, which the console's record has.
fn short(error: &WireError) -> String {
    let text = error.to_string();
    match text.split_once("; so far:") {
        Some((first, _)) => first.to_owned(),
        None => text,
    }
}

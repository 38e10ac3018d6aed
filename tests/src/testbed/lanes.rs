//! Boots and their claims as jobs, two lanes that take them one after the other, and what a lane does with a job.
//!
//! A lane is a machine that has KVM: an outer machine each, with one processor each, or this machine itself. A claim that fails costs its guest: the claims
//! after it get a fresh one, so that each is judged by itself.

use std::cell::{Cell, RefCell};
use std::io::BufRead;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use super::images::{FULL_KERNEL, KERNELS};
use super::linux::{Boot, Claim, Failure, Linux};
use super::machine::{ByCommandLine, Kind};
use super::managed::ByLibvirt;
use super::outer::{Crash, Outer, Supply};
use super::report::{Listener, Message, Outcome, ToPerson};
use super::{Images, bench, scenarios};
use crate::libvirt::{Host, Node};

/// Machines at a time: as many as there are processors here, since a guest that boots keeps one of them busy.
const LANES: usize = 2;

/// How often the rest of a job is begun again when the emulated machine below it crashes: that is no word about the program under test, unless it happens
/// each time.
const CRASHES: usize = 3;

/// The name of the claim that user space is reached at all.
const BOOTS: &str = "boots";

thread_local! {
    /// What the last panic of this thread said.
    static SAID: RefCell<String> = const { RefCell::new(String::new()) };
    /// Whether this thread looks at claims.
    static LOOKING: Cell<bool> = const { Cell::new(false) };
}

/// What one lane does at a time.
#[derive(Debug, Clone)]
pub enum Job {
    /// One boot of one kernel, with the claims that were asked for.
    Claims(Claims),
    /// The same where libvirt starts the machine.
    Managed(Claims<ByLibvirt>),
    /// Measurements, so many runs.
    Bench(usize),
}

/// A boot and what is looked at.
#[derive(Debug, Clone)]
pub struct Claims<K: Kind = ByCommandLine> {
    kernel: &'static str,
    boot: &'static Boot<K>,
    boots: bool,
    claims: Vec<&'static Claim<K>>,
}

/// Does all jobs on this machine's own KVM.
pub fn run_here(images: &Images, jobs: Vec<Job>, listener: &dyn Listener) {
    each_lane(jobs, |next| {
        while let Some(job) = next() {
            job.run(images, listener);
        }
    });
}

/// Does all jobs in outer machines, one for each lane.
pub fn run_in_outer_machines(supply: &Supply, jobs: Vec<Job>, person: &ToPerson) {
    each_lane(jobs, |next| {
        let mut outer = None;
        while let Some(job) = next() {
            run_in_outer_machine(supply, &mut outer, job, person);
        }
    });
}

/// Runs `lane` in as many threads as there are lanes, which take the next job until there is none.
fn each_lane(jobs: Vec<Job>, lane: impl Fn(&dyn Fn() -> Option<Job>) + Sync) {
    // Measurements are not to disturb each other.
    let lanes = LANES.min(jobs.len());
    let jobs = Mutex::new(jobs.into_iter());
    let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
    thread::scope(|scope| {
        for _ in 0..lanes {
            scope.spawn(|| lane(&next));
        }
    });
}

/// Does one job in a lane's outer machine, which is started when there is none, and again when it crashes.
fn run_in_outer_machine(supply: &Supply, outer: &mut Option<Outer>, mut job: Job, person: &ToPerson) {
    for attempt in 1.. {
        let running = match outer.take().map_or_else(|| supply.start(), Ok) {
            Ok(running) => outer.insert(running),
            Err(e) => return person.fail("outer machine", &e.to_string(), ""),
        };
        let Err(Crash { what, console, told }) = running.work(&job, person) else { return };
        *outer = None;
        job = job.without(&told);
        if attempt == CRASHES {
            let what = format!("{what} ({CRASHES} times)");
            return person.fail(&format!("outer machine, at {}", job.what()), &what, &console);
        }
        let last = console.lines().rev().take(12).collect::<Vec<_>>();
        let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
        person.hear(Message::Say(format!(
            "testbed: {what}, at {}; its rest is begun again. The console's end:\n{last}",
            job.what()
        )));
    }
}

/// Does the jobs that come as lines, until no more come: what runs in an outer machine.
pub fn serve(images: &Images, lines: impl BufRead, listener: &dyn Listener) {
    listener.hear(Message::Ready);
    for line in lines.lines() {
        let Ok(line) = line else { break };
        // The port's first lines may hold what the kernel said.
        let Some((job, loud)) = Job::parse(&line) else { continue };
        let images = if loud { images.clone().loud() } else { images.clone() };
        job.run(&images, listener);
        listener.hear(Message::Done);
        listener.hear(Message::Ready);
    }
}

/// The names of all claims that the words choose.
pub fn names(words: &[String]) -> Vec<String> {
    jobs(words).iter().flat_map(Job::names).collect()
}

/// A job for each boot with a claim whose name holds one of the words (all, without words).
pub fn jobs(words: &[String]) -> Vec<Job> {
    chosen(|name| words.is_empty() || words.iter().any(|word| name.contains(word.as_str())))
}

fn chosen(wanted: impl Fn(&str) -> bool) -> Vec<Job> {
    let mut jobs = Vec::new();
    for kernel in KERNELS {
        jobs.extend(Claims::of(kernel, scenarios::MANAGED, &wanted).map(Job::Managed));
        jobs.extend(Claims::of(kernel, scenarios::BOOTS, &wanted).map(Job::Claims));
    }
    jobs.extend(Claims::of(FULL_KERNEL, scenarios::FULL_BOOTS, &wanted).map(Job::Claims));
    jobs
}

impl Job {
    /// A line for an outer machine.
    pub fn line(&self, loud: bool) -> String {
        let job = match self {
            Self::Bench(runs) => json!(runs),
            claims => json!(claims.names()),
        };
        format!("{}\n", json!({ "job": job, "loud": loud }))
    }

    /// Reads a line, and whether kernels are to be loud; what is no job is `None`.
    pub fn parse(line: &str) -> Option<(Self, bool)> {
        let value: Value = serde_json::from_str(line.trim()).ok()?;
        let loud = value["loud"].as_bool()?;
        if let Some(runs) = value["job"].as_u64() {
            return Some((Self::Bench(usize::try_from(runs).ok()?), loud));
        }
        let names: Vec<&str> = value["job"].as_array()?.iter().filter_map(Value::as_str).collect();
        let job = chosen(|name| names.contains(&name)).into_iter().next()?;
        Some((job, loud))
    }

    /// The names of its claims.
    fn names(&self) -> Vec<String> {
        match self {
            Self::Claims(claims) => claims.names(),
            Self::Managed(claims) => claims.names(),
            Self::Bench(_) => Vec::new(),
        }
    }

    /// What remains when some claims were looked at.
    fn without(self, told: &[String]) -> Self {
        let left = |name: &str| !told.iter().any(|done| done == name);
        match self {
            Self::Claims(claims) => Self::Claims(claims.only(left)),
            Self::Managed(claims) => Self::Managed(claims.only(left)),
            Self::Bench(_) => self,
        }
    }

    /// What it is about, for a person.
    fn what(&self) -> String {
        match self {
            Self::Claims(claims) => claims.what(),
            Self::Managed(claims) => claims.what(),
            Self::Bench(_) => "measurements".into(),
        }
    }

    fn run(&self, images: &Images, listener: &dyn Listener) {
        match self {
            Self::Claims(claims) => claims.run((), images, listener),
            Self::Managed(claims) => claims.run_with_libvirt(images, listener),
            Self::Bench(runs) => bench::run(images, *runs, listener),
        }
    }
}

impl Claims<ByLibvirt> {
    /// A libvirtd for them.
    fn run_with_libvirt(&self, images: &Images, listener: &dyn Listener) {
        let _quiet = Quiet::new();
        let since = Instant::now();
        let run = AssertUnwindSafe(|| {
            let host = Host::new();
            self.run(&Node::start(&host, "outer"), images, listener);
        });
        if panic::catch_unwind(run).is_err() {
            self.fail(listener, since, Failure { reason: SAID.take(), console: String::new() });
        }
    }
}

impl<K: Kind> Claims<K> {
    /// For each of these boots the claims whose names are wanted, where there are any.
    fn of(
        kernel: &'static str,
        boots: &'static [Boot<K>],
        wanted: impl Fn(&str) -> bool,
    ) -> impl Iterator<Item = Self> {
        boots.iter().filter_map(move |boot| {
            let all = Self { kernel, boot, boots: true, claims: boot.claims.iter().collect() };
            let chosen = all.only(&wanted);
            (chosen.boots || !chosen.claims.is_empty()).then_some(chosen)
        })
    }

    /// Those whose names are wanted.
    fn only(mut self, wanted: impl Fn(&str) -> bool) -> Self {
        let (kernel, boot) = (self.kernel, self.boot.name);
        let wanted = |claim: &str| wanted(&format!("{kernel}/{boot}/{claim}"));
        self.boots &= wanted(BOOTS);
        self.claims.retain(|claim| wanted(claim.name));
        self
    }

    fn names(&self) -> Vec<String> {
        let boots = self.boots.then(|| self.name(BOOTS));
        boots.into_iter().chain(self.claims.iter().map(|claim| self.name(claim.name))).collect()
    }

    fn name(&self, claim: &str) -> String {
        format!("{}/{}/{claim}", self.kernel, self.boot.name)
    }

    fn what(&self) -> String {
        self.names().first().cloned().unwrap_or_else(|| self.name("end"))
    }

    fn tell(&self, listener: &dyn Listener, claim: &str, since: Instant, outcome: Outcome) {
        let seconds = since.elapsed().as_secs_f64();
        listener.hear(Message::Claim { name: self.name(claim), outcome, seconds });
    }

    /// None of them holds where there is no guest.
    fn fail(&self, listener: &dyn Listener, since: Instant, failure: Failure) {
        let Failure { reason, console } = failure;
        self.tell(listener, BOOTS, since, Outcome::Failed { reason, console });
        for claim in &self.claims {
            let reason = "not looked at: the machine does not boot".into();
            let outcome = Outcome::Failed { reason, console: String::new() };
            self.tell(listener, claim.name, Instant::now(), outcome);
        }
    }

    fn run(&self, ground: K::Ground<'_>, images: &Images, listener: &dyn Listener) {
        let _quiet = Quiet::new();
        let tell = |claim: &str, since: Instant, outcome: Outcome| self.tell(listener, claim, since, outcome);
        let since = Instant::now();
        let mut guest = match self.boot(ground, images) {
            Ok(guest) => Some(guest),
            Err(failure) => return self.fail(listener, since, failure),
        };
        if self.boots {
            tell(BOOTS, since, Outcome::Ok);
        }
        for claim in &self.claims {
            let since = Instant::now();
            let mut running = match guest.take() {
                Some(running) => running,
                None => match self.boot(ground, images) {
                    Ok(running) => running,
                    Err(Failure { reason, console }) => {
                        tell(claim.name, since, Outcome::Failed { reason, console });
                        continue;
                    }
                },
            };
            let looked = panic::catch_unwind(AssertUnwindSafe(|| (claim.check)(&mut running)));
            for (name, text) in running.take_kept() {
                listener.hear(Message::Keep { name, text });
            }
            match looked {
                Ok(()) => {
                    tell(claim.name, since, running.take_skipped().map_or(Outcome::Ok, Outcome::Skipped));
                    guest = (!running.is_over()).then_some(running);
                }
                Err(_) => {
                    let reason = SAID.take();
                    let console = panic::catch_unwind(AssertUnwindSafe(|| running.autopsy()));
                    let console = console.unwrap_or_else(|_| SAID.take());
                    tell(claim.name, since, Outcome::Failed { reason, console });
                }
            }
        }
    }

    /// A harness that panics while it starts a machine is a failure like any other.
    fn boot<'g>(&self, ground: K::Ground<'g>, images: &Images) -> Result<Linux<K::Machine<'g>>, Failure> {
        let start = AssertUnwindSafe(|| K::start(ground, images, self.kernel, self.boot));
        let started = panic::catch_unwind(start);
        started.unwrap_or_else(|_| Err(Failure { reason: SAID.take(), console: String::new() }))
    }
}

/// While it lives, a panic is kept for the claim that it ends instead of being printed.
struct Quiet;

impl Quiet {
    fn new() -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let usual = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                if !LOOKING.get() {
                    return usual(info);
                }
                let text = info.payload_as_str().unwrap_or("a panic without words");
                let place = info.location().map(ToString::to_string).unwrap_or_default();
                SAID.set(format!("{text}\n  at {place}"));
            }));
        });
        LOOKING.set(true);
        Self
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        LOOKING.set(false);
    }
}

#[cfg(test)]
mod tests;

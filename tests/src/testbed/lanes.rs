//! Runs boots and their claims, two machines at a time, and says how each claim came out.
//!
//! A claim that fails costs its machine: the claims after it get a fresh one, so that each is judged by itself.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use super::images::KERNELS;
use super::linux::{Boot, Claim, Failure, Linux};
use super::report::{Listener, Message, Outcome};
use super::{Images, scenarios};

/// Machines at a time: the testbed has two processors, and a guest that boots keeps one of them busy.
const LANES: usize = 2;

thread_local! {
    /// What the last panic of this thread said.
    static SAID: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Looks at all claims whose name holds one of the words (all, without words).
pub fn run(images: &Images, words: &[String], listener: &dyn Listener) {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(|info| {
        let text = info.payload_as_str().unwrap_or("a panic without words");
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        SAID.set(format!("{text}\n  at {place}"));
    }));
    let jobs = Mutex::new(jobs(words).into_iter());
    thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                loop {
                    let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(job) = job else { break };
                    job.run(images, listener);
                }
            });
        }
    });
    panic::set_hook(usual);
    listener.hear(Message::Done);
}

/// The names of all claims that the words choose.
pub fn names(words: &[String]) -> Vec<String> {
    let jobs = jobs(words);
    let names = jobs.iter().flat_map(|job| job.claims.iter().map(|claim| job.name(claim.name)));
    names.collect()
}

/// One boot of one kernel, with the claims that were asked for.
struct Job {
    kernel: &'static str,
    boot: &'static Boot,
    boots: bool,
    claims: Vec<&'static Claim>,
}

fn jobs(words: &[String]) -> Vec<Job> {
    let mut jobs = Vec::new();
    for kernel in KERNELS {
        for boot in scenarios::BOOTS {
            let wanted = |claim: &str| {
                let name = format!("{kernel}/{}/{claim}", boot.name);
                words.is_empty() || words.iter().any(|word| name.contains(word.as_str()))
            };
            let claims: Vec<_> = boot.claims.iter().filter(|claim| wanted(claim.name)).collect();
            let boots = wanted("boots");
            if boots || !claims.is_empty() {
                jobs.push(Job { kernel, boot, boots, claims });
            }
        }
    }
    jobs
}

impl Job {
    fn name(&self, claim: &str) -> String {
        format!("{}/{}/{claim}", self.kernel, self.boot.name)
    }

    fn run(&self, images: &Images, listener: &dyn Listener) {
        let tell = |claim: &str, since: Instant, outcome: Outcome| {
            let seconds = since.elapsed().as_secs_f64();
            listener.hear(Message::Claim { name: self.name(claim), outcome, seconds });
        };
        let since = Instant::now();
        let mut guest = match self.boot(images) {
            Ok(guest) => Some(guest),
            Err(Failure { reason, console }) => {
                tell("boots", since, Outcome::Failed { reason, console });
                for claim in &self.claims {
                    let reason = "not looked at: the machine does not boot".into();
                    tell(claim.name, Instant::now(), Outcome::Failed { reason, console: String::new() });
                }
                return;
            }
        };
        if self.boots {
            tell("boots", since, Outcome::Ok);
        }
        for claim in &self.claims {
            let since = Instant::now();
            let mut running = match guest.take() {
                Some(running) => running,
                None => match self.boot(images) {
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
    fn boot(&self, images: &Images) -> Result<Linux, Failure> {
        let started = panic::catch_unwind(|| Linux::start(images, self.kernel, self.boot));
        started.unwrap_or_else(|_| Err(Failure { reason: SAID.take(), console: String::new() }))
    }
}

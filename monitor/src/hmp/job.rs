//! Commands that take long, on a terminal: the console waits for their end with a line that says how far they are.
//!
//! Such a command asks for it with [`Execute::wait_for`] and then runs its QMP command in the background; where there is nobody to
//! look at a line it lets the QMP command wait as ever. Either way the next prompt comes when the work is done. Meanwhile the
//! main loop, other monitors and events go on.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use mainloop::Timer;
use qapi::{Dict, Result, Value};

use super::Execute;
use crate::progress::Meter;

/// Work that is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    /// What the line begins with.
    pub(crate) title: &'static str,
    /// The event that tells the end.
    pub(crate) ends_with: &'static str,
    /// Bytes that are done, and that there are to do; `None` while that is not known.
    pub(crate) progress: fn(&dyn Execute) -> Option<(u64, u64)>,
    /// What to print at the end, by the event's data.
    pub(crate) result: fn(&Dict) -> Result<String>,
}

/// Hears of the end.
#[derive(Debug)]
pub(crate) struct Ending {
    event: &'static str,
    data: OnceLock<Dict>,
}

impl Ending {
    /// An event has happened.
    pub(crate) fn see(&self, name: &str, event: &Value) {
        if name == self.event {
            let data = event.as_dict().and_then(|e| e.get("data")).and_then(Value::as_dict);
            // The first one counts.
            let _ = self.data.set(data.cloned().unwrap_or_default());
        }
    }
}

/// A job that a console waits for.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) job: Job,
    pub(super) ending: Arc<Ending>,
    pub(super) meter: Meter,
    /// Whether a line is on the screen.
    pub(super) shown: bool,
    /// The next look; kept alive only.
    pub(super) timer: Option<Timer>,
}

impl Waiting {
    pub(super) fn new(job: Job) -> Self {
        let ending = Arc::new(Ending { event: job.ends_with, data: OnceLock::new() });
        Self { job, ending, meter: Meter::new(job.title, Instant::now()), shown: false, timer: None }
    }

    /// What to print, once it has ended.
    pub(super) fn result(&self) -> Option<Result<String>> {
        self.ending.data.get().map(self.job.result)
    }
}

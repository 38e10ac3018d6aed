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
    /// How the end is known.
    pub(crate) end: End,
    /// Bytes that are done, and that there are to do; `None` while that is not known.
    pub(crate) progress: fn(&dyn Execute) -> Option<(u64, u64)>,
}

/// What tells the end of work, and what to print then.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    /// An event, by its data.
    Event(&'static str, fn(&Dict) -> Result<String>),
    /// A look, now and then; `None` as long as it goes on.
    Asked(fn(&dyn Execute) -> Option<Result<String>>),
}

/// Hears of the end.
#[derive(Debug)]
pub(crate) struct Ending {
    event: Option<&'static str>,
    data: OnceLock<Dict>,
}

impl Ending {
    /// An event has happened.
    pub(crate) fn see(&self, name: &str, event: &Value) {
        if Some(name) == self.event {
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
        let event = match job.end {
            End::Event(name, _) => Some(name),
            End::Asked(_) => None,
        };
        let ending = Arc::new(Ending { event, data: OnceLock::new() });
        Self { job, ending, meter: Meter::new(job.title, Instant::now()), shown: false, timer: None }
    }

    /// What to print, once it has ended.
    pub(super) fn result(&self, x: &dyn Execute) -> Option<Result<String>> {
        match self.job.end {
            End::Event(_, result) => self.ending.data.get().map(result),
            End::Asked(ask) => ask(x),
        }
    }
}

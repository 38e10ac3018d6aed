//! What the runner says while it works: a line of JSON each, from the outer machine to the host, and the words that a person reads.

use std::io::{self, Write};
use std::sync::Mutex;

use serde_json::{Value, json};

/// How a claim came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Ok,
    /// It does not, with the reason and what the guest's console and its VMM said.
    Failed {
        /// The panic's message.
        reason: String,
        /// The console, and what else was to be learned.
        console: String,
    },
    /// It cannot be made here, for a reason.
    Skipped(String),
}

/// One message of the runner.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// A claim was looked at.
    Claim {
        /// `KERNEL/BOOT/CLAIM`.
        name: String,
        /// How it came out.
        outcome: Outcome,
        /// How long it took.
        seconds: f64,
    },
    /// A text for the person at the host.
    Say(String),
    /// A text for the next run.
    Keep {
        /// The file's name.
        name: String,
        /// What to keep.
        text: String,
    },
    /// A job may come.
    Ready,
    /// A job is done.
    Done,
}

impl Message {
    /// The line of JSON.
    pub fn line(&self) -> String {
        let value = match self {
            Self::Claim { name, outcome, seconds } => {
                let mut value = json!({ "claim": name, "seconds": seconds });
                match outcome {
                    Outcome::Ok => {}
                    Outcome::Failed { reason, console } => {
                        value["failed"] = json!(reason);
                        value["console"] = json!(console);
                    }
                    Outcome::Skipped(reason) => value["skipped"] = json!(reason),
                }
                value
            }
            Self::Say(text) => json!({ "say": text }),
            Self::Keep { name, text } => json!({ "keep": name, "text": text }),
            Self::Ready => json!({ "ready": true }),
            Self::Done => json!({ "done": true }),
        };
        format!("{value}\n")
    }

    /// Reads a line; what is not a message (a kernel's word on the same port) is `None`.
    pub fn parse(line: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(line.trim()).ok()?;
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        if let Some(name) = text("claim") {
            let outcome = match (text("failed"), text("skipped")) {
                (Some(reason), _) => Outcome::Failed { reason, console: text("console").unwrap_or_default() },
                (None, Some(reason)) => Outcome::Skipped(reason),
                (None, None) => Outcome::Ok,
            };
            return Some(Self::Claim { name, outcome, seconds: value["seconds"].as_f64()? });
        }
        if let (Some(name), Some(text)) = (text("keep"), text("text")) {
            return Some(Self::Keep { name, text });
        }
        if let Some(say) = text("say") {
            return Some(Self::Say(say));
        }
        if value["ready"] == true {
            return Some(Self::Ready);
        }
        (value["done"] == true).then_some(Self::Done)
    }
}

/// Where messages go. Lanes share it.
pub trait Listener: Sync {
    /// Takes a message.
    fn hear(&self, message: Message);
}

/// The wire to the host: lines on the standard output.
#[derive(Debug, Default)]
pub struct ToHost(Mutex<()>);

impl Listener for ToHost {
    fn hear(&self, message: Message) {
        let _whole_line = self.0.lock();
        let mut out = io::stdout().lock();
        // Nobody is left to tell when the host is gone.
        let _ = out.write_all(message.line().as_bytes()).and_then(|()| out.flush());
    }
}

/// The words for a person, and the count at the end.
#[derive(Debug, Default)]
pub struct ToPerson {
    counts: Mutex<Counts>,
    gaps: Gaps,
    images: Option<super::Images>,
}

#[derive(Debug, Default)]
struct Counts {
    passed: usize,
    failed: Vec<String>,
    skipped: usize,
    /// Known gaps that were met.
    known: usize,
}

impl ToPerson {
    /// With the known gaps of the program under test, and the folder that keeps what the next run wants to know.
    pub fn new(gaps: Gaps, images: &super::Images) -> Self {
        Self { counts: Mutex::default(), gaps, images: Some(images.clone()) }
    }

    /// Prints the closing line; whether all is well, which it is not if nothing was looked at.
    pub fn close(&self) -> bool {
        let counts = self.counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for name in &counts.failed {
            println!("        FAIL {name}");
        }
        let Counts { passed, failed, skipped, known } = &*counts;
        println!("testbed: {passed} passed, {} failed, {known} known gaps, {skipped} skipped", failed.len());
        // A run that looked at nothing proves nothing.
        failed.is_empty() && passed + known + skipped > 0
    }

    /// A failure of the testbed itself.
    pub fn fail(&self, name: &str, reason: &str, console: &str) {
        let outcome = Outcome::Failed { reason: reason.to_owned(), console: console.to_owned() };
        self.hear(Message::Claim { name: name.to_owned(), outcome, seconds: 0.0 });
    }
}

impl Listener for ToPerson {
    fn hear(&self, message: Message) {
        let mut counts = self.counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match message {
            Message::Claim { name, outcome, seconds } => {
                let gap = self.gaps.reason(&name);
                match (outcome, gap) {
                    (Outcome::Ok, None) => {
                        counts.passed += 1;
                        println!("        PASS [{seconds:>8.3}s] testbed {name}");
                    }
                    (Outcome::Ok, Some(gap)) => {
                        println!(
                            "        FAIL [{seconds:>8.3}s] testbed {name}: listed as a gap ({gap}), and it holds"
                        );
                        counts.failed.push(format!("{name}: a listed gap that is closed: remove its line"));
                    }
                    (Outcome::Failed { reason, .. }, Some(gap)) => {
                        counts.known += 1;
                        let first = reason.lines().next().unwrap_or_default();
                        println!("         GAP [{seconds:>8.3}s] testbed {name}: {gap} ({first})");
                    }
                    (Outcome::Failed { reason, console }, None) => {
                        println!(
                            "        FAIL [{seconds:>8.3}s] testbed {name}\n{reason}\n--- console of {name}\n{console}\n---"
                        );
                        let first = reason.lines().next().unwrap_or_default().to_owned();
                        counts.failed.push(format!("{name}: {first}"));
                    }
                    (Outcome::Skipped(reason), _) => {
                        counts.skipped += 1;
                        println!("     SKIPPED [{seconds:>8.3}s] testbed {name}: {reason}");
                    }
                }
            }
            Message::Say(text) => println!("{text}"),
            Message::Keep { name, text } => {
                if let Some(images) = &self.images
                    && let Err(e) = images.keep(&name, &text)
                {
                    println!("testbed: {name} is not kept: {e}");
                }
            }
            Message::Ready | Message::Done => {}
        }
        let _ = io::stdout().flush();
    }
}

/// Known gaps: beginnings of claims' names, with the reason, as `tests/data/testbed-gaps.txt` has them.
#[derive(Debug, Default)]
pub struct Gaps(Vec<(String, String)>);

impl Gaps {
    /// Reads the list: a name or its beginning, blanks, the reason. `#` begins a comment, `*` stands for any kernel or machine.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let split = |line: &str| {
            let (name, reason) = line.split_once(char::is_whitespace).unwrap_or((line, "no reason given"));
            (name.to_owned(), reason.trim().to_owned())
        };
        Self(lines.map(split).collect())
    }

    /// Why a claim is not expected to hold.
    pub fn reason(&self, name: &str) -> Option<&str> {
        let covers = |pattern: &str| {
            let mut parts = name.split('/');
            pattern.split('/').all(|wanted| parts.next().is_some_and(|part| wanted == "*" || wanted == part))
        };
        self.0.iter().find(|(pattern, _)| covers(pattern)).map(|(_, reason)| reason.as_str())
    }
}

#[cfg(test)]
mod tests;

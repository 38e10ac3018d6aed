//! Recorded sessions as lists of steps.
//!
//! A transcript is text for people: commands with their output, QMP requests with their replies, events, headings, and lines in which
//! the recorder says what its driver or its guest did. The last kind has no common mark, so that a reader of a transcript gives
//! the beginnings of such lines; what is not one of them belongs to the output above it.

use serde_json::Value;

/// One step of a session.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// `## ` and the text of a heading.
    Heading(String),
    /// `$ ` and a command line: a machine is started.
    Start(String),
    /// `(qemu) ` and a command of the human monitor, and what it printed, each line with its end.
    Hmp(String, String),
    /// `-> ` and a QMP request, and the messages behind it up to and with its reply.
    Qmp(Value, Vec<Value>),
    /// `<- ` or `[events] <- `: an event that came by itself.
    Event(Value),
    /// What the recorder noted.
    Note(String),
}

/// A step and the number of its line, which with the file's name is its id in gap lists.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Counted from 1.
    pub number: usize,
    /// The step that begins there.
    pub step: Step,
}

/// Beginnings of what recorders note in all transcripts.
const NOTES: [&str; 5] = ["req ", "config-space", "qtest: clock", "guest# ", "  ("];

/// Reads a transcript; `notes` are the beginnings of this file's own notes.
///
/// # Panics
///
/// If a line that begins as JSON is none.
pub fn parse(text: &str, notes: &[&str]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    // A blank line ends an output, unless more of the output follows: then it was part of it.
    let mut blanks = 0;
    for (index, line) in text.lines().enumerate().skip(1) {
        let step = if let Some(heading) = line.strip_prefix("## ") {
            Step::Heading(heading.into())
        } else if let Some(command) = line.strip_prefix("$ ") {
            Step::Start(command.into())
        } else if let Some(command) = line.strip_prefix("(qemu) ") {
            Step::Hmp(command.into(), String::new())
        } else if let Some(request) = line.strip_prefix("-> {") {
            Step::Qmp(json(&format!("{{{request}")), Vec::new())
        } else if let Some(message) = line.strip_prefix("[events] <- ").or(line.strip_prefix("<- ")) {
            let message = json(message);
            if let Some(Line { step: Step::Qmp(_, replies), .. }) = lines.last_mut()
                && !replies.iter().any(|reply| reply.get("event").is_none())
            {
                replies.push(message);
                continue;
            }
            Step::Event(message)
        } else if line.is_empty() {
            blanks += 1;
            continue;
        } else if NOTES.iter().chain(notes).any(|note| line.starts_with(note)) {
            Step::Note(line.into())
        } else if let Some(Line { step: Step::Hmp(_, output), .. }) = lines.last_mut() {
            output.extend(std::iter::repeat_n('\n', blanks));
            blanks = 0;
            output.push_str(line);
            output.push('\n');
            continue;
        } else {
            Step::Note(line.into())
        };
        blanks = 0;
        lines.push(Line { number: index + 1, step });
    }
    lines
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// The data of an event that must come again: all but the time.
pub fn event_data(event: &Value) -> (String, Value) {
    (event["event"].as_str().unwrap_or_default().to_owned(), event["data"].clone())
}

#[cfg(test)]
mod tests;

//! The way in for the fuzz targets (`fuzz/`), and for nobody else: conversations without their character devices.
//!
//! What executes commands is the caller's, so that a target needs no machine.

use std::sync::Mutex;

use qapi::{Dict, Result, Value, json};

use crate::hmp::{Key, LastFormat, LineEditor, Session as Console, candidates, run_line};
use crate::qmp::{Session, Step, reply};

/// Runs one QMP command.
pub type Run<'a> = dyn Fn(&str, Dict) -> Result<Value> + 'a;

/// A whole QMP conversation whose bytes come in `pieces`: the replies as texts. `qmp_capabilities` is the session's own, all
/// else is run by `run`.
pub fn qmp(pieces: &[&[u8]], run: &Run<'_>) -> Vec<String> {
    let mut session = Session::new();
    let mut replies = Vec::new();
    for piece in pieces {
        session.push(piece);
        while let Some(step) = session.next_step() {
            let value = match step {
                Step::Reply(value) => value,
                Step::Run(request) => {
                    let negotiates = request.command == "qmp_capabilities";
                    let enable = request.arguments.contains_key("enable");
                    let result = match run(&request.command, request.arguments) {
                        _ if negotiates => session.negotiate(enable).map(|()| Dict::new().into()),
                        result => result,
                    };
                    reply(request.id, result)
                }
            };
            replies.push(json::to_string(&value));
        }
    }
    replies
}

/// One line of the console: the text that it prints.
pub fn line(line: &str, run: &Run<'_>) -> String {
    let format = Mutex::new(LastFormat::default());
    run_line(&run, line, &Console { history: &[], format: &format, cpu: &std::cell::Cell::default() })
}

/// What Tab offers for the last word of `line`, and how many bytes of it are typed.
pub fn candidates_for(line: &str, run: &Run<'_>) -> (Vec<String>, usize) {
    let offered = candidates(&run, line);
    (offered.found, offered.typed)
}

/// Keys pressed at a console: what its terminal is sent.
pub fn keys(bytes: &[u8], run: &Run<'_>) -> Vec<u8> {
    let format = Mutex::new(LastFormat::default());
    let mut editor = LineEditor::new("(qemu) ");
    let mut shown = Vec::new();
    editor.show_prompt();
    for byte in bytes {
        match editor.feed(*byte) {
            Key::Edited => {}
            Key::Line(line) => {
                let history: Vec<String> = editor.history().collect();
                let session =
                    Console { history: &history, format: &format, cpu: &std::cell::Cell::default() };
                shown.extend(editor.take_output());
                shown.extend(run_line(&run, &line, &session).into_bytes());
                editor.show_prompt();
            }
            Key::Complete(before) => {
                let offered = candidates(&run, &before);
                editor.complete(offered.found, offered.typed, offered.goes_on);
            }
        }
        shown.extend(editor.take_output());
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuse(command: &str, _: Dict) -> Result<Value> {
        Err(qapi::Error::generic(command))
    }

    #[test]
    fn a_conversation_needs_no_device() {
        let replies = qmp(&[b"{'execute': 'qmp_capabil", b"ities'}{'execute': 'stop', 'id': 1}"], &refuse);
        let stop = r#"{"id": 1, "error": {"class": "GenericError", "desc": "stop"}}"#;
        assert_eq!(replies, [r#"{"return": {}}"#, stop]);
        assert_eq!(line("stop", &refuse), "Error: stop\n");
        assert_eq!(candidates_for("info sta", &refuse).1, 3);
        let shown = keys(b"st\t\r", &refuse);
        let shown = String::from_utf8_lossy(&shown);
        assert!(shown.ends_with("Error: stop\n(qemu) "), "{shown}");
    }
}

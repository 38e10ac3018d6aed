//! The console on a character device: prompt, line editor, one line after the other.

use std::sync::Arc;

use chardev::{CharEvent, Chardev, Frontend, Port};
use qapi::{Dict, Result, Value};

use super::complete::candidates;
use super::readline::{Key, LineEditor};
use super::run_line;
use crate::qmp::NoSession;
use crate::server::Server;

const PROMPT: &str = "(qemu) ";
/// Bytes taken from the terminal at a time; a paste comes in pieces so that other work gets its turn.
const READ_CHUNK: usize = 1024;

/// A console.
pub(crate) struct Console {
    server: Arc<Server>,
    port: Arc<Port>,
    editor: LineEditor,
    /// Whether another front end of a mux has the terminal.
    away: bool,
}

impl Console {
    /// Starts a console on `chardev`.
    pub(crate) fn attach(server: &Arc<Server>, chardev: &Arc<Chardev>) -> Result<()> {
        let port = Arc::new(chardev.reserve()?);
        let console = Self {
            server: Arc::clone(server),
            port: Arc::clone(&port),
            editor: LineEditor::new(PROMPT),
            away: false,
        };
        port.set_handler(Box::new(console));
        Ok(())
    }

    fn send(&self, bytes: &[u8]) {
        // Somebody who does not read is cut off by the character device, not waited for.
        let _ = self.port.write_all(bytes);
    }

    fn flush(&mut self) {
        let out = self.editor.take_output();
        if !out.is_empty() {
            self.send(&out);
        }
    }

    fn line(&mut self, line: &str) {
        self.flush();
        let history: Vec<String> = self.editor.history().collect();
        let server = Arc::clone(&self.server);
        let execute = |command: &str, arguments: Dict| -> Result<Value> {
            server.run(&NoSession(&server), command, arguments)
        };
        let text = run_line(&execute, line, &history).replace('\n', "\r\n");
        self.send(text.as_bytes());
        self.editor.show_prompt();
    }

    fn complete(&mut self, before: &str) {
        let server = Arc::clone(&self.server);
        let execute = |command: &str, arguments: Dict| -> Result<Value> {
            server.run(&NoSession(&server), command, arguments)
        };
        let (found, typed) = candidates(&execute, before);
        self.editor.complete(found, typed);
    }
}

impl Frontend for Console {
    fn can_read(&mut self) -> usize {
        if self.port.is_congested() { 0 } else { READ_CHUNK }
    }

    fn read(&mut self, data: &[u8]) {
        for byte in data {
            match self.editor.feed(*byte) {
                Key::Edited => {}
                Key::Line(line) => self.line(&line),
                Key::Complete(before) => self.complete(&before),
            }
        }
        self.flush();
    }

    fn event(&mut self, event: CharEvent) {
        match event {
            CharEvent::Opened => {
                let [major, minor, micro] = self.server.version.qemu;
                let hello =
                    format!("QEMU {major}.{minor}.{micro} monitor - type 'help' for more information\r\n");
                self.send(hello.as_bytes());
                if !self.away {
                    self.editor.show_prompt();
                    self.flush();
                }
            }
            CharEvent::MuxOut => self.away = true,
            CharEvent::MuxIn if self.away => {
                self.away = false;
                self.editor.show_prompt();
                self.flush();
            }
            _ => {}
        }
    }

    fn writable(&mut self) {
        self.port.accept_input();
    }

    fn must_drain(&self) -> bool {
        true
    }
}

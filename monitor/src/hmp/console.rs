//! The console on a character device: prompt, line editor, one line after the other.

use std::cell::Cell;
use std::sync::{Arc, Weak};

use chardev::{CharEvent, Chardev, Frontend, Port};
use qapi::{Dict, Result, Value};

use super::complete::candidates;
use super::readline::{Key, LineEditor};
use super::{Execute, Session, run_line};
use crate::descriptors::Descriptors;
use crate::qmp::SessionHandler;
use crate::server::Server;

const PROMPT: &str = "(qemu) ";
/// Bytes taken from the terminal at a time; a paste comes in pieces so that other work gets its turn.
const READ_CHUNK: usize = 64;

/// A console.
pub(crate) struct Console {
    server: Weak<Server>,
    port: Weak<Port>,
    editor: LineEditor,
    descriptors: Descriptors,
    /// Whether another front end of a mux has the terminal.
    away: bool,
    /// Whether the banner is still to be shown, which waits until the terminal is ours.
    new: bool,
    /// What `cpu` chose.
    cpu: Cell<Option<i64>>,
}

impl Console {
    /// Starts a console on `chardev`; it lives as long as the port that is returned.
    pub(crate) fn attach(server: &Arc<Server>, chardev: &Arc<Chardev>) -> Result<Arc<Port>> {
        let port = Arc::new(chardev.reserve()?);
        let console = Self {
            server: Arc::downgrade(server),
            port: Arc::downgrade(&port),
            editor: LineEditor::new(PROMPT),
            descriptors: Descriptors::default(),
            away: false,
            new: false,
            cpu: Cell::default(),
        };
        port.set_handler(Box::new(console));
        Ok(port)
    }

    fn send(&self, bytes: &[u8]) {
        if let Some(port) = self.port.upgrade() {
            // Somebody who does not read is cut off by the character device, not waited for.
            let _ = port.write_all(bytes);
        }
    }

    fn flush(&mut self) {
        let out = self.editor.take_output();
        if !out.is_empty() {
            self.send(&out);
        }
    }

    fn prompt(&mut self) {
        self.editor.show_prompt();
        self.flush();
    }

    /// Shows the banner to whoever has not seen it, and the prompt.
    fn welcome(&mut self) {
        let Some(server) = self.server.upgrade() else { return };
        if std::mem::take(&mut self.new) {
            let [major, minor, micro] = server.version.qemu;
            let banner =
                format!("QEMU {major}.{minor}.{micro} monitor - type 'help' for more information\r\n");
            self.send(banner.as_bytes());
        }
        self.prompt();
    }

    fn line(&mut self, line: &str) {
        self.flush();
        let history: Vec<String> = self.editor.history().collect();
        let text = self.server.upgrade().map(|server| {
            let session = Session { history: &history, format: &server.format, cpu: &self.cpu };
            self.with_commands(|execute| run_line(execute, line, &session)).unwrap_or_default()
        });
        let text = text.unwrap_or_default();
        self.send(text.replace('\n', "\r\n").as_bytes());
        // `quit` is the last thing on the screen.
        if self.is_ready() {
            self.prompt();
        }
    }

    /// Whether commands are read and run.
    fn is_ready(&self) -> bool {
        self.server.upgrade().is_some_and(|server| server.is_ready())
    }

    fn complete(&mut self, before: &str) {
        if let Some((found, typed)) = self.with_commands(|execute| candidates(execute, before)) {
            self.editor.complete(found, typed);
        }
    }

    /// Calls `work` with what runs QMP commands, unless the monitors are gone.
    fn with_commands<T>(&self, work: impl FnOnce(&dyn Execute) -> T) -> Option<T> {
        let server = self.server.upgrade()?;
        let execute = |command: &str, arguments: Dict| -> Result<Value> {
            server.run(&SessionHandler::console(&server, &self.descriptors), command, arguments)
        };
        Some(work(&execute))
    }
}

impl Frontend for Console {
    fn can_read(&mut self) -> usize {
        let room = self.port.upgrade().is_some_and(|p| !p.is_congested());
        if self.is_ready() && room { READ_CHUNK } else { 0 }
    }

    fn read(&mut self, data: &[u8]) {
        if let Some(port) = self.port.upgrade() {
            self.descriptors.arrive(port.take_fds());
        }
        for byte in data {
            if !self.is_ready() {
                break;
            }
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
                self.new = true;
                if !self.away {
                    self.welcome();
                }
            }
            CharEvent::Closed => self.descriptors.forget(),
            CharEvent::MuxOut => self.away = true,
            // The first one, before the terminal is open, is no change.
            CharEvent::MuxIn if std::mem::take(&mut self.away) => self.welcome(),
            _ => {}
        }
    }

    fn writable(&mut self) {
        if let Some(port) = self.port.upgrade() {
            port.accept_input();
        }
    }

    fn must_drain(&self) -> bool {
        true
    }
}

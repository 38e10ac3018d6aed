//! The console on a character device: prompt, line editor, one line after the other.

use std::cell::Cell;
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use chardev::{CharEvent, Chardev, Frontend, Port, Terminal};
use mainloop::Clock;
use qapi::{Dict, Result, Value};

use super::complete::candidates;
use super::history_file::{HistoryFile, MAX_LINES};
use super::job::{Job, Waiting};
use super::readline::{History, Key, LineEditor, Palette};
use super::{Execute, Screen, Session, answer, error_text, hints};
use crate::descriptors::Descriptors;
use crate::progress::PACE;
use crate::qmp::SessionHandler;
use crate::server::{Server, lock};
use crate::terminal::TerminalSettings;

const PROMPT: &str = "(qemu) ";
/// Bytes taken from the terminal at a time; a paste comes in pieces so that other work gets its turn.
const READ_CHUNK: usize = 64;

/// A console.
pub(crate) struct Console {
    server: Weak<Server>,
    port: Weak<Port>,
    editor: LineEditor,
    descriptors: Descriptors,
    /// The program's own terminal, if people sit there.
    terminal: Option<Terminal>,
    palette: Palette,
    unicode: bool,
    /// Whether the terminal can draw a line anew.
    draws: bool,
    /// What the prompt waits for.
    waiting: Option<Waiting>,
    /// What came meanwhile.
    ahead: Vec<u8>,
    this: Weak<Mutex<Console>>,
    /// Where what is entered is kept.
    file: Option<HistoryFile>,
    /// Whether another front end of a mux has the terminal.
    away: bool,
    /// Whether a prompt was shown.
    greeted: bool,
    /// Whether the banner is still to be shown, which waits until the terminal is ours.
    new: bool,
    /// What `cpu` chose.
    cpu: Cell<Option<i64>>,
}

impl Console {
    /// Starts a console on `chardev`; it lives as long as the port that is returned.
    pub(crate) fn attach(server: &Arc<Server>, chardev: &Arc<Chardev>) -> Result<Arc<Port>> {
        let port = Arc::new(chardev.reserve()?);
        let mut console = Self {
            server: Arc::downgrade(server),
            port: Arc::downgrade(&port),
            editor: LineEditor::new(PROMPT),
            descriptors: Descriptors::default(),
            terminal: None,
            palette: Palette::PLAIN,
            unicode: false,
            draws: false,
            waiting: None,
            ahead: Vec::new(),
            this: Weak::new(),
            file: None,
            away: false,
            greeted: false,
            new: false,
            cpu: Cell::default(),
        };
        if let Some(terminal) = chardev.terminal() {
            console.settle_at(terminal, &server.terminal);
        }
        let console = Arc::new_cyclic(|this| {
            console.this = Weak::clone(this);
            Mutex::new(console)
        });
        if chardev.terminal().is_some() {
            lock(&server.at_home).push(Arc::downgrade(&console));
        }
        port.set_handler(Box::new(Attached(console)));
        Ok(port)
    }

    /// Makes itself at home on the program's own terminal. Everybody else gets what QEMU would send.
    fn settle_at(&mut self, terminal: Terminal, settings: &TerminalSettings) {
        let (file, lines) = settings.history.as_deref().map_or((None, Vec::new()), HistoryFile::open);
        self.file = file;
        let history = History::new(lines, MAX_LINES);
        self.unicode = settings.utf8;
        self.draws = settings.moves;
        if settings.colour {
            self.palette = Palette::COLOURS;
        }
        if settings.moves {
            let hinter = settings.colour.then_some(hints::syntax as fn(&str) -> Option<String>);
            self.editor = LineEditor::for_terminal(PROMPT, columns(&terminal), self.palette, history, hinter);
        } else {
            self.editor.set_history(history);
        }
        self.terminal = Some(terminal);
    }

    /// What there is to draw on now: people change the size of their windows.
    fn screen(&self) -> Screen {
        match &self.terminal {
            Some(terminal) => Screen { columns: columns(terminal), unicode: self.unicode },
            None => Screen::default(),
        }
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
        if self.waiting.is_some() {
            return;
        }
        self.editor.show_prompt();
        self.flush();
    }

    /// Shows the prompt again; whoever has not seen one does not get it now.
    pub(crate) fn redraw(&mut self) {
        if self.greeted && !self.away {
            self.prompt();
        }
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
        self.greeted = true;
        self.prompt();
    }

    fn line(&mut self, line: &str) {
        self.flush();
        if let Some(file) = &mut self.file {
            file.append(line);
        }
        trace::emit!(handle_hmp_command, trace::Id::of(self), line);
        let history: Vec<String> = self.editor.history().collect();
        let text = self.server.upgrade().map(|server| {
            let session = Session { history: &history, format: &server.format, cpu: &self.cpu };
            self.with_commands(|commands| (answer(commands, line, &session), commands.job.take()))
        });
        let (text, job) = text.flatten().unwrap_or((Ok(String::new()), None));
        let is_waiting = text.is_ok() && job.is_some();
        if let Some(waiting) = job.filter(|_| is_waiting) {
            self.waiting = Some(waiting);
            self.look_again();
        } else {
            self.finish(text);
        }
    }

    /// Shows what a command said, and the next prompt.
    fn finish(&mut self, text: std::result::Result<String, String>) {
        match text {
            Ok(text) => self.send(text.replace('\n', "\r\n").as_bytes()),
            Err(text) => {
                let Palette { error, reset, .. } = self.palette;
                self.send(format!("{error}{}{reset}", text.replace('\n', "\r\n")).as_bytes());
            }
        }
        // `quit` is the last thing on the screen.
        if self.is_ready() {
            self.prompt();
        }
    }

    /// Looks at what is waited for a little later.
    fn look_again(&mut self) {
        let (Some(server), Some(waiting)) = (self.server.upgrade(), &mut self.waiting) else { return };
        let this = Weak::clone(&self.this);
        let clock = Clock::Realtime;
        let pace = i64::try_from(PACE.as_nanos()).unwrap_or(i64::MAX);
        let look = move || {
            if let Some(console) = this.upgrade() {
                lock(&console).look();
            }
        };
        let deadline = server.loop_handle.now_ns(clock).saturating_add(pace);
        waiting.timer = Some(server.loop_handle.timer(clock, deadline, look));
    }

    /// Draws how far it is, or goes on when it has ended.
    fn look(&mut self) {
        let Some(mut waiting) = self.waiting.take() else { return };
        if let Some(result) = self.with_commands(|commands| waiting.result(commands)).flatten() {
            if waiting.shown {
                self.send(b"\r\x1b[K");
            }
            self.finish(result.map_err(|e| error_text(&e)));
            let ahead = std::mem::take(&mut self.ahead);
            self.take(&ahead);
            if let Some(port) = self.port.upgrade() {
                port.accept_input();
            }
            return;
        }
        let now = Instant::now();
        let progress = self.with_commands(|commands| (waiting.job.progress)(commands)).flatten();
        if let Some((done, total)) = progress {
            waiting.meter.update(now, done, total);
            if waiting.meter.is_due(now) && !self.away {
                let Screen { columns, unicode } = self.screen();
                self.send(format!("\r{}\x1b[K", waiting.meter.line(columns, unicode)).as_bytes());
                waiting.shown = true;
            }
        }
        self.waiting = Some(waiting);
        self.look_again();
    }

    /// Whether commands are read and run.
    fn is_ready(&self) -> bool {
        self.server.upgrade().is_some_and(|server| server.is_ready())
    }

    fn complete(&mut self, before: &str) {
        if let Some(offered) = self.with_commands(|commands| candidates(commands, before)) {
            self.editor.complete(offered.found, offered.typed, offered.goes_on);
        }
    }

    /// Calls `work` with what runs QMP commands, unless the monitors are gone.
    fn with_commands<T>(&self, work: impl FnOnce(&Commands<'_>) -> T) -> Option<T> {
        let server = self.server.upgrade()?;
        Some(work(&Commands {
            server: &server,
            descriptors: &self.descriptors,
            screen: self.screen(),
            draws: self.draws,
            job: Cell::new(None),
        }))
    }
}

/// What runs commands for a console.
struct Commands<'a> {
    server: &'a Arc<Server>,
    descriptors: &'a Descriptors,
    screen: Screen,
    draws: bool,
    /// What the command wants to be waited for.
    job: Cell<Option<Waiting>>,
}

impl Execute for Commands<'_> {
    fn execute(&self, command: &str, arguments: Dict) -> Result<Value> {
        self.server.run(&SessionHandler::console(self.server, self.descriptors), command, arguments)
    }

    fn screen(&self) -> Screen {
        self.screen
    }

    fn wait_for(&self, job: Job) -> bool {
        if self.draws {
            let waiting = Waiting::new(job);
            self.server.watch(&waiting.ending);
            self.job.set(Some(waiting));
        }
        self.draws
    }
}

/// Columns of a terminal; 80 of one that does not say.
fn columns(terminal: &Terminal) -> usize {
    terminal.columns().map_or(80, usize::from)
}

impl Console {
    fn can_read(&mut self) -> usize {
        if self.waiting.is_some() {
            return 0;
        }
        let room = self.port.upgrade().is_some_and(|p| !p.is_congested());
        if self.is_ready() && room { READ_CHUNK } else { 0 }
    }

    fn read(&mut self, data: &[u8]) {
        if let Some(port) = self.port.upgrade() {
            self.descriptors.arrive(port.take_fds());
        }
        self.take(data);
    }

    /// Takes what was typed.
    fn take(&mut self, data: &[u8]) {
        if let Some(terminal) = &self.terminal {
            self.editor.resize(columns(terminal));
        }
        for (at, byte) in data.iter().enumerate() {
            if !self.is_ready() {
                break;
            }
            if self.waiting.is_some() {
                self.ahead.extend_from_slice(&data[at..]);
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
}

/// A console as its character device knows it. Timers know it too; both call on the loop thread, one after the other.
struct Attached(Arc<Mutex<Console>>);

impl Frontend for Attached {
    fn can_read(&mut self) -> usize {
        lock(&self.0).can_read()
    }

    fn read(&mut self, data: &[u8]) {
        lock(&self.0).read(data);
    }

    fn event(&mut self, event: CharEvent) {
        lock(&self.0).event(event);
    }

    fn writable(&mut self) {
        lock(&self.0).writable();
    }

    fn must_drain(&self) -> bool {
        true
    }
}

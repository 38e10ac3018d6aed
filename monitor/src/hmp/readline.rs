//! A line editor for a terminal at the far end of any byte stream: a tty, a pty, a socket.
//!
//! It models the editor of QEMU's console, key for key and byte for byte (`../shared/oracle/3-qmp-hmp`), because
//! expect-style scripts depend on what is echoed. It does no I/O: bytes go in, bytes and finished lines come out.
//! Left out: yank buffers, multi-byte cursor movement (a UTF-8 character takes as many key strokes as bytes).

/// Longest line; what is typed beyond it is dropped.
const MAX_LINE: usize = 4095;
/// Lines remembered.
const MAX_HISTORY: usize = 64;
/// Width that lists of candidates are laid out for.
const COLUMNS: usize = 80;

/// What a byte led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// Nothing but echo.
    Edited,
    /// A line was entered.
    Line(String),
    /// Tab: the caller finds candidates for the text before the cursor and calls [`LineEditor::complete`].
    Complete(String),
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    /// ESC seen.
    Esc,
    /// `ESC [` seen, with the number so far.
    Csi(u32),
    /// `ESC O` seen.
    Ss3,
}

/// The editor.
#[derive(Debug)]
pub(crate) struct LineEditor {
    prompt: &'static str,
    line: Vec<u8>,
    cursor: usize,
    /// What the terminal shows behind the prompt, and where its cursor stands.
    shown: Vec<u8>,
    shown_cursor: usize,
    history: Vec<Vec<u8>>,
    /// Entry of the history the line was taken from.
    recalled: Option<usize>,
    escape: Escape,
    out: Vec<u8>,
}

impl LineEditor {
    pub(crate) fn new(prompt: &'static str) -> Self {
        Self {
            prompt,
            line: Vec::new(),
            cursor: 0,
            shown: Vec::new(),
            shown_cursor: 0,
            history: Vec::new(),
            recalled: None,
            escape: Escape::None,
            out: Vec::new(),
        }
    }

    /// Bytes to send to the terminal since the last call.
    pub(crate) fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Prints the prompt and starts an empty line.
    pub(crate) fn show_prompt(&mut self) {
        self.out.extend_from_slice(self.prompt.as_bytes());
        self.shown.clear();
        self.shown_cursor = 0;
        self.line.clear();
        self.cursor = 0;
        self.recalled = None;
        self.escape = Escape::None;
    }

    /// Lines entered so far, oldest first.
    pub(crate) fn history(&self) -> impl Iterator<Item = String> + '_ {
        self.history.iter().map(|l| String::from_utf8_lossy(l).into_owned())
    }

    /// Takes one byte from the terminal.
    pub(crate) fn feed(&mut self, byte: u8) -> Key {
        let key = match std::mem::take(&mut self.escape) {
            Escape::None => self.plain(byte),
            Escape::Esc => {
                self.escape = match byte {
                    b'[' => Escape::Csi(0),
                    b'O' => Escape::Ss3,
                    _ => Escape::None,
                };
                Key::Edited
            }
            Escape::Csi(number) => {
                self.csi(byte, number);
                Key::Edited
            }
            Escape::Ss3 => {
                match byte {
                    b'H' => self.cursor = 0,
                    b'F' => self.cursor = self.line.len(),
                    _ => {}
                }
                Key::Edited
            }
        };
        if !matches!(key, Key::Line(_)) {
            self.redraw();
        }
        key
    }

    fn plain(&mut self, byte: u8) -> Key {
        match byte {
            0x01 => self.cursor = 0,
            0x04 => self.delete(),
            0x05 => self.cursor = self.line.len(),
            0x08 | 0x7f => self.backspace(),
            b'\t' => return Key::Complete(String::from_utf8_lossy(&self.line[..self.cursor]).into_owned()),
            b'\n' | b'\r' => return self.enter(),
            0x0c => self.clear_screen(),
            0x0e => self.down(),
            0x10 => self.up(),
            0x15 => self.replace(Vec::new()),
            0x17 => self.backword(),
            0x1b => self.escape = Escape::Esc,
            0x9b => self.escape = Escape::Csi(0),
            0x20.. => self.insert(byte),
            // Other control characters do nothing, Ctrl-C among them: the console is no shell.
            _ => {}
        }
        Key::Edited
    }

    fn csi(&mut self, byte: u8, number: u32) {
        match byte {
            b'0'..=b'9' => {
                self.escape = Escape::Csi(number.saturating_mul(10).saturating_add(u32::from(byte - b'0')));
            }
            b'A' | b'F' => self.up(),
            b'B' | b'E' => self.down(),
            b'C' => self.cursor = (self.cursor + 1).min(self.line.len()),
            b'D' => self.cursor = self.cursor.saturating_sub(1),
            b'~' => match number {
                1 => self.cursor = 0,
                3 => self.delete(),
                4 => self.cursor = self.line.len(),
                _ => {}
            },
            _ => {}
        }
    }

    fn insert(&mut self, byte: u8) {
        if self.line.len() < MAX_LINE {
            self.line.insert(self.cursor, byte);
            self.cursor += 1;
        }
    }

    fn delete(&mut self) {
        if self.cursor < self.line.len() {
            self.line.remove(self.cursor);
        }
    }

    fn backspace(&mut self) {
        if self.cursor > 0 {
            self.cursor -= 1;
            self.line.remove(self.cursor);
        }
    }

    fn backword(&mut self) {
        let before = &self.line[..self.cursor];
        let word_end = before.iter().rposition(|b| *b != b' ').map_or(0, |i| i + 1);
        let start = before[..word_end].iter().rposition(|b| *b == b' ').map_or(0, |i| i + 1);
        self.line.drain(start..self.cursor);
        self.cursor = start;
    }

    fn replace(&mut self, line: Vec<u8>) {
        self.cursor = line.len();
        self.line = line;
    }

    fn up(&mut self) {
        let at = match self.recalled {
            Some(0) => return,
            Some(at) => at - 1,
            None if self.history.is_empty() => return,
            None => self.history.len() - 1,
        };
        self.recalled = Some(at);
        self.replace(self.history[at].clone());
    }

    fn down(&mut self) {
        match self.recalled {
            Some(at) if at + 1 < self.history.len() => {
                self.recalled = Some(at + 1);
                self.replace(self.history[at + 1].clone());
            }
            Some(_) => {
                self.recalled = None;
                self.replace(Vec::new());
            }
            None => {}
        }
    }

    fn enter(&mut self) -> Key {
        self.redraw();
        self.out.extend_from_slice(b"\r\n");
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() {
            // A repeated line moves to the end instead of standing there twice.
            self.history.retain(|l| *l != line);
            if self.history.len() == MAX_HISTORY {
                self.history.remove(0);
            }
            self.history.push(line.clone());
        }
        self.cursor = 0;
        self.shown.clear();
        self.shown_cursor = 0;
        self.recalled = None;
        Key::Line(String::from_utf8_lossy(&line).into_owned())
    }

    fn clear_screen(&mut self) {
        self.out.extend_from_slice(b"\x1b[2J\x1b[1;1H");
        self.out.extend_from_slice(self.prompt.as_bytes());
        self.shown.clear();
        self.shown_cursor = 0;
    }

    /// Brings the terminal from what it shows to what the line is: the whole line if it changed, else the cursor.
    fn redraw(&mut self) {
        if self.shown != self.line {
            self.move_cursor(self.shown_cursor, 0);
            self.out.extend_from_slice(&self.line);
            self.out.extend_from_slice(b"\x1b[K");
            self.shown.clone_from(&self.line);
            self.shown_cursor = self.line.len();
        }
        self.move_cursor(self.shown_cursor, self.cursor);
        self.shown_cursor = self.cursor;
    }

    fn move_cursor(&mut self, from: usize, to: usize) {
        let step: &[u8] = if to > from { b"\x1b[C" } else { b"\x1b[D" };
        for _ in 0..from.abs_diff(to) {
            self.out.extend_from_slice(step);
        }
    }

    /// Acts on candidates for the word before the cursor, of which `typed` bytes are already there.
    ///
    /// One candidate is completed and a blank added (none after a `/`); several are listed and completed as far as
    /// they agree.
    pub(crate) fn complete(&mut self, mut candidates: Vec<String>, typed: usize) {
        candidates.sort();
        candidates.dedup();
        let Some(first) = candidates.first() else { return };
        if candidates.len() == 1 {
            let rest = first.as_bytes().get(typed..).unwrap_or_default().to_vec();
            rest.iter().for_each(|b| self.insert(*b));
            if !first.ends_with('/') {
                self.insert(b' ');
            }
            self.redraw();
            return;
        }
        let agreed = candidates.iter().skip(1).fold(first.len(), |n, c| {
            first.bytes().zip(c.bytes()).take(n).take_while(|(a, b)| a == b).count()
        });
        let rest = first.as_bytes().get(typed..agreed).unwrap_or_default().to_vec();
        rest.iter().for_each(|b| self.insert(*b));
        self.list(&candidates);
        self.out.extend_from_slice(self.prompt.as_bytes());
        self.shown.clear();
        self.shown_cursor = 0;
        self.redraw();
    }

    fn list(&mut self, candidates: &[String]) {
        let longest = candidates.iter().map(String::len).max().unwrap_or(0);
        let width = (longest + 2).clamp(10, COLUMNS);
        let per_line = COLUMNS / width;
        self.out.extend_from_slice(b"\r\n");
        for (i, candidate) in candidates.iter().enumerate() {
            self.out.extend_from_slice(format!("{candidate:width$}").as_bytes());
            if (i + 1) % per_line == 0 || i + 1 == candidates.len() {
                self.out.extend_from_slice(b"\r\n");
            }
        }
    }
}

#[cfg(test)]
#[path = "readline/tests.rs"]
mod tests;

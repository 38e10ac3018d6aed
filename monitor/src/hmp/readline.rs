//! A line editor for a terminal at the far end of any byte stream: a tty, a pty, a socket.
//!
//! It models the editor of QEMU's console, key for key and byte for byte (`../shared/oracle/3-qmp-hmp`), because
//! expect-style scripts depend on what is echoed. It does no I/O: bytes go in, bytes and finished lines come out.
//! Ours beyond that: a UTF-8 character is one key stroke and one step of the cursor, Ctrl-R searches the history ([`search`]),
//! and a terminal of known width gets long lines right and hints behind the cursor ([`screen`]).
//! Left out: yank buffers.

mod columns;
mod history;
#[cfg(test)]
mod model;
mod screen;
mod search;
mod text;

pub(crate) use history::{History, SESSION_LINES};
pub(crate) use screen::Palette;
use screen::{Echo, Screen, Terminal, View};
use search::Search;

/// Longest line; what is typed beyond it is dropped.
const MAX_LINE: usize = 4095;

/// Narrowest terminal that lines are laid out for; on a narrower one they look odd.
const MIN_COLUMNS: usize = 20;

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

/// Says what may follow a line that is being typed.
pub(crate) type Hinter = fn(&str) -> Option<String>;

/// The editor.
#[derive(Debug)]
pub(crate) struct LineEditor {
    prompt: &'static str,
    line: Vec<u8>,
    cursor: usize,
    /// The first bytes of a character whose others have not come yet.
    partial: Vec<u8>,
    history: History,
    /// Entry of the history the line was taken from.
    recalled: Option<usize>,
    search: Option<Search>,
    escape: Escape,
    screen: Screen,
    hinter: Option<Hinter>,
    out: Vec<u8>,
}

impl LineEditor {
    /// An editor that echoes as QEMU's.
    pub(crate) fn new(prompt: &'static str) -> Self {
        Self::on(prompt, Screen::Echo(Echo::default()), History::new(Vec::new(), SESSION_LINES), None)
    }

    /// An editor for a terminal of known width.
    pub(crate) fn for_terminal(
        prompt: &'static str,
        columns: usize,
        palette: Palette,
        history: History,
        hinter: Option<Hinter>,
    ) -> Self {
        Self::on(prompt, Screen::Terminal(Terminal::new(columns, palette)), history, hinter)
    }

    fn on(prompt: &'static str, screen: Screen, history: History, hinter: Option<Hinter>) -> Self {
        Self {
            prompt,
            line: Vec::new(),
            cursor: 0,
            partial: Vec::new(),
            history,
            recalled: None,
            search: None,
            escape: Escape::None,
            screen,
            hinter,
            out: Vec::new(),
        }
    }

    /// What was entered goes on from `history`.
    pub(crate) fn set_history(&mut self, history: History) {
        self.history = history;
    }

    /// The terminal's present width; nothing for one that is not known.
    pub(crate) fn resize(&mut self, columns: usize) {
        if let Screen::Terminal(terminal) = &mut self.screen {
            terminal.resize(columns.max(MIN_COLUMNS));
        }
    }

    /// Bytes to send to the terminal since the last call.
    pub(crate) fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Prints the prompt and starts an empty line.
    pub(crate) fn show_prompt(&mut self) {
        self.screen.start(&mut self.out, self.prompt);
        self.line.clear();
        self.cursor = 0;
        self.partial.clear();
        self.recalled = None;
        self.search = None;
        self.escape = Escape::None;
    }

    /// Lines entered so far, oldest first.
    pub(crate) fn history(&self) -> impl Iterator<Item = String> + '_ {
        self.history.texts()
    }

    /// Takes one byte from the terminal.
    pub(crate) fn feed(&mut self, byte: u8) -> Key {
        let key = self.take(byte);
        // What was typed or deleted may have made one character of bytes that stood alone.
        self.cursor = text::boundary(&self.line, self.cursor);
        if !matches!(key, Key::Line(_)) {
            self.redraw();
        }
        key
    }

    fn take(&mut self, byte: u8) -> Key {
        if !self.partial.is_empty() {
            if matches!(byte, 0x80..=0xbf) {
                self.partial.push(byte);
                if Some(self.partial.len()) == self.partial.first().and_then(|lead| text::sequence(*lead)) {
                    let character = std::mem::take(&mut self.partial);
                    self.character(&character);
                }
                return Key::Edited;
            }
            // No character after all: each byte stands for itself.
            for byte in std::mem::take(&mut self.partial) {
                self.character(&[byte]);
            }
        }
        match std::mem::take(&mut self.escape) {
            Escape::None if self.search.is_some() => self.searching(byte),
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
                    b'F' => self.end(),
                    _ => {}
                }
                Key::Edited
            }
        }
    }

    fn plain(&mut self, byte: u8) -> Key {
        match byte {
            0x01 => self.cursor = 0,
            0x04 => self.delete(),
            0x05 => self.end(),
            0x08 | 0x7f => self.backspace(),
            b'\t' => return Key::Complete(String::from_utf8_lossy(&self.line[..self.cursor]).into_owned()),
            b'\n' | b'\r' => return self.enter(),
            0x0c => self.clear_screen(),
            0x0e => self.down(),
            0x10 => self.up(),
            0x12 => self.search = Some(Search::new(&self.line, self.cursor)),
            0x15 => self.replace(Vec::new()),
            0x17 => self.backword(),
            0x1b => self.escape = Escape::Esc,
            0x9b => self.escape = Escape::Csi(0),
            _ if text::sequence(byte).is_some() => self.partial.push(byte),
            0x20.. => self.insert(&[byte]),
            // Other control characters do nothing, Ctrl-C among them: the console is no shell.
            _ => {}
        }
        Key::Edited
    }

    /// A key while a search is under way: what is not for the search ends it with the line that was found, and counts there.
    fn searching(&mut self, byte: u8) -> Key {
        let Some(search) = &mut self.search else { return Key::Edited };
        match byte {
            0x12 => search.older(&self.history),
            0x13 => search.newer(&self.history),
            0x08 | 0x7f => search.remove(&self.history),
            0x03 | 0x07 => {
                (self.line, self.cursor) = std::mem::take(&mut search.before);
                self.search = None;
            }
            _ if text::sequence(byte).is_some() => self.partial.push(byte),
            0x20..=0x7e => search.add(&[byte], &self.history),
            _ => {
                let (line, cursor) = search.line(&self.history);
                let (line, entry) = (line.to_vec(), search.entry());
                (self.line, self.cursor) = (line, cursor);
                // The arrow keys go on from there.
                self.recalled = entry.or(self.recalled);
                self.search = None;
                return self.plain(byte);
            }
        }
        Key::Edited
    }

    /// A character that came whole.
    fn character(&mut self, character: &[u8]) {
        match &mut self.search {
            Some(search) => search.add(character, &self.history),
            None => self.insert(character),
        }
    }

    fn csi(&mut self, byte: u8, number: u32) {
        match byte {
            b'0'..=b'9' => {
                self.escape = Escape::Csi(number.saturating_mul(10).saturating_add(u32::from(byte - b'0')));
            }
            b'A' | b'F' => self.up(),
            b'B' | b'E' => self.down(),
            b'C' if self.cursor == self.line.len() => self.take_hint(),
            b'C' => self.cursor = text::next(&self.line, self.cursor),
            b'D' => self.cursor = text::previous(&self.line, self.cursor),
            b'~' => match number {
                1 => self.cursor = 0,
                3 => self.delete(),
                4 => self.end(),
                _ => {}
            },
            _ => {}
        }
    }

    /// To the end of the line; from there to the end of the earlier line that the hint shows.
    fn end(&mut self) {
        if self.cursor == self.line.len() {
            self.take_hint();
        }
        self.cursor = self.line.len();
    }

    /// Takes the rest of the earlier line that is shown as a hint.
    fn take_hint(&mut self) {
        if self.hinter.is_some()
            && let Some(rest) = self.history.rest_of(&self.line)
        {
            let rest = rest.to_vec();
            self.insert(&rest);
        }
    }

    /// What may follow: the rest of the latest line that began so, else what the hinter says.
    fn hint(&self) -> String {
        let Some(hinter) = self.hinter else { return String::new() };
        if self.search.is_some() || self.cursor < self.line.len() || self.line.is_empty() {
            return String::new();
        }
        match self.history.rest_of(&self.line) {
            Some(rest) => String::from_utf8_lossy(rest).into_owned(),
            None => std::str::from_utf8(&self.line).ok().and_then(hinter).unwrap_or_default(),
        }
    }

    fn insert(&mut self, text: &[u8]) {
        // Control characters beyond ASCII would move the terminal's cursor.
        let is_control = std::str::from_utf8(text).is_ok_and(|t| t.contains(char::is_control));
        if self.line.len() + text.len() <= MAX_LINE && !is_control {
            self.line.splice(self.cursor..self.cursor, text.iter().copied());
            self.cursor += text.len();
        }
    }

    fn delete(&mut self) {
        self.line.drain(self.cursor..text::next(&self.line, self.cursor));
    }

    fn backspace(&mut self) {
        let start = text::previous(&self.line, self.cursor);
        self.line.drain(start..self.cursor);
        self.cursor = start;
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
            None if self.history.len() == 0 => return,
            None => self.history.len() - 1,
        };
        self.recall(at);
    }

    fn down(&mut self) {
        match self.recalled {
            Some(at) if at + 1 < self.history.len() => {
                self.recall(at + 1);
            }
            Some(_) => {
                self.recalled = None;
                self.replace(Vec::new());
            }
            None => {}
        }
    }

    fn recall(&mut self, at: usize) {
        self.recalled = Some(at);
        self.replace(self.history.get(at).unwrap_or_default().to_vec());
    }

    fn enter(&mut self) -> Key {
        // Without the hint, which is no part of what was entered.
        self.show_line("");
        self.screen.leave(&mut self.out);
        let line = std::mem::take(&mut self.line);
        self.cursor = 0;
        self.recalled = None;
        let text = String::from_utf8_lossy(&line).into_owned();
        self.history.push(line);
        Key::Line(text)
    }

    fn clear_screen(&mut self) {
        self.out.extend_from_slice(b"\x1b[2J\x1b[1;1H");
        self.screen.start(&mut self.out, self.prompt);
    }

    /// Brings the terminal from what it shows to what the line is.
    fn redraw(&mut self) {
        let hint = self.hint();
        self.show_line(&hint);
    }

    fn show_line(&mut self, hint: &str) {
        let view = View { prompt: self.prompt, line: &self.line, cursor: self.cursor, hint };
        match &self.search {
            None => self.screen.show(&mut self.out, view),
            Some(search) => {
                let (line, cursor) = search.line(&self.history);
                let view = View { prompt: &search.prompt(), line, cursor, hint: "" };
                self.screen.show(&mut self.out, view);
            }
        }
    }

    /// Acts on candidates for the word before the cursor, of which `typed` bytes are already there.
    ///
    /// One candidate is completed and a blank added, unless the word `goes_on` (as behind a `/`); several are listed and completed
    /// as far as they agree.
    pub(crate) fn complete(&mut self, mut candidates: Vec<String>, typed: usize, goes_on: bool) {
        candidates.sort();
        candidates.dedup();
        let Some(first) = candidates.first() else { return };
        if candidates.len() == 1 {
            let rest = first.as_bytes().get(typed..).unwrap_or_default().to_vec();
            self.insert(&rest);
            if !goes_on && !first.ends_with('/') {
                self.insert(b" ");
            }
            self.redraw();
            return;
        }
        let agreed = candidates.iter().skip(1).fold(first.len(), |n, c| {
            first.bytes().zip(c.bytes()).take(n).take_while(|(a, b)| a == b).count()
        });
        let rest = first.as_bytes().get(typed..agreed).unwrap_or_default();
        // Not half a character.
        let whole = rest.utf8_chunks().next().map_or("", |chunk| chunk.valid()).as_bytes().to_vec();
        self.insert(&whole);
        self.screen.leave(&mut self.out);
        self.out.extend_from_slice(columns::list(&candidates, self.screen.columns()).as_bytes());
        self.screen.start(&mut self.out, self.prompt);
        self.redraw();
    }
}

#[cfg(test)]
#[path = "readline/tests.rs"]
mod tests;

//! What is sent so that the far end shows a line: as QEMU for anything that may be a script, properly for a terminal.
//!
//! [`Echo`] knows nothing of the far end. It writes the whole line when that changed and moves the cursor in steps of one column,
//! which is right as long as the line fits, and what scripts were written against. [`Terminal`] knows how wide the terminal is:
//! lines may be longer, and a hint may stand behind the cursor. Neither writes the prompt again while a line is edited, as whoever
//! waits for it would take that for the next one.

use std::fmt::Write as _;

use super::text::{characters, width};

/// What a terminal is told to look like, and reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Palette {
    prompt: &'static str,
    hint: &'static str,
    pub(crate) error: &'static str,
    pub(crate) reset: &'static str,
}

impl Palette {
    /// No colour at all.
    pub(crate) const PLAIN: Self = Self { prompt: "", hint: "", error: "", reset: "" };
    /// Bold prompt, grey hints, red errors: readable on light and on dark ground.
    pub(crate) const COLOURS: Self =
        Self { prompt: "\x1b[1m", hint: "\x1b[90m", error: "\x1b[31m", reset: "\x1b[0m" };
}

/// What is to be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct View<'v> {
    pub(super) prompt: &'v str,
    pub(super) line: &'v [u8],
    /// Byte of the line before which the cursor stands.
    pub(super) cursor: usize,
    /// Text behind the line that is not part of it.
    pub(super) hint: &'v str,
}

/// How the far end is spoken to.
#[derive(Debug)]
pub(super) enum Screen {
    Echo(Echo),
    Terminal(Terminal),
}

impl Screen {
    /// Writes the prompt; the line is empty then.
    pub(super) fn start(&mut self, out: &mut Vec<u8>, prompt: &str) {
        match self {
            Self::Echo(echo) => {
                out.extend_from_slice(prompt.as_bytes());
                *echo = Echo { prompt: prompt.to_owned(), ..Echo::default() };
            }
            Self::Terminal(terminal) => terminal.start(out, prompt),
        }
    }

    /// Brings the far end from what it shows to `view`.
    pub(super) fn show(&mut self, out: &mut Vec<u8>, view: View<'_>) {
        match self {
            Self::Echo(echo) => echo.show(out, view),
            Self::Terminal(terminal) => terminal.show(out, view),
        }
    }

    /// Leaves the line for the next one.
    pub(super) fn leave(&mut self, out: &mut Vec<u8>) {
        if let Self::Terminal(terminal) = self {
            terminal.below(out);
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Columns that lists are laid out for.
    pub(super) fn columns(&self) -> usize {
        match self {
            // QEMU's.
            Self::Echo(_) => 80,
            Self::Terminal(terminal) => terminal.columns,
        }
    }
}

/// As QEMU, byte for byte.
#[derive(Debug, Default)]
pub(super) struct Echo {
    prompt: String,
    line: Vec<u8>,
    cursor: usize,
}

impl Echo {
    fn show(&mut self, out: &mut Vec<u8>, view: View<'_>) {
        if self.prompt != view.prompt {
            out.push(b'\r');
            out.extend_from_slice(view.prompt.as_bytes());
            self.prompt = view.prompt.to_owned();
            (self.line, self.cursor) = (Vec::new(), 0);
            self.write(out, view.line);
        } else if self.line != view.line {
            self.step(out, 0);
            self.write(out, view.line);
        }
        self.step(out, view.cursor);
    }

    fn write(&mut self, out: &mut Vec<u8>, line: &[u8]) {
        out.extend_from_slice(line);
        out.extend_from_slice(b"\x1b[K");
        self.line = line.to_vec();
        self.cursor = line.len();
    }

    fn step(&mut self, out: &mut Vec<u8>, to: usize) {
        let (from, to_column) = (width(&self.line[..self.cursor]), width(&self.line[..to]));
        let step: &[u8] = if to_column > from { b"\x1b[C" } else { b"\x1b[D" };
        for _ in 0..from.abs_diff(to_column) {
            out.extend_from_slice(step);
        }
        self.cursor = to;
    }
}

/// A terminal of known width.
#[derive(Debug)]
pub(super) struct Terminal {
    pub(super) columns: usize,
    pub(super) palette: Palette,
    prompt: String,
    line: Vec<u8>,
    cursor: usize,
    hint: String,
    /// Rows below the prompt's where the cursor stands, and where the line ends.
    row: usize,
    last_row: usize,
}

impl Terminal {
    pub(super) fn new(columns: usize, palette: Palette) -> Self {
        let (prompt, line, hint) = Default::default();
        Self { columns, palette, prompt, line, cursor: 0, hint, row: 0, last_row: 0 }
    }

    /// The terminal has another width now.
    pub(super) fn resize(&mut self, columns: usize) {
        self.columns = columns;
    }

    fn start(&mut self, out: &mut Vec<u8>, prompt: &str) {
        out.extend_from_slice(self.palette.prompt.as_bytes());
        out.extend_from_slice(prompt.as_bytes());
        out.extend_from_slice(self.palette.reset.as_bytes());
        *self = Self::new(self.columns, self.palette);
        self.prompt = prompt.to_owned();
    }

    fn show(&mut self, out: &mut Vec<u8>, view: View<'_>) {
        let same = View { prompt: &self.prompt, line: &self.line, cursor: self.cursor, hint: &self.hint };
        if same == view {
            return;
        }
        let mut text = String::new();
        up(&mut text, self.row);
        text.push('\r');
        let prompt_width = width(view.prompt.as_bytes());
        // Erased before it is written: a wide character that goes to the next row leaves a column as it was.
        if self.prompt == view.prompt && prompt_width < self.columns {
            right(&mut text, prompt_width);
            text += "\x1b[J";
        } else {
            text += "\x1b[J";
            text += view.prompt;
        }
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(view.line);
        let whole = [view.prompt.as_bytes(), view.line].concat();
        let (last_row, last_column) = self.place(&whole);
        let mut text = String::new();
        if last_column == 0 && !whole.is_empty() {
            // The terminal waits with the wrap until something follows.
            text += " \r";
        }
        // One column stays free, so that a hint never wraps.
        let hint: String = fitting(view.hint, (self.columns - last_column).saturating_sub(1));
        if !hint.is_empty() {
            text = text + self.palette.hint + &hint + self.palette.reset;
        }
        let (row, column) = self.place(&whole[..view.prompt.len() + view.cursor]);
        up(&mut text, last_row - row);
        text.push('\r');
        right(&mut text, column);
        out.extend_from_slice(text.as_bytes());
        self.prompt = view.prompt.to_owned();
        self.line = view.line.to_vec();
        (self.cursor, self.hint) = (view.cursor, view.hint.to_owned());
        (self.row, self.last_row) = (row, last_row);
    }

    /// Row and column behind `text`.
    fn place(&self, text: &[u8]) -> (usize, usize) {
        let (mut row, mut column) = (0, 0);
        for (_, columns) in characters(text) {
            if column + columns > self.columns {
                (row, column) = (row + 1, 0);
            }
            column += columns;
        }
        if column >= self.columns { (row + 1, 0) } else { (row, column) }
    }

    /// Moves to the line's last row.
    fn below(&mut self, out: &mut Vec<u8>) {
        if self.last_row > self.row {
            out.extend_from_slice(format!("\x1b[{}B", self.last_row - self.row).as_bytes());
            self.row = self.last_row;
        }
    }
}

fn up(out: &mut String, rows: usize) {
    if rows > 0 {
        // Writing to a String cannot fail, here and below.
        let _ = write!(out, "\x1b[{rows}A");
    }
}

fn right(out: &mut String, columns: usize) {
    if columns > 0 {
        let _ = write!(out, "\x1b[{columns}C");
    }
}

/// As much of `text` as fits into `columns`.
fn fitting(text: &str, columns: usize) -> String {
    let mut taken = 0;
    let end = characters(text.as_bytes()).find(|(_, wide)| {
        taken += wide;
        taken > columns
    });
    text[..end.map_or(text.len(), |(part, _)| part.start)].to_owned()
}

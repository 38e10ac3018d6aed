//! A terminal, as far as the editor uses one: what it would show.

use super::text::characters;

/// Rows without end, of cells that hold a character or the rest of a wide one.
#[derive(Debug, Default)]
pub(super) struct Model {
    columns: usize,
    rows: Vec<Vec<String>>,
    pub(super) row: usize,
    pub(super) column: usize,
    /// The last column was written; the next character goes to the next row.
    wraps: bool,
    grey: bool,
    rest: Vec<u8>,
}

impl Model {
    pub(super) fn new(columns: usize) -> Self {
        Self { columns, ..Self::default() }
    }

    /// Shows `bytes`.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        let bytes = std::mem::take(&mut self.rest);
        let mut at = 0;
        while at < bytes.len() {
            match bytes[at] {
                b'\r' => (self.column, self.wraps) = (0, false),
                b'\n' => (self.row, self.wraps) = (self.row + 1, false),
                0x1b => {
                    let end = at + 2 + bytes[at + 2..].iter().position(u8::is_ascii_alphabetic).unwrap();
                    let parameter = std::str::from_utf8(&bytes[at + 2..end]).unwrap();
                    self.control(bytes[end], parameter);
                    at = end;
                }
                _ => {
                    let (part, wide) = characters(&bytes[at..]).next().unwrap();
                    self.put(&bytes[at..][part.clone()], wide);
                    at += part.end - 1;
                }
            }
            at += 1;
        }
    }

    fn control(&mut self, letter: u8, parameter: &str) {
        let n = parameter.parse().unwrap_or(1);
        let row = self.row();
        match letter {
            b'A' => (self.row, self.wraps) = (row.checked_sub(n).expect("not above the first row"), false),
            b'B' => (self.row, self.wraps) = (row + n, false),
            b'C' => (self.column, self.wraps) = ((self.column + n).min(self.columns - 1), false),
            b'D' => {
                (self.column, self.wraps) =
                    (self.column.checked_sub(n).expect("not left of the first"), false)
            }
            b'H' => (self.row, self.column, self.wraps) = (0, 0, false),
            b'K' => self.erase(),
            b'J' if parameter == "2" => self.rows.clear(),
            b'J' => {
                self.erase();
                self.rows.truncate(self.row + 1);
            }
            b'm' => self.grey = parameter == "90",
            other => panic!("nobody sends {}", char::from(other)),
        }
    }

    fn row(&mut self) -> usize {
        self.rows.resize(self.rows.len().max(self.row + 1), Vec::new());
        self.row
    }

    fn erase(&mut self) {
        let row = self.row();
        self.rows[row].truncate(self.column);
    }

    fn put(&mut self, character: &[u8], wide: usize) {
        if wide == 0 {
            // A mark joins the character before it.
            return;
        }
        if self.wraps || self.column + wide > self.columns {
            (self.row, self.column, self.wraps) = (self.row + 1, 0, false);
        }
        let row = self.row();
        let cells = &mut self.rows[row];
        cells.resize(cells.len().max(self.column + wide), " ".to_owned());
        let text = if self.grey { "~".to_owned() } else { String::from_utf8_lossy(character).into_owned() };
        cells[self.column] = text;
        if wide == 2 {
            cells[self.column + 1] = String::new();
        }
        self.column += wide;
        if self.column == self.columns {
            (self.column, self.wraps) = (self.columns - 1, true);
        }
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// Row and column where the next character would go.
    pub(super) fn place(&self) -> (usize, usize) {
        if self.wraps { (self.row + 1, 0) } else { (self.row, self.column) }
    }

    /// The text from `row` on, grey characters as `~`.
    pub(super) fn text(&self, row: usize) -> Vec<String> {
        let rows = self.rows.get(row..).unwrap_or_default();
        rows.iter().map(|cells| cells.concat().trim_end().to_owned()).collect()
    }
}

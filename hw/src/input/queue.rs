//! The order in which keys go down and up.

use std::collections::VecDeque;

use qapi::types::QKeyCode;

/// Entries that wait at most, as in QEMU, which drops what is beyond.
pub(super) const LIMIT: usize = 1024;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// A key goes down (`true`) or up.
    Key(QKeyCode, bool),
    /// Nothing, for so many milliseconds.
    Pause(u32),
}

/// What is yet to be done.
#[derive(Debug, Default)]
pub(super) struct Queue(VecDeque<Entry>);

impl Queue {
    /// Adds that `keys` go down in order and up in the opposite one, a pause behind each. Nothing is added (`false`) if it is too much:
    /// half of it would leave keys that are never released.
    pub(super) fn stroke(&mut self, keys: &[QKeyCode], pause: u32) -> bool {
        if keys.len().saturating_mul(4) > LIMIT - self.0.len() {
            return false;
        }
        let down = keys.iter().map(|key| Entry::Key(*key, true));
        let up = keys.iter().rev().map(|key| Entry::Key(*key, false));
        self.0.extend(down.chain(up).flat_map(|key| [key, Entry::Pause(pause)]));
        true
    }

    /// Takes the next one out.
    pub(super) fn next(&mut self) -> Option<Entry> {
        self.0.pop_front()
    }
}

//! Ethernet addresses, and those that devices get by themselves.

use std::fmt;

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

/// What addresses begin with that nobody chose.
const PREFIX: [u8; 5] = [0x52, 0x54, 0x00, 0x12, 0x34];
/// The first of them, and the one behind the last.
const FIRST: u8 = 0x56;
const END: u8 = 0xff;

impl MacAddr {
    /// To everybody.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Reads six bytes in hexadecimal digits, with colons or hyphens between them.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() != 17 {
            return None;
        }
        let mut mac = [0; 6];
        for (at, byte) in mac.iter_mut().enumerate() {
            let [high, low] = [bytes[3 * at], bytes[3 * at + 1]].map(|digit| char::from(digit).to_digit(16));
            // Two digits.
            *byte = (high? << 4 | low?) as u8;
            if bytes.get(3 * at + 2).is_some_and(|between| !b":-".contains(between)) {
                return None;
            }
        }
        Some(Self(mac))
    }

    /// Whether it is a group's, or everybody's.
    pub fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// How many devices have each address that begins as those do that nobody chose.
#[derive(Debug)]
pub(crate) struct MacPool([u32; 256]);

impl Default for MacPool {
    fn default() -> Self {
        Self([0; 256])
    }
}

impl MacPool {
    /// The address of a device for which `wanted` was asked, or the next free one. All zeroes are no wish. If none is free, the last one is
    /// given again.
    pub(crate) fn take(&mut self, wanted: Option<MacAddr>) -> MacAddr {
        let free = || (FIRST..END).find(|last| self.0[usize::from(*last)] == 0).unwrap_or(END);
        let mac = wanted.filter(|mac| *mac != MacAddr::default()).unwrap_or_else(|| {
            let [a, b, c, d, e] = PREFIX;
            MacAddr([a, b, c, d, e, free()])
        });
        if let Some(count) = self.count(mac) {
            *count += 1;
        }
        mac
    }

    /// A device that had `mac` is gone.
    pub(crate) fn give_back(&mut self, mac: MacAddr) {
        if let Some(count) = self.count(mac) {
            *count = count.saturating_sub(1);
        }
    }

    fn count(&mut self, mac: MacAddr) -> Option<&mut u32> {
        let (prefix, last) = mac.0.split_at(PREFIX.len());
        if prefix == PREFIX { self.0.get_mut(usize::from(last[0])) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_written_and_nothing_else() {
        for text in ["52:54:00:aB:34:5f", "52-54-00-ab-34-5F"] {
            assert_eq!(MacAddr::parse(text).unwrap().to_string(), "52:54:00:ab:34:5f");
        }
        for text in [
            "",
            "bla",
            "52:54:00:12:34",
            "52:54:00:12:34:5g",
            "52:54:00:12:34:+5",
            "52:54:00:12:34:567",
            "52:54:00:12:34:é",
        ] {
            assert_eq!(MacAddr::parse(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_go_up_leave_out_what_was_chosen_and_come_back() {
        let mut pool = MacPool::default();
        let last = |mac: MacAddr| mac.0[5];
        let chosen = MacAddr::parse("52:54:00:12:34:57").unwrap();
        assert_eq!(last(pool.take(None)), 0x56);
        assert_eq!(pool.take(Some(chosen)), chosen);
        assert_eq!(last(pool.take(Some(MacAddr::default()))), 0x58);
        pool.give_back(chosen);
        assert_eq!(last(pool.take(None)), 0x57);
        let other = MacAddr([2, 0, 0, 0, 0, 1]);
        assert_eq!(pool.take(Some(other)), other);
        pool.give_back(other);
        assert_eq!((0..200).map(|_| last(pool.take(None))).max(), Some(0xff));
    }
}

//! The qtest protocol: one reply a line, the same however the bytes are cut, and no access beyond what was asked for.

use accel::qtest::session::{Direction, Exchange, MAX_TRANSFER, Machine, Session, Space};

use crate::pieces;

/// A client may ask for 16 MiB in a line, which is text of 32 MiB: some lines of that kind are enough.
const LINES: usize = 16;

/// One client's bytes.
pub fn run(data: &[u8]) {
    let ends = data.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    let data = &data[..ends.take(LINES).last().unwrap_or(data.len())];
    let whole = talk(&[data]);
    assert_eq!(talk(&pieces(data, 0)), whole);
}

/// A machine that remembers what was done to it, but no data: bytes are made of their address.
#[derive(Default, PartialEq, Debug)]
struct Recorder {
    accesses: u64,
    digest: u64,
    now: i64,
}

impl Recorder {
    fn note(&mut self, parts: &[u64]) {
        self.accesses += 1;
        for part in parts {
            self.digest = (self.digest ^ part).wrapping_mul(0x100_0000_01B3).rotate_left(7);
        }
    }
}

impl Machine for Recorder {
    fn read(&mut self, space: Space, addr: u64, bytes: &mut [u8]) {
        assert!(bytes.len() <= MAX_TRANSFER);
        assert!(space == Space::Memory || addr <= 0xFFFF);
        for (byte, at) in bytes.iter_mut().zip(0u64..) {
            *byte = addr.wrapping_add(at) as u8;
        }
        self.note(&[1, addr, bytes.len() as u64]);
    }

    fn write(&mut self, space: Space, addr: u64, bytes: &[u8]) {
        assert!(bytes.len() <= MAX_TRANSFER);
        assert!(space == Space::Memory || addr <= 0xFFFF);
        let first = bytes.first().copied().unwrap_or(0);
        self.note(&[2, addr, bytes.len() as u64, first.into()]);
    }

    fn clock_step(&mut self, ns: Option<i64>) -> i64 {
        assert!(ns.is_none_or(|ns| ns >= 0));
        self.now = self.now.saturating_add(ns.unwrap_or(100));
        self.now
    }

    fn clock_set(&mut self, ns: i64) -> i64 {
        assert!(ns >= 0);
        self.now = self.now.max(ns);
        self.now
    }

    fn intercept(&mut self, path: &str, direction: Direction) -> Result<(), String> {
        self.note(&[3, path.len() as u64, u64::from(direction == Direction::In)]);
        if path == "ioapic" { Ok(()) } else { Err("Unknown device".to_owned()) }
    }
}

fn talk(pieces: &[&[u8]]) -> (Recorder, Vec<String>) {
    let (mut machine, mut session) = (Recorder::default(), Session::new());
    let (mut replies, mut commands) = (Vec::new(), 0);
    for piece in pieces {
        session.feed(&mut machine, piece, |exchange| match exchange {
            Exchange::Command(line) => {
                assert!(!line.is_empty() && !line.contains('\n'));
                commands += 1;
            }
            Exchange::Reply(reply) => {
                assert!(reply.starts_with("OK") || reply.starts_with("FAIL "), "{reply}");
                assert!(reply.find('\n') == Some(reply.len() - 1), "{reply:?}");
                replies.push(reply.to_owned());
            }
        });
    }
    // Only a line that was too long is answered without having been a command.
    assert!(replies.len() >= commands);
    (machine, replies)
}

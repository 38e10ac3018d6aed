//! Claims about the qtest protocol, without descriptors.

use proptest::prelude::*;

use super::*;

/// 1 MiB of memory, ports that remember, a clock with timers at every 100 ns.
struct Model {
    memory: Vec<u8>,
    ports: Vec<u8>,
    now: i64,
}

impl Model {
    fn new() -> Self {
        Self { memory: vec![0; 1 << 20], ports: vec![0; 1 << 16], now: 0 }
    }
}

impl Machine for Model {
    fn read(&mut self, space: Space, addr: u64, bytes: &mut [u8]) {
        let from = if space == Space::Memory { &self.memory } else { &self.ports };
        for (byte, at) in bytes.iter_mut().zip(addr as usize..) {
            *byte = from.get(at).copied().unwrap_or(0);
        }
    }

    fn write(&mut self, space: Space, addr: u64, bytes: &[u8]) {
        let to = if space == Space::Memory { &mut self.memory } else { &mut self.ports };
        for (byte, at) in bytes.iter().zip(addr as usize..) {
            if let Some(to) = to.get_mut(at) {
                *to = *byte;
            }
        }
    }

    fn clock_step(&mut self, ns: Option<i64>) -> i64 {
        self.now = ns.map_or((self.now / 100 + 1) * 100, |ns| self.now.saturating_add(ns));
        self.now
    }

    fn clock_set(&mut self, ns: i64) -> i64 {
        self.now = self.now.max(ns);
        self.now
    }

    fn intercept(&mut self, path: &str, direction: Direction) -> Result<(), String> {
        match (path, direction) {
            ("ioapic", Direction::In) => Ok(()),
            _ => Err("Unknown device".to_owned()),
        }
    }
}

fn replies(machine: &mut Model, session: &mut Session, bytes: &[u8]) -> String {
    let mut text = String::new();
    session.feed(machine, bytes, |exchange| match exchange {
        Exchange::Command(line) => assert!(!line.is_empty()),
        Exchange::Reply(reply) => text.push_str(reply),
    });
    text
}

fn talk(input: &str) -> String {
    replies(&mut Model::new(), &mut Session::new(), input.as_bytes())
}

#[test]
fn memory_is_accessed_in_all_sizes_little_endian() {
    assert_eq!(
        talk(
            "writeq 0x100 0x1122334455667788\nreadb 0x100\nreadw 0x100\nreadl 256\nreadq 0x100\nendianness\n"
        ),
        "OK\nOK 0x0000000000000088\nOK 0x0000000000007788\nOK 0x0000000055667788\nOK 0x1122334455667788\nOK little\n"
    );
    assert_eq!(talk("writeb 0 0x1ff\nread 0 2\n"), "OK\nOK 0xff00\n");
}

#[test]
fn ports_are_accessed_and_checked() {
    assert_eq!(
        talk("outl 0xcf8 0x80000000\ninl 0xcf8\ninw 0xcfa\ninb 0\nreadb 0xcfb\n"),
        "OK\nOK 0x80000000\nOK 0x8000\nOK 0x0000\nOK 0x0000000000000000\n"
    );
    assert_eq!(
        talk("inb 0x10000\ninq 0\n"),
        "FAIL Port 0x10000 does not exist\nFAIL Unknown command 'inq'\n"
    );
}

#[test]
fn blocks_travel_in_hex_and_base64() {
    assert_eq!(
        talk("write 0x10 4 0x01020304\nread 0x10 5\nb64read 0x10 4\nb64write 0x20 3 /wAB\nread 0x20 3\n"),
        "OK\nOK 0x0102030400\nOK AQIDBA==\nOK\nOK 0xff0001\n"
    );
    // Missing data is zero, surplus is ignored.
    assert_eq!(
        talk("memset 0 4 0xaa\nwrite 0 3 0x11\nread 0 4\nwrite 0 1 0x2233\nread 0 2\n"),
        "OK\nOK\nOK 0x110000aa\nOK\nOK 0x2200\n"
    );
}

#[test]
fn the_clock_steps_and_is_set() {
    assert_eq!(
        talk("clock_step\nclock_step 5\nclock_set 1000\nclock_set 10\n"),
        "OK 100\nOK 105\nOK 1000\nOK 1000\n"
    );
}

#[test]
fn interception_reports_lines() {
    assert_eq!(
        talk("irq_intercept_in ioapic\nirq_intercept_out /machine/foo\n"),
        "OK\nFAIL Unknown device\n"
    );
    assert_eq!(irq_line(11, true) + &irq_line(11, false), "IRQ raise 11\nIRQ lower 11\n");
}

#[test]
fn bad_commands_fail_one_line_each_and_the_next_one_works() {
    assert_eq!(
        talk(
            "foo 1\n\nreadb\nreadb zz\nreadb 0x\nreadb 0x+1\nread 0 0\nread 0 0x7fffffffffffffff\nwrite 0 1 zz\nwrite 0 1 0xzz\n\
              b64write 0 3 !!!!\nmemset 0 -1 0\nclock_step -1\nclock_set\nreadb 00\n"
        ),
        "FAIL Unknown command 'foo'\nFAIL Missing address\nFAIL Invalid number 'zz'\nFAIL Invalid number '0x'\n\
         FAIL Invalid number '0x+1'\nFAIL Invalid size 0\nFAIL Invalid size 9223372036854775807\n\
         FAIL Invalid hexadecimal data\nFAIL Invalid hexadecimal data\nFAIL Invalid base64\n\
         FAIL Invalid size 18446744073709551615\nFAIL Invalid time '-1'\nFAIL Missing time\nOK 0x0000000000000000\n"
    );
}

#[test]
fn lines_arrive_in_any_pieces() {
    let (mut machine, mut session) = (Model::new(), Session::new());
    let mut text = String::new();
    for byte in b"writel 0x10 7\r\nreadl 0x10\nreadl" {
        text += &replies(&mut machine, &mut session, &[*byte]);
    }
    assert_eq!(text, "OK\nOK 0x0000000000000007\n");
    assert_eq!(replies(&mut machine, &mut session, b" 0\n"), "OK 0x0000000000000000\n");
}

#[test]
fn an_endless_line_costs_no_memory_and_one_failure() {
    let (mut machine, mut session) = (Model::new(), Session::new());
    let piece = vec![b'a'; 1 << 20];
    for _ in 0..MAX_LINE / piece.len() + 2 {
        assert_eq!(replies(&mut machine, &mut session, &piece), "");
    }
    assert!(session.line.capacity() == 0);
    assert_eq!(
        replies(&mut machine, &mut session, b"\nreadb 0\n"),
        "FAIL Line too long\nOK 0x0000000000000000\n"
    );
}

proptest! {
    #[test]
    fn base64_survives_a_round_trip(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        prop_assert_eq!(base64::decode(&base64::encode(&bytes)), Some(bytes));
    }

    #[test]
    fn garbage_never_panics_and_every_line_is_answered(lines in proptest::collection::vec("[ -~]{1,40}", 1..20)) {
        let input = lines.join("\n") + "\n";
        let commands = lines.iter().filter(|line| !line.is_empty()).count();
        prop_assert_eq!(talk(&input).lines().count(), commands);
    }

    #[test]
    fn almost_commands_never_panic(
        command in "(read[bwlq]?|write[bwlq]?|b64read|b64write|memset|in[bwl]|out[bwl]|clock_step|clock_set|irq_intercept_in)",
        words in proptest::collection::vec("(0x)?[-+0-9a-fé=]{0,17}", 0..4),
    ) {
        talk(&format!("{command} {}\n", words.join(" ")));
    }
}

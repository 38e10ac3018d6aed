//! Load for a QMP monitor: how many commands a second one client gets answered, and what one costs the program.
//!
//! `qmp-load FD PID` speaks on the descriptor it inherited, negotiated already, to the program with that process id. It prints a figure a
//! line: its name, a tab, its value. `benches/measure.py` runs it against pliant and QEMU in turn.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

/// How long a command is sent again and again.
const TIME: Duration = Duration::from_millis(500);
/// How long a program that takes no more input is watched before it counts as having stopped.
const QUIET: Duration = Duration::from_millis(500);

const COMMANDS: &[(&str, &str)] = &[
    ("query-status", r#"{"execute": "query-status"}"#),
    (
        "qom-get",
        r#"{"execute": "qom-get", "arguments": {"path": "/machine/peripheral/vm0", "property": "size"}}"#,
    ),
    ("query-memory-devices", r#"{"execute": "query-memory-devices"}"#),
    ("query-qmp-schema", r#"{"execute": "query-qmp-schema"}"#),
];

fn main() {
    let mut words = env::args().skip(1);
    let mut number =
        || words.next().and_then(|word| word.parse().ok()).expect("usage: qmp-load FD PID [garbage]");
    let (fd, pid) = (number(), number());
    let garbage = env::args().nth(3).is_some();
    #[expect(unsafe_code, reason = "a descriptor that was inherited has no other way in")]
    // SAFETY: the caller passed the descriptor for this program alone, and nothing else here owns it.
    let stream = unsafe { UnixStream::from_raw_fd(fd) };
    stream.set_nonblocking(false).expect("a socket");
    let mut client = Client { stream, pid, buffer: vec![0; 1 << 20] };
    client.commands().expect("the program answers");
    client.long_request().expect("the program answers");
    if garbage {
        client.garbage().expect("the program answers");
    }
}

struct Client {
    stream: UnixStream,
    pid: i32,
    buffer: Vec<u8>,
}

fn figure(name: &str, value: f64) {
    println!("{name}\t{value:.3}");
}

impl Client {
    /// Sends a request and reads the reply's line; its length.
    fn exchange(&mut self, request: &[u8]) -> io::Result<usize> {
        self.stream.write_all(request)?;
        let mut length = 0;
        loop {
            let count = self.stream.read(&mut self.buffer)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            length += count;
            if self.buffer[count - 1] == b'\n' {
                return Ok(length);
            }
        }
    }

    /// Processor time of all threads of the program, nanoseconds.
    fn cpu(&self) -> u64 {
        let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", self.pid)) else { return 0 };
        let time = |path| fs::read_to_string(path).ok()?.split(' ').next()?.parse::<u64>().ok();
        tasks.flatten().filter_map(|task| time(task.path().join("schedstat"))).sum()
    }

    /// A field of the program's memory, MiB.
    fn resident(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: f64 =
            line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(f64::NAN);
        kib / 1024.0
    }

    fn commands(&mut self) -> io::Result<()> {
        for (name, request) in COMMANDS {
            // The first answer may be made for all that follow.
            self.exchange(request.as_bytes())?;
            let (begin, cpu, mut count) = (Instant::now(), self.cpu(), 0u32);
            while begin.elapsed() < TIME {
                for _ in 0..20 {
                    self.exchange(request.as_bytes())?;
                }
                count += 20;
            }
            let cpu = self.cpu() - cpu;
            figure(&format!("{name}/s"), f64::from(count) / begin.elapsed().as_secs_f64());
            figure(&format!("{name}, CPU us"), cpu as f64 / 1e3 / f64::from(count));
        }
        Ok(())
    }

    /// One request of a mebibyte, most of it its id, which comes back.
    fn long_request(&mut self) -> io::Result<()> {
        let request = format!(r#"{{"execute": "query-status", "id": "{}"}}"#, "x".repeat(1 << 20));
        let begin = Instant::now();
        let length = self.exchange(request.as_bytes())?;
        assert!(length > 1 << 20, "the reply has the id");
        figure("1 MiB request, ms", begin.elapsed().as_secs_f64() * 1e3);
        Ok(())
    }

    /// Streams of random bytes: the replies are read; then not read, so that the program has to stop reading itself.
    fn garbage(&mut self) -> io::Result<()> {
        self.exchange(b"\xff")?;
        for megabytes in [25, 50, 100] {
            let before = self.resident();
            let (begin, cpu) = (Instant::now(), self.cpu());
            let mut reader = self.stream.try_clone()?;
            let end = thread::spawn(move || read_until(&mut reader, b"\"id\": \"end\""));
            let mut noise = Noise(megabytes);
            for _ in 0..megabytes * 10 {
                self.stream.write_all(&noise.bytes(100_000))?;
            }
            self.stream.write_all(b"\xff\n{\"execute\": \"query-status\", \"id\": \"end\"}")?;
            let replies = end.join().expect("the reader does not panic")?;
            figure(&format!("garbage {megabytes} MB, s"), begin.elapsed().as_secs_f64());
            figure(&format!("garbage {megabytes} MB, CPU s"), (self.cpu() - cpu) as f64 / 1e9);
            figure(&format!("garbage {megabytes} MB, replies MB"), replies as f64 / 1e6);
            figure(&format!("garbage {megabytes} MB, RSS grows MiB"), self.resident() - before);
        }
        let before = self.resident();
        let taken = self.send_unread(100_000_000)?;
        figure("unread: input taken, KB", taken as f64 / 1e3);
        figure("unread: RSS grows MiB", self.resident() - before);
        Ok(())
    }

    /// Sends garbage and reads nothing, until the program has taken nothing for a while; bytes that it took.
    fn send_unread(&mut self, most: usize) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(QUIET))?;
        let (mut noise, mut sent) = (Noise(7), 0);
        while sent < most {
            match self.stream.write(&noise.bytes(100_000)) {
                Ok(count) => sent += count,
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => break,
                Err(e) => return Err(e),
            }
        }
        let _ = self.stream.as_raw_fd();
        Ok(sent)
    }
}

/// Reads up to a text; how many bytes came.
fn read_until(stream: &mut UnixStream, text: &[u8]) -> io::Result<usize> {
    let (mut buffer, mut tail, mut length) = (vec![0; 1 << 20], Vec::new(), 0);
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        length += count;
        // The text may be in two pieces.
        tail.extend_from_slice(&buffer[count.saturating_sub(200)..count]);
        if tail.windows(text.len()).any(|window| window == text) {
            return Ok(length);
        }
        let keep = tail.len().saturating_sub(200);
        tail.drain(..keep);
    }
}

/// Random bytes (xorshift).
struct Noise(u64);

impl Noise {
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut state = self.0 | 0x9E37_79B9_0000_0000;
        let bytes = (0..count)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 24) as u8
            })
            .collect();
        self.0 = state;
        bytes
    }
}

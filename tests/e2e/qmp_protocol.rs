//! QMP on the wire, byte for byte: the oracle's `3-qmp-hmp/qmp-protocol.txt` sent again, from the greeting to `quit`.
//!
//! The transcript shows bytes as Python does (`\n`, `\xff`), a request's comment behind six blanks, and long lines with
//! their middle cut out.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tests::oracle::{Gaps, Report, read};
use tests::{Need, Peer, Qmp, Vm, Wire, WireError, have, program};

/// Parts whose recording depended on the recorder's own time-outs.
const NOT: [&str; 3] = ["huge tokens", "QMP on stdio", "signals"];

#[test]
fn every_byte_of_qmp_is_answered_as_the_oracle() {
    if !have(&[Need::Oracle]) {
        return;
    }
    let mut report = Report::new("qmp-protocol.txt", Gaps::load(&["gaps-qmp-protocol"]));
    let text = read("3-qmp-hmp/qmp-protocol.txt");
    let mut session = None;
    let mut playing = true;
    for (index, line) in text.lines().enumerate() {
        if line.starts_with("$ ") {
            session = Some(Session::start(line.contains("pretty=on")));
        } else if let Some(heading) = line.strip_prefix("## ") {
            playing = !NOT.iter().any(|not| heading.starts_with(not));
        } else if let Some(session) = session.as_mut().filter(|_| playing) {
            session.line(&format!("qmp-protocol:{}", index + 1), line, &mut report);
        }
    }
    report.finish();
}

/// A machine with its QMP sockets and the clients of them.
struct Session {
    vm: Vm,
    sockets: [PathBuf; 2],
    /// By the mark before their lines; the first client has none.
    clients: HashMap<String, Wire>,
    /// How long to wait for a line. Once one did not come, others may not either.
    patience: Duration,
    last_request: String,
    /// A reply that came before its turn.
    early: Option<Vec<u8>>,
}

impl Session {
    fn start(pretty: bool) -> Self {
        let first = if pretty {
            "-chardev socket,id=c0,path=$RUN/0,server=on,wait=off -mon chardev=c0,mode=control,pretty=on"
        } else {
            "-qmp unix:$RUN/0,server=on,wait=off"
        };
        let mut builder =
            Vm::new().line("-machine none").line(first).line("-qmp unix:$RUN/1,server=on,wait=off");
        if program::peer() == Peer::Qemu {
            // This machine has no vCPU, so that it may run.
            builder = builder.accel("tcg");
        }
        let mut vm = builder.spawn_only();
        let sockets = ["0", "1"].map(|name| vm.scratch().join(name));
        let first = vm.connect(&sockets[0]);
        let clients = HashMap::from([(String::new(), first)]);
        Self {
            vm,
            sockets,
            clients,
            patience: Duration::from_secs(10),
            last_request: String::new(),
            early: None,
        }
    }

    fn line(&mut self, id: &str, line: &str, report: &mut Report) {
        let (mark, rest) = match line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
            Some((mark, rest)) => (mark.to_owned(), rest),
            None => (String::new(), line),
        };
        if let Some(bytes) = rest.strip_prefix("-> ") {
            let (bytes, comment) = bytes.split_once("      # ").unwrap_or((bytes, ""));
            self.last_request = rest.to_owned();
            let bytes = request(bytes, comment);
            if let Err(e) = self.client(&mark).send(&bytes) {
                report.fail(id, rest, &e.to_string());
            }
        } else if let Some(expected) = rest.strip_prefix("<- ") {
            self.expect(id, &mark, expected, report);
        } else if let Some(status) = rest.strip_prefix("exit status ") {
            let exited = self.vm.wait_mut();
            report.text(id, rest, status, &exited.code.map_or("a signal".into(), |code| code.to_string()));
        }
    }

    fn expect(&mut self, id: &str, mark: &str, expected: &str, report: &mut Report) {
        if expected == "(nothing)" {
            // That nothing came shows by the next line being the next answer. A client that is not served yet connects here.
            self.client(mark);
            return;
        }
        if mark == "2nd" && expected.starts_with("{\"QMP\"") {
            self.clients.remove("");
        }
        let what = format!("after {}", self.last_request);
        if expected == "<EOF>" {
            let rest = self.client(mark).rest();
            report.text(id, &what, "", &String::from_utf8_lossy(&rest.unwrap_or_default()));
            return;
        }
        let (expected, times) = match expected.split_once("   [this line ") {
            Some((line, times)) => (line, times.split_once(' ').unwrap().0.parse().unwrap()),
            None => (expected, 1),
        };
        let expected = unescape(expected);
        let expected = String::from_utf8_lossy(&expected).into_owned();
        for _ in 0..times {
            let until = Instant::now() + self.patience;
            match self.take_line(mark, until, &expected) {
                Ok(got) => {
                    let got = String::from_utf8_lossy(&got).into_owned();
                    let got = got.strip_suffix('\n').unwrap_or(&got);
                    let (expected, got) = (without_time(&expected), without_time(got));
                    let same = same_but_for_the_middle(&expected, &got);
                    report.text(id, &what, &expected, if same { &expected } else { &got });
                    if !same {
                        return;
                    }
                }
                Err(e) => {
                    self.patience = Duration::from_millis(500);
                    report.fail(id, &what, &format!("expected {expected:?}: {e}"));
                    return;
                }
            }
        }
    }

    /// The next line. The reply to an out-of-band command may come before those to commands that were sent before it: how early is a
    /// matter of luck, and the recording's was that it came last.
    fn take_line(&mut self, mark: &str, until: Instant, expected: &str) -> Result<Vec<u8>, WireError> {
        let is_oob = |line: &str| line.contains("\"id\": \"oob\"");
        if is_oob(expected)
            && let Some(early) = self.early.take()
        {
            return Ok(early);
        }
        let end = |got: &[u8]| got.iter().position(|&byte| byte == b'\n').map(|at| at + 1);
        let line = self.client(mark).take_by(until, "a line", end)?;
        if is_oob(expected) || !is_oob(&String::from_utf8_lossy(&line)) {
            return Ok(line);
        }
        self.early = Some(line);
        self.client(mark).take_by(until, "a line", end)
    }

    fn client(&mut self, mark: &str) -> &mut Wire {
        if !self.clients.contains_key(mark) {
            let socket = self.sockets[usize::from(mark == "mon2")].clone();
            let wire = self.vm.connect(&socket);
            self.clients.insert(mark.to_owned(), wire);
        }
        self.clients.get_mut(mark).unwrap()
    }
}

/// The bytes of a request; those that the transcript cut are made again from what it says of them.
fn request(bytes: &str, comment: &str) -> Vec<u8> {
    if let Some(depth) = comment.strip_prefix("id nested ") {
        let depth: usize = depth.split_once(' ').unwrap().0.parse().unwrap();
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        return format!("{{\"execute\":\"query-status\",\"id\":{open}{close}}}\n").into_bytes();
    }
    if comment.starts_with("12 in-band commands") {
        let commands = (0..12).map(|id| format!("{{\"execute\":\"query-status\",\"id\":{id}}}"));
        return (commands.collect::<String>() + "{\"exec-oob\":\"query-yank\",\"id\":\"oob\"}").into_bytes();
    }
    assert!(!bytes.contains(" bytes) ... "), "a cut request: {bytes}");
    unescape(bytes)
}

/// Bytes as Python shows them.
pub(crate) fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        match bytes.next() {
            Some(b'n') => out.push(b'\n'),
            Some(b'r') => out.push(b'\r'),
            Some(b't') => out.push(b'\t'),
            Some(b'x') => {
                let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                out.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
            }
            Some(other) => out.push(other),
            None => panic!("a backslash at the end of {text}"),
        }
    }
    out
}

/// A line without what differs from run to run and from program to program: the time, and the package in the version.
fn without_time(line: &str) -> String {
    let line = cut(line, "\"timestamp\": {", "}");
    cut(&line, "\"package\": \"", "\"")
}

/// A text without what is between two marks.
fn cut(text: &str, begin: &str, end: &str) -> String {
    let Some((before, rest)) = text.split_once(begin) else { return text.to_owned() };
    let after = rest.split_once(end).map_or("", |(_, after)| after);
    format!("{before}{begin}{end}{after}")
}

/// Whether lines are equal, if the expected one has its middle cut out as ` ... (N bytes) ... `.
fn same_but_for_the_middle(expected: &str, got: &str) -> bool {
    let Some((before, rest)) = expected.split_once(" ... (") else { return expected == got };
    let (size, after) = rest.split_once(" bytes) ... ").unwrap();
    got.starts_with(before) && got.ends_with(after) && got.len() == size.parse::<usize>().unwrap()
}

#[test]
fn a_client_that_sends_its_commands_and_hangs_up_is_served_on_stdio() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let vm = Vm::new().line("-machine none -qmp stdio").stdio(theirs.into()).spawn_only();
    let mut qmp = Qmp::new(Wire::new(ours.into()));
    qmp.negotiate().unwrap();
    let reply = qmp.try_execute("quit", serde_json::json!({})).unwrap();
    assert_eq!(reply, Ok(serde_json::json!({})));
    assert_eq!(vm.wait().code, Some(0));
}

//! Several monitors at once: who gets which event and when, and what `human-monitor-command` answers, from the oracle's
//! `3-qmp-hmp/multiple-monitors.txt`.
//!
//! The transcript marks the lines of two more QMP clients with `[A]` and `[B]`; B has not negotiated at first.

use std::collections::HashMap;

use serde_json::{Value, json};
use tests::oracle::transcript::event_data;
use tests::oracle::{Gaps, Report, read};
use tests::{Need, Qmp, Vm, VmBuilder, have, words};

const FILE: &str = "3-qmp-hmp/multiple-monitors.txt";

#[test]
fn every_client_hears_what_the_oracles_heard_in_its_order() {
    if !have(&[Need::Oracle]) {
        return;
    }
    let text = read(FILE);
    let mut session = Session::start(machine(&text));
    let mut report = Report::new(FILE, Gaps::load(&["gaps-multiple-monitors"]));
    for (index, line) in text.lines().enumerate() {
        session.line(&format!("multiple-monitors:{}", index + 1), line, &mut report);
    }
    report.finish();
}

/// The machine of the recording, without its monitors.
fn machine(text: &str) -> VmBuilder {
    let command = text.lines().find_map(|line| line.strip_prefix("$ ")).unwrap();
    let builder = Vm::new().args(tests::oracle::catalogue::machine_options(command)).qmp().hmp();
    builder.args(words("-qmp unix:$RUN/A,server=on,wait=off -qmp unix:$RUN/B,server=on,wait=off"))
}

struct Session {
    vm: Vm,
    others: HashMap<&'static str, Qmp>,
    /// What was asked last, and whether events of it may come that the recorder did not show.
    last: String,
    unseen_events: bool,
}

impl Session {
    fn start(builder: VmBuilder) -> Self {
        let run = builder.scratch().to_str().unwrap().to_owned();
        let mut vm = builder.start();
        let mut client = |name: &str| Qmp::new(vm.connect(format!("{run}/{name}").as_ref()));
        let (mut a, mut b) = (client("A"), client("B"));
        a.negotiate().unwrap();
        b.greeting().unwrap();
        Self { vm, others: HashMap::from([("A", a), ("B", b)]), last: String::new(), unseen_events: false }
    }

    fn client(&mut self, mark: &str) -> &mut Qmp {
        match self.others.get_mut(mark) {
            Some(other) => other,
            None => self.vm.qmp(),
        }
    }

    fn line(&mut self, id: &str, line: &str, report: &mut Report) {
        let (mark, rest) = match line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
            Some((mark, rest)) => (mark, rest),
            None => ("", line),
        };
        if let Some(command) = rest.strip_prefix("(qemu) ") {
            let got = self.vm.hmp().run(command);
            report.text(id, rest, "", &got);
        } else if let Some(request) = rest.strip_prefix("-> ") {
            self.last = format!("[{mark}] {request}");
            let quoted =
                request.strip_prefix("human-monitor-command '").and_then(|rest| rest.strip_suffix('\''));
            self.unseen_events = quoted.is_some();
            let request = match quoted {
                Some(line) => json!({
                    "execute": "human-monitor-command", "arguments": { "command-line": line }
                })
                .to_string(),
                None => request.to_owned(),
            };
            self.client(mark).send_raw(format!("{request}\n").as_bytes()).unwrap();
        } else if let Some(expected) = rest.strip_prefix("<- ") {
            let got = self.next(mark);
            self.compare(id, expected, &got, report);
        }
    }

    /// The next message, of which the recorder showed all or only the replies.
    fn next(&mut self, mark: &str) -> Value {
        let skip = self.unseen_events;
        loop {
            let got = self.client(mark).recv().unwrap();
            if !(skip && got.get("event").is_some()) {
                return got;
            }
        }
    }

    fn compare(&self, id: &str, expected: &str, got: &Value, report: &mut Report) {
        // The recorder cut long lists; other tests compare them.
        let Ok(expected) = serde_json::from_str::<Value>(expected) else {
            report.check(id, &self.last, got["return"].is_string(), || got.to_string());
            return;
        };
        let frontends = |reply: &Value| {
            reply["return"].as_array().map(|list| list.iter().all(|c| c["frontend-open"] == true))
        };
        if frontends(&expected).is_some() {
            // The harness names its monitors itself.
            report.check(id, &self.last, frontends(got) == Some(true), || got.to_string());
        } else if expected.get("event").is_some() {
            let shown = |event: &Value| json!(event_data(event));
            report.json(id, &self.last, &shown(&expected), &shown(got));
        } else {
            report.json(id, &self.last, &expected, got);
        }
    }
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody_and_bloats_nothing() {
    if !have(&[Need::Pliant]) {
        return;
    }
    for flood in ["}", "{\"execute\":\"query-qmp-schema\"}", "[", "\"a", "\u{fffd}"] {
        let mut vm =
            Vm::new().line("-machine none -qmp unix:$RUN/flooded,server=on,wait=off").qmp().hmp().start();
        let path = vm.scratch().join("flooded");
        let mut flooded = std::os::unix::net::UnixStream::connect(&path).unwrap();
        flooded.set_nonblocking(true).unwrap();
        std::io::Write::write_all(&mut flooded, b"{\"execute\":\"qmp_capabilities\"}").unwrap();
        let data = flood.repeat(4096);
        // As much as it takes in a while: each round of another client's is a turn for this one's input.
        let mut sent = 0;
        for _ in 0..200 {
            if let Ok(count) = std::io::Write::write(&mut flooded, data.as_bytes()) {
                sent += count;
            }
            vm.qmp().ok("query-status", json!({}));
        }
        assert!(sent > 0);
        assert_eq!(vm.hmp().run("info status"), "VM status: running\n");
        let status = std::fs::read_to_string(format!("/proc/{}/status", vm.pid().as_raw_nonzero())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(peak < 48 << 10, "{flood:?} repeated: {peak} KiB at the most");
        // The next one finds a session of its own.
        drop(flooded);
        Qmp::new(vm.connect(&path)).negotiate().unwrap();
        assert_eq!(vm.quit().code, Some(0));
    }
}

//! Playing a recorded session again, step by step, with a driver in the test in place of the recorder's.
//!
//! Each step is compared under the id `FILE:LINE`. Steps that come after a difference are still played: what they find may be a
//! consequence.

use std::collections::HashMap;

use serde_json::Value;
use tests::oracle::catalogue::machine_options;
use tests::oracle::transcript::{Line, Step, event_data, parse};
use tests::oracle::view::view;
use tests::oracle::{Gaps, Report, read};
use tests::pci::{COMMAND, Function};
use tests::virtio_mem::{IDS, Kind, VirtioMem};
use tests::{Peer, Qtest, Vm, program};

/// A session that is being played.
pub(crate) struct Player {
    /// The machine of the last `$` line.
    pub(crate) vm: Vm,
    /// Where the differences go.
    pub(crate) report: Report,
    /// The drivers by device number among the virtio-mem devices.
    pub(crate) drivers: HashMap<u64, VirtioMem>,
    /// Whether events still come when the oracle's came. QEMU's virtual clock cannot be moved without the qtest accelerator.
    events: bool,
    file: String,
}

/// Reads a file of the oracle (a path below its folder) with its own kinds of notes.
pub(crate) fn lines(file: &str, notes: &[&str]) -> Vec<Line> {
    parse(&read(file), notes)
}

/// The options of the first machine of a transcript.
pub(crate) fn first_start(lines: &[Line]) -> Vec<String> {
    let command = lines.iter().find_map(|line| match &line.step {
        Step::Start(command) => Some(command),
        _ => None,
    });
    machine_options(command.expect("a transcript starts a machine"))
}

impl Player {
    /// A session with a machine that runs; the gap list is `gaps-NAME` for a file `FOLDER/NAME.txt`.
    pub(crate) fn new(file: &str, vm: Vm) -> Self {
        let name = file.rsplit('/').next().unwrap_or(file).trim_end_matches(".txt").to_owned();
        let report = Report::new(file, Gaps::load(&[&format!("gaps-{name}")]));
        Self { vm, report, drivers: HashMap::new(), events: true, file: name }
    }

    /// The id of a step.
    pub(crate) fn id(&self, line: &Line) -> String {
        format!("{}:{}", self.file, line.number)
    }

    /// Plays a step of the common kinds; whether it was one.
    pub(crate) fn play(&mut self, line: &Line) -> bool {
        let id = self.id(line);
        match &line.step {
            Step::Heading(_) | Step::Start(_) => {}
            Step::Hmp(command, expected) => self.hmp(&id, command, expected),
            Step::Qmp(request, expected) => self.qmp(&id, request, expected),
            Step::Event(event) => self.event(&id, event),
            Step::Note(note) => return self.note(&id, note),
        }
        true
    }

    fn hmp(&mut self, id: &str, command: &str, expected: &str) {
        // Recorders note which part of an output they kept, three blanks behind the command.
        let (command, part) = command.split_once("   [").unwrap_or((command, ""));
        let Some(mut expected) = view(command, expected) else { return };
        let mut got = self.vm.hmp().run(command);
        if let Some(part) = part.strip_suffix(']') {
            expected = expected.trim_end().to_owned();
            got = got.split("\n\n").find(|tree| tree.starts_with(part)).unwrap_or("(not there)").to_owned()
                + "\n";
            got = view(command, &got).unwrap_or_default().trim_end().to_owned();
        } else {
            got = view(command, &got).unwrap_or_default();
        }
        self.report.text(id, &format!("(qemu) {command}"), &expected, &got);
    }

    fn qmp(&mut self, id: &str, request: &Value, expected: &[Value]) {
        let got = self.vm.qmp().request(request).unwrap();
        for message in expected {
            match message.get("event") {
                Some(_) => self.event(id, message),
                None => self.report.json(id, &format!("-> {request}"), message, &got),
            }
        }
    }

    fn event(&mut self, id: &str, event: &Value) {
        if !self.events {
            return;
        }
        let (name, data) = event_data(event);
        let got =
            self.vm.qmp().wait_event(&name, |event| event["data"].get("qom-path") == data.get("qom-path"));
        self.report.json(id, &format!("event {name}"), &data, &got["data"]);
    }

    /// What a driver did.
    fn note(&mut self, id: &str, note: &str) -> bool {
        if note.starts_with("  (") || note.starts_with('(') {
            return true;
        }
        if let Some(step) = note.strip_prefix("qtest: clock_step ") {
            self.clock_step(step);
            return true;
        }
        if note.starts_with("req ") && note.contains(" addr=") {
            let (kind, addr, blocks, expected) = request(note);
            let got = self.drive(0, |driver, qtest| driver.request(qtest, kind, addr, blocks));
            self.report.text(id, note, expected, &got);
            return true;
        }
        if let Some((_, expected)) = note.strip_prefix("config-space").and_then(|rest| rest.split_once(": "))
        {
            let got = self.map(0, |driver, qtest| driver.config(qtest)).to_string();
            self.report.text(id, note, expected, &got);
            return true;
        }
        false
    }

    fn clock_step(&mut self, step: &str) {
        self.events &= program::peer() == Peer::Pliant;
        if self.events {
            let ns = match step.trim_end_matches(" ms").trim_end_matches('s') {
                "1" => 1_000_000_000,
                ms => ms.parse::<i64>().unwrap() * 1_000_000,
            };
            self.vm.qtest().clock_step(Some(ns));
        }
    }

    /// Does something with the nth virtio-mem device on bus 0, whose BARs are mapped at the first use.
    pub(crate) fn map<T>(&mut self, nth: u64, with: impl FnOnce(&mut VirtioMem, &mut Qtest) -> T) -> T {
        let qtest = self.vm.qtest();
        // A system reset has taken the BARs away.
        let unmapped =
            |driver: &VirtioMem, qtest: &mut Qtest| driver.function.read(qtest, COMMAND, 2) & 2 == 0;
        if self.drivers.get(&nth).is_some_and(|driver| unmapped(driver, qtest)) {
            self.drivers.remove(&nth);
        }
        let driver = self.drivers.entry(nth).or_insert_with(|| {
            let all = Function::find(qtest, 0, IDS.0, IDS.1);
            VirtioMem::map(qtest, all[nth as usize], nth)
        });
        with(driver, qtest)
    }

    /// Does something with the nth virtio-mem device when its queue is ready.
    pub(crate) fn drive<T>(&mut self, nth: u64, with: impl FnOnce(&mut VirtioMem, &mut Qtest) -> T) -> T {
        self.map(nth, |driver, qtest| {
            const DRIVER_OK: u64 = 4;
            if driver.status(qtest) & DRIVER_OK == 0 {
                driver.init_usual(qtest);
            }
            with(driver, qtest)
        })
    }

    /// The verdict.
    pub(crate) fn finish(self) {
        self.report.finish();
    }
}

/// What a note of a request says: the type, the address, the number of blocks and the answer.
fn request(note: &str) -> (Kind, u64, u16, &str) {
    let word = |key: &str| note.split_whitespace().find_map(|word| word.strip_prefix(key)).unwrap();
    let kind = match note.split_whitespace().nth(1).unwrap() {
        "PLUG" => Kind::Plug,
        "UNPLUG" => Kind::Unplug,
        "UNPLUG_ALL" => Kind::UnplugAll,
        "STATE" => Kind::State,
        other => panic!("no such request: {other}"),
    };
    let addr = u64::from_str_radix(word("addr=0x"), 16).unwrap();
    (kind, addr, word("nb_blocks=").parse().unwrap(), note.rsplit_once(" -> ").unwrap().1)
}

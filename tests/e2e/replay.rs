//! Playing a recorded session again, step by step, with a driver in the test in place of the recorder's.
//!
//! Each step is compared under the id `FILE:LINE`. Steps that come after a difference are still played: what they find may be a
//! consequence.

mod guest;

use std::collections::HashMap;

use serde_json::Value;
use tests::oracle::catalogue::machine_options;
use tests::oracle::transcript::{Line, Step, event_data, parse};
use tests::oracle::view::{device_memory, flat_view, json_view, view};
use tests::oracle::{Gaps, Report, read};
use tests::pci::{COMMAND, Function, open_bridge};
use tests::virtio_mem::{IDS, Kind, VirtioMem};
use tests::{Peer, Qtest, Vm, program};

pub(crate) use guest::Guest;

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
    guest: Guest,
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
        Self::with_guest(file, vm, Guest::Absent)
    }

    /// As [`Player::new`], with a guest whose work is waited for where an output is not yet the oracle's.
    pub(crate) fn with_guest(file: &str, vm: Vm, guest: Guest) -> Self {
        let name = file.rsplit('/').next().unwrap_or(file).trim_end_matches(".txt").to_owned();
        let report = Report::new(file, Gaps::load(&[&format!("gaps-{name}")]));
        // Whose events depend on what a guest does when are another test's.
        let events = matches!(guest, Guest::Absent);
        Self { vm, report, drivers: HashMap::new(), events, file: name, guest }
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
        // Recorders note which part of an output they kept, some blanks behind the command.
        let (command, part) = command.split_once("   ").unwrap_or((command, ""));
        let part = part.trim().trim_start_matches('[').trim_end_matches(']');
        if command.starts_with("device_del") && expected.is_empty() {
            self.unplug(id, command);
            return;
        }
        let firmware = self.guest != Guest::Absent;
        let cut = |output: &str| match part {
            "" if firmware => view(command, output).and_then(|text| without_firmware(command, &text)),
            "" => view(command, output),
            // The recorder cut a part out of a tree, and we do the same.
            _ if part.starts_with("only the device-memory part") => Some(device_memory(output)),
            _ if part.starts_with("only the flat view of AS") => {
                let name = part.split('"').nth(1).unwrap();
                view(command, &flat_view(output, name)).and_then(|text| without_firmware(command, &text))
            }
            _ if part.starts_with("only") => None,
            _ => {
                let tree = output.split("\n\n").find(|tree| tree.starts_with(part)).unwrap_or("(not there)");
                view(command, tree).map(|text| text.trim_end().to_owned())
            }
        };
        let Some(expected) = cut(expected) else { return };
        let mut got = self.vm.hmp().run(command);
        // A second look after the guest has worked, if there is one.
        while cut(&got).as_ref() != Some(&expected) && command.starts_with("info ") && self.settle() {
            got = self.vm.hmp().run(command);
        }
        self.report.text(id, &format!("(qemu) {command}"), &expected, &cut(&got).unwrap_or_default());
    }

    fn qmp(&mut self, id: &str, request: &Value, expected: &[Value]) {
        if self.guest != Guest::Absent && request["execute"] == "x-query-virtio-status" {
            return;
        }
        if request["execute"] == "device_del" {
            self.settle();
        }
        let mut got = self.vm.qmp().request(request).unwrap();
        for message in expected {
            if message.get("event").is_some() {
                self.event(id, message);
                continue;
            }
            let Some(message) = json_view(request, message) else { continue };
            while json_view(request, &got).as_ref() != Some(&message)
                && request["execute"].as_str().is_some_and(|command| command.starts_with("query-"))
                && self.settle()
            {
                got = self.vm.qmp().request(request).unwrap();
            }
            let got = json_view(request, &got).unwrap_or_default();
            self.report.json(id, &format!("-> {request}"), &message, &got);
        }
        if request["execute"] == "device_del" && got.get("return").is_some() {
            self.eject();
        }
    }

    fn event(&mut self, id: &str, event: &Value) {
        if !self.events {
            return;
        }
        let (name, data) = event_data(event);
        let same = |event: &Value| event["data"].get("qom-path") == data.get("qom-path");
        if self.guest == Guest::Absent
            && program::peer() == Peer::Pliant
            && !self.vm.qmp().has_event(&name, same)
        {
            // Not every step of the virtual clock, which releases events that are limited, is in the transcript.
            self.vm.qtest().clock_step(Some(1_000_000_000));
        }
        let got = self.vm.qmp().wait_event(&name, same);
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
        if let Some((_, expected)) = note.strip_prefix("config-space").and_then(|rest| rest.rsplit_once(": "))
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
            let mut all = Function::find(qtest, 0, IDS.0, IDS.1);
            for port in Function::find(qtest, 0, 0x1b36, 0x000c) {
                open_bridge(qtest, port, 1);
                all.extend(Function::find(qtest, 1, IDS.0, IDS.1));
            }
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

/// An output without what is the choice of a guest and its firmware: where BARs are, the numbers of interrupt lines, shadowed
/// memory below 1 MiB, and what the driver negotiated.
fn without_firmware(command: &str, text: &str) -> Option<String> {
    const CHOICES: [&str; 7] =
        ["virtio-pci", "virtio-mem-pci-msix", " BAR", " IRQ ", " bar ", "): ram0", "): ram1"];
    let told = |line: &&str| !CHOICES.iter().any(|word| line.contains(word));
    (!command.contains("virtio-status")).then(|| text.lines().filter(told).collect::<Vec<_>>().join("\n"))
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

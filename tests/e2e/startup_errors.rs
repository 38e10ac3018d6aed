//! Every command line of the oracle's catalogue: the exit status and the standard error byte for byte, and of those that start
//! the warnings and the memory devices.
//!
//! Command lines that need what this program does not have (yet) are in `data/startup-out-of-scope.txt`, other known
//! differences in `data/startup-gaps.txt`; both are run, and one that no longer differs fails until it is taken off its list.

use std::fs::File;

use serde_json::json;
use tests::oracle::catalogue::{Startup, startup};
use tests::oracle::{Gaps, Report};
use tests::{Need, Vm, have};

/// The headings of the catalogue, each with its test below.
const SECTIONS: [&str; 6] = [
    "-device virtio-mem-pci",
    "-object memory-backend-*",
    "-m",
    "-numa",
    "-machine, -accel, -cpu, -smp and general options",
    "additions: pc-dimm slots, 1T devices, memory devices that collide",
];

#[test]
fn device_options_are_refused_as_the_oracle() {
    replay(SECTIONS[0]);
}

#[test]
fn memory_backend_options_are_refused_as_the_oracle() {
    replay(SECTIONS[1]);
}

#[test]
fn memory_sizes_are_refused_as_the_oracle() {
    replay(SECTIONS[2]);
}

#[test]
fn numa_options_are_refused_as_the_oracle() {
    replay(SECTIONS[3]);
}

#[test]
fn general_options_are_refused_as_the_oracle() {
    replay(SECTIONS[4]);
}

#[test]
fn colliding_memory_devices_are_refused_as_the_oracle() {
    replay(SECTIONS[5]);
}

#[test]
fn every_command_line_of_the_catalogue_belongs_to_a_test_and_every_listed_gap_to_a_command_line() {
    if !have(&[Need::Oracle]) {
        return;
    }
    let entries = startup();
    for entry in &entries {
        assert!(SECTIONS.contains(&entry.section.as_str()), "{}: {}", entry.id, entry.section);
    }
    for id in lists().ids() {
        assert!(entries.iter().any(|entry| entry.id == id), "{id} is no id of the catalogue");
    }
}

fn lists() -> Gaps {
    Gaps::load(&["startup-out-of-scope", "startup-gaps"])
}

fn replay(section: &str) {
    if !have(&[Need::Oracle]) {
        return;
    }
    let mut report = Report::new(section, lists());
    for entry in startup().iter().filter(|entry| entry.section == section) {
        compare(entry, &mut report);
    }
    report.finish();
}

/// Runs one command line, in a folder with the file that some of them name.
fn compare(entry: &Startup, report: &mut Report) {
    // The oracle's recorder put -S behind the options: one of them takes it for its argument.
    let builder = Vm::new().args(&entry.args).args(["-S"]).qmp();
    // Options that stand for the whole command line repeat what all others leave out.
    let builder = if entry.args.iter().any(|arg| arg == "-nodefaults") { builder.bare() } else { builder };
    let run = builder.scratch().to_str().unwrap().to_owned();
    File::create(builder.scratch().join("rom.img")).unwrap().set_len(64 << 20).unwrap();
    let what = format!("{}: {}", entry.desc, entry.args.join(" "));
    match builder.try_start() {
        Err(exited) => {
            report.check(&entry.id, &what, !entry.started && exited.code == Some(entry.exit), || {
                let expected = if entry.started { "to start".into() } else { format!("exit {}", entry.exit) };
                format!("  expected {expected}, got exit {:?} signal {:?}\n", exited.code, exited.signal)
            });
            report.text(&entry.id, &what, &entry.stderr, exited.stderr.replace(&run, "$RUN").trim_end());
        }
        Ok(mut vm) if entry.started => {
            if let Some(devices) = &entry.devices {
                report.json(&entry.id, &what, devices, &vm.qmp().ok("query-memory-devices", json!({})));
            }
            report.text(&entry.id, &what, &entry.stderr, vm.stderr().replace(&run, "$RUN").trim_end());
        }
        Ok(vm) => {
            report.fail(&entry.id, &what, &format!("started, but the oracle says:\n{}", entry.stderr));
            drop(vm);
        }
    }
}

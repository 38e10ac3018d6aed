//! The kernel complains of nothing that it does not complain of on QEMU's machine of the same command line.

use std::collections::BTreeSet;

use crate::program;
use crate::testbed::Linux;
use crate::testbed::images::program_is_qemu;
use crate::testbed::linux::emulated;

/// Lines of the levels from emergency to warning.
const COMPLAINTS: &str = "dmesg -r | grep '^<[0-4]>' || true";

/// What a kernel says when an emulated processor was not given time, whichever machine it runs on.
const OF_A_BUSY_HOST: [&str; 2] = ["hrtimer: interrupt took", "clocksource: Long readout interval"];

pub(super) fn dmesg_has_no_warning_of_its_own(guest: &mut Linux) {
    let ours = complaints(guest);
    let (name, kept) = guest.images().kept(guest.kernel(), guest.boot().name);
    if program_is_qemu(&program::path()) {
        // An emulated processor is another one than KVM's.
        if !emulated() {
            guest.keep(name, ours);
        }
        return;
    }
    let theirs = kept.unwrap_or_else(|| {
        let qemu = program::qemu().expect("the outer machine has QEMU");
        let boot = *guest.boot();
        let peer = Linux::start_on(&qemu, guest.images(), guest.kernel(), &boot);
        let theirs = peer.unwrap_or_else(|e| panic!("QEMU: {}\n{}", e.reason, e.console)).run(COMPLAINTS);
        guest.keep(name, theirs.clone());
        theirs
    });
    let new = new_complaints(&theirs, &ours);
    assert!(new.is_empty(), "not on QEMU's machine:\n{new}\n--- there:\n{theirs}");
}

/// What the kernel has complained of so far.
pub(super) fn complaints(guest: &mut Linux) -> String {
    guest.run(COMPLAINTS)
}

/// Lines of the later complaints that are not among the earlier ones, whatever numbers are in them.
pub(super) fn new_complaints(earlier: &str, later: &str) -> String {
    let known: BTreeSet<String> = earlier.lines().map(normal).collect();
    let counts = |line: &&str| !OF_A_BUSY_HOST.iter().any(|words| line.contains(words));
    let new = later.lines().filter(counts).filter(|line| !known.contains(&normal(line)));
    new.collect::<Vec<_>>().join("\n")
}

/// A line without its time, and with `N` for each number, decimal or hexadecimal.
fn normal(line: &str) -> String {
    let line = line.split_once("] ").map_or(line, |(_, text)| text);
    let mut text = String::new();
    let mut word = String::new();
    for c in line.chars().chain(['\n']) {
        if c.is_ascii_alphanumeric() {
            word.push(c);
            continue;
        }
        let hexadecimal = word.trim_start_matches("0x");
        let number = hexadecimal.chars().any(|c| c.is_ascii_digit())
            && hexadecimal.chars().all(|c| c.is_ascii_hexdigit());
        text.push_str(if number { "N" } else { &word });
        word.clear();
        text.push(c);
    }
    text.truncate(text.len() - 1);
    text
}

#[cfg(test)]
mod tests;

//! Round trips on the model machine.

use super::*;
use crate::program::tests::{answer, boot};
use crate::testing::{Entropy, EntropyFault, Machine};
use std::string::String;
use std::vec;
use std::vec::Vec;

fn booted(fault: Option<EntropyFault>) -> (Machine, Program) {
    let mut machine = Machine::new(vec![]);
    machine.entropy.push(Entropy { fault, ..Entropy::new(3) });
    boot(machine, "")
}

fn told(machine: &mut Machine, program: &mut Program, line: &str) -> String {
    let lines: Vec<String> = answer(machine, program, line);
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines[0].clone()
}

#[test]
fn each_request_is_one_round_trip() {
    let (mut machine, mut program) = booted(None);
    for (line, requests) in [("rng 100 64", 100), ("rng 10 4096 sleep", 110), ("rng 5 1 poll", 115)] {
        let said = told(&mut machine, &mut program, line);
        assert!(said.starts_with("rng: ok: "), "{said}");
        assert_eq!(machine.entropy[0].requests, requests);
    }
    assert!(told(&mut machine, &mut program, "rng 100 64").contains("100 requests, 6400 bytes, "));
}

#[test]
fn a_device_that_fails_is_reported_and_may_be_asked_again() {
    let trouble = [
        (EntropyFault::Silent, "stopped while waiting"),
        (EntropyFault::Says(0), "used ring is broken"),
        (EntropyFault::Says(65), "used ring is broken"),
        (EntropyFault::Breaks, "stopped while waiting"),
    ];
    for (fault, text) in trouble {
        let (mut machine, mut program) = booted(Some(fault));
        let said = told(&mut machine, &mut program, "rng 2 64");
        assert_eq!(said, std::format!("rng: FAILED: pci 00:03.0: {text}"));
        machine.entropy[0].fault = None;
        let said = told(&mut machine, &mut program, "rng 2 64");
        assert!(said.starts_with("rng: ok: 2 requests, 128 bytes"), "{said}");
    }
}

#[test]
fn bad_arguments_change_nothing() {
    let (mut machine, mut program) = booted(None);
    for line in ["rng", "rng 1", "rng 0 1", "rng 1 0", "rng 1 4097", "rng 1000001 1"] {
        assert_eq!(told(&mut machine, &mut program, line), "error: bad arguments for rng");
    }
    assert_eq!(
        told(&mut machine, &mut program, "rng 1 1 doze"),
        "error: rng waits by poll or sleep, not doze"
    );
    assert_eq!(machine.entropy[0].requests, 0);
    machine.entropy.clear();
    assert_eq!(told(&mut machine, &mut program, "rng 1 1"), "error: no entropy device");
}

//! The human monitor as a person types at it: banner, echo, editing keys, completion, and how lines are taken apart, from the
//! oracle's `3-qmp-hmp/hmp-behaviour.txt`.

use std::time::{Duration, Instant};

use tests::hmp::PROMPT;
use tests::oracle::transcript::{Line, Step};
use tests::oracle::view::view;
use tests::oracle::{Gaps, Report, own, read};
use tests::{Need, Peer, Vm, Wire, WireError, have, program};

use crate::replay::{first_start, lines};

const FILE: &str = "3-qmp-hmp/hmp-behaviour.txt";

#[test]
fn lines_are_taken_apart_as_the_oracle() {
    if !have(&[Need::Oracle]) {
        return;
    }
    let steps = steps();
    let mut vm = Vm::new().args(first_start(&steps)).hmp().start();
    let mut report = report();
    for line in section(&steps, "parsing") {
        let Step::Hmp(command, expected) = &line.step else { continue };
        let id = format!("hmp-behaviour:{}", line.number);
        let command = command.replace("$RUN", vm.scratch().to_str().unwrap());
        // A command that this program does not know must say so as QEMU does of one that it does not know.
        let part = |text: &str| match text.starts_with("unknown command") {
            true => Some(text.trim_end().to_owned()),
            false => view(&command, text),
        };
        let got = vm.hmp().run(&command);
        let got = if lists_what_there_is(&command) { own::without_info_lines(&got) } else { got };
        if let Some(expected) = part(expected).filter(|_| !of_the_host(&command)) {
            let expected = if lists_what_there_is(&command) { known_to(&got, &expected) } else { expected };
            report.text(&id, &format!("(qemu) {command}"), &expected, &part(&got).unwrap_or(got));
        }
    }
    report.finish();
}

/// Whether a command lists all commands or types that the program has, of which pliant has fewer.
fn lists_what_there_is(command: &str) -> bool {
    ["info", "help", "?", "help info", "? info", "object_add help", "object_add ?"].contains(&command.trim())
}

/// The entries of a list that the program lists, too. What it lists besides is then a difference.
fn known_to(got: &str, list: &str) -> String {
    // An entry that has several lines goes on with tabs.
    let entries = |text: &str| {
        let mut entries: Vec<String> = Vec::new();
        for line in text.lines() {
            match entries.last_mut() {
                Some(entry) if line.starts_with('\t') => *entry += &format!("\n{line}"),
                _ => entries.push(line.to_owned()),
            }
        }
        entries
    };
    let name = |entry: &str| match entry.strip_prefix("info ") {
        Some(rest) if !rest.starts_with('[') => {
            format!("info {}", rest.split(' ').next().unwrap_or_default())
        }
        _ => entry.trim_start().split(' ').next().unwrap_or_default().to_owned(),
    };
    let ours: Vec<String> = entries(got).iter().map(|entry| name(entry)).collect();
    let kept: Vec<String> = entries(list).into_iter().filter(|entry| ours.contains(&name(entry))).collect();
    kept.join("\n")
}

/// Commands whose output is about the host, the run, the firmware, or all devices that QEMU has; the trees are compared where
/// they are not cut short.
fn of_the_host(command: &str) -> bool {
    const BEGIN: [&str; 10] = [
        "gpa2h",
        "x ",
        "x/",
        "xp ",
        "p $",
        "sum ",
        "info mtree",
        "info qtree",
        "device_add ?",
        "device_add help",
    ];
    BEGIN.iter().any(|begin| command.starts_with(begin))
}

#[test]
fn info_commands_of_our_own_are_listed() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut vm = Vm::new().line("-machine none").hmp().start();
    let help = vm.hmp().run("help info");
    for own in own::all().iter().filter(|own| own.kind == own::Kind::Info) {
        assert!(help.contains(&format!("info {} ", own.name)), "{}", own.name);
        assert!(!own::without_info_lines(&help).contains(&format!("info {} ", own.name)), "{}", own.name);
        assert!(!vm.hmp().run(&format!("info {}", own.name)).contains("unknown"), "{}", own.name);
    }
    for own in own::all().iter().filter(|own| own.kind == own::Kind::Flag) {
        let listed = format!("info {} [{}] --", own.of, own.name);
        assert!(help.contains(&listed) && !own::without_info_lines(&help).contains(&listed), "{listed}");
    }
}

#[test]
fn keys_edit_the_line_as_the_oracle() {
    if !have(&[Need::Oracle]) {
        return;
    }
    let steps = steps();
    let mut builder = Vm::new().args(first_start(&steps)).hmp();
    if program::peer() == Peer::Qemu {
        // The firmware may run meanwhile; the recording says "running".
        builder = builder.accel("tcg");
    }
    let mut vm = builder.start();
    let mut report = report();
    for (id, line) in raw_lines("editing keys") {
        let Some((keys, expected)) = line.split_once(" -> b") else { continue };
        let (keys, expected) = (unquote(keys.trim_start_matches('b')), unquote(expected));
        // The whole of the recorded bytes, or what comes in a while that is certainly long enough.
        vm.hmp().wire().send(&keys).unwrap();
        let got = exactly(vm.hmp().wire(), expected.len());
        report.text(&id, &show(&keys), &show(&expected), &show(&got));
    }
    report.finish();
}

#[test]
fn tab_completes_as_the_oracle() {
    if !have(&[Need::Oracle]) {
        return;
    }
    let steps = steps();
    let mut vm = Vm::new().args(first_start(&steps)).hmp().start();
    let mut report = report();
    for (id, line) in raw_lines("tab completion") {
        let Some((typed, expected)) = line.split_once(" + TAB -> ") else { continue };
        let typed = String::from_utf8(unquote(typed.trim_end())).unwrap();
        let got = complete(vm.hmp().wire(), &typed).unwrap();
        // Long lists are cut in the transcript.
        let (expected, got) = match expected.split_once("...(") {
            Some((begin, _)) => (begin, got.chars().take(begin.len()).collect()),
            None => (expected, got),
        };
        report.text(&id, &format!("{typed:?} TAB"), expected, &got);
    }
    report.finish();
}

/// What TAB does behind a typed text, with escapes as the transcript shows them. The line is empty before and after.
fn complete(wire: &mut Wire, typed: &str) -> Result<String, WireError> {
    wire.send(format!("{typed}\t\x15\n").as_bytes())?;
    // A list of candidates has prompts in it; only the one behind the erased line follows an erasure.
    let end = format!("\x1b[K\r\n{PROMPT}");
    let got = match typed {
        // Nothing was typed and nothing erased if there was nothing to complete.
        "" => wire.until(&format!("\r\n{PROMPT}\r\n{PROMPT}"))?,
        _ => wire.take("the prompt", |got| got.ends_with(end.as_bytes()).then_some(got.len())).map(lossy)?,
    };
    let got = got.strip_prefix(&echo(typed)).unwrap_or(&got);
    let got = got.strip_suffix(&format!("\r\n{PROMPT}")).unwrap_or(got);
    let mut got = got.strip_suffix("\x1b[K").unwrap_or(got);
    while let Some(shorter) = got.strip_suffix("\x1b[D") {
        got = shorter;
    }
    Ok(show(got.as_bytes()))
}

fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The echo of a text typed into an empty line: the line is redrawn with each character.
fn echo(typed: &str) -> String {
    let redraw = |n: usize| format!("{}{}\x1b[K", "\x1b[D".repeat(n - 1), &typed[..n]);
    (1..=typed.len()).map(redraw).collect()
}

/// So many bytes, or what came until it is clear that they do not come.
fn exactly(wire: &mut Wire, len: usize) -> Vec<u8> {
    let until = Instant::now() + Duration::from_secs(5);
    match wire.take_by(until, "the recorded bytes", |got| (got.len() >= len).then_some(got.len())) {
        Ok(got) => got,
        Err(_) => {
            let got = wire.peek().to_vec();
            wire.take("what is there", |all| Some(all.len())).unwrap();
            got
        }
    }
}

fn report() -> Report {
    Report::new(FILE, Gaps::load(&["gaps-hmp-behaviour"]))
}

fn steps() -> Vec<Line> {
    lines(FILE, &[])
}

/// The steps under a heading.
fn section<'a>(steps: &'a [Line], heading: &str) -> &'a [Line] {
    let is_heading = |line: &Line| matches!(line.step, Step::Heading(_));
    let wanted = |line: &Line| matches!(&line.step, Step::Heading(text) if text.starts_with(heading));
    let from = steps.iter().position(wanted).expect("the heading is there") + 1;
    let to = steps[from..].iter().position(is_heading).map_or(steps.len(), |at| from + at);
    &steps[from..to]
}

/// The lines under a heading as they are, with their ids.
fn raw_lines(heading: &str) -> Vec<(String, String)> {
    let text = read(FILE);
    let numbered = text
        .lines()
        .enumerate()
        .map(|(index, line)| (format!("hmp-behaviour:{}", index + 1), line.to_owned()));
    let below = numbered.skip_while(|(_, line)| !line.starts_with(&format!("## {heading}"))).skip(1);
    below.take_while(|(_, line)| !line.starts_with("## ") && !line.starts_with("$ ")).collect()
}

/// The bytes of a Python literal with its quotes.
fn unquote(literal: &str) -> Vec<u8> {
    crate::qmp_protocol::unescape(&literal[1..literal.len() - 1])
}

/// Bytes as the transcript shows them.
fn show(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|&byte| if byte == b'\'' { "'".into() } else { byte.escape_ascii().to_string() })
        .collect()
}

#[test]
fn object_add_has_other_words_than_the_command_line() {
    // Asked of QEMU 10.0.2.
    let mut vm = Vm::new().line("-machine none").hmp().start();
    let mut says = |options: &str, error: &str| {
        let got = vm.hmp().run(&format!("object_add memory-backend-ram,{options}"));
        assert_eq!(got, format!("Error: {error}\n"), "{options}");
    };
    says("id=x,size=foo", "Parameter 'size' expects size");
    says("id=x,size=1M y", "Parameter 'size' expects size");
    says("id=x,size=1M,host-nodes=0", "Invalid parameter type for 'host-nodes', expected: array");
    says("id=x,size=1M,foo=1", "Parameter 'foo' is unexpected");
    says("foo=1", "Parameter 'id' is missing");
    says("id=x,size=1M,foo", "Expected '=' after parameter 'foo'");
    assert_eq!(
        vm.hmp().run(r#"object_add {"qom-type":"memory-backend-ram","id":"x","size":1048576}"#),
        "",
        "JSON is taken, too"
    );
    assert_eq!(vm.hmp().run("object_del x"), "");
}

#[test]
fn quit_is_the_last_line_that_is_run() {
    let mut vm = Vm::new().line("-machine none").hmp().qmp().start();
    vm.hmp().wire().send(b"quit\ninfo status\n").unwrap();
    let rest = vm.hmp().wire().rest().unwrap();
    let rest = String::from_utf8_lossy(&rest).into_owned();
    assert!(rest.ends_with("quit\x1b[K\r\n"), "{rest:?}");
    assert_eq!(vm.wait().code, Some(0));
}

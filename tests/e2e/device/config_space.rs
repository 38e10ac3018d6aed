//! The PCI configuration space of the device in several configurations, byte by byte, and the virtio-mem part of `info pci`.

use tests::oracle::catalogue::machine_options;
use tests::oracle::transcript::{Line, Step};
use tests::oracle::{Gaps, Report};
use tests::pci::Function;
use tests::virtio_mem::IDS;
use tests::{Need, Qtest, Vm, have};

use crate::replay::{Player, lines};

#[test]
fn the_configuration_space_is_the_oracles() {
    if !have(&[Need::Oracle]) {
        return;
    }
    let file = "4-device/pci-config-space.txt";
    let steps = lines(file, &["stderr"]);
    // One machine for each command line; each has its own session.
    let starts: Vec<usize> = steps.iter().enumerate().filter(|(_, l)| is_start(l)).map(|(i, _)| i).collect();
    for (nth, &from) in starts.iter().enumerate() {
        let to = starts.get(nth + 1).map_or(steps.len(), |&next| next);
        session(file, &steps[from..to]);
    }
}

fn is_start(line: &Line) -> bool {
    matches!(line.step, Step::Start(_))
}

fn session(file: &str, steps: &[Line]) {
    let Step::Start(command) = &steps[0].step else { panic!("a session begins with its machine") };
    let options = machine_options(command);
    let vm = match Vm::new().args(&options).qmp().hmp().qtest().try_start() {
        Ok(vm) => vm,
        Err(exited) => {
            let mut report = Report::new(file, Gaps::load(&["gaps-pci-config-space"]));
            report.fail(&format!("pci-config-space:{}", steps[0].number), command, &exited.stderr);
            return report.finish();
        }
    };
    let mut player = Player::new(file, vm);
    let mut function = None;
    let said = dump(player.vm.qtest(), &mut function);
    let mut said = said.iter();
    for line in steps {
        let id = player.id(line);
        match &line.step {
            Step::Note(note) => {
                let got = said.next().map(String::as_str).unwrap_or("(nothing)");
                player.report.text(&id, &format!("{}: {note}", options.join(" ")), note, got);
            }
            _ => assert!(player.play(line), "{id}: {:?}", line.step),
        }
    }
    player.finish();
}

/// All that the recorder wrote down of the first virtio-mem device, line by line.
fn dump(qtest: &mut Qtest, found: &mut Option<Function>) -> Vec<String> {
    // Behind a root port the device is on a bus that has no number until firmware gives it one.
    let function = Function::find(qtest, 0, IDS.0, IDS.1).first().copied().unwrap_or_else(|| {
        let port = Function::find(qtest, 0, 0x1b36, 0x000c)[0];
        port.write(qtest, 0x18, 4, 0x0001_0100);
        Function::find(qtest, 1, IDS.0, IDS.1)[0]
    });
    *found = Some(function);
    let bytes = function.dump(qtest);
    let mut said =
        vec![format!("bus {} device {}.{}: 1af4:1058", function.bus, function.device, function.function)];
    for (row, bytes) in bytes.chunks(16).enumerate() {
        let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        said.push(format!("{:02x}: {}", 16 * row, digits.join(" ")));
    }
    for bar in 0..6 {
        let (raw, mask) = function.bar(qtest, bar);
        said.push(format!("BAR{bar} raw={raw:#010x} sizing-mask={mask:#010x}"));
    }
    said.push("capabilities:".into());
    for (at, id) in function.capabilities(qtest) {
        said.push(capability(&bytes, at.into(), id));
    }
    said
}

/// A capability in the recorder's words.
fn capability(bytes: &[u8], at: usize, id: u8) -> String {
    let word = |offset: usize| u16::from_le_bytes([bytes[at + offset], bytes[at + offset + 1]]);
    let long = |offset: usize| u32::from(word(offset)) | u32::from(word(offset + 2)) << 16;
    match id {
        0x11 => {
            let (table, pba) = (long(4), long(8));
            let place = |register: u32| format!("BAR{}+{:#x}", register & 7, register & !7);
            format!(
                "  @{at:x} MSI-X table_size={} table={} pba={}",
                (word(2) & 0x7ff) + 1,
                place(table),
                place(pba)
            )
        }
        9 => {
            let kind = bytes[at + 3];
            let multiplier =
                if kind == 2 { format!(" notify_off_multiplier={}", long(16)) } else { String::new() };
            format!(
                "  @{at:x} vendor(9) len={} cfg_type={kind} bar={} id={} offset={:#x} length={:#x}{multiplier}",
                bytes[at + 2],
                bytes[at + 4],
                bytes[at + 5],
                long(8),
                long(12)
            )
        }
        _ => {
            let raw: Vec<String> = bytes[at..at + 16].iter().map(|byte| format!("{byte:02x}")).collect();
            format!("  @{at:x} cap id {id:#x} raw {}", raw.join(" "))
        }
    }
}

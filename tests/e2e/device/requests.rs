//! Requests and their answers, right and wrong ones, and what a session with one device shows besides.

use tests::oracle::transcript::Step;
use tests::virtio_mem::{Kind, VERSION_1, bytes};
use tests::{Need, have};

use super::{hex, python, start};
use crate::replay::{Player, lines};

#[test]
fn requests_and_violations_are_answered_as_the_oracle() {
    if !have(&[Need::Oracle]) {
        return;
    }
    let file = "4-device/protocol.txt";
    let notes = ["config_generation=", "after a plug request", "config read past end", "re-init", "init("];
    let steps = lines(file, &notes);
    let mut player = Player::new(file, start(&steps));
    for line in &steps {
        let id = player.id(line);
        match &line.step {
            Step::Note(note) if protocol_note(&mut player, &id, note) => {}
            Step::Note(note) if note.starts_with("qemu-system-x86_64: ") => {
                let said = player.vm.stderr();
                player.report.check(&id, note, said.lines().any(|line| line == note), || {
                    format!("  stderr: {said}\n")
                });
            }
            _ => assert!(player.play(line), "{id}: {:?}", line.step),
        }
    }
    player.finish();
}

/// What only `protocol.txt` notes.
fn protocol_note(player: &mut Player, id: &str, note: &str) -> bool {
    let base = 0x1_0000_0000;
    let got = match note {
        _ if note.starts_with("offered features: ") => {
            let features = player.map(0, |driver, qtest| driver.features(qtest));
            format!("offered features: {features:#x}")
        }
        _ if note.starts_with("init -> ") => player.map(0, |driver, qtest| {
            let done = python(driver.init_usual(qtest));
            let (size, offset) = (driver.common(qtest, 24, 2), driver.common(qtest, 30, 2));
            let queues = driver.common(qtest, 18, 2);
            format!("init -> {done}; queue size {size}, notify_off {offset}, num_queues {queues}")
        }),
        _ if note.starts_with("re-init -> ") => {
            format!("re-init -> {}", python(player.map(0, |driver, qtest| driver.init_usual(qtest))))
        }
        _ if note.starts_with("init(features=VERSION_1|ACPI_PXM)") => player.map(0, |driver, qtest| {
            let done = python(driver.init(qtest, VERSION_1 | 1));
            let status = driver.status(qtest);
            format!("init(features=VERSION_1|ACPI_PXM) -> {done} ; status={status:#x}")
        }),
        _ if note.starts_with("read plugged block: ") => {
            let qtest = player.vm.qtest();
            qtest.write_bytes(base, b"hello world.....");
            format!("read plugged block: b'{}'", String::from_utf8_lossy(&qtest.bytes(base, 16)))
        }
        _ if note.starts_with("read of unplugged block") => {
            let read = hex(&player.vm.qtest().bytes(base, 16));
            format!("read of unplugged block (static region stays mapped): {read}")
        }
        _ if note.starts_with("write+read of never-plugged block") => {
            format!(
                "write+read of never-plugged block inside usable region: {}",
                write_read(player, base + 0x600_0000)
            )
        }
        _ if note.starts_with("write+read outside usable region") => {
            let read = write_read(player, base + 0x3000_0000);
            format!("write+read outside usable region (still mapped, static): {read}")
        }
        _ if note.starts_with("read after re-plug: ") => {
            format!("read after re-plug: {}", hex(&player.vm.qtest().bytes(base, 16)))
        }
        _ if note.starts_with("config_generation=") || note.starts_with("after a plug request: ") => {
            let (generation, isr) = player.map(0, |d, qtest| (d.generation(qtest), d.isr(qtest)));
            let before = note.split_once("config_generation").unwrap().0;
            format!("{before}config_generation={generation} isr={isr:#x}")
        }
        _ if note.starts_with("config read past end") => player.map(0, |driver, qtest| {
            // The oracle's driver has tried to write the configuration before.
            driver.set_device(qtest, 40, 8, 0x1234);
            let past = [56, 64].map(|offset| driver.device(qtest, offset, 4));
            format!("config read past end (offset 56, 64): {:#018x} {:#018x}", past[0], past[1])
        }),
        _ => return violation(player, id, note),
    };
    player.report.text(id, note, note, &got);
    true
}

/// A broken request, or what it left the device in.
fn violation(player: &mut Player, id: &str, note: &str) -> bool {
    let whole = bytes(Kind::State as u16, 0x1_0000_0000, 1);
    let mut send = |request: &[u8], room| {
        // The recorder began each violation with a fresh device.
        player.map(0, |driver, qtest| {
            driver.init_usual(qtest);
            let answer = driver.request_raw(qtest, request, room);
            (answer.is_some(), driver.used_len)
        })
    };
    let (before, answered) = match note.split_once(" -> ") {
        Some(("req type 4", _)) => ("req type 4", send(&bytes(4, 0x1_0000_0000, 1), Some(10))),
        Some(("req with 23-byte out buffer", _)) => {
            ("req with 23-byte out buffer", send(&whole[..23], Some(10)))
        }
        Some(("req with 9-byte in buffer", _)) => ("req with 9-byte in buffer", send(&whole, Some(9))),
        Some(("req without in buffer", _)) => ("req without in buffer", send(&whole, None)),
        Some((before, _)) if before.starts_with("32-byte request, 32-byte response") => {
            let mut long = whole.clone();
            long.resize(32, 0);
            let (answered, len) = send(&long, Some(32));
            player.report.check(id, note, answered && len == 10, || format!("  {answered}, length {len}\n"));
            return true;
        }
        Some((_, status)) if status.starts_with("device_status=0x4f") => {
            let got = player.map(0, |driver, qtest| driver.status(qtest));
            player.report.check(id, note, got == 0x4f, || format!("  status {got:#x}\n"));
            return true;
        }
        None if note == "  used.len=10" => return true,
        _ if note.starts_with("  next request: ") => {
            let got = player.map(0, |driver, qtest| driver.request_raw(qtest, &whole, Some(10)));
            player.report.check(id, note, got.is_none(), || format!("  answered {got:?}\n"));
            return true;
        }
        _ => return false,
    };
    player.report.check(id, note, !answered.0, || format!("  {before} was answered\n"));
    true
}

#[test]
fn a_device_that_lets_unplugged_memory_be_read_cannot_be_unplugged() {
    replay_plain("4-device/unplugged-accessible.txt", &["features ", "init("]);
}

#[test]
fn dynamic_memslots_are_mapped_as_blocks_are_plugged() {
    replay_plain("4-device/dynamic-memslots-qtest.txt", &["read of GPA"]);
}

/// Files whose notes are mostly requests.
fn replay_plain(file: &str, notes: &[&str]) {
    if !have(&[Need::Oracle]) {
        return;
    }
    let steps = lines(file, notes);
    let mut player = Player::new(file, start(&steps));
    for line in &steps {
        let id = player.id(line);
        let Step::Note(note) = &line.step else {
            player.play(line);
            continue;
        };
        if let Some(expected) = note.strip_prefix("features ") {
            let got = player.map(0, |driver, qtest| driver.features(qtest));
            player.report.text(&id, note, expected, &format!("{got:#x}"));
        } else if let Some(expected) = note.strip_prefix("init(VERSION_1 only) -> ") {
            let got = player.map(0, |driver, qtest| driver.init(qtest, VERSION_1));
            player.report.text(&id, note, expected, python(got));
        } else if let Some((_, expected)) =
            note.strip_prefix("read of GPA").and_then(|rest| rest.split_once(": "))
        {
            let got = hex(&player.vm.qtest().bytes(0x1_4000_0000, 8));
            player.report.text(&id, note, expected, &got);
        } else if note.starts_with("qemu-system-x86_64: ") {
            let said = player.vm.stderr();
            player
                .report
                .check(&id, note, said.lines().any(|line| line == note), || format!("  stderr: {said}\n"));
        } else {
            assert!(player.play(line), "{id}: {note}");
        }
    }
    player.finish();
}

/// Writes `abc` to guest memory and reads four bytes back.
fn write_read(player: &mut Player, addr: u64) -> String {
    let qtest = player.vm.qtest();
    qtest.write_bytes(addr, b"abc");
    hex(&qtest.bytes(addr, 4))
}

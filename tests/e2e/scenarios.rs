//! The oracle's sessions: what the monitors say of machines with memory devices, at rest and while sizes change.
//!
//! Sessions that were recorded with a Linux guest are played with the test as the guest, which follows the requested sizes as
//! Linux does; tests with a guest on a vCPU are in `guest.rs`.

use tests::oracle::transcript::{Line, Step};
use tests::oracle::{Gaps, Report};
use tests::virtio_mem::Kind;
use tests::{Need, Peer, Vm, have, program};

use crate::replay::{Guest, Player, first_start, lines};

#[test]
fn pc_with_a_driver_on_qtest_is_the_oracles() {
    board("1-scenarios/qtest-pc.txt");
}

#[test]
fn q35_with_a_driver_on_qtest_is_the_oracles() {
    board("1-scenarios/qtest-q35.txt");
}

#[test]
fn machine_none_is_the_oracles() {
    board("1-scenarios/none.txt");
}

#[test]
fn a_paused_machine_on_kvm_is_the_oracles() {
    if !have(&[Need::Oracle, Need::Kvm]) {
        return;
    }
    let file = "1-scenarios/kvm-pc.txt";
    let steps = lines(file, &["qemu-system"]);
    let vm = Vm::new().accel("kvm").args(first_start(&steps)).qmp().hmp().start();
    let mut player = Player::new(file, vm);
    for line in &steps {
        // What the recorder's host lacked is not ours to repeat.
        player.play(line);
    }
    player.finish();
}

#[test]
fn a_large_dynamic_device_on_qtest_is_the_oracles() {
    with_guest("1-scenarios/qtest-dyn-500G.txt");
}

#[test]
fn pc_with_a_guest_is_the_oracles() {
    with_guest("1-scenarios/guest-pc.txt");
}

#[test]
fn q35_with_a_guest_is_the_oracles() {
    with_guest("1-scenarios/guest-q35.txt");
}

#[test]
fn hot_plug_on_pc_is_the_oracles() {
    with_guest("1-scenarios/hotplug-pc.txt");
}

#[test]
fn hot_plug_on_q35_is_the_oracles() {
    with_guest("1-scenarios/hotplug-q35.txt");
}

#[test]
fn dynamic_memslots_of_500g_are_the_oracles() {
    with_guest("1-scenarios/dynslots-pc-500G-maxmem504G.txt");
    with_guest("1-scenarios/dynslots-pc-500G-static.txt");
    with_guest("1-scenarios/dynslots-q35-500G-maxmem504G.txt");
}

#[test]
fn dynamic_memslots_above_the_hypertransport_hole_are_the_oracles() {
    with_guest("1-scenarios/dynslots-pc-500G-maxmem1041G.txt");
    with_guest("1-scenarios/dynslots-pc-500G-maxmem1041G-intel.txt");
}

#[test]
fn dynamic_memslots_of_8g_are_the_oracles() {
    with_guest("1-scenarios/dynslots-pc-8G-maxmem12G.txt");
    with_guest("1-scenarios/dynslots-pc-8G-dyn-2of20.txt");
}

/// A session whose driver's doings are in the transcript.
fn board(file: &str) {
    if !have(&[Need::Oracle]) {
        return;
    }
    let steps = lines(file, &["PLUG ", "UNPLUG ", "vm0 config", "vm1 config", "(", "exit "]);
    let vm = Vm::new().args(first_start(&steps)).qmp().hmp().qtest().start();
    let mut player = Player::new(file, vm);
    for line in &steps {
        let id = player.id(line);
        match &line.step {
            Step::Note(note) if board_note(&mut player, &id, note) => {}
            _ => assert!(player.play(line), "{id}: {:?}", line.step),
        }
    }
    player.finish();
}

/// What the drivers of the two devices did.
fn board_note(player: &mut Player, id: &str, note: &str) -> bool {
    let requested = |player: &mut Player, nth| player.drive(nth, |driver, qtest| driver.config(qtest));
    let (nth, kind, from, blocks) = match note.split_once(" -> ").map_or(note, |(before, _)| before) {
        "PLUG 512 blocks at vm1 base" => (1, Kind::Plug, 0, 512),
        "PLUG 250 blocks" => (0, Kind::Plug, 0, 250),
        "UNPLUG 412 blocks" => (1, Kind::Unplug, 100, 412),
        "exit 0" => return true,
        _ => {
            let Some((which, expected)) = note.split_once(" config") else { return false };
            let config = requested(player, if which == "vm0" { 0 } else { 1 });
            let expected = expected.split_once('{').map_or(expected, |(_, rest)| rest).trim_end_matches('}');
            let got = format!(
                "'block_size': {}, 'node_id': {}, 'addr': {}, 'region_size': {}, 'usable_region_size': {}, \
                 'plugged_size': {}, 'requested_size': {}",
                config.block_size,
                config.node_id,
                config.addr,
                config.region_size,
                config.usable_region_size,
                config.plugged_size,
                config.requested_size
            );
            player.report.text(id, note, expected, &got);
            return true;
        }
    };
    let config = requested(player, nth);
    let addr = config.addr + from * config.block_size;
    let answer = player.drive(nth, |driver, qtest| driver.request(qtest, kind, addr, blocks));
    player.report.text(id, note, note.rsplit_once(" -> ").unwrap().1, &answer);
    true
}

/// A session with a Linux guest.
fn with_guest(file: &str) {
    if !have(&[Need::Oracle]) {
        return;
    }
    let steps = lines(file, &["(", "free", "exit ", "PLUG ", "UNPLUG "]);
    let vm = match Vm::new().args(without_linux(first_start(&steps))).qmp().hmp().qtest().try_start() {
        Ok(vm) => vm,
        Err(exited) => return no_machine(file, &steps, &exited.stderr),
    };
    let mut player = Player::with_guest(file, vm, Guest::InTest);
    if !first_start(&steps).iter().any(|arg| arg == "-kernel") {
        // The recorder's driver was there from the beginning.
        player.drive(0, |_, _| ());
    }
    let mut playing = true;
    for line in &steps {
        if let Step::Heading(heading) = &line.step {
            playing = playable(heading);
            if heading.starts_with("stop/cont") && program::peer() == Peer::Qemu {
                // Firmware on the vCPU would begin to run here and take the devices from the test.
                break;
            }
        }
        if playing && !matches!(line.step, Step::Note(_)) {
            player.play(line);
        }
    }
    player.finish();
}

/// The verdict on a session whose machine does not start.
fn no_machine(file: &str, steps: &[Line], why: &str) {
    let name = file.rsplit('/').next().unwrap_or(file).trim_end_matches(".txt");
    let mut report = Report::new(file, Gaps::load(&[&format!("gaps-{name}")]));
    let start = steps.iter().find(|line| matches!(line.step, Step::Start(_)));
    let id = format!("{name}:{}", start.map_or(0, |line| line.number));
    report.fail(&id, "the machine", why);
    report.finish();
}

/// Whether a part of a session is about something that the test as a guest can do.
fn playable(heading: &str) -> bool {
    const NOT: [&str; 5] = ["events seen", "guest view", "guest limits", "guest-initiated", "guest poweroff"];
    !NOT.iter().any(|not| heading.starts_with(not))
}

/// The options without the guest's kernel and with the default accelerator.
pub(crate) fn without_linux(args: Vec<String>) -> Vec<String> {
    let mut kept = Vec::new();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-kernel" | "-initrd" | "-append" | "-serial" | "-accel" => {
                args.next();
            }
            _ => kept.push(arg),
        }
    }
    kept
}

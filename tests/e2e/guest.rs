//! Machines with a guest on a vCPU: the built-in one follows requested sizes in both directions, on KVM and on `sim`.

use serde_json::json;
use tests::oracle::transcript::{Line, Step};
use tests::{Need, Vm, have};

use crate::replay::{Guest, Player, first_start, lines};
use crate::session::with_guest;

#[test]
fn sizes_on_pc_with_a_guest_on_kvm_are_the_oracles() {
    replay("1-scenarios/guest-pc.txt", "kvm");
}

#[test]
fn sizes_on_q35_with_a_guest_on_kvm_are_the_oracles() {
    replay("1-scenarios/guest-q35.txt", "kvm");
}

#[test]
fn sizes_on_q35_with_a_guest_on_sim_are_the_oracles() {
    replay("1-scenarios/guest-q35.txt", "sim");
}

/// The part of a session that a guest of any kind does alike: requested sizes and what is said of them.
fn replay(file: &str, accel: &str) {
    let needs: &[Need] =
        if accel == "kvm" { &[Need::Oracle, Need::Kvm] } else { &[Need::Oracle, Need::Pliant] };
    if !have(needs) {
        return;
    }
    let steps = lines(file, &["(", "free", "exit "]);
    let args = crate::scenarios::without_linux(first_start(&steps));
    let vm = with_guest(Vm::new().accel(accel)).args(args).qmp().hmp().start();
    let mut player = Player::with_guest(file, vm, Guest::Real);
    // In the last part the recorded Linux guest could not give back all that it was asked for.
    let last =
        |line: &&Line| !matches!(&line.step, Step::Heading(heading) if heading.starts_with("stop/cont"));
    let mut held = false;
    for line in steps.iter().take_while(last).filter(|line| about_sizes(line)) {
        // The recorded guest took seconds to come back. This one is held until it was looked at what the reset left.
        let resets = matches!(&line.step, Step::Hmp(command, _) if command == "system_reset");
        if resets {
            player.vm.qmp().ok("stop", json!({}));
        }
        player.play(line);
        if held {
            player.vm.qmp().ok("cont", json!({}));
        }
        held = resets;
    }
    player.finish();
}

fn about_sizes(line: &Line) -> bool {
    match &line.step {
        Step::Hmp(command, _) => {
            let sizes =
                ["info memory-devices", "info numa", "info memory_size_summary"].contains(&command.as_str());
            sizes || command.starts_with("qom-set") || command == "system_reset"
        }
        Step::Qmp(request, _) => {
            request["execute"] == "qom-set" || request["execute"] == "query-memory-devices"
        }
        _ => false,
    }
}

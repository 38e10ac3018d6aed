//! The virtio-mem device as a driver sees it, from the oracle's `4-device/`: configuration space, features, MSI-X, requests and
//! their answers, violations, events and their throttling.

mod config_space;
mod events;
mod features;
mod msix;
mod requests;
mod tables;

use tests::oracle::transcript::Line;
use tests::{Peer, Vm, program};

use crate::replay::first_start;

/// The first machine of a transcript, with all monitors and qtest.
/// Memory that is not plugged is left as open as QEMU leaves it.
fn start(steps: &[Line]) -> Vm {
    let vm = Vm::new().args(first_start(steps)).qmp().hmp().qtest();
    match program::peer() {
        Peer::Pliant => vm.line("-global virtio-mem.unplugged-protection=off").start(),
        Peer::Qemu => vm.start(),
    }
}

/// As the recorder, a Python program, wrote truth.
fn python(truth: bool) -> &'static str {
    if truth { "True" } else { "False" }
}

/// Bytes as digits without anything between.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

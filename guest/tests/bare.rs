//! The bare-metal program on a real vCPU: it reaches ring 3, answers, sleeps, stops.
//!
//! Skipped with a note where `/dev/kvm` cannot be opened.
#![cfg(feature = "image")]

mod vmm;

use std::time::Duration;
use vmm::{Stop, Vmm, start};

const PATIENCE: Duration = Duration::from_secs(20);
const RAM: u64 = 64 << 20;

fn booted(cmdline: &str) -> Option<Vmm> {
    let vmm = start(guest::IMAGE, cmdline, RAM)?;
    vmm.expect("ready: 0 virtio-mem devices", PATIENCE);
    vmm.expect("\r\n", PATIENCE);
    Some(vmm)
}

#[test]
fn the_image_answers_on_the_serial_port_and_powers_off() {
    let Some(vmm) = start(guest::IMAGE, "touch=none", RAM) else { return };
    // What is in the memory map, and the command line, arrived.
    vmm.expect("ready: 0 virtio-mem devices, ram 66715648, touch=none\r\n", PATIENCE);
    vmm.send("help");
    vmm.expect("help: this list\r\n", PATIENCE);
    vmm.send("off");
    vmm.expect("powering off\r\n", PATIENCE);
    assert_eq!(vmm.join().stop, Stop::PowerOff);
}

#[test]
fn an_idle_guest_halts_instead_of_burning_the_core() {
    let Some(vmm) = booted("") else { return };
    assert_eq!(vmm.silence(Duration::from_secs(1)), "");
    vmm.send("off");
    let report = vmm.join();
    // Boot, twenty timer ticks, power off: a few milliseconds each, on a slow host tens of them. A polling guest takes the whole second.
    assert!(report.busy < Duration::from_millis(900), "{report:?}");
}

#[test]
fn memory_beyond_the_first_gigabyte_is_mapped_on_demand() {
    let Some(vmm) = start(guest::IMAGE, "", 3 << 30) else { return };
    vmm.expect("touch=page\r\n", PATIENCE);
    vmm.send("poke 0xb0000000 0x1122334455667788");
    vmm.expect("poke 0xb0000000: 0x1122334455667788\r\n", PATIENCE);
    vmm.send("peek 0xb0000000");
    vmm.expect("peek 0xb0000000: 0x1122334455667788\r\n", PATIENCE);
    // Nobody answers here: not RAM, not addressable.
    vmm.send("peek 0x200000000000");
    vmm.expect("peek 0x200000000000: 0xffffffffffffffff\r\n", PATIENCE);
    vmm.send("peek 0xffffffffffffffff");
    vmm.expect("peek 0xffffffffffffffff: 0xffffffffffffffff\r\n", PATIENCE);
    vmm.send("off");
    assert_eq!(vmm.join().stop, Stop::PowerOff);
}

#[test]
fn dirtied_memory_is_verified() {
    let Some(vmm) = booted("") else { return };
    vmm.send("dirty 4M 400M");
    vmm.expect(
        "dirty: writing 4194304 bytes (4194304 of base ram) at 419430400 bytes a second\r\n",
        PATIENCE,
    );
    // As far as it got, which may be nowhere yet; in the end that is all of it.
    loop {
        vmm.send("check");
        let seen = vmm.expect("check: ok: 0 blocks verified, 0 never written, 0 words differ\r\n", PATIENCE);
        if seen.contains("check: 4194304 bytes of dirtied ram, 0 words differ\r\n") {
            break;
        }
    }
    vmm.send("off");
    assert_eq!(vmm.join().stop, Stop::PowerOff);
}

#[test]
fn reboot_goes_through_the_reset_control_register() {
    let Some(vmm) = booted("") else { return };
    vmm.send("nonsense");
    vmm.expect("error: unknown command nonsense\r\n", PATIENCE);
    vmm.send("reboot");
    vmm.expect("rebooting\r\n", PATIENCE);
    assert_eq!(vmm.join().stop, Stop::Reset);
}

//! Ways to end: the power button, the guest's own power off and reboot, a panic.

use serde_json::json;

use crate::testbed::Linux;

/// Opens the power button's events as descriptor 4, so that no press is lost, and says so.
pub(super) const ARM: &str = "for e in /sys/class/input/event*; do \
    grep -q 'Power Button' $e/device/name && exec 4</dev/input/${e##*/} && break; done; [ -e /proc/self/fd/4 ]";

pub(super) fn powerdown_is_a_button_press(guest: &mut Linux) {
    guest.run(ARM);
    guest.send("head -c 24 <&4 >/dev/null && echo pressed && poweroff -f").expect("the guest runs");
    let qmp = guest.vm().qmp();
    qmp.ok("system_powerdown", json!({}));
    qmp.wait_event("POWERDOWN", |_| true);
    guest.see("pressed");
    it_ends(guest, "guest-shutdown");
}

pub(super) fn guest_powers_off(guest: &mut Linux) {
    guest.send("poweroff -f").expect("the guest runs");
    it_ends(guest, "guest-shutdown");
}

/// The VMM says why it ends, and ends well.
fn it_ends(guest: &mut Linux, reason: &str) {
    guest.see_the_end();
    let event = guest.vm().qmp().wait_event("SHUTDOWN", |_| true);
    assert_eq!(event["data"], json!({ "guest": true, "reason": reason }));
    let exited = guest.vm().wait_mut();
    assert_eq!((exited.code, exited.signal), (Some(0), None), "{}", exited.stderr);
}

pub(super) fn guest_reboots(guest: &mut Linux) {
    reboot(guest, |_| {});
    guest.run("true");
}

/// The guest reboots and comes back; `at_reset` looks at the machine when it was reset.
pub(super) fn reboot(guest: &mut Linux, at_reset: impl FnOnce(&mut Linux)) {
    let qmp = guest.vm().qmp();
    qmp.ok("query-status", json!({}));
    qmp.events();
    guest.send("reboot -f").expect("the guest runs");
    let event = guest.vm().qmp().wait_event("RESET", |_| true);
    assert_eq!(event["data"], json!({ "guest": true, "reason": "guest-reset" }));
    at_reset(guest);
    guest.reach_the_shell().unwrap_or_else(|e| panic!("after the reboot: {e}"));
}

pub(super) fn panic_is_reported(guest: &mut Linux) {
    // The driver of `pvpanic-pci`, where that is what there is.
    guest.insert_later();
    guest.run("echo 1 >/proc/sys/kernel/sysrq");
    guest.send("echo c >/proc/sysrq-trigger").expect("the guest runs");
    let console = guest.see_the_end();
    assert!(console.contains("sysrq triggered crash"), "{console}");
    let event = guest.vm().qmp().wait_event("GUEST_PANICKED", |_| true);
    assert_eq!(event["data"], json!({ "action": "poweroff" }));
    it_ends(guest, "guest-panic");
}

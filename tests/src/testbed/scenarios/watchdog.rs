//! The chipset's watchdog as Linux's `iTCO_wdt` drives it. Busybox feeds it each second; a feeder that is stopped is a guest that hangs.

use serde_json::json;

use super::moves;
use crate::testbed::Linux;

/// Feeds it; it expires after twice six seconds without that.
const FEED: &str = "watchdog -T 6 -t 1 /dev/watchdog0";
const HANG: &str = "kill -STOP $(pidof watchdog)";
const GO_ON: &str = "kill -CONT $(pidof watchdog)";
const STATE: &str = "cat /sys/class/watchdog/watchdog0/state";

fn feed(guest: &mut Linux) {
    guest.run(FEED);
    guest.until(STATE, |state| state == "active");
}

/// Ends the feeder, which stops the watchdog first.
fn stop(guest: &mut Linux) {
    guest.run("killall watchdog");
    guest.until(STATE, |state| state == "inactive");
}

/// The guest hangs, and this is done about it.
fn bites(guest: &mut Linux, action: &str) {
    guest.vm().qmp().ok("set-action", json!({ "watchdog": action }));
    guest.vm().qmp().events();
    guest.run(HANG);
    let event = guest.vm().qmp().wait_event("WATCHDOG", |_| true);
    assert_eq!(event["data"], json!({ "action": action }));
}

fn has_not_bitten(guest: &mut Linux) {
    guest.vm().qmp().ok("query-status", json!({}));
    let events = guest.vm().qmp().events();
    assert!(events.iter().all(|event| event["event"] != "WATCHDOG"), "{events:?}");
}

pub(super) fn driver_finds_it(guest: &mut Linux) {
    guest.insert_later();
    let said = guest.run("dmesg | grep -i itco_wdt");
    assert!(said.contains("initialized"), "{said}");
    assert_eq!(guest.run("cat /sys/class/watchdog/watchdog0/identity"), "iTCO_wdt");
    assert_eq!(guest.run(STATE), "inactive");
}

pub(super) fn stays_quiet_while_it_is_fed(guest: &mut Linux) {
    feed(guest);
    // Longer than it bears: that nothing comes is no event that could be awaited.
    guest.run("sleep 15");
    let left = guest.number("cat /sys/class/watchdog/watchdog0/timeleft");
    assert!(left <= 12, "{left} seconds of twice six");
    stop(guest);
    // It is not fed any more, and nothing is to come of that.
    guest.run("sleep 15");
    has_not_bitten(guest);
}

pub(super) fn stops_a_guest_that_hangs(guest: &mut Linux) {
    feed(guest);
    bites(guest, "pause");
    guest.vm().qmp().wait_event("STOP", |_| true);
    let status = guest.vm().qmp().ok("query-status", json!({}));
    assert_eq!(status, json!({ "running": false, "status": "watchdog" }));
    guest.vm().qmp().ok("cont", json!({}));
    guest.run(GO_ON);
    stop(guest);
}

pub(super) fn interrupts_a_guest_that_hangs(guest: &mut Linux) {
    guest.run("dmesg -c >/dev/null");
    feed(guest);
    bites(guest, "inject-nmi");
    guest.until("dmesg", |text| text.contains("NMI received for unknown reason"));
    guest.run(GO_ON);
    stop(guest);
}

/// What feeds it arrives with it, and when it does no more it bites there.
pub(super) fn goes_along(guest: &mut Linux) {
    feed(guest);
    let there = moves::set_out(guest, &["return-path"]);
    let left = moves::arrive(guest, there);
    assert_eq!(guest.run(STATE), "active");
    has_not_bitten(guest);
    bites(guest, "none");
    drop(left);
    guest.run(GO_ON);
    stop(guest);
}

pub(super) fn resets_a_guest_that_hangs(guest: &mut Linux) {
    feed(guest);
    bites(guest, "reset");
    let reset = guest.vm().qmp().wait_event("RESET", |_| true);
    assert_eq!(reset["data"], json!({ "guest": true, "reason": "guest-reset" }));
    guest.reach_the_shell().unwrap_or_else(|e| panic!("after the reset: {e}"));
    driver_finds_it(guest);
}

//! Keyboard and mouse.

use serde_json::json;

use crate::testbed::Linux;

/// Opens the keyboard's events as descriptor 5.
const LISTEN: &str = "for e in /sys/class/input/event*; do \
    grep -q 'AT Translated Set 2 keyboard' $e/device/name && exec 5</dev/input/${e##*/} && break; done; [ -e /proc/self/fd/5 ]";

/// Codes and values (1: pressed) of the events of keys; each comes with its scan code and an end.
const KEYS: &str =
    "head -c $((12 * 24)) <&5 | od -An -v -tx2 -w24 | awk '$9 == \"0001\" { print $10, $11 }'; exec 5<&-";

fn press(guest: &mut Linux, keys: &[&str]) {
    let keys: Vec<_> = keys.iter().map(|key| json!({ "type": "qcode", "data": key })).collect();
    guest.vm().qmp().ok("send-key", json!({ "keys": keys, "hold-time": 1 }));
}

pub(super) fn keys_are_typed(guest: &mut Linux) {
    guest.run(LISTEN);
    press(guest, &["shift", "b"]);
    assert_eq!(guest.run(KEYS), "002a 0001\n0030 0001\n0030 0000\n002a 0000");
}

/// Its driver asks for all that a mouse with a wheel and five buttons answers to.
pub(super) fn mouse_is_found(guest: &mut Linux) {
    let name = "cat /sys/class/input/mouse*/device/name 2>/dev/null || true";
    guest.until(name, |name| name == "ImExPS/2 Generic Explorer Mouse");
}

/// With nobody asked: what the kernel does by itself for who holds these down.
pub(super) fn three_keys_reset(guest: &mut Linux) {
    guest.run("echo 1 >/proc/sys/kernel/ctrl-alt-del");
    guest.vm().qmp().events();
    press(guest, &["ctrl", "alt", "delete"]);
    let event = guest.vm().qmp().wait_event("RESET", |_| true);
    assert_eq!(event["data"], json!({ "guest": true, "reason": "guest-reset" }));
    guest.reach_the_shell().unwrap_or_else(|e| panic!("after the reset: {e}"));
}

//! Devices that a headless guest wants: entropy, consoles, the balloon.

use serde_json::json;

use super::cpus::MEM_TOTAL;
use crate::testbed::Linux;

pub(super) fn entropy(guest: &mut Linux) {
    let current = guest.run("cat /sys/class/misc/hw_random/rng_current");
    assert!(current.starts_with("virtio_rng"), "{current}");
    let mut drawn = || guest.run("head -c 64 /dev/hwrng | md5sum");
    assert_ne!(drawn(), drawn());
}

pub(super) fn console_both_ways(guest: &mut Linux) {
    let port = guest.run("cd /sys/class/virtio-ports; grep -l org.qemu.guest_agent.0 */name");
    let port = format!("/dev/{}", port.trim_end_matches("/name"));
    for (socket, device) in [("console", "/dev/hvc0"), ("port", &port)] {
        let path = guest.vm().scratch().join(socket);
        let mut host = guest.vm().connect(&path);
        // A terminal forgets its settings when nobody has it open.
        let raw = if socket == "console" { "stty -F /dev/hvc0 raw -echo; " } else { "" };
        let line = format!(
            "exec 5<>{device}; {raw}echo from the guest >&5; read -r heard <&5; echo \"heard $heard\""
        );
        let number = guest.send(&line).expect("the guest runs");
        host.until("from the guest\n").unwrap_or_else(|e| panic!("{device}: {e}"));
        host.send(b"from the host\n").expect("the VMM takes it");
        let (status, heard) = guest.answer(number).unwrap_or_else(|e| panic!("{device}: {e}"));
        assert_eq!((status, heard.as_str()), (0, "heard from the host"), "{device}");
    }
}

pub(super) fn balloon_up_and_down(guest: &mut Linux) {
    const AWAY: u64 = 64 << 20;
    let full = guest.vm().qmp().ok("query-balloon", json!({}))["actual"].as_u64().expect("a size");
    let before = guest.number(MEM_TOTAL);
    for (target, wanted) in [(full - AWAY, before - (AWAY >> 10)), (full, before)] {
        let qmp = guest.vm().qmp();
        qmp.ok("balloon", json!({ "value": target }));
        qmp.wait_event("BALLOON_CHANGE", |e| e["data"]["actual"] == target);
        assert_eq!(qmp.ok("query-balloon", json!({})), json!({ "actual": target }));
        guest.until(MEM_TOTAL, |text| text == wanted.to_string());
    }
}

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

/// Each time both ends are opened, used and closed. Interrupts that are edges were seen to get lost by the fourth time on `microvm`.
const ROUNDS: u32 = 20;

pub(super) fn console_both_ways(guest: &mut Linux) {
    consoles(guest, ROUNDS);
}

/// Says and hears so many times on the console and on the port.
pub(super) fn consoles(guest: &mut Linux, rounds: u32) {
    let port = guest.run("cd /sys/class/virtio-ports; grep -l org.qemu.guest_agent.0 */name");
    let port = format!("/dev/{}", port.trim_end_matches("/name"));
    for _ in 0..rounds {
        // A terminal forgets its settings when nobody has it open.
        say_and_hear(guest, "console", "/dev/hvc0", "stty -F /dev/hvc0 raw -echo; ");
        say_and_hear(guest, "port", &port, "");
    }
}

fn say_and_hear(guest: &mut Linux, socket: &str, device: &str, prepare: &str) {
    let path = guest.vm().scratch().join(socket);
    let mut host = guest.vm().connect(&path);
    // Closed as well: a program that the shell starts later would have the port open, which nobody else can open then.
    let line = format!(
        "exec 5<>{device}; {prepare}echo from the guest >&5; read -r heard <&5; exec 5>&-; echo \"heard $heard\""
    );
    let number = guest.send(&line).expect("the guest runs");
    host.until("from the guest\n").unwrap_or_else(|e| panic!("{device}: {e}"));
    host.send(b"from the host\n").expect("the VMM takes it");
    let (status, heard) = guest.answer(number).unwrap_or_else(|e| panic!("{device}: {e}"));
    assert_eq!((status, heard.as_str()), (0, "heard from the host"), "{device}");
}

pub(super) fn balloon_up_and_down(guest: &mut Linux) {
    const AWAY: u64 = 64 << 20;
    // The fourth bit: a queue of hints, which a thread of its own serves.
    assert_eq!(guest.run("cut -c4 /sys/bus/virtio/drivers/virtio_balloon/virtio*/features"), "1");
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

pub(super) fn balloon_tells_of_the_guest(guest: &mut Linux) {
    const BALLOON: &str = "/machine/peripheral/balloon0";
    guest.vm().qmp().qom_set(BALLOON, "guest-stats-polling-interval", json!(1));
    let stats = guest.eventually(|guest| {
        // The guest needs time for it.
        guest.run("true");
        let said = guest.vm().qmp().qom_get(BALLOON, "guest-stats");
        if said["last-update"] == 0 {
            Err(format!("no statistics: {said}"))
        } else {
            Ok(said["stats"].clone())
        }
    });
    let total = guest.number(MEM_TOTAL) << 10;
    assert_eq!(stats["stat-total-memory"], total, "{stats}");
    assert!(stats["stat-free-memory"].as_u64().is_some_and(|free| free > 0 && free < total), "{stats}");
}

pub(super) fn free_pages_go_back(guest: &mut Linux) {
    const USED: u64 = 128 << 10;
    guest.run(&format!("dd if=/dev/zero of=/big bs=1M count={} 2>/dev/null", USED >> 10));
    let before = guest.vmm_kib("VmRSS");
    assert!(before > USED, "{before} KiB with a file of {USED} KiB in the guest");
    guest.run("rm /big");
    guest.eventually(|guest| {
        guest.run("true");
        let now = guest.vmm_kib("VmRSS");
        if now + USED / 2 > before {
            Err(format!("{now} KiB, {before} before the file was deleted"))
        } else {
            Ok(())
        }
    });
}

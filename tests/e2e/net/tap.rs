//! A tap interface: the kernel of this machine is who the guest talks to.

use std::process::Command;

use super::*;

/// What an interface of the test needs.
struct Interface(String);

impl Drop for Interface {
    fn drop(&mut self) {
        ip(&["link", "del", &self.0]);
    }
}

fn ip(args: &[&str]) -> bool {
    Command::new("ip").args(args).output().is_ok_and(|done| done.status.success())
}

impl Interface {
    /// One that the kernel answers on, as 198.18.77.1. `None` where that is not allowed, which CI must be.
    fn new(number: u8) -> Option<Self> {
        let name = format!("plt{}n{number}", std::process::id());
        let made = Self(name.clone());
        let address = format!("198.18.77.{number}/24");
        let ready = ip(&["tuntap", "add", "dev", &name, "mode", "tap", "vnet_hdr"])
            && ip(&["addr", "add", &address, "dev", &name])
            && ip(&["link", "set", &name, "up"]);
        if ready {
            return Some(made);
        }
        let owed = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!owed, "CI must have tap interfaces");
        println!("SKIPPED: no tap interface can be made (as root, with the program `ip`)");
        None
    }
}

/// Asks who has 198.18.77.N (RFC 826), as 198.18.77.100.
fn question(number: u8) -> Vec<u8> {
    let mut bytes = vec![0xff; 6];
    bytes.extend(OWN);
    bytes.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    bytes.extend(OWN);
    bytes.extend([198, 18, 77, 100]);
    bytes.extend([0; 6]);
    bytes.extend([198, 18, 77, number]);
    bytes.resize(60, 0);
    bytes
}

#[test]
fn the_kernel_answers_a_question_of_the_guest() {
    if !have(&[Need::QtestAccel]) {
        return;
    }
    let Some(interface) = Interface::new(1) else { return };
    let name = &interface.0;
    let line = format!("-machine q35 -m 64M -netdev tap,id=h,ifname={name},script=no,downscript=no");
    let mut vm = Vm::new()
        .line(&line)
        .line("-device virtio-net-pci,id=n,netdev=h,mac=52:54:00:00:00:07,addr=3")
        .qmp()
        .hmp()
        .qtest()
        .start();
    let listed = vm.hmp().run("info network");
    assert!(listed.ends_with(&format!("type=tap,ifname={name},script=no,downscript=no\n")), "{listed}");
    let status =
        vm.qmp().ok("x-query-virtio-status", json!({ "path": "/machine/peripheral/n/virtio-backend" }));
    let features = status["host-features"]["dev-features"].to_string();
    assert!(features.contains("VIRTIO_NET_F_HOST_TSO4") && features.contains("VIRTIO_NET_F_GUEST_CSUM"));
    let mut card = Card::start(&mut vm);
    for _ in 0..8 {
        card.offer(&mut vm);
    }
    let deadline = Instant::now() + tests::wire::patience();
    let answer = loop {
        assert!(Instant::now() < deadline, "nobody answers");
        // The kernel sends nothing before it has noticed that somebody is there, so it is asked again.
        card.send(&mut vm, &question(1));
        let mut looked = 0..200;
        let got = looked.find(|_| card.has_received(&mut vm)).map(|_| card.receive(&mut vm));
        // It has things of its own to say on a new interface.
        let Some(got) = got else { continue };
        card.offer(&mut vm);
        if got[..6] == OWN && got[12..14] == [8, 6] {
            break got;
        }
    };
    assert_eq!(
        (answer[20..22].to_vec(), &answer[28..32]),
        (vec![0, 2], &[198, 18, 77, 1][..]),
        "a reply, by it"
    );
    assert_eq!(answer[38..42], [198, 18, 77, 100], "to the guest");
}

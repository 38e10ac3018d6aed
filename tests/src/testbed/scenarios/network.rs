//! A network card: the guest talks to a host that is played here, at the other end of a socket.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;

use crate::testbed::Linux;

/// Who is played here, and who the guest is.
const HOST: [u8; 4] = [10, 77, 0, 1];
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const CARD: &str = "/sys/bus/virtio/drivers/virtio_net/virtio*/net";

/// A host that answers to ARP and to echo requests, until it is dropped.
struct Host {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// Bytes of the longest echo request that it answered.
    longest: Arc<Mutex<usize>>,
}

impl Host {
    fn start(folder: &Path) -> Self {
        let (ours, theirs) = (folder.join("net-host"), folder.join("net-vm"));
        let _ = std::fs::remove_file(&ours);
        let socket = UnixDatagram::bind(ours).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time");
        let (over, longest) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(0)));
        let (ended, seen) = (Arc::clone(&over), Arc::clone(&longest));
        let thread = std::thread::spawn(move || {
            let mut packet = vec![0; 70_000];
            while !ended.load(Relaxed) {
                let Ok(length) = socket.recv(&mut packet) else { continue };
                let Some(reply) = answer(&packet[..length]) else { continue };
                let mut longest = seen.lock().expect("nobody panics with it");
                *longest = length.max(*longest);
                // A guest that takes nothing loses packets.
                let _ = socket.send_to(&reply, &theirs);
            }
        });
        Self { over, thread: Some(thread), longest }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it ends");
        }
    }
}

/// What the host says to a packet, if anything: to ARP (RFC 826) and to echo requests (RFC 792).
fn answer(packet: &[u8]) -> Option<Vec<u8>> {
    let mut reply = packet.to_vec();
    let from: [u8; 6] = *packet.get(6..)?.first_chunk()?;
    reply[..6].copy_from_slice(&from);
    reply[6..12].copy_from_slice(&MAC);
    match packet.get(12..14)? {
        [8, 6] if packet.get(20..22)? == [0, 1] && packet.get(38..42)? == HOST => {
            reply[21] = 2;
            reply.copy_within(22..32, 32);
            reply[22..28].copy_from_slice(&MAC);
            reply[28..32].copy_from_slice(&HOST);
        }
        // IPv4 without options, an echo request.
        [8, 0] if packet[14] == 0x45 && packet.get(23)? == &1 && packet.get(34)? == &8 => {
            reply.copy_within(26..30, 30);
            reply[26..30].copy_from_slice(&HOST);
            // Another type; the checksum is of ones' complements, so what one word loses it gains.
            reply[34] = 0;
            let sum = u32::from(u16::from_be_bytes([packet[36], packet[37]])) + 0x0800;
            let folded = (sum & 0xffff) + (sum >> 16);
            // Folded to sixteen bits.
            reply[36..38].copy_from_slice(&(folded as u16).to_be_bytes());
        }
        _ => return None,
    }
    Some(reply)
}

fn up(guest: &mut Linux) {
    guest.run(&format!(
        "card=$(ls {CARD}); ip addr flush dev $card; ip addr add 10.77.0.2/24 dev $card; ip link set $card up"
    ));
}

pub(super) fn packets_go_both_ways(guest: &mut Linux) {
    let host = Host::start(guest.vm().scratch());
    up(guest);
    assert_eq!(guest.run(&format!("cat {CARD}/*/address")), "52:54:00:00:00:07");
    for size in [56, 1400] {
        let said = guest.run(&format!("ping -c 5 -W 20 -s {size} 10.77.0.1"));
        assert!(said.contains("5 packets transmitted, 5 packets received"), "{said}");
    }
    let many = guest.run("ping -c 200 -i 0.01 -W 20 -s 1000 10.77.0.1 | tail -2");
    assert!(many.contains("200 packets received"), "{many}");
    assert_eq!(*host.longest.lock().expect("nobody panics with it"), 1400 + 8 + 20 + 14);
    let listed = guest.vm().qmp().human("info network");
    assert!(
        listed.starts_with("net0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:00:00:07"),
        "{listed}"
    );
}

pub(super) fn cable_is_unplugged_and_plugged(guest: &mut Linux) {
    let _host = Host::start(guest.vm().scratch());
    up(guest);
    for (plugged, carrier) in [(false, "0"), (true, "1")] {
        guest.vm().qmp().ok("set_link", json!({ "name": "net0", "up": plugged }));
        guest.until(&format!("cat {CARD}/*/carrier"), |text| text == carrier);
    }
    let said = guest.run("ping -c 3 -W 20 10.77.0.1 | tail -2");
    assert!(said.contains("3 packets received"), "{said}");
    // What the guest's driver asks for is told.
    guest.vm().qmp().ok("query-rx-filter", json!({}));
    guest.run(&format!("ip link set $(ls {CARD}) promisc on"));
    guest.vm().qmp().wait_event("NIC_RX_FILTER_CHANGED", |event| event["data"]["name"] == "net0");
    let filter = guest.vm().qmp().ok("query-rx-filter", json!({ "name": "net0" }));
    assert_eq!(filter[0]["promiscuous"], true, "{filter}");
    guest.run(&format!("ip link set $(ls {CARD}) promisc off"));
}

pub(super) fn card_comes_and_goes(guest: &mut Linux) {
    for _ in 0..3 {
        guest.vm().qmp().ok("device_del", json!({ "id": "net0" }));
        guest.vm().qmp().wait_event("DEVICE_DELETED", |event| event["data"]["device"] == "net0");
        guest.vm().qmp().ok("netdev_del", json!({ "id": "h0" }));
        let folder = guest.vm().scratch().to_owned();
        let address = |name: &str| json!({ "type": "unix", "path": folder.join(name) });
        let netdev =
            json!({ "type": "dgram", "id": "h0", "local": address("net-vm"), "remote": address("net-host") });
        guest.vm().qmp().ok("netdev_add", netdev);
        let card = json!({ "driver": "virtio-net-pci", "id": "net0", "netdev": "h0", "bus": "below" });
        guest.vm().qmp().ok("device_add", card);
        guest.until(&format!("cat {CARD}/*/address 2>/dev/null || true"), |text| text == "52:54:00:12:34:56");
        let _host = Host::start(&folder);
        up(guest);
        let said = guest.run("ping -c 3 -W 20 10.77.0.1 | tail -2");
        assert!(said.contains("3 packets received"), "{said}");
    }
}

/// Adds a card on an interface of the machine that the VMM runs on, whose name and network this gives; nothing where that is not allowed.
fn interface(guest: &mut Linux) -> Option<(String, String)> {
    let arguments = json!({ "type": "tap", "id": "h1", "script": "no", "downscript": "no" });
    let request = json!({ "execute": "netdev_add", "arguments": arguments });
    let reply = guest.vm().qmp().request(&request).expect("an answer");
    if let Some(error) = reply.get("error") {
        guest.skip(&format!("no interface can be made here: {error}"));
        return None;
    }
    let card = json!({ "driver": "virtio-net-pci", "id": "net1", "netdev": "h1", "bus": "other", "mac": "52:54:00:00:00:09" });
    guest.vm().qmp().ok("device_add", card);
    let listed = guest.vm().qmp().human("info network");
    let name =
        listed.split("ifname=").nth(1).and_then(|rest| rest.split(',').next()).expect("a name").to_owned();
    // Another guest on this machine has another interface, and so another network.
    let number: String = name.chars().filter(char::is_ascii_digit).collect();
    let network = format!("10.78.{number}");
    for arguments in
        [vec!["addr", "add", &format!("{network}.1/24"), "dev", &name], vec!["link", "set", &name, "up"]]
    {
        let done = Command::new("ip").args(&arguments).output().expect("the program ip");
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
    Some((name, network))
}

/// Bytes of a packet on an interface, in the middle.
fn mean(interface: &str, way: &str) -> u64 {
    let of = |what: &str| {
        let path = format!("/sys/class/net/{interface}/statistics/{way}_{what}");
        let text = std::fs::read_to_string(path).expect("statistics");
        text.trim().parse::<u64>().expect("a number")
    };
    of("bytes") / of("packets").max(1)
}

pub(super) fn segments_are_left_to_the_other_end(guest: &mut Linux) {
    const SIZE: usize = 16 << 20;
    let Some((interface, network)) = interface(guest) else { return };
    let card = "card=$(grep -l 52:54:00:00:00:09 /sys/class/net/*/address | cut -d/ -f5)";
    guest.until(&format!("{card}; echo $card"), |name| !name.is_empty());
    guest.run(&format!("{card}; ip addr add {network}.2/24 dev $card; ip link set $card up"));
    let features = guest.run(&format!("{card}; cat /sys/class/net/$card/device/features"));
    for feature in [0, 1, 7, 11, 15] {
        assert_eq!(features.as_bytes().get(feature), Some(&b'1'), "feature {feature} of {features}");
    }
    let listener = TcpListener::bind((format!("{network}.1"), 0)).expect("an address");
    let port = listener.local_addr().expect("it has one").port();
    // Gives back what it got, once it has all of it.
    let host = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        let mut bytes = vec![0; SIZE];
        stream.read_exact(&mut bytes)?;
        stream.write_all(&bytes)
    });
    guest.run(&format!("dd if=/dev/urandom of=/sent bs=1M count={} 2>/dev/null", SIZE >> 20));
    guest.run(&format!("nc {network}.1 {port} </sent >/heard"));
    host.join().expect("it ends").expect("all of it goes both ways");
    assert_eq!(guest.run("cmp /sent /heard && echo same"), "same");
    guest.run("rm /sent /heard");
    let (from_guest, to_guest) = (mean(&interface, "rx"), mean(&interface, "tx"));
    assert!(from_guest > 1514 && to_guest > 1514, "{from_guest} and {to_guest} bytes a packet");
}

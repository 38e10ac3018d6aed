//! A vhost-user block device at work: I/O by a guest's driver while its memory comes and goes, and back ends that leave, stall or talk
//! nonsense.
//!
//! What a back end is told of memory is compared with what the machine says that it has mapped, after every step.

mod by_hand;
mod failures;
mod limits;
mod resizes;

use std::thread;
use std::time::Instant;

use serde_json::json;
use tests::program::peer;
use tests::vhost_user::{Backend, Options, Region, Relay, Request, StorageDaemon, threads};
use tests::wire::patience;
use tests::{Need, Peer, Vm, VmBuilder, have};

use crate::session::{guest_reached, guest_says, with_guest};

const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

/// Base memory that a back end can map, and a virtio-mem device whose memory it can.
const MEMORY: &str = "-machine q35,memory-backend=base -m 512M,maxmem=8G \
    -object memory-backend-memfd,id=base,size=512M,share=on -object memory-backend-memfd,id=mem0,size=4G,share=on";

/// How long the program waits for a back end that is only slow, in milliseconds; one that it gives up is gone for good in most tests.
const PATIENCE: &str = "-global vhost-user-blk-pci.x-pliant-timeout-ms=20000";

/// That memory, and patience, which QEMU needs not be told to have.
fn with_memory(builder: VmBuilder) -> VmBuilder {
    let builder = builder.line(MEMORY);
    if peer() == Peer::Pliant { builder.line(PATIENCE) } else { builder }
}

/// The names of what a back end can map, as `info mtree` has them.
const SHARED: [&str; 2] = ["base", "mem0"];

/// The accelerators that a guest runs on here. QEMU has no `sim`, and the guest runs on any other.
fn accel(name: &'static str) -> Option<&'static str> {
    match (peer(), name) {
        (Peer::Qemu, "kvm") => Some("tcg"),
        (Peer::Qemu, _) => None,
        (Peer::Pliant, "kvm") => have(&[Need::Kvm]).then_some("kvm"),
        (Peer::Pliant, _) => Some(name),
    }
}

/// Who carries out the requests.
enum Server {
    Own(Backend),
    Daemon(StorageDaemon),
}

/// A machine with the built-in guest, a relay and a back end.
struct Rig {
    vm: Vm,
    relay: Relay,
    server: Server,
    /// Whether unplugged memory is protected, which QEMU does not do.
    protects: bool,
}

impl Rig {
    /// With our own back end.
    fn own(builder: VmBuilder, options: Options, line: &str) -> Self {
        let backend = Backend::start(&builder.scratch().join("backend"), options);
        Self::start(builder, Server::Own(backend), line)
    }

    /// With QEMU's.
    fn daemon(builder: VmBuilder, line: &str) -> Self {
        let daemon = StorageDaemon::start(builder.scratch(), 64 * M, 1);
        Self::start(builder, Server::Daemon(daemon), line)
    }

    fn start(builder: VmBuilder, server: Server, line: &str) -> Self {
        let path = match &server {
            Server::Own(backend) => backend.path(),
            Server::Daemon(daemon) => daemon.path(),
        };
        let relay = Relay::start(&builder.scratch().join("vhost"), path);
        let vm = with_memory(builder).line(line).qmp().hmp().serial().start();
        Self { vm, relay, server, protects: protects(line) }
    }

    /// Our own back end.
    fn backend(&self) -> &Backend {
        match &self.server {
            Server::Own(backend) => backend,
            Server::Daemon(_) => panic!("QEMU's daemon is not asked"),
        }
    }

    /// The memory of ours that is mapped in the machine and in which there is something, neighbours made one.
    fn mapped(&mut self) -> Vec<Region> {
        let text = self.vm.hmp().run("info mtree -f");
        let plugged = self.vm.qmp().qom_get("vm0", "size").as_u64().unwrap();
        let views = text.split("FlatView #").filter(|view| view.contains("AS \"memory\", root: system"));
        let lines = views.flat_map(str::lines).filter_map(section);
        let shared = lines.filter(|(name, _)| SHARED.contains(&name.as_str()));
        // Where unplugged memory is protected, a section of which nothing is plugged is given to nobody. These drivers plug from the
        // bottom.
        let given =
            shared.filter(|(name, region)| !self.protects || name != "mem0" || region.offset < plugged);
        united(given.map(|(_, region)| region).collect())
    }

    /// That both witnesses say the back end has exactly what is mapped. Returns the regions as they are.
    fn agree(&mut self) -> Vec<Region> {
        let mapped = self.mapped();
        let until = Instant::now() + patience();
        // What a guest has been told may come to the back end a moment later.
        loop {
            let told = self.relay.regions();
            let has = match &self.server {
                Server::Own(backend) => backend.regions(),
                Server::Daemon(_) => told.clone(),
            };
            if told == has && united(told.clone()) == mapped {
                return told;
            }
            if Instant::now() < until {
                thread::yield_now();
                continue;
            }
            let seen = about_memory(&self.relay.take_seen());
            panic!("told {told:x?}, has {has:x?}, mapped {mapped:x?}: {seen:x?}; {}", self.vm.stderr());
        }
    }

    /// Sets the requested size and waits for the guest to say that it is there.
    fn resize(&mut self, size: u64) {
        self.vm.qmp().qom_set("vm0", "requested-size", json!(size));
        guest_reached(&mut self.vm, &[size]);
    }

    /// That requests are being carried out. A ring that stands still for long is as bad as one that stands for ever.
    fn moves(&mut self) {
        // Bytes written and verified: a pass of either may take long.
        let total = |rig: &mut Self| {
            let line = guest_line(&mut rig.vm, "disk", "disk 0: run: ");
            line.split(' ').filter_map(|word| word.parse::<u64>().ok()).take(2).sum::<u64>()
        };
        let before = total(self);
        let until = Instant::now() + patience() / 3;
        while total(self) <= before {
            assert!(Instant::now() < until, "the run does not go on");
        }
    }
}

impl Drop for Rig {
    /// Says of a test that fails how the rings stand and where everybody is, while they still are.
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        eprintln!("{}{}the machine:\n{}", self.vm.stderr(), self.relay.rings(), threads(self.vm.pid()));
        if let Server::Daemon(daemon) = &self.server {
            eprintln!("the storage daemon:\n{}", threads(daemon.pid()));
        }
    }
}

/// Whether a machine with these devices protects unplugged memory.
fn protects(line: &str) -> bool {
    peer() == Peer::Pliant && !line.contains("unplugged-protection=off")
}

/// A section of memory in a line of `info mtree -f`: the name of its region, and where it is.
fn section(line: &str) -> Option<(String, Region)> {
    let (range, rest) = line.trim().split_once(" (prio ")?;
    let (first, last) = range.split_once('-')?;
    // QEMU shares what the board has made read-only for the guest as well.
    let read_only = rest.split_once(", rom): ").filter(|_| peer() == Peer::Qemu);
    let rest = rest.split_once(", ram): ").or(read_only)?.1;
    let mut words = rest.split(' ');
    let name = words.next()?.to_owned();
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let offset = words.find_map(|word| number(word.strip_prefix('@')?)).unwrap_or(0);
    let (first, last) = (number(first)?, number(last)?);
    Some((name, Region { guest: first, size: last - first + 1, offset }))
}

/// Regions by address, neighbours in memory and file made one.
fn united(mut regions: Vec<Region>) -> Vec<Region> {
    regions.sort();
    let mut united: Vec<Region> = Vec::new();
    for region in regions {
        match united.last_mut() {
            Some(last)
                if (last.guest + last.size, last.offset + last.size) == (region.guest, region.offset) =>
            {
                last.size += region.size;
            }
            _ => united.push(region),
        }
    }
    united
}

/// Has the guest carry out a command, and returns what follows `start` in the line of its answer that has it.
fn guest_line(vm: &mut Vm, command: &str, start: &str) -> String {
    vm.serial().send(format!("{command}\r").as_bytes()).unwrap();
    vm.serial().until(start).unwrap();
    vm.serial().line().unwrap()
}

/// Has the guest carry out a job on its disk, which succeeds.
fn job(vm: &mut Vm, command: &str) {
    let name = command.split(' ').nth(1).map(|name| if name == "stop" { "run" } else { name }).unwrap();
    let said = guest_line(vm, command, &format!("disk 0: {name}: "));
    assert!(said.starts_with("ok: "), "{command}: {said}");
}

/// The requests that are about memory, in order.
fn about_memory(seen: &[(Request, Vec<Region>)]) -> Vec<(Request, Vec<Region>)> {
    let requests = [Request::SET_MEM_TABLE, Request::ADD_MEM_REG, Request::REM_MEM_REG];
    seen.iter().filter(|(request, _)| requests.contains(request)).cloned().collect()
}

#[test]
fn sections_of_a_flat_view_are_read_and_united() {
    let line = "  0000000140000000-000000014fffffff (prio 0, ram): mem0 @0000000010000000 KVM";
    let region = Region { guest: 0x1_4000_0000, size: 0x1000_0000, offset: 0x1000_0000 };
    assert_eq!(section(line), Some(("mem0".into(), region)));
    let line = "  00000000fffc0000-00000000ffffffff (prio 0, i/o): hpet";
    assert_eq!(section(line), None);
    let next = Region { guest: 0x1_5000_0000, size: M, offset: 0x2000_0000 };
    let far = Region { offset: 0, ..next };
    assert_eq!(united(vec![next, region]), [Region { size: region.size + M, ..region }]);
    assert_eq!(united(vec![far, region]), [region, far]);
}

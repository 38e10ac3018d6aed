//! A domain from its definition to its end, an action after another: section 7 of the requirement.

use tests::Wire;

use crate::session::{Session, ask, ready};
use crate::{Domain, Host, Node, can};

const MEMORY: &str = "<memory model='virtio-mem'><target><size unit='MiB'>256</size><node>0</node>\
    <block unit='MiB'>2</block><requested unit='MiB'>64</requested></target></memory>";

/// What all machines can do, and with PCI what can be plugged.
fn flow(domain: Domain, pci: bool) {
    let host = Host::new();
    let node = Node::start(&host, "alpha");
    let mut s = Session::new(&node, domain);
    let mut console = s.start();
    assert_eq!(s.state(), "running (booted)");
    asks(&s);
    if pci {
        memory(&mut s);
        balloon(&s);
        processors(&mut s);
        plugs(&mut s);
    }
    pauses(&mut s);
    monitor(&s);
    dumps(&mut s);
    resets(&mut s, &mut console, pci);
    saves(&mut s);
    ends(&mut s, pci);
    // What is refused above.
    let refused =
        ["unsupported dumpformat 'kdump-zlib'", "requested size must be smaller", "is still plugged"];
    assert_eq!(node.errors_but(&refused), Vec::<String>::new());
}

/// What only asks.
fn asks(s: &Session<'_>) {
    for command in ["dominfo", "domblklist", "vcpuinfo", "vcpucount", "iothreadinfo", "dumpxml", "domjobinfo"]
    {
        s.virsh(command, &[]);
    }
    let stats = s.virsh("domstats", &[]);
    assert!(stats.contains("state.state=1") && stats.contains("vcpu.current=2"), "{stats}");
    assert!(s.virsh("dommemstat", &[]).contains("rss "));
}

/// Memory that stretches.
fn memory(s: &mut Session<'_>) {
    for (size, kib) in [("256MiB", 262_144), ("0", 0), ("128MiB", 131_072)] {
        s.resize("virtiomem0", size, kib);
    }
    let words = ["--live", "--alias", "virtiomem0", "--requested-size", "1GiB"];
    assert_eq!(
        s.fails("update-memory-device", &words),
        "error: requested size must be smaller than or equal to @size (524288KiB)"
    );
    let file = s.node.file("memory.xml", MEMORY);
    s.virsh("attach-device", &[&file, "--live"]);
    s.events.expect(&["device-added", "virtiomem1"]);
    s.events.expect(&["memory-device-size-change", "virtiomem1", "size: 65536"]);
    let told = s.hmp("info memory-devices");
    assert!(told.contains("\"virtiomem1\"") && told.contains("memdev: /objects/memvirtiomem1"), "{told}");
    let refused = s.fails("detach-device-alias", &["virtiomem1", "--live"]);
    assert!(
        refused.contains("virtio-mem device cannot get unplugged while some of its memory is still plugged"),
        "{refused}"
    );
    s.resize("virtiomem1", "0", 0);
    s.virsh("detach-device-alias", &["virtiomem1", "--live"]);
    s.events.expect(&["device-removed", "virtiomem1"]);
    assert!(!s.hmp("info memory-devices").contains("virtiomem1"));
    assert!(!s.virsh("dumpxml", &[]).contains("virtiomem1"));
}

/// The balloon is there; the built-in guest has no driver for it, so that nothing changes.
fn balloon(s: &Session<'_>) {
    s.virsh("setmem", &["400M", "--live"]);
    s.virsh("dommemstat", &["--period", "2", "--live"]);
    assert!(s.virsh("dommemstat", &[]).contains("actual "));
}

/// vCPUs that come and go.
fn processors(s: &mut Session<'_>) {
    let count = |s: &Session<'_>| s.virsh("vcpucount", &["--current", "--live"]);
    s.virsh("setvcpus", &["3", "--live"]);
    assert_eq!(count(s), "3");
    let told = s.virsh("vcpuinfo", &[]);
    assert_eq!(told.matches("State:          running").count(), 3, "{told}");
    s.virsh("setvcpus", &["2", "--live"]);
    assert_eq!(count(s), "2");
    s.virsh("send-key", &["KEY_LEFTCTRL", "KEY_A"]);
}

/// Devices that come and go: what they are called, and how they are said.
fn plugs(s: &mut Session<'_>) {
    let rng = "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>";
    let card =
        "<interface type='ethernet'><target dev='tap9' managed='yes'/><model type='virtio'/></interface>";
    for (alias, xml) in [("rng0", rng), ("net", card)] {
        let file = s.node.file("device.xml", xml);
        s.virsh("attach-device", &[&file, "--live"]);
        let alias = s.events.expect(&["device-added", alias]);
        let alias = alias.rsplit(' ').next().expect("a word");
        if alias.starts_with("net") {
            s.virsh("domif-setlink", &["tap9", "down"]);
            s.virsh("domif-setlink", &["tap9", "up"]);
            assert!(s.virsh("domifstat", &["tap9"]).contains("rx_bytes"));
        }
        s.virsh("detach-device-alias", &[alias, "--live"]);
        s.events.expect(&["device-removed", alias]);
    }
    s.virsh("iothreadadd", &["1", "--live"]);
    s.virsh("iothreadset", &["1", "--poll-max-ns", "1000", "--live"]);
    assert!(s.virsh("iothreadinfo", &[]).starts_with('1'));
    s.virsh("iothreaddel", &["1", "--live"]);
    s.virsh("domdirtyrate-calc", &["--seconds", "1"]);
}

fn pauses(s: &mut Session<'_>) {
    s.virsh("suspend", &[]);
    s.events.expect(&["lifecycle", "Suspended Paused"]);
    assert_eq!(s.state(), "paused (user)");
    s.virsh("resume", &[]);
    s.events.expect(&["lifecycle", "Resumed Unpaused"]);
    assert_eq!(s.state(), "running (unpaused)");
}

/// Commands that go through to the emulator.
fn monitor(s: &Session<'_>) {
    let status = s.virsh("qemu-monitor-command", &[r#"{"execute":"query-status"}"#]);
    assert!(status.contains(r#""status":"running""#), "{status}");
    assert!(s.hmp("info status").contains("VM status: running"));
    assert!(s.hmp("info mtree -f").contains("FlatView #0"));
    let refused = s.virsh("qemu-monitor-command", &[r#"{"execute":"no-such"}"#]);
    assert!(refused.contains("CommandNotFound"), "{refused}");
}

/// The guest's memory in a file.
fn dumps(s: &mut Session<'_>) {
    let file = s.node.path("memory.core");
    s.virsh("dump", &[&file, "--memory-only"]);
    assert!(std::fs::read(&file).expect("the dump").starts_with(b"\x7fELF"));
    std::fs::remove_file(&file).expect("it is there");
    assert_eq!(s.state(), "running (unpaused)");
    s.virsh("dump", &[&file, "--memory-only", "--live"]);
    let refused = s.fails("dump", &[&file, "--memory-only", "--format", "kdump-zlib"]);
    assert!(refused.contains("unsupported dumpformat 'kdump-zlib'"), "{refused}");
    std::fs::remove_file(&file).expect("it is there");
    // As a saved machine, while it goes on.
    s.virsh("dump", &[&file, "--live"]);
    std::fs::remove_file(&file).expect("it is there");
}

fn resets(s: &mut Session<'_>, console: &mut Wire, acpi: bool) {
    s.virsh("reset", &[]);
    s.events.expect(&["reboot"]);
    ready(console);
    if acpi {
        // Its own reboot.
        console.send(b"reboot\r").expect("the guest listens");
        s.events.expect(&["reboot"]);
        ready(console);
        // It powers off, and libvirt has it start again.
        s.virsh("reboot", &["--mode", "acpi"]);
        s.events.expect(&["reboot"]);
        ready(console);
    }
    s.virsh("set-lifecycle-action", &["reboot", "destroy"]);
    s.virsh("set-lifecycle-action", &["reboot", "restart"]);
}

fn saves(s: &mut Session<'_>) {
    let (node, file) = (s.node, s.node.path("saved"));
    s.virsh("save", &[&file]);
    s.events.expect(&["lifecycle", "Stopped Saved"]);
    node.virsh(&["restore", &file]);
    s.events.expect(&["lifecycle", "Started Restored"]);
    assert_eq!(s.state(), "running (restored)");
    ask(&mut s.console(), "check", "check: ");

    s.virsh("managedsave", &[]);
    assert_eq!(s.state(), "shut off (saved)");
    s.virsh("start", &[]);
    assert_eq!(s.state(), "running (restored)");
    ask(&mut s.console(), "check", "check: ");

    s.virsh("suspend", &[]);
    s.virsh("save", &[&file]);
    node.virsh(&["restore", &file]);
    assert_eq!(s.state(), "paused (migrating)");
    s.virsh("resume", &[]);
    ask(&mut s.console(), "check", "check: ");
    std::fs::remove_file(&file).expect("it is there");

    s.virsh("save", &[&file, "--image-format", "sparse"]);
    node.virsh(&["restore", &file]);
    ask(&mut s.console(), "check", "check: ");
}

fn ends(s: &mut Session<'_>, acpi: bool) {
    // Without ACPI there is no button.
    if acpi {
        s.virsh("shutdown", &[]);
        s.until_state("shut off (shutdown)");
    } else {
        s.virsh("destroy", &[]);
    }
    s.virsh("start", &["--paused"]);
    assert_eq!(s.state(), "paused (user)");
    s.virsh("resume", &[]);
    s.console();
    s.virsh("destroy", &["--graceful"]);
    assert_eq!(s.state(), "shut off (destroyed)");
    if acpi {
        s.start();
        // Which the built-in guest does not expect.
        s.virsh("inject-nmi", &[]);
        s.until_state("shut off (shutdown)");
    }
    s.virsh("start", &[]);
    s.virsh("destroy", &[]);
    s.virsh("undefine", &[]);
}

#[test]
fn microvm() {
    if can() {
        flow(Domain::microvm(), false);
    }
}

#[test]
fn q35_vmem() {
    if can() {
        flow(Domain::q35_vmem(), true);
    }
}

#[test]
fn pc_vmem() {
    if can() {
        flow(Domain::pc_vmem(), true);
    }
}

#[test]
fn q35_kvm() {
    if can() {
        flow(Domain::q35_kvm(), true);
    }
}

//! A domain of a real libvirtd with Linux in it: what libvirt says is what the guest has.

use super::cpus::MEM_TOTAL;
use super::memory::guest_has;
use super::power::ARM;
use crate::libvirt::{Node, Session};
use crate::testbed::{Linux, Managed};

type Guest<'n> = Linux<Managed<'n>>;

/// KiB that the device of the domain has at most.
const DEVICE: u64 = 512 << 10;

fn session<'a, 'n>(guest: &'a mut Guest<'n>) -> &'a mut Session<'n> {
    guest.machine().session()
}

/// libvirtd has nothing to complain of, but for what has these words.
fn content(guest: &mut Guest<'_>, but: &[&str]) {
    assert_eq!(session(guest).node.errors_but(but), Vec::<String>::new());
}

/// Asks a device for so many KiB and waits until libvirt and the guest, which has `bare` without it, have them there.
fn resize(guest: &mut Guest<'_>, alias: &str, kib: u64, bare: u64) {
    session(guest).resize(alias, &format!("{kib}KiB"), kib);
    guest_has(guest, bare + kib);
}

/// Current memory as libvirt knows it, in KiB.
fn until_current_memory(guest: &mut Guest<'_>, kib: u64) {
    let session = session(guest);
    let current = format!("<currentMemory unit='KiB'>{kib}</currentMemory>");
    session.node.until(&["dumpxml", session.domain.name()], |xml| xml.contains(&current));
}

pub(super) fn memory_is_as_libvirt_says(guest: &mut Guest<'_>) {
    let bare = guest.number(MEM_TOTAL);
    for kib in [256 << 10, 64 << 10, DEVICE, 0] {
        resize(guest, "virtiomem0", kib, bare);
        until_current_memory(guest, DEVICE + kib);
    }
    content(guest, &[]);
}

pub(super) fn balloon_is_as_libvirt_says(guest: &mut Guest<'_>) {
    let full = guest.number(MEM_TOTAL);
    for away in [64 << 10, 0] {
        let kib = DEVICE - away;
        session(guest).virsh("setmem", &[&kib.to_string(), "--live"]);
        session(guest).events.expect(&["balloon-change", &kib.to_string()]);
        guest_has(guest, full - away);
        until_current_memory(guest, kib);
    }
    content(guest, &[]);
}

/// What the guest's driver tells, and nobody else knows.
pub(super) fn statistics_are_the_guests(guest: &mut Guest<'_>) {
    session(guest).virsh("dommemstat", &["--period", "1", "--live"]);
    let said = guest.eventually(|guest| {
        // The guest needs time for it.
        guest.run("true");
        let said = session(guest).virsh("dommemstat", &[]);
        if said.contains("available ") { Ok(said) } else { Err(format!("no statistics: {said}")) }
    });
    let number = |name: &str| -> u64 {
        let value = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {said}"))
    };
    assert_eq!(number("available"), guest.number(MEM_TOTAL));
    assert!((1..number("available")).contains(&number("unused")), "{said}");
    assert!((1..number("available")).contains(&number("usable")), "{said}");
    assert_eq!(number("actual"), DEVICE);
    content(guest, &[]);
}

pub(super) fn cpu_comes_and_goes(guest: &mut Guest<'_>) {
    assert_eq!(guest.number("nproc"), 2);
    let folder = "/sys/devices/system/cpu/cpu2";
    session(guest).virsh("setvcpus", &["3", "--live"]);
    guest.until(&format!("cat {folder}/online || echo none"), |text| text == "0");
    guest.run(&format!("echo 1 >{folder}/online"));
    assert_eq!(guest.number("nproc"), 3);
    assert_eq!(session(guest).virsh("vcpucount", &["--current", "--live"]), "3");
    // libvirt has little patience with a guest that takes its time, and then still sees the vCPU go.
    let session = session(guest);
    let name = session.domain.name();
    let ran = session.node.try_virsh(&["setvcpus", name, "2", "--live"]);
    const IMPATIENT: &str = "vcpu unplug request timed out";
    assert!(ran.ok || ran.err.contains(IMPATIENT), "{}", ran.err);
    session.node.until(&["vcpucount", name, "--current", "--live"], |count| count == "2");
    guest.until(&format!("[ -e {folder}/online ] && echo there || echo none"), |text| text == "none");
    assert_eq!(guest.number("nproc"), 2);
    content(guest, &[IMPATIENT]);
}

/// Plugs a device of this XML, which libvirt will call so.
fn attach(guest: &mut Guest<'_>, alias: &str, xml: &str) {
    let session = session(guest);
    let file = session.node.file("device.xml", xml);
    session.virsh("attach-device", &[&file, "--live"]);
    // Of memory it tells the backend's name.
    session.events.expect(&["device-added", alias]);
}

fn detach(guest: &mut Guest<'_>, alias: &str) {
    let session = session(guest);
    session.virsh("detach-device-alias", &[alias, "--live"]);
    session.events.expect(&["device-removed", alias]);
}

pub(super) fn devices_come_and_go(guest: &mut Guest<'_>) {
    let bare = guest.number(MEM_TOTAL);
    let memory = "<memory model='virtio-mem'><target><size unit='MiB'>256</size><node>0</node>\
        <block unit='MiB'>2</block><requested unit='MiB'>64</requested></target></memory>";
    attach(guest, "virtiomem1", memory);
    guest_has(guest, bare + (64 << 10));
    resize(guest, "virtiomem1", 128 << 10, bare);
    resize(guest, "virtiomem1", 0, bare);
    detach(guest, "virtiomem1");
    guest.until("ls -d /sys/bus/virtio/drivers/virtio_mem/virtio* | wc -l", |count| count == "1");

    let random = "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>";
    attach(guest, "rng0", random);
    let current = "cat /sys/class/misc/hw_random/rng_current";
    guest.until(current, |name| name.starts_with("virtio_rng"));
    assert_ne!(guest.run("head -c 64 /dev/hwrng | md5sum"), guest.run("head -c 64 /dev/hwrng | md5sum"));
    detach(guest, "rng0");
    guest.until(current, |name| name == "none");
    content(guest, &[]);
}

pub(super) fn goes_on_after_a_pause(guest: &mut Guest<'_>) {
    session(guest).virsh("suspend", &[]);
    session(guest).events.expect(&["lifecycle", "Suspended Paused"]);
    assert_eq!(session(guest).state(), "paused (user)");
    session(guest).virsh("resume", &[]);
    session(guest).events.expect(&["lifecycle", "Resumed Unpaused"]);
    guest.run("true");
    content(guest, &[]);
}

/// Memory that was plugged is there afterwards, and a program that ran goes on.
pub(super) fn goes_on_where_it_was_saved(guest: &mut Guest<'_>) {
    let bare = guest.number(MEM_TOTAL);
    resize(guest, "virtiomem0", 64 << 10, bare);
    saves(guest);
    guest_has(guest, bare + (64 << 10));
    resize(guest, "virtiomem0", 0, bare);
    content(guest, &[]);
}

/// The same where no memory can be plugged.
pub(super) fn goes_on_without_pci(guest: &mut Guest<'_>) {
    saves(guest);
    content(guest, &[]);
}

/// A file that nobody else can have, and a program that runs.
fn begins(guest: &mut Guest<'_>) {
    guest.run("head -c 16000000 /dev/urandom >/tmp/noise; md5sum /tmp/noise >/tmp/sum");
    guest.run("tail -f /dev/null & echo $! >/tmp/pid");
}

/// Both are there, in a domain that libvirt says so of.
fn goes_on(guest: &mut Guest<'_>, state: &str) {
    assert_eq!(session(guest).state(), state);
    guest.machine().finds_its_console();
    guest.run("md5sum -c /tmp/sum && kill -0 $(cat /tmp/pid)");
}

fn saves(guest: &mut Guest<'_>) {
    begins(guest);
    let file = session(guest).node.path("saved");
    session(guest).virsh("save", &[&file]);
    session(guest).events.expect(&["lifecycle", "Stopped Saved"]);
    session(guest).node.virsh(&["restore", &file]);
    goes_on(guest, "running (restored)");
    std::fs::remove_file(&file).expect("it is there");

    session(guest).virsh("managedsave", &[]);
    assert_eq!(session(guest).state(), "shut off (saved)");
    session(guest).virsh("start", &[]);
    goes_on(guest, "running (restored)");
}

/// To another libvirtd and back.
pub(super) fn goes_on_where_it_was_moved(guest: &mut Guest<'_>) {
    let bare = guest.number(MEM_TOTAL);
    resize(guest, "virtiomem0", 64 << 10, bare);
    begins(guest);
    let here = session(guest).node;
    let there = Node::start(here.host(), "beta");
    let name = session(guest).domain.name().to_owned();
    for (from, to) in [(here, &there), (&there, here)] {
        let words =
            ["--live", "--p2p", "--persistent", "--undefinesource", "--migrateuri", "tcp://127.0.0.1"];
        from.virsh(&[&["migrate", &name, &to.uri()], &words[..]].concat());
        assert_eq!(to.virsh(&["domstate", &name, "--reason"]), "running (migrated)");
    }
    goes_on(guest, "running (migrated)");
    guest_has(guest, bare + (64 << 10));
    session(guest).listen();
    resize(guest, "virtiomem0", 0, bare);
    assert_eq!(there.errors(), Vec::<String>::new());
    there.kill_daemon("TERM");
    content(guest, &[]);
}

/// What happens while there is no libvirtd is known to the next one.
pub(super) fn is_found_again(guest: &mut Guest<'_>) {
    let bare = guest.number(MEM_TOTAL);
    session(guest)
        .virsh("update-memory-device", &["--live", "--alias", "virtiomem0", "--requested-size", "64MiB"]);
    session(guest).node.kill_daemon("KILL");
    guest_has(guest, bare + (64 << 10));
    session(guest).node.start_daemon();
    until_current_memory(guest, DEVICE + (64 << 10));
    session(guest).listen();
    resize(guest, "virtiomem0", 0, bare);
    content(guest, &[]);
}

/// The guest takes the power button for an order to power off. What there is to be done is done by then.
fn powers_off_by_the_button(guest: &mut Guest<'_>, command: &[&str]) {
    guest.run(ARM);
    guest.send("head -c 24 <&4 >/dev/null && echo pressed && poweroff -f").expect("the guest runs");
    session(guest).virsh(command[0], &command[1..]);
    guest.see("pressed");
}

/// The guest powers off, and libvirt has it start again.
pub(super) fn reboots_by_the_button(guest: &mut Guest<'_>) {
    powers_off_by_the_button(guest, &["reboot", "--mode", "acpi"]);
    session(guest).events.expect(&["reboot"]);
    guest.reach_the_shell().unwrap_or_else(|e| panic!("after the reboot: {e}"));
    guest.run("true");
    content(guest, &[]);
}

pub(super) fn shuts_down_by_the_button(guest: &mut Guest<'_>) {
    powers_off_by_the_button(guest, &["shutdown"]);
    guest.see_the_end();
    session(guest).until_state("shut off (shutdown)");
    content(guest, &[]);
}

pub(super) fn panic_is_told(guest: &mut Guest<'_>) {
    guest.run("echo 1 >/proc/sys/kernel/sysrq");
    guest.send("echo c >/proc/sysrq-trigger").expect("the guest runs");
    let console = guest.see_the_end();
    assert!(console.contains("sysrq triggered crash"), "{console}");
    session(guest).events.expect(&["lifecycle", "Crashed Panicked"]);
    session(guest).until_state("shut off (crashed)");
    content(guest, &[]);
}

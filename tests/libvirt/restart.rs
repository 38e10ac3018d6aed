//! libvirtd ends and comes again: domains go on without it, and are found again.

use crate::session::{Session, ask};
use crate::{Domain, Host, Node, can};

/// What can be done with a domain that was found again.
fn is_managed(s: &mut Session<'_>) {
    s.listen();
    s.virsh("suspend", &[]);
    s.virsh("resume", &[]);
    s.events.expect(&["lifecycle", "Resumed"]);
    s.resize("virtiomem0", "64MiB", 65_536);
    s.resize("virtiomem0", "128MiB", 131_072);
    ask(&mut s.console(), "check", "0 words differ");
}

#[test]
fn at_any_moment() {
    if !can() {
        return;
    }
    let host = Host::new();
    let node = Node::start(&host, "alpha");
    let mut s = Session::new(&node, Domain::q35_vmem());
    s.start();
    let domains = || host.processes().iter().filter(|p| p.contains("guest=q35vmem")).count();
    for signal in ["TERM", "KILL"] {
        node.kill_daemon(signal);
        assert_eq!(domains(), 1);
        node.start_daemon();
        node.until(&["domstate", s.domain.name()], |state| state == "running");
        is_managed(&mut s);
    }
    // Paused meanwhile.
    s.virsh("suspend", &[]);
    node.kill_daemon("KILL");
    node.start_daemon();
    node.until(&["domstate", s.domain.name()], |state| state == "paused");
    s.virsh("resume", &[]);
    is_managed(&mut s);
    // What happens while nobody listens is known afterwards: the guest reaches its size, and in the end is off.
    let mut console = s.console();
    s.virsh("update-memory-device", &["--live", "--alias", "virtiomem0", "--requested-size", "512MiB"]);
    node.kill_daemon("KILL");
    ask(&mut console, "mem", "plugged 536870912");
    node.start_daemon();
    let current = "<current unit='KiB'>524288</current>";
    node.until(&["dumpxml", s.domain.name()], |xml| xml.contains(current));
    node.kill_daemon("KILL");
    console.send(b"off\r").expect("the guest listens");
    node.start_daemon();
    s.until_state("shut off (shutdown)");
    assert_eq!(domains(), 0);
    assert_eq!(node.errors(), Vec::<String>::new());
}

/// A daemon that ends in the middle of what it does leaves a domain that can be managed again.
#[test]
fn in_the_middle_of_a_job() {
    if !can() {
        return;
    }
    let host = Host::new();
    let node = Node::start(&host, "alpha");
    let mut s = Session::new(&node, Domain::q35_vmem());
    s.start();
    for job in ["save", "dump", "managedsave"] {
        let file = node.path("half");
        let args: &[&str] = if job == "managedsave" { &[] } else { &[&file] };
        let words = [&[job, s.domain.name()], args].concat();
        let begin = "\"execute\":\"migrate\"";
        let before = node.said(begin);
        let mut child = node.start_virsh(&words);
        node.until_said(begin, before);
        node.kill_daemon("KILL");
        child.wait().expect("virsh ends");
        node.start_daemon();
        s.listen();
        // What was saved in the end is off; what was not runs, or is paused.
        let state = node.until(&["domstate", s.domain.name()], |state| !state.is_empty());
        match state.as_str() {
            "shut off" => {
                s.node.try_virsh(&["managedsave-remove", s.domain.name()]);
                s.start();
            }
            "paused" => {
                s.virsh("resume", &[]);
            }
            running => assert_eq!(running, "running"),
        }
        is_managed(&mut s);
    }
}

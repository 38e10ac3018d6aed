//! What libvirt finds out about the program before it starts anything.

use tests::program;

use crate::session::{Session, ask};
use crate::{Domain, Host, Node, can};

#[test]
fn it_is_listed_with_its_machines_and_processors() {
    if !can() {
        return;
    }
    let host = Host::new();
    let node = Node::start(&host, "alpha");
    let path = program::path();
    let path = path.to_str().expect("the path is text");
    let of_machine = |machine: &str| {
        node.virsh(&["domcapabilities", "--emulatorbin", path, "--machine", machine, "--virttype", "kvm"])
    };
    for machine in ["q35", "pc", "microvm"] {
        let told = of_machine(machine);
        let has = |text: &str| assert!(told.contains(text), "{machine}: no {text} in {told}");
        has(&format!("<path>{path}</path>"));
        has("<domain>kvm</domain>");
        has("<mode name='host-passthrough' supported='yes'>");
        has("<mode name='maximum' supported='yes'>");
        has("<mode name='custom' supported='yes'>");
        has("<memoryBacking supported='yes'>");
        has("<genid supported='yes'/>");
    }
    assert!(of_machine("q35").contains("<value>virtio</value>"), "devices");
    let refused = ["domcapabilities", "--emulatorbin", path, "--virttype", "qemu"];
    assert!(node.virsh_fails(&refused).contains("does not support virt type"), "there is KVM");

    // Where libvirt looks for emulators it is one like the others.
    node.kill_daemon("TERM");
    node.install_as("qemu-system-x86_64");
    node.start_daemon();
    let told = node.virsh(&["capabilities"]);
    let guest = told.split("<guest>").find(|guest| guest.contains("<arch name='x86_64'>"));
    let guest = guest.unwrap_or_else(|| panic!("no guest in {told}"));
    for text in [
        "bin/qemu-system-x86_64</emulator>",
        "canonical='pc-q35-10.0'",
        "<domain type='kvm'/>",
        ">microvm</machine>",
    ] {
        assert!(guest.contains(text), "no {text} in {guest}");
    }
    assert!(!guest.contains("<domain type='qemu'/>"), "{guest}");
    assert_eq!(node.errors_but(&["does not support virt type"]), Vec::<String>::new());
}

#[test]
fn without_kvm_the_built_in_guest_is_what_can_be_run() {
    if !can() {
        return;
    }
    let host = Host::new();
    let node = Node::start_without_kvm(&host, "alpha");
    let domain = Domain::q35_vmem()
        .with("<domain type='kvm'>", "<domain type='qemu'>")
        .with("<feature policy='disable' name='svm'/>", "");
    let mut s = Session::new(&node, domain);
    let mut console = s.start();
    s.resize("virtiomem0", "256MiB", 262_144);
    ask(&mut console, "check", "0 words differ");
    assert!(s.fails("save", &[&node.path("saved")]).contains("sim"), "which accelerator cannot be moved");
    s.virsh("reset", &[]);
    s.events.expect(&["reboot"]);
    s.virsh("shutdown", &[]);
    s.until_state("shut off (shutdown)");
    let log = node.domain_log(s.domain.name());
    assert!(log.contains("there is no translator: 'sim' runs the built-in guest and nothing else"), "{log}");
}

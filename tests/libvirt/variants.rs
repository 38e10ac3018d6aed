//! What else a domain can have: each kind starts, does one thing, and ends. Many share a libvirtd.

use std::path::Path;

use tests::vhost_user::{Backend, Options};

use crate::session::{Session, ask};
use crate::shape::{LEAST, Shape};
use crate::{Domain, Host, Node, can};

/// A kind of domain, and what it is asked: a command of `virsh` whose first argument is the domain, and what is in the answer.
type Variant = (&'static str, Shape, &'static [&'static str], &'static str);

/// Room for memory devices.
const ROOM: &str = "<maxMemory slots='4' unit='MiB'>2048</maxMemory><memory unit='MiB'>128</memory>";
/// One NUMA node, which they need.
const NODE: &str =
    "<cpu mode='host-passthrough'><numa><cell id='0' cpus='0' memory='128' unit='MiB'/></numa></cpu>";
/// Where something can be plugged.
const PORTS: &str = "<controller type='pci' model='pcie-root' index='0'/><controller type='pci' model='pcie-root-port' index='1'/>\
    <controller type='pci' model='pcie-root-port' index='2'/><controller type='pci' model='pcie-root-port' index='3'/>";
const SHARED: &str = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>";

/// A virtio-mem device of which 64 MiB are asked for.
macro_rules! vmem {
    ($source:literal, $target:literal, $more:literal) => {
        concat!(
            "<memory model='virtio-mem'>",
            $source,
            "<target",
            $target,
            "><size unit='MiB'>256</size><node>0</node><block unit='MiB'>2</block><requested unit='MiB'>64</requested>",
            $more,
            "</target></memory>"
        )
    };
}

const BIG: Shape = Shape { memory: ROOM, cpu: NODE, ..LEAST };
const VMEM: Shape = Shape { devices: vmem!("", "", ""), ..BIG };

/// A command of the console, over libvirt.
macro_rules! hmp {
    ($line:expr) => {
        &["qemu-monitor-command", "--hmp", $line]
    };
}
/// A property of an object.
macro_rules! get {
    ($path:literal, $property:literal) => {
        hmp!(concat!("qom-get ", $path, " ", $property))
    };
}

#[test]
fn memory() {
    try_all(&[
        (
            "files",
            Shape {
                besides: "<memoryBacking><source type='file'/><access mode='shared'/></memoryBacking>",
                ..VMEM
            },
            get!("/objects/memvirtiomem0", "mem-path"),
            "/virtiomem0",
        ),
        ("memfd", Shape { besides: SHARED, ..VMEM }, get!("/objects/ram-node0", "share"), "true"),
        (
            "prealloc",
            Shape {
                besides: "<memoryBacking><allocation mode='immediate' threads='2'/></memoryBacking>",
                ..VMEM
            },
            get!("/objects/ram-node0", "prealloc-threads"),
            "2",
        ),
        (
            "nosharepages",
            Shape { besides: "<memoryBacking><nosharepages/></memoryBacking>", ..BIG },
            get!("/objects/ram-node0", "merge"),
            "false",
        ),
        (
            "discard",
            Shape {
                besides: "<memoryBacking><source type='file'/><access mode='shared'/><discard/></memoryBacking>",
                ..VMEM
            },
            get!("/objects/ram-node0", "discard-data"),
            "true",
        ),
        (
            "strict",
            Shape { besides: "<numatune><memory mode='strict' nodeset='0'/></numatune>", ..VMEM },
            get!("/objects/ram-node0", "policy"),
            "bind",
        ),
        (
            "interleave",
            Shape { besides: "<numatune><memory mode='interleave' nodeset='0'/></numatune>", ..VMEM },
            get!("/objects/ram-node0", "policy"),
            "interleave",
        ),
        (
            "two-nodes",
            Shape {
                memory: "<maxMemory slots='4' unit='MiB'>2048</maxMemory><memory unit='MiB'>256</memory>",
                vcpu: "<vcpu>2</vcpu>",
                cpu: "<cpu mode='host-passthrough'><numa>\
                    <cell id='0' cpus='0' memory='128' unit='MiB'><distances><sibling id='0' value='10'/><sibling id='1' value='21'/></distances></cell>\
                    <cell id='1' cpus='1' memory='128' unit='MiB'><distances><sibling id='0' value='21'/><sibling id='1' value='10'/></distances></cell>\
                    </numa></cpu>",
                ..VMEM
            },
            hmp!("info numa"),
            "node 1 size: 128 MB",
        ),
        (
            "place",
            Shape { devices: vmem!("", "", "<address base='0x140000000'/>"), ..BIG },
            hmp!("info memory-devices"),
            "memaddr: 0x140000000",
        ),
        (
            "parts",
            Shape { devices: vmem!("", " dynamicMemslots='yes'", ""), ..BIG },
            get!("virtiomem0", "dynamic-memslots"),
            "true",
        ),
        (
            "host-node",
            Shape { devices: vmem!("<source><nodemask>0</nodemask></source>", "", ""), ..BIG },
            get!("/objects/memvirtiomem0", "policy"),
            "bind",
        ),
        (
            "dimm",
            Shape {
                devices: "<memory model='dimm'><target><size unit='MiB'>128</size><node>0</node></target></memory>",
                ..BIG
            },
            hmp!("info memory-devices"),
            "[dimm]: \"dimm0\"",
        ),
        (
            "pmem",
            Shape {
                devices: "<memory model='virtio-pmem'><source><path>@FOLDER@/pmem</path></source><target><size unit='MiB'>16</size></target></memory>",
                ..BIG
            },
            hmp!("info memory-devices"),
            "[virtio-pmem]: \"virtiopmem0\"",
        ),
    ]);
}

/// vCPUs, what they can do, and the threads that they are.
#[test]
fn processors() {
    const FOUR: Shape = Shape { vcpu: "<vcpu current='1'>4</vcpu>", ..LEAST };
    let cpu = |xml: &'static str| Shape { cpu: xml, ..LEAST };
    let features = |xml: &'static str| Shape { features: xml, ..LEAST };
    try_all(&[
        ("no-acpi-no-cpu", cpu(""), hmp!("info status"), "running"),
        ("maximum", cpu("<cpu mode='maximum'/>"), hmp!("info status"), "running"),
        ("model", cpu("<cpu mode='host-model'/>"), hmp!("info status"), "running"),
        (
            "custom",
            cpu(
                "<cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model><feature policy='disable' name='svm'/></cpu>",
            ),
            get!("/machine/unattached/device[0]", "svm"),
            "false",
        ),
        (
            "not-migratable",
            cpu("<cpu mode='host-passthrough' migratable='off'/>"),
            get!("/machine/unattached/device[0]", "migratable"),
            "false",
        ),
        (
            "topology",
            Shape {
                cpu: "<cpu mode='host-passthrough'><topology sockets='1' dies='2' clusters='1' cores='2' threads='1'/></cpu>",
                ..FOUR
            },
            hmp!("info hotpluggable-cpus"),
            "die-id: \"1\"",
        ),
        (
            "hidden",
            features("<kvm><hidden state='on'/></kvm>"),
            get!("/machine/unattached/device[0]", "kvm"),
            "false",
        ),
        ("no-pmu", features("<pmu state='off'/>"), get!("/machine/unattached/device[0]", "pmu"), "false"),
        (
            "no-kvmclock",
            Shape { besides: "<clock offset='utc'><timer name='kvmclock' present='no'/></clock>", ..LEAST },
            get!("/machine/unattached/device[0]", "kvmclock"),
            "false",
        ),
        ("irqchip", features("<ioapic driver='kvm'/>"), hmp!("info kvm"), "enabled"),
        (
            "pins",
            Shape {
                besides: "<iothreads>1</iothreads><cputune><emulatorpin cpuset='0'/><vcpupin vcpu='0' cpuset='0'/>\
                    <iothreadpin iothread='1' cpuset='0'/></cputune>",
                ..LEAST
            },
            &["iothreadinfo"],
            "1   0",
        ),
        (
            "iothreads",
            Shape {
                besides: "<iothreadids><iothread id='3' thread_pool_min='1' thread_pool_max='4'>\
                    <poll max='123' grow='4' shrink='5'/></iothread></iothreadids>",
                ..LEAST
            },
            get!("/objects/iothread3", "poll-max-ns"),
            "123",
        ),
    ]);
}

/// What a board has: clocks, buttons, tables, panics.
#[test]
fn boards() {
    let besides = |xml: &'static str| Shape { besides: xml, ..LEAST };
    let devices = |xml: &'static str| Shape { devices: xml, ..LEAST };
    let os = |xml: &'static str| Shape { os: xml, ..LEAST };
    let running = hmp!("info status");
    try_all(&[
        (
            "date",
            besides("<clock offset='absolute' start='1600000000'/>"),
            get!("/machine", "rtc-time"),
            "\"tm_year\": 120",
        ),
        ("localtime", besides("<clock offset='localtime'/>"), running, "running"),
        (
            "timers",
            besides(
                "<clock offset='utc'><timer name='rtc' tickpolicy='catchup' track='guest'/><timer name='pit' tickpolicy='delay'/>\
                 <timer name='hpet' present='no'/></clock>",
            ),
            running,
            "running",
        ),
        (
            "no-sleep",
            besides("<pm><suspend-to-mem enabled='no'/><suspend-to-disk enabled='no'/></pm>"),
            running,
            "running",
        ),
        (
            "crash",
            Shape {
                besides: "<on_crash>coredump-restart</on_crash>",
                devices: "<panic model='isa'/>",
                ..LEAST
            },
            hmp!("info qtree"),
            "dev: pvpanic, id \"\"",
        ),
        ("crash-pci", devices("<panic model='pvpanic'/>"), hmp!("info qtree"), "dev: pvpanic-pci"),
        (
            "generation",
            besides("<genid>43dc0cf8-809b-4adb-9bea-a9abb5f3d90e</genid>"),
            hmp!("info vm-generation-id"),
            "43dc0cf8",
        ),
        (
            "fw-cfg",
            besides("<sysinfo type='fwcfg'><entry name='opt/com.example/a'>hello</entry></sysinfo>"),
            running,
            "running",
        ),
        (
            "smbios",
            Shape {
                besides: "<sysinfo type='smbios'><bios><entry name='vendor'>Me</entry></bios><system><entry name='serial'>1</entry></system>\
                    <oemStrings><entry>a</entry></oemStrings></sysinfo>",
                os: "<smbios mode='sysinfo'/>",
                ..LEAST
            },
            running,
            "running",
        ),
        ("boot", os("<boot dev='hd'/><bootmenu enable='yes'/><bios rebootTimeout='5'/>"), running, "running"),
        (
            "notes",
            Shape { features: "<vmcoreinfo state='on'/>", ..LEAST },
            hmp!("qom-list /machine/peripheral-anon"),
            "child<vmcoreinfo>",
        ),
        (
            "own-words",
            besides(
                "<qemu:commandline><qemu:arg value='-d'/><qemu:arg value='guest_errors'/></qemu:commandline>",
            ),
            running,
            "running",
        ),
        ("no-label", besides("<seclabel type='none'/>"), running, "running"),
    ]);
    // The chipset's own.
    let node_less = [
        (
            "watchdog",
            Shape { devices: "<watchdog model='itco' action='poweroff'/>", ..LEAST },
            hmp!("info status") as &[_],
            "running",
        ),
        (
            "ports",
            Shape {
                devices: "<controller type='pci' index='0' model='pcie-root'/><controller type='pci' index='1' model='pcie-root-port'/>\
            <controller type='pci' index='2' model='pcie-to-pci-bridge'/>",
                ..LEAST
            },
            hmp!("info qtree"),
            "dev: pcie-pci-bridge",
        ),
    ];
    try_on(&["q35"], &node_less);
}

/// Devices that a guest talks through.
#[test]
fn devices() {
    let devices = |xml: &'static str| Shape { devices: xml, ..LEAST };
    let serial = |xml: &'static str| Shape { serial: xml, ..LEAST };
    try_all(&[
        (
            "rng",
            devices(
                "<rng model='virtio'><rate bytes='1024' period='1000'/><backend model='random'>/dev/urandom</backend></rng>",
            ),
            get!("rng0", "max-bytes"),
            "1024",
        ),
        (
            "rng-own",
            devices("<rng model='virtio-non-transitional'><backend model='builtin'/></rng>"),
            hmp!("info qtree"),
            "virtio-rng-pci-non-transitional",
        ),
        (
            "override",
            Shape {
                devices: "<rng model='virtio'><backend model='builtin'/><alias name='ua-r'/></rng>",
                besides: "<qemu:override><qemu:device alias='ua-r'><qemu:frontend><qemu:property name='max-bytes' type='unsigned' value='77'/>\
                    </qemu:frontend></qemu:device></qemu:override>",
                ..LEAST
            },
            get!("ua-r", "max-bytes"),
            "77",
        ),
        (
            "agent",
            devices(
                "<channel type='unix'><source mode='bind'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>",
            ),
            hmp!("info chardev"),
            "org.qemu.guest_agent.0",
        ),
        (
            "channel-pty",
            devices("<channel type='pty'><target type='virtio' name='a.0'/></channel>"),
            hmp!("info chardev"),
            "charchannel0: filename=pty:",
        ),
        (
            "channel-file",
            devices(
                "<channel type='file'><source path='@FOLDER@/channel'/><target type='virtio' name='a.0'/></channel>",
            ),
            hmp!("info chardev"),
            "charchannel0: filename=file",
        ),
        (
            "console",
            devices("<console type='pty'><target type='virtio'/></console>"),
            hmp!("info qtree"),
            "dev: virtconsole",
        ),
        (
            "ports",
            devices("<controller type='virtio-serial' index='0' ports='4'/>"),
            get!("virtio-serial0", "max_ports"),
            "4",
        ),
        (
            "tcp",
            serial(
                "<serial type='tcp'><source mode='bind' host='127.0.0.1' service='5555'/><protocol type='raw'/></serial>",
            ),
            hmp!("info chardev"),
            "tcp:127.0.0.1:5555",
        ),
        (
            "telnet",
            serial(
                "<serial type='tcp'><source mode='bind' host='127.0.0.1' service='5556'/><protocol type='telnet'/></serial>",
            ),
            hmp!("info chardev"),
            "telnet:127.0.0.1:5556",
        ),
        (
            "again",
            serial(
                "<serial type='tcp'><source mode='connect' host='127.0.0.1' service='5557'><reconnect enabled='yes' timeout='3'/></source><protocol type='raw'/></serial>",
            ),
            hmp!("info chardev"),
            "disconnected:tcp:127.0.0.1:5557",
        ),
        (
            "file",
            serial("<serial type='file'><source path='@FOLDER@/serial' append='on'/></serial>"),
            hmp!("info chardev"),
            "charserial0: filename=file",
        ),
        (
            "log",
            serial(
                "<serial type='unix'><source mode='bind' path='@FOLDER@/serial.sock'/><log file='@FOLDER@/serial.log' append='on'/></serial>",
            ),
            hmp!("info chardev"),
            "charserial0: filename=disconnected:unix:",
        ),
        ("null", serial("<serial type='null'/>"), hmp!("info chardev"), "charserial0: filename=null"),
        (
            "four",
            serial("<serial type='pty'/><serial type='null'/><serial type='pty'/><serial type='null'/>"),
            hmp!("info chardev"),
            "charserial3",
        ),
        ("no-serial", serial(""), hmp!("info status"), "running"),
        (
            "ps2",
            devices("<input type='mouse' bus='ps2'/><input type='keyboard' bus='ps2'/>"),
            &["send-key", "KEY_A"],
            "",
        ),
        ("no-ps2", Shape { features: "<ps2 state='off'/>", ..LEAST }, hmp!("info status"), "running"),
        (
            "card",
            devices(
                "<interface type='ethernet'><mac address='52:54:00:00:00:11'/><target dev='tap11' managed='yes'/><mtu size='1400'/><model type='virtio'/></interface>",
            ),
            &["domiflist"],
            "52:54:00:00:00:11",
        ),
        (
            "balloon",
            devices(
                "<memballoon model='virtio' autodeflate='on' freePageReporting='on'><stats period='3'/></memballoon>",
            ),
            get!("balloon0", "deflate-on-oom"),
            "true",
        ),
    ]);
}

/// libvirt asks for vhost, and gets a card all the same: one that is there from the start, and one that comes and goes.
#[test]
fn cards_on_a_host_with_vhost_net() {
    if !can() {
        return;
    }
    let host = Host::new();
    let node = Node::start_with_vhost_net(&host, "alpha");
    let card = |tap: &str| {
        format!(
            "<interface type='ethernet'><target dev='{tap}' managed='yes'/><model type='virtio'/></interface>"
        )
    };
    let mut s = Session::new(&node, Domain::q35_kvm());
    s.start();
    let file = node.file("card.xml", &card("tap12"));
    s.virsh("attach-device", &[&file, "--live"]);
    let added = s.events.expect(&["device-added", "net"]);
    let alias = added.rsplit(' ').next().expect("a word");
    assert!(s.virsh("domiflist", &[]).contains("tap12"));
    s.virsh("detach-device-alias", &[alias, "--live"]);
    s.events.expect(&["device-removed", alias]);
    s.virsh("destroy", &[]);
    let log = node.domain_log(s.domain.name());
    assert!(log.contains(r#""vhost":true,"vhostfd":"#), "libvirt asks for it: {log}");
    assert_eq!(log.matches("there is no vhost-net").count(), 2, "{log}");
}

/// A disk that another process serves, there from the start, and one that comes and goes.
#[test]
fn disks_of_back_ends() {
    if !can() {
        return;
    }
    let host = Host::new();
    let node = Node::start(&host, "alpha");
    let disk = |path: &str, target: &str| {
        format!(
            "<disk type='vhostuser' device='disk' snapshot='no'><driver name='qemu' type='raw'/><source type='unix' path='{path}'/>\
             <target dev='{target}' bus='virtio'/></disk>"
        )
    };
    let paths = ["first.sock", "second.sock"].map(|name| node.path(name));
    let backends = paths.each_ref().map(|path| Backend::start(Path::new(path), Options::default()));
    for machine in ["q35", "pc"] {
        let ports = if machine == "q35" { PORTS } else { "" };
        let shape = Shape { machine, besides: SHARED, devices: ports, ..LEAST };
        let with = format!("{}<audio ", disk(&paths[0], "vda"));
        let mut s = Session::new(&node, shape.domain("disks", "").with("<audio ", &with));
        let mut console = s.start();
        ask(&mut console, "disk write 0 8 1", "write: ok: 4096 bytes written");
        let before = backends[0].served();
        ask(&mut console, "disk verify 0 8 1", "verify: ok: 0 bytes written, 4096 verified");
        assert!(backends[0].served() > before, "the back end has served the guest");
        let file = node.file("disk.xml", &disk(&paths[1], "vdb"));
        s.virsh("attach-device", &[&file, "--live"]);
        s.events.expect(&["device-added", "virtio-disk1"]);
        s.virsh("detach-device-alias", &["virtio-disk1", "--live"]);
        s.events.expect(&["device-removed", "virtio-disk1"]);
        s.virsh("destroy", &[]);
        s.virsh("undefine", &[]);
    }
    assert_eq!(node.errors(), Vec::<String>::new());
}

/// What comes without the guest's help goes without it, at once.
#[test]
fn channels_come_and_go() {
    if !can() {
        return;
    }
    let host = Host::new();
    let node = Node::start(&host, "alpha");
    let shape = Shape { devices: "<controller type='virtio-serial' index='0'/>", ..LEAST };
    let mut s = Session::new(&node, shape.domain("channels", ""));
    s.start();
    let sock = node.path("channel.sock");
    let socket = format!(
        "<channel type='unix'><source mode='bind' path='{sock}'/><target type='virtio' name='b.1'/></channel>"
    );
    for xml in [socket.as_str(), "<channel type='pty'><target type='virtio' name='b.2'/></channel>"] {
        let file = node.file("channel.xml", xml);
        s.virsh("attach-device", &[&file, "--live"]);
        s.events.expect(&["device-added", "channel0"]);
        assert!(s.hmp("info chardev").contains("charchannel0"));
        s.virsh("detach-device-alias", &["channel0", "--live"]);
        s.events.expect(&["device-removed", "channel0"]);
        assert!(!s.hmp("info chardev").contains("charchannel0"));
    }
    // It waits for the event for five seconds, and asks again for nothing else.
    let file = node.file("channel.xml", &socket);
    s.virsh("attach-device", &[&file, "--live"]);
    s.virsh("detach-device", &[&file, "--live"]);
    assert!(!s.hmp("info chardev").contains("charchannel0"), "virsh waited until it was gone");
    assert_eq!(node.errors(), Vec::<String>::new());
}

fn try_all(variants: &[Variant]) {
    try_on(&["q35", "pc"], variants);
}

/// Starts each on each of the machines, asks it, and ends it.
fn try_on(machines: &[&'static str], variants: &[Variant]) {
    if !can() {
        return;
    }
    let host = Host::new();
    let node = Node::start(&host, "alpha");
    std::fs::write(node.path("pmem"), vec![0; 16 << 20]).expect("room on the disk");
    for (name, shape, ask, answer) in variants {
        for machine in machines {
            let shape = Shape { machine, ..*shape };
            let name = format!("{name}-{machine}");
            let domain = shape.domain(&name, node.folder().to_str().expect("the path is text"));
            node.define(&domain);
            node.virsh(&["start", &name]);
            assert_eq!(node.virsh(&["domstate", &name, "--reason"]), "running (booted)", "{name}");
            let words = [&[ask[0], &name], &ask[1..]].concat();
            let told = node.virsh(&words);
            assert!(told.contains(answer), "{name}: {words:?} says {told}");
            node.virsh(&["destroy", &name]);
            node.virsh(&["undefine", &name]);
        }
    }
    assert_eq!(node.errors(), Vec::<String>::new());
}

//! What a domain cannot have, and how its user is told: by libvirt, which sees that the emulator has no such thing, or by the emulator, whose last words libvirt shows.

use crate::session::Session;
use crate::shape::{LEAST, Shape};
use crate::{Host, Node, can};

/// A kind of domain, and what is in the message.
type Refusal = (&'static str, Shape, &'static str);

const DISKS: &str =
    "-blockdev is not supported: there are no disks but those that vhost-user back ends serve";
const HYPER_V: &str = "not found: Hyper-V enlightenments are not supported";

/// What the emulator refuses when it is started.
#[test]
fn by_the_emulator() {
    let devices = |xml: &'static str| Shape { devices: xml, ..LEAST };
    let besides = |xml: &'static str| Shape { besides: xml, ..LEAST };
    let features = |xml: &'static str| Shape { features: xml, ..LEAST };
    let serial = |xml: &'static str| Shape { serial: xml, ..LEAST };
    let os = |xml: &'static str| Shape { os: xml, ..LEAST };
    try_all(&[
        (
            "raw",
            devices(
                "<disk type='file'><driver name='qemu' type='raw'/><source file='@FOLDER@/disk'/><target dev='vda' bus='virtio'/></disk>",
            ),
            DISKS,
        ),
        (
            "qcow2",
            devices(
                "<disk type='file'><driver name='qemu' type='qcow2'/><source file='@FOLDER@/disk'/><target dev='vda' bus='virtio'/></disk>",
            ),
            DISKS,
        ),
        (
            "sata",
            devices(
                "<disk type='file'><driver name='qemu' type='raw'/><source file='@FOLDER@/disk'/><target dev='sda' bus='sata'/></disk>",
            ),
            DISKS,
        ),
        (
            "cdrom",
            devices("<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>"),
            "'ide-cd' is not a valid device model name",
        ),
        (
            "e1000e",
            devices(
                "<interface type='ethernet'><target dev='tap1' managed='yes'/><model type='e1000e'/></interface>",
            ),
            "'e1000e' is not a valid device model name",
        ),
        (
            "old-virtio",
            devices("<rng model='virtio-transitional'><backend model='builtin'/></rng>"),
            "'virtio-rng-pci-transitional' is not a valid device model name",
        ),
        (
            "queues",
            devices(
                "<interface type='ethernet'><target dev='tap1' managed='yes'/><model type='virtio'/><driver name='qemu' queues='2'/></interface>",
            ),
            "several queues are not supported: there is one",
        ),
        (
            "rss",
            devices(
                "<interface type='ethernet'><target dev='tap1' managed='yes'/><model type='virtio'/><driver name='qemu' rss='on'/></interface>",
            ),
            "rss=on is not supported",
        ),
        (
            "mcast",
            devices(
                "<interface type='mcast'><source address='230.0.0.1' port='4446'/><model type='virtio'/></interface>",
            ),
            "Parameter 'type' does not accept value 'socket'",
        ),
        (
            "folder",
            devices(
                "<filesystem type='mount' accessmode='passthrough'><source dir='/tmp'/><target dir='x'/></filesystem>",
            ),
            "-fsdev is not supported: no folders are shared with guests",
        ),
        (
            "udp",
            serial("<serial type='udp'><source mode='connect' host='127.0.0.1' service='5558'/></serial>"),
            "chardev: udp: this back end is not supported",
        ),
        (
            "tls",
            serial(
                "<serial type='tcp'><source mode='bind' host='127.0.0.1' service='5557' tls='yes'/><protocol type='raw'/></serial>",
            ),
            "Parameter 'qom-type' does not accept value 'tls-creds-x509'",
        ),
        ("vc", serial("<serial type='vc'/>"), "there is no display to show a virtual console on"),
        ("parallel", devices("<parallel type='pty'/>"), "'isa-parallel' is not a valid device model name"),
        (
            "watchdog",
            devices("<watchdog model='i6300esb' action='reset'/>"),
            "'i6300esb' is not a valid device model name",
        ),
        (
            "evdev",
            devices("<input type='evdev'><source dev='/dev/null'/></input>"),
            "Parameter 'qom-type' does not accept value 'input-linux'",
        ),
        ("sound", devices("<sound model='ich6'/>"), "'intel-hda' is not a valid device model name"),
        (
            "no-disk-server",
            Shape {
                devices: "<disk type='vhostuser' device='disk' snapshot='no'><driver name='qemu' type='raw'/><source type='unix' path='@FOLDER@/nobody'/>\
                <target dev='vda' bus='virtio'/></disk>",
                ..besides("<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>")
            },
            "/nobody': No such file or directory",
        ),
        ("hyper-v", features("<hyperv><relaxed state='on'/></hyperv>"), HYPER_V),
        ("hyper-v-all", features("<hyperv mode='passthrough'/>"), HYPER_V),
        (
            "hyper-v-clock",
            besides("<clock offset='utc'><timer name='hypervclock' present='yes'/></clock>"),
            HYPER_V,
        ),
        ("hyper-v-panic", devices("<panic model='hyperv'/>"), HYPER_V),
        ("smm", features("<smm state='on'/>"), "Property 'smm' can only be 'off'"),
        ("irqchip", features("<ioapic driver='qemu'/>"), "-accel kvm: kernel-irqchip=split is not supported"),
        (
            "hpet",
            besides("<clock offset='utc'><timer name='hpet' present='yes'/></clock>"),
            "Property 'hpet' can only be 'off'",
        ),
        (
            "pit",
            besides("<clock offset='utc'><timer name='pit' tickpolicy='discard'/></clock>"),
            "Lost tick policy not supported.",
        ),
        ("sleep", besides("<pm><suspend-to-mem enabled='yes'/></pm>"), "the board has no sleep state S3"),
        (
            "clusters",
            Shape {
                vcpu: "<vcpu>4</vcpu>",
                cpu: "<cpu mode='host-passthrough'><topology sockets='1' dies='1' clusters='2' cores='2' threads='1'/></cpu>",
                ..LEAST
            },
            "clusters > 1 not supported by this machine's CPU topology",
        ),
        (
            "main-loop",
            besides("<defaultiothread thread_pool_min='8' thread_pool_max='16'/>"),
            "Parameter 'qom-type' does not accept value 'main-loop'",
        ),
        ("bios", os("<loader type='rom'>@FOLDER@/disk</loader>"), "firmware is not supported"),
        (
            "no-kernel",
            os("<kernel>/nonexistent</kernel>"),
            "could not open kernel file '/nonexistent': No such file or directory",
        ),
        ("bad-kernel", os("<kernel>@FOLDER@/disk</kernel>"), "invalid kernel header"),
        (
            "tables",
            os("<acpi><table type='slic'>@FOLDER@/disk</table></acpi>"),
            "-acpitable is not supported: ACPI tables are the board's own",
        ),
        (
            "own-words",
            besides("<qemu:commandline><qemu:arg value='-usb'/></qemu:commandline>"),
            "-usb is not supported: there is no USB",
        ),
        (
            "misspelt",
            besides("<qemu:commandline><qemu:arg value='-nonsense'/></qemu:commandline>"),
            "-nonsense: invalid option",
        ),
    ]);
}

/// What libvirt refuses, as nothing that it needs is listed.
#[test]
fn by_libvirt() {
    let devices = |xml: &'static str| Shape { devices: xml, ..LEAST };
    try_all(&[
        ("translator", Shape { kind: "qemu", cpu: "", ..LEAST }, "does not support virt type 'qemu'"),
        (
            "nvdimm",
            Shape {
                memory: "<maxMemory slots='4' unit='MiB'>2048</maxMemory><memory unit='MiB'>128</memory>",
                cpu: "<cpu mode='host-passthrough'><numa><cell id='0' cpus='0' memory='128' unit='MiB'/></numa></cpu>",
                ..devices(
                    "<memory model='nvdimm'><source><path>/x</path></source><target><size unit='MiB'>16</size><node>0</node></target></memory>",
                )
            },
            "nvdimm isn't supported by this QEMU binary",
        ),
        (
            "scsi",
            devices("<controller type='scsi' model='virtio-scsi'/>"),
            "This QEMU doesn't support virtio scsi controller",
        ),
        (
            "user",
            devices("<interface type='user'><model type='virtio'/></interface>"),
            "the 'default' network backend is not supported with this QEMU binary",
        ),
        (
            "passt",
            devices("<interface type='user'><backend type='passt'/><model type='virtio'/></interface>"),
            "the 'passt' network backend is not supported with this QEMU binary",
        ),
        (
            "virtiofs",
            Shape {
                besides: "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>",
                ..devices(
                    "<filesystem type='mount'><driver type='virtiofs'/><source socket='/x'/><target dir='x'/></filesystem>",
                )
            },
            "virtiofs is not supported with this QEMU binary",
        ),
        (
            "private-disk",
            devices(
                "<disk type='vhostuser' device='disk' snapshot='no'><driver name='qemu' type='raw'/><source type='unix' path='/x'/>\
            <target dev='vda' bus='virtio'/></disk>",
            ),
            "'vhostuser' requires shared memory",
        ),
        (
            "egd",
            devices(
                "<rng model='virtio'><backend model='egd' type='tcp'><source mode='connect' host='127.0.0.1' service='7777'/></backend></rng>",
            ),
            "this qemu doesn't support the rng-egd backend",
        ),
        (
            "vnc",
            devices("<graphics type='vnc'/><video><model type='vga'/></video>"),
            "domain configuration does not support video model 'vga'",
        ),
        (
            "vnc-alone",
            devices("<graphics type='vnc'/><video><model type='none'/></video>"),
            "vnc graphics are not supported with this QEMU",
        ),
        (
            "spice",
            devices("<graphics type='spice'/><video><model type='none'/></video>"),
            "spice graphics are not supported with this QEMU",
        ),
        (
            "video",
            devices("<video><model type='virtio'/></video>"),
            "domain configuration does not support video model 'virtio'",
        ),
        (
            "tablet",
            devices("<input type='tablet' bus='virtio'/>"),
            "virtio-tablet is not supported by this QEMU binary",
        ),
        (
            "tpm",
            devices("<tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm>"),
            "TPM version '2.0' is not supported",
        ),
        (
            "vsock",
            devices("<vsock model='virtio'><cid auto='no' address='3'/></vsock>"),
            "vsock device is not supported with this QEMU binary",
        ),
        (
            "shmem",
            devices("<shmem name='s'><model type='ivshmem-plain'/><size unit='M'>4</size></shmem>"),
            "shmem model 'ivshmem-plain' is not supported by this QEMU binary",
        ),
        (
            "crypto",
            devices("<crypto model='virtio' type='qemu'><backend model='builtin'/></crypto>"),
            "crypto model virtio is not supported",
        ),
        (
            "iommu",
            devices("<iommu model='intel'/>"),
            "IOMMU device: 'intel' is not supported with this QEMU binary",
        ),
        (
            "passed-through",
            devices(
                "<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0' bus='1' slot='0' function='0'/></source></hostdev>",
            ),
            "host doesn't support passthrough of host PCI devices",
        ),
        (
            "pci-serial",
            Shape { serial: "<serial type='pty'><target type='pci-serial'/></serial>", ..LEAST },
            "'pci-serial' is not supported in this QEMU binary",
        ),
        (
            "sealed",
            Shape { besides: "<launchSecurity type='sev'><policy>0x1</policy></launchSecurity>", ..LEAST },
            "'sev' launch security is not supported with this QEMU binary",
        ),
        (
            "vmport",
            Shape { features: "<vmport state='on'/>", ..LEAST },
            "vmport is not available with this QEMU binary",
        ),
    ]);
}

/// What is plugged into a domain that runs.
#[test]
fn while_it_runs() {
    if !can() {
        return;
    }
    let host = Host::new();
    let node = Node::start(&host, "alpha");
    std::fs::write(node.path("disk"), [0; 4096]).expect("room on the disk");
    let shape = Shape { devices: "<controller type='virtio-serial' index='0'/>", ..LEAST }.on_pc();
    let mut s = Session::new(&node, shape.domain("running", ""));
    s.start();
    let disk = format!(
        "<disk type='file'><driver name='qemu' type='raw'/><source file='{}'/><target dev='vda' bus='virtio'/></disk>",
        node.path("disk")
    );
    let refused = [
        (disk.as_str(), "The command blockdev-add has not been found"),
        (
            "<interface type='ethernet'><target dev='tap1' managed='yes'/><model type='e1000e'/></interface>",
            "'e1000e' is not a valid device model name",
        ),
        ("<watchdog model='i6300esb' action='reset'/>", "'i6300esb' is not a valid device model name"),
        (
            "<channel type='udp'><source mode='connect' host='127.0.0.1' service='9000'/><target type='virtio' name='b.4'/></channel>",
            "Parameter 'type' does not accept value 'udp'",
        ),
        ("<serial type='pty'/>", "Bus 'isa.0' does not support hotplugging"),
        (
            "<vsock model='virtio'><cid auto='no' address='3'/></vsock>",
            "vsock device is not supported with this QEMU binary",
        ),
        ("<input type='tablet' bus='virtio'/>", "virtio-tablet is not supported by this QEMU binary"),
    ];
    for (xml, message) in refused {
        let file = node.file("device.xml", xml);
        let told = s.fails("attach-device", &[&file, "--live"]);
        assert!(told.contains(message), "{xml}: {told}");
    }
    let screen = s.fails("screenshot", &[&node.path("screen")]);
    assert!(screen.contains("no screens to take screenshot from"), "{screen}");
    // Nothing of it is left.
    let left = s.hmp("info network");
    assert!(left.is_empty(), "{left}");
    assert_eq!(s.hmp("info chardev").matches("charchannel").count(), 0);
    assert_eq!(s.state(), "running (booted)");
    s.virsh("destroy", &[]);
}

/// Defines and starts each; one of the two fails.
fn try_all(refusals: &[Refusal]) {
    if !can() {
        return;
    }
    let host = Host::new();
    let node = Node::start(&host, "alpha");
    std::fs::write(node.path("disk"), [0; 4096]).expect("room on the disk");
    for (name, shape, message) in refusals {
        let domain = shape.domain(name, node.folder().to_str().expect("the path is text"));
        let file = node.file(&format!("{name}.xml"), &domain.xml());
        let defined = node.try_virsh(&["define", &file]);
        let failed = if defined.ok { node.try_virsh(&["start", name]) } else { defined };
        assert!(!failed.ok && failed.err.contains(message), "{name}: {}\n{}", failed.err, node.domain_logs());
        // A start that fails leaves the domain as it was.
        if node.try_virsh(&["domstate", name]).ok {
            assert_eq!(node.virsh(&["domstate", name, "--reason"]), "shut off (failed)", "{name}");
            node.virsh(&["undefine", name]);
        }
    }
    assert!(node.virsh(&["list", "--all"]).is_empty());
    // What is left are processes and folders of nobody.
    let processes = host.processes();
    assert!(!processes.iter().any(|line| line.contains("-name guest=")), "{processes:?}");
}

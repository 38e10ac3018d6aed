//! What a user may set, and what he is told otherwise.

use memory::DiscardClaim;
use qapi::types::MemoryDeviceInfo;
use qom::Input;

use super::rig::{G, M, Raw, Rig};
use crate::core::qdev;

fn rig() -> Rig {
    let rig = Rig::new("pc");
    rig.backend("memory-backend-ram", "mem0", "1G", &[]).unwrap();
    rig
}

#[test]
fn start_up_errors_are_qemus() {
    let rig = rig();
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[], "'memdev' property must be set"),
        (&[("memdev", "nope")], "Device 'nope' not found"),
        (&[("memdev", "/machine")], "Invalid parameter type for 'memdev', expected: memory-backend"),
        (
            &[("memdev", "mem0"), ("node", "1")],
            "'node' property has value '1', which exceedsthe number of numa nodes: 1",
        ),
        (&[("memdev", "mem0"), ("node", "-1")], "Parameter 'node' expects uint32_t"),
        (&[("memdev", "mem0"), ("node", "abc")], "Parameter 'node' expects integer"),
        (
            &[("memdev", "mem0"), ("dynamic-memslots", "on"), ("unplugged-inaccessible", "off")],
            "'dynamic-memslots' property set to 'on' requires 'unplugged-inaccessible' to be 'on'",
        ),
        (
            &[("memdev", "mem0"), ("dynamic-memslots", "on"), ("unplugged-inaccessible", "auto")],
            "'dynamic-memslots' property set to 'on' requires 'unplugged-inaccessible' to be 'on'",
        ),
        (
            &[("memdev", "mem0"), ("dynamic-memslots", "on"), ("memslots", "2")],
            "'memslots' property set to '2' requires 'dynamic-memslots' to be 'off'",
        ),
        (
            &[("memdev", "mem0"), ("memslots", "1025")],
            "'memslots' property has value '1025', which exceeds the maximum number of memory slots: 1024",
        ),
        (&[("memslots", "2000")], "'memdev' property must be set"),
        (&[("memdev", "mem0"), ("memslots", "65536")], "Parameter 'memslots' expects uint16_t"),
        (
            &[("memdev", "mem0"), ("unplugged-inaccessible", "maybe")],
            "Parameter 'unplugged-inaccessible' does not accept value 'maybe'",
        ),
        (
            &[("memdev", "mem0"), ("dynamic-memslots", "maybe")],
            "Parameter 'dynamic-memslots' expects 'on' or 'off'",
        ),
        (&[("memdev", "mem0"), ("block-size", "3M")], "'block-size' property has to be a power of two"),
        (&[("memdev", "mem0"), ("block-size", "512K")], "'block-size' property has to be at least 0x100000"),
        (&[("memdev", "mem0"), ("block-size", "0")], "'block-size' property has to be at least 0x100000"),
        (&[("memdev", "mem0"), ("block-size", "abc")], "Parameter 'block-size' expects size"),
        (
            &[("memdev", "mem0"), ("requested-size", "1M")],
            "'requested-size' property has to be multiples of 'block-size' (0x200000)",
        ),
        (&[("memdev", "mem0"), ("requested-size", "12Q")], "Parameter 'requested-size' expects size"),
        (&[("memdev", "mem0"), ("size", "1G")], "Property 'virtio-mem.size' is not writable"),
        (&[("memdev", "mem0"), ("memaddr", "0x100001000")], "address must be aligned to 0x200000 bytes"),
        (
            &[("memdev", "mem0"), ("memaddr", "0x80000000")],
            "can't add memory device [0x80000000:0x40000000], usable range for memory devices [0x100000000:0x1c0000000]",
        ),
        (
            &[("memdev", "mem0"), ("block-size", "8G")],
            "'memdev' property memdev size has to be multiples of'block-size' (0x200000000)",
        ),
        (&[("memdev", "mem0"), ("frobnicate", "1")], "Property 'virtio-mem-pci.frobnicate' not found"),
    ];
    for (options, text) in cases {
        assert_eq!(&rig.refused(options), text);
    }
    rig.device(&[("memdev", "mem0"), ("id", "vm0")]).expect("nothing of the refused devices is left");
    assert_eq!(rig.refused(&[("memdev", "mem0")]), "'memdev' property specifies a busy memdev: mem0");
    rig.backend("memory-backend-ram", "pre", "64M", &[("prealloc", "on")]).unwrap();
    assert_eq!(
        rig.refused(&[("memdev", "pre")]),
        "'memdev' property specifies a memdev with preallocation enabled: pre. Instead, specify 'prealloc=on' for the \
         virtio-mem device. "
    );
    rig.backend("memory-backend-ram", "odd", "3M", &[]).unwrap();
    assert_eq!(rig.refused(&[("memdev", "odd")]), "backend memory size must be multiple of 0x200000");
}

#[test]
fn whoever_cannot_live_with_discards_and_the_device_refuse_each_other() {
    let rig = Rig::new("pc");
    let policy = rig.machine.memory().discard_policy();
    for id in ["mem0", "mem1"] {
        rig.backend("memory-backend-ram", id, "1G", &[]).unwrap();
    }
    let pinned = policy.claim(DiscardClaim::Disabled).unwrap();
    assert_eq!(rig.refused(&[("memdev", "mem0")]), "Discarding RAM is disabled");
    drop(pinned);
    let coordinated = policy.claim(DiscardClaim::UncoordinatedDisabled).unwrap();
    rig.device(&[("memdev", "mem0"), ("id", "vm0")]).expect("it announces its discards");
    drop(coordinated);
    assert!(policy.claim(DiscardClaim::Disabled).is_err());
    assert!(rig.devices().set_memory_locked(rig.machine.memory()).is_err());
    rig.machine.finish().unwrap();
    let vm0 = qom::cast::<dyn crate::core::Device>(&rig.vm0()).unwrap();
    qdev::complete_unplug(&rig.machine, &vm0);
    assert!(!policy.is_claimed(DiscardClaim::CoordinatedRequired), "the device is gone");
}

#[test]
fn locked_memory_has_an_error_of_its_own() {
    let rig = Rig::new("pc");
    rig.devices().set_memory_locked(rig.machine.memory()).unwrap();
    rig.devices().set_memory_locked(rig.machine.memory()).unwrap();
    rig.backend("memory-backend-ram", "mem0", "1G", &[]).unwrap();
    assert_eq!(rig.refused(&[("memdev", "mem0")]), "Incompatible with mlock");
    let balloon = rig.machine.memory().discard_policy().claim(DiscardClaim::Required);
    assert!(balloon.is_err(), "and nobody else can give memory back");
}

#[test]
fn files_that_cannot_be_written_are_refused() {
    let rig = Rig::new("pc");
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(64 * M).unwrap();
    let path = file.path().to_str().unwrap();
    let read_only = [("mem-path", path), ("readonly", "on")];
    rig.backend("memory-backend-file", "rom", "64M", &[read_only[0], read_only[1], ("rom", "on")]).unwrap();
    assert_eq!(rig.refused(&[("memdev", "rom")]), "'memdev' property specifies an unsupported memdev");
    rig.backend("memory-backend-file", "ro", "64M", &[read_only[0], read_only[1], ("rom", "off")]).unwrap();
    assert_eq!(rig.refused(&[("memdev", "ro")]), "Unexpected error discarding RAM: Operation not permitted");
}

#[test]
fn without_maxmem_there_is_no_room() {
    let rig = Rig::with_memory("pc", None);
    rig.backend("memory-backend-ram", "mem0", "1G", &[]).unwrap();
    assert_eq!(
        rig.refused(&[("memdev", "mem0")]),
        "the configuration is not prepared for memory devices (e.g., for memory hotplug), consider specifying the \
         maxmem option"
    );
}

#[test]
fn run_time_errors_are_qemus() {
    let rig = Rig::with_device("pc", "64M");
    rig.backend("memory-backend-ram", "free0", "64M", &[]).unwrap();
    let late = |name: &str| {
        format!(
            "Attempt to set property '{name}' on anonymous device (type 'virtio-mem') after it was realized"
        )
    };
    let cases = [
        ("requested-size", "1M", "'requested-size' has to be multiples of 'block-size' (0x200000)".to_owned()),
        ("requested-size", "2G", "'requested-size' cannot exceed the memory backend size(0x40000000)".to_owned()),
        ("requested-size", "2147483649", "'requested-size' has to be multiples of 'block-size' (0x200000)".to_owned()),
        ("requested-size", "16E", "Value '16E' is out of range for parameter 'requested-size'".to_owned()),
        ("requested-size", "foo", "Parameter 'requested-size' expects a non-negative number below 2^64".to_owned()),
        ("block-size", "4M", "'block-size' cannot be changed".to_owned()),
        ("block-size", "foo", "'block-size' cannot be changed".to_owned()),
        ("size", "64M", "Property 'virtio-mem.size' is not writable".to_owned()),
        ("memaddr", "0x100000000", late("memaddr")),
        ("node", "1", late("node")),
        ("prealloc", "on", late("prealloc")),
        ("dynamic-memslots", "on", late("dynamic-memslots")),
        ("memslots", "2", late("memslots")),
        ("unplugged-inaccessible", "off", late("unplugged-inaccessible")),
        ("x-early-migration", "off", late("x-early-migration")),
        (
            "memdev",
            "free0",
            "Attempt to set link property 'memdev' on device '(null)' (type 'virtio-mem') after it was realized".to_owned(),
        ),
        ("memdev", "nope", "Device 'nope' not found".to_owned()),
        ("foo", "1", "Property 'virtio-mem-pci.foo' not found".to_owned()),
        ("vectors", "3", "Attempt to set property 'vectors' on device 'vm0' (type 'virtio-mem-pci') after it was realized".to_owned()),
    ];
    for (name, value, text) in cases {
        assert_eq!(rig.set(name, value).unwrap_err().desc(), text, "{name}={value}");
    }
    let negative = qapi::Value::Int(-2097152);
    assert_eq!(
        rig.vm0().set("requested-size", Input::Json(&negative)).unwrap_err().desc(),
        "'requested-size' cannot exceed the memory backend size(0x40000000)"
    );
    assert_eq!(rig.get("requested-size").as_u64(), Some(64 * M));
}

#[test]
fn an_unplug_is_refused_while_the_guest_has_or_may_get_memory() {
    let mut d = Raw::new(Rig::with_device("pc", "2M"), 1 << 32 | 3);
    let refused = |d: &Raw| qdev::device_del(&d.rig.machine, "vm0").unwrap_err().desc().to_owned();
    assert_eq!(refused(&d), "virtio-mem device cannot get unplugged while 'requested-size' != '0'");
    assert_eq!(d.plug(4 * G, 1), 0);
    assert_eq!(
        refused(&d),
        "virtio-mem device cannot get unplugged while some of its memory is still plugged"
    );
    d.rig.set("requested-size", "0").unwrap();
    assert_eq!(
        refused(&d),
        "virtio-mem device cannot get unplugged while some of its memory is still plugged"
    );
    assert_eq!(d.unplug(4 * G, 1), 0);
    qdev::device_del(&d.rig.machine, "vm0").unwrap();
    assert_eq!(refused(&d), "Device vm0 is already in the process of unplug");
    assert_eq!(
        d.rig.set("requested-size", "0").unwrap_err().desc(),
        "'requested-size' cannot be changed if the device is in the process of unplug"
    );
}

#[test]
fn defaults_follow_the_machine_type() {
    // (machine, unplugged-inaccessible after realizing, vectors, x-early-migration, offered features)
    let table = [
        ("pc", "on", 2, true, 0x101_3000_0007u64),
        ("pc-i440fx-9.2", "on", 0, true, 0x101_3000_0007),
        ("pc-q35-8.1", "on", 0, true, 0x101_3000_0007),
        ("pc-q35-8.0", "off", 0, true, 0x101_3000_0005),
        ("pc-q35-7.2", "off", 0, false, 0x101_3000_0005),
        ("pc-q35-7.0", "off", 0, false, 0x1_3000_0005),
        ("pc-q35-6.2", "off", 0, false, 0x1_3000_0005),
    ];
    for (kind, inaccessible, vectors, early, features) in table {
        let mut rig = Rig::with_device(kind, "0");
        assert_eq!(rig.get("unplugged-inaccessible").as_str(), Some(inaccessible), "{kind}");
        assert_eq!(rig.get("vectors").as_u64(), Some(vectors), "{kind}");
        assert_eq!(rig.get("x-early-migration").as_bool(), Some(early), "{kind}");
        let transport = rig.transport();
        assert_eq!(transport.device_features(&mut rig), features, "{kind}");
    }
}

#[test]
fn auto_is_on_where_there_is_no_shared_zero_page() {
    for (kind, more, resolved) in [
        ("memory-backend-ram", &[][..], "off"),
        ("memory-backend-ram", &[("share", "on")], "on"),
        ("memory-backend-memfd", &[], "on"),
    ] {
        let rig = Rig::new("pc");
        rig.backend(kind, "mem0", "1G", more).unwrap();
        rig.device(&[("id", "vm0"), ("memdev", "mem0"), ("unplugged-inaccessible", "auto")]).unwrap();
        assert_eq!(rig.get("unplugged-inaccessible").as_str(), Some(resolved), "{kind} {more:?}");
    }
}

#[test]
fn feature_properties_choose_what_is_offered() {
    for (options, features) in [
        (&[("in_order", "on")][..], 0x109_3000_0007u64),
        (&[("event_idx", "off"), ("indirect_desc", "off"), ("queue_reset", "off")], 0x1_0000_0007),
        (&[("iommu_platform", "on")], 0x103_3000_0007),
        (&[("notify_on_empty", "off"), ("any_layout", "off")], 0x101_3000_0007),
        (&[("disable-modern", "on"), ("disable-legacy", "off")], 0x101_3000_0007),
    ] {
        let rig = Rig::new("pc");
        rig.backend("memory-backend-ram", "mem0", "1G", &[]).unwrap();
        let all = [&[("id", "vm0"), ("memdev", "mem0")], options].concat();
        rig.device(&all).unwrap();
        rig.machine.finish().unwrap();
        let mut rig = rig;
        let transport = rig.transport();
        assert_eq!(transport.device_features(&mut rig), features, "{options:?}");
    }
}

#[test]
fn memory_devices_are_listed_by_address() {
    let rig = Rig::new("pc");
    for id in ["mem0", "mem1"] {
        rig.backend("memory-backend-ram", id, "1G", &[]).unwrap();
    }
    rig.device(&[("id", "vm0"), ("memdev", "mem0"), ("memaddr", "0x140000000"), ("requested-size", "2G")])
        .unwrap();
    rig.device(&[("memdev", "mem1")]).unwrap();
    let facts: Vec<_> = rig
        .devices()
        .infos()
        .into_iter()
        .map(|info| match info {
            MemoryDeviceInfo::VirtioMem(v) => {
                (v.data.id, v.data.memdev, v.data.memaddr, v.data.requested_size)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        facts,
        [
            (None, "/objects/mem1".to_owned(), 4 * G, 0),
            (Some("vm0".to_owned()), "/objects/mem0".to_owned(), 5 * G, 2 * G),
        ]
    );
    rig.backend("memory-backend-ram", "mem2", "1G", &[]).unwrap();
    assert_eq!(
        rig.refused(&[("memdev", "mem2"), ("memaddr", "0x120000000")]),
        "address range conflicts with memory device id='(unnamed)'"
    );
    let block = rig.machine.memory().ramblock_text();
    assert!(block.contains("0000:00:02.0/mem0") && block.contains("0000:00:03.0/mem1"), "{block}");
}

#[test]
fn the_configuration_space_is_the_oracles() {
    let bytes = |rig: &mut Rig| -> Vec<u8> {
        let function = rig.function();
        (0..=255).map(|at| function.read8(rig, at)).collect()
    };
    let mut rig = rig();
    rig.device(&[("id", "vm0"), ("memdev", "mem0")]).unwrap();
    let dump = bytes(&mut rig);
    let row = |dump: &[u8], at: usize| {
        dump[at..at + 16].iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
    };
    let expected = [
        (0x00, "f4 1a 58 10 00 00 10 00 01 00 ff 00 00 00 00 00"),
        (0x10, "00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00"),
        (0x20, "0c 00 00 00 00 00 00 00 00 00 00 00 f4 1a 00 11"),
        (0x30, "00 00 00 00 98 00 00 00 00 00 00 00 00 01 00 00"),
        (0x40, "09 00 10 01 04 00 00 00 00 00 00 00 00 10 00 00"),
        (0x50, "09 40 10 03 04 00 00 00 00 10 00 00 00 10 00 00"),
        (0x60, "09 50 10 04 04 00 00 00 00 20 00 00 00 10 00 00"),
        (0x70, "09 60 14 02 04 00 00 00 00 30 00 00 00 10 00 00"),
        (0x80, "04 00 00 00 09 70 14 05 00 00 00 00 00 00 00 00"),
        (0x90, "00 00 00 00 00 00 00 00 11 84 01 00 01 00 00 00"),
        (0xa0, "01 08 00 00 00 00 00 00 00 00 00 00 00 00 00 00"),
    ];
    for (at, text) in expected {
        assert_eq!(row(&dump, at), text, "{at:#x}");
    }
    let mut bare = Rig::new("pc");
    bare.backend("memory-backend-ram", "mem0", "1G", &[]).unwrap();
    bare.device(&[("id", "vm0"), ("memdev", "mem0"), ("vectors", "0")]).unwrap();
    assert_eq!(bytes(&mut bare)[0x34], 0x84, "no MSI-X");
}

#[test]
fn the_object_tree_has_qemus_children() {
    let rig = Rig::with_device("pc", "0");
    let names: Vec<String> = rig.vm0().core().children().into_iter().map(|(name, _)| name).collect();
    for name in [
        "bus master container[0]",
        "bus master[0]",
        "msix-pba[0]",
        "msix-table[0]",
        "virtio-backend",
        "virtio-bus",
        "virtio-mem-pci-msix[0]",
        "virtio-pci-common-virtio-mem[0]",
        "virtio-pci-device-virtio-mem[0]",
        "virtio-pci-isr-virtio-mem[0]",
        "virtio-pci-notify-pio-virtio-mem[0]",
        "virtio-pci-notify-virtio-mem[0]",
        "virtio-pci[0]",
    ] {
        assert!(names.iter().any(|n| n == name), "{name} in {names:?}");
    }
    assert_eq!(names.len(), 13, "{names:?}");
}

#[test]
fn virtio_queries_tell_what_the_driver_did() {
    let d = Raw::new(Rig::with_device("pc", "0"), 1 << 40 | 1 << 32 | 3 << 28 | 3);
    d.rig.set("requested-size", "2M").unwrap();
    let machine = &d.rig.machine;
    let path = "/machine/peripheral/vm0/virtio-backend";
    let list = crate::virtio::query::devices(machine.tree());
    assert_eq!(list.iter().map(|i| (&*i.path, &*i.name)).collect::<Vec<_>>(), [(path, "virtio-mem")]);
    let status = crate::virtio::query::device_status(machine, path).unwrap();
    assert_eq!((status.device_id, status.num_vqs, status.isr, status.started), (24, 1, 3, true));
    assert_eq!(status.status.statuses.len(), 4);
    assert_eq!(status.guest_features.unknown_dev_features, Some(1));
    assert_eq!(status.host_features.unknown_dev_features, Some(0x4000_0001));
    assert_eq!(
        status.guest_features.dev_features.unwrap(),
        ["VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE: Unplugged memory cannot be accessed"]
    );
    assert_eq!(status.guest_features.transports.len(), 4);
    assert_eq!(status.host_features.transports.len(), 6);
    let bad = crate::virtio::query::device_status(machine, "/machine/peripheral/vm0").unwrap_err();
    assert_eq!(bad.desc(), "Path /machine/peripheral/vm0 is not a realized VirtIODevice");
}

/// `info qtree` of the device on q35, without what depends on where things are. `memslots` is ours, all else as QEMU has it.
const QTREE: &str = "\
disable-legacy = \"on\"
disable-modern = false
ioeventfd = true
vectors = 2 (0x2)
virtio-pci-bus-master-bug-migration = false
migrate-extra = true
modern-pio-notify = false
x-disable-pcie = false
page-per-vq = false
x-ignore-backend-features = false
ats = false
x-ats-page-aligned = true
x-pcie-deverr-init = true
x-pcie-lnkctl-init = true
x-pcie-pm-init = true
x-pcie-pm-no-soft-reset = false
x-pcie-flr-init = true
aer = false
addr = 01.0
romfile = \"\"
romsize = 4294967295 (0xffffffff)
rombar = -1 (0xffffffffffffffff)
multifunction = false
x-pcie-lnksta-dllla = true
x-pcie-extcap-init = true
failover_pair_id = \"\"
acpi-index = 0 (0x0)
x-pcie-err-unc-mask = true
x-pcie-ari-nextfn-1 = false
x-max-bounce-buffer-size = 4096 (4 KiB)
x-pcie-ext-tag = true
busnr = 0 (0x0)
class Class 00ff, addr 00:01.0, pci id 1af4:1058 (sub 1af4:1100)
bus: virtio-bus
type virtio-pci-bus
node = 0 (0x0)
prealloc = false
unplugged-inaccessible = \"on\"
unplugged-protection = \"block\"
unplugged-access = \"report\"
x-early-migration = true
dynamic-memslots = false
memslots = 1 (0x1)
indirect_desc = true
event_idx = true
notify_on_empty = true
any_layout = true
iommu_platform = false
packed = false
queue_reset = true
in_order = false
use-started = true
use-disabled-flag = true
";

#[test]
fn info_qtree_lists_the_properties_as_qemu_does() {
    let rig = Rig::with_device("q35", "0");
    let text = crate::core::qtree::text(&rig.machine, false);
    let at = text.find("dev: virtio-mem-pci, id \"vm0\"").unwrap();
    let shown: Vec<&str> = text[at..]
        .lines()
        .skip(1)
        .map(str::trim)
        .filter(|line| !["bar ", "memaddr ", "dev: "].iter().any(|head| line.starts_with(head)))
        .take(QTREE.lines().count())
        .collect();
    assert_eq!(shown, QTREE.lines().collect::<Vec<_>>());
}

#[test]
fn a_device_can_be_added_while_the_machine_runs() {
    let rig = Rig::with_device("pc", "0");
    rig.backend("memory-backend-ram", "mem1", "1G", &[]).unwrap();
    rig.device(&[("id", "vm1"), ("memdev", "mem1"), ("requested-size", "64M")]).unwrap();
    assert_eq!(rig.devices().devices().iter().map(|d| d.addr()).collect::<Vec<_>>(), [4 * G, 5 * G]);
    assert_eq!(
        rig.refused(&[("memdev", "mem1"), ("requested-size", "1M")]),
        "'memdev' property specifies a busy memdev: mem1"
    );
    assert_eq!(rig.devices().infos().len(), 2, "the refused one left nothing");
}

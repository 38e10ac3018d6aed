//! PCI bridges and ports: their registers, what monitors show of them, and hot-plug behind them, each compared with QEMU where it is
//! installed.

use serde_json::json;
use tests::pci::Function;
use tests::program::qemu;
use tests::{Need, Vm, VmBuilder, have};

/// A port with everything, one with the least, one behind which a device is, and a bridge to a conventional bus.
const DEVICES: &str = "-device pcie-root-port,id=rp0,port=5,chassis=1,slot=3,bus-reserve=2,mem-reserve=4M,pref64-reserve=1G,io-reserve=4096 \
    -device pcie-root-port,id=rp1,chassis=2,power_controller_present=off,aer_log_max=0,disable-acs=on,x-speed=8,x-width=4 \
    -device pcie-root-port,id=rp2,chassis=3,slot=9000,hotplug=off \
    -device pcie-root-port,chassis=4,x-do-not-expose-native-hotplug-cap=on,multifunction=on \
    -device pci-bridge,id=br,chassis_nr=9,mem-reserve=1M,shpc=off \
    -object memory-backend-ram,id=mem0,size=128M -device virtio-mem-pci,id=vm0,memdev=mem0,bus=rp0 \
    -object memory-backend-ram,id=mem1,size=128M -device virtio-mem-pci,id=vm1,memdev=mem1,bus=br,addr=3";
const NATIVE: &str = "-global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off";
const MACHINE: &str = "-machine q35 -m 64M,maxmem=1G -nodefaults";

/// What `look` gives with this program and with QEMU.
fn both<T>(options: &[&str], look: impl Fn(&mut Vm) -> T) -> (T, Option<T>) {
    let start = |builder: VmBuilder| options.iter().fold(builder, |b, line| b.line(line)).qmp().qtest();
    let ours = look(&mut start(Vm::new()).start());
    let theirs =
        qemu().map(|path| look(&mut start(Vm::new().program(&path).accel("tcg").line("-S")).start()));
    (ours, theirs)
}

fn bytes(vm: &mut Vm, bus: u8, device: u8) -> Vec<String> {
    let dump = Function { bus, device, function: 0 }.dump(vm.qtest());
    dump.chunks(16).enumerate().map(|(row, bytes)| format!("{:02x}: {bytes:02x?}", row * 16)).collect()
}

#[test]
fn configuration_space_of_bridges_and_of_what_is_behind_is_qemus() {
    if !have(&[Need::QtestAccel]) {
        return;
    }
    for native in ["", NATIVE] {
        let (ours, theirs) = both(&[MACHINE, DEVICES, native], |vm| {
            let mut all: Vec<_> = (1..6).map(|device| bytes(vm, 0, device)).collect();
            Function::at(1).write(vm.qtest(), 0x18, 4, 0x01_01_00);
            Function::at(5).write(vm.qtest(), 0x18, 4, 0x02_02_00);
            all.extend([bytes(vm, 1, 0), bytes(vm, 2, 3)]);
            all
        });
        assert_eq!(ours[5][0][..20], *"00: [f4, 1a, 58, 10, ".get(..20).unwrap());
        if let Some(theirs) = theirs {
            for (ours, theirs) in ours.iter().zip(&theirs) {
                assert_eq!(ours, theirs, "{native}");
            }
        }
    }
}

#[test]
fn monitors_show_bridges_as_qemu_does() {
    if !have(&[Need::QtestAccel]) {
        return;
    }
    let (ours, theirs) = both(&[MACHINE, DEVICES], |vm| {
        Function::at(1).write(vm.qtest(), 0x18, 4, 0x01_01_00);
        Function::at(1).write(vm.qtest(), 0x1c, 2, 0x2010);
        Function::at(1).write(vm.qtest(), 0x20, 4, 0xfe80_fe00);
        Function::at(1).write(vm.qtest(), 0x24, 4, 0x0011_0001);
        Function::at(1).write(vm.qtest(), 0x28, 4, 0x80);
        Function::at(1).write(vm.qtest(), 0x2c, 4, 0x80);
        Function::at(1).write(vm.qtest(), 4, 2, 7);
        let pci = vm.qmp().human("info pci").replace('\r', "");
        let shown = |text: &str, from: &str, to: &str| {
            let text = text.replace('\r', "");
            let start = text.find(from).unwrap_or_else(|| panic!("{text}"));
            let end = text[start..].find(to).map_or(text.len(), |end| start + end);
            text[start..end].to_owned()
        };
        let tree = vm.qmp().human("info qtree");
        let port = shown(&tree, "dev: pcie-root-port, id \"rp0\"", "dev: virtio-mem-pci");
        let bridge = shown(&tree, "dev: pci-bridge", "dev: virtio-mem-pci");
        let pci = shown(&pci, "  Bus  0, device   1", "  Bus  0, device  31");
        let mtree = vm.qmp().human("info mtree");
        let mut windows: Vec<_> =
            mtree.lines().filter(|l| l.contains("pci_bridge")).map(|l| l.trim().to_owned()).collect();
        windows.sort();
        windows.dedup();
        (pci, port, bridge, windows)
    });
    assert!(ours.0.contains("memory range [0xfe000000, 0xfe8fffff]"), "{}", ours.0);
    if let Some(theirs) = theirs {
        assert_eq!(ours, theirs);
    }
}

/// The slot's control and status.
fn slot(vm: &mut Vm) -> u64 {
    Function::at(1).read(vm.qtest(), 0x6c, 4)
}

#[test]
fn a_port_plugs_and_unplugs_step_by_step_as_qemus() {
    if !have(&[Need::QtestAccel]) {
        return;
    }
    let port = "-device pcie-root-port,id=rp0,chassis=1";
    let backend = "-object memory-backend-ram,id=mem0,size=128M";
    let (ours, theirs) = both(&[MACHINE, NATIVE, port, backend], |vm| {
        let mut log = Vec::new();
        let device = json!({"driver": "virtio-mem-pci", "id": "vm0", "memdev": "mem0", "bus": "rp0"});
        Function::at(1).write(vm.qtest(), 0x18, 4, 0x01_01_00);
        log.push(slot(vm));
        vm.qmp().ok("device_add", device.clone());
        log.push(slot(vm));
        let behind = Function { bus: 1, device: 0, function: 0 };
        for value in [0x1f_03f9, 0x1f_01f9] {
            Function::at(1).write(vm.qtest(), 0x6c, 4, value);
            log.extend([slot(vm), behind.read(vm.qtest(), 0, 4)]);
        }
        vm.qmp().ok("device_del", json!({"id": "vm0"}));
        log.push(slot(vm));
        assert_eq!(
            vm.qmp().err("device_del", json!({"id": "vm0"})).1,
            "Device vm0 is already in the process of unplug"
        );
        for value in [0x1f_02f9, 0x1f_06f9, 0x1f_07f9] {
            Function::at(1).write(vm.qtest(), 0x6c, 4, value);
            log.extend([slot(vm), behind.read(vm.qtest(), 0, 4)]);
        }
        vm.qmp().wait_event("DEVICE_DELETED", |event| event["data"]["device"] == "vm0");
        // Nobody is asked about a slot that is off.
        vm.qmp().ok("device_add", device);
        vm.qmp().ok("device_del", json!({"id": "vm0"}));
        vm.qmp().wait_event("DEVICE_DELETED", |event| event["data"]["device"] == "vm0");
        log.push(slot(vm));
        log
    });
    assert_eq!(ours[..2], [0x07c0, 0x49_07c0]);
    if let Some(theirs) = theirs {
        let hex = |list: &[u64]| list.iter().map(|v| format!("{v:#x}")).collect::<Vec<_>>();
        assert_eq!(hex(&ours), hex(&theirs));
    }
}

//! Claims about adding and removing devices.

use super::*;
use crate::testing::{Rig, config};

fn desc(result: Result<Arc<dyn Device>>) -> String {
    match result {
        Ok(_) => panic!("expected an error"),
        Err(error) => error.desc().to_owned(),
    }
}

#[test]
fn bad_devices_are_refused_in_qemus_words() {
    let rig = Rig::build(config("pc")).unwrap();
    let text = |options| desc(rig.add(options));
    assert_eq!(text("id=vm0"), "Parameter 'driver' is missing");
    assert_eq!(text(""), "Parameter 'driver' is missing");
    assert_eq!(text("virtio-memm-pci,id=vm0"), "'virtio-memm-pci' is not a valid device model name");
    assert_eq!(text("memory-backend-ram,id=vm0"), "'memory-backend-ram' is not a valid device model name");
    assert_eq!(text("pci-device"), "Parameter 'driver' expects a non-abstract device type");
    assert_eq!(text("PIIX3"), "Parameter 'driver' expects a pluggable device type");
    assert_eq!(text("isa-debug-exit,id=0x"), "Parameter 'id' expects an identifier");
    assert_eq!(text("isa-debug-exit,bus=nope"), "Bus 'nope' not found");
    assert_eq!(text("isa-debug-exit,bus=pci.0"), "Device 'isa-debug-exit' can't go on PCI bus");
    assert_eq!(text("isa-debug-exit,foo=1"), "Property 'isa-debug-exit.foo' not found");
    assert_eq!(text("isa-debug-exit,iobase=x"), "Parameter 'iobase' expects integer");
    assert_eq!(text("isa-serial,chardev=c"), "Property 'serial.chardev' can't find value 'c'");
}

#[test]
fn a_refused_device_leaves_nothing() {
    let rig = Rig::build(config("pc")).unwrap();
    let isa = find_bus(&rig.machine, "ISA").unwrap();
    let before = isa.bus().children().len();
    assert!(rig.add("isa-debug-exit,id=x,iosize=0").is_err());
    assert!(rig.add("isa-debug-exit,id=x,foo=1").is_err());
    assert_eq!(isa.bus().children().len(), before);
    rig.add("isa-debug-exit,id=x").unwrap();
    assert_eq!(desc(rig.add("isa-debug-exit,id=x,iobase=0x600")), "Duplicate device ID 'x'");
}

#[test]
fn ids_and_anonymous_devices_have_their_places() {
    let rig = Rig::build(config("q35")).unwrap();
    rig.add("isa-debug-exit,id=x").unwrap();
    rig.add("isa-debug-exit,iobase=0x600").unwrap();
    let path = |p: &str| rig.machine.tree().absolute(p).is_some();
    assert!(path("/machine/peripheral/x") && path("/machine/peripheral-anon/device[0]"));
}

#[test]
fn without_a_bus_of_its_kind_a_device_is_refused() {
    let rig = Rig::ready_none();
    assert_eq!(desc(rig.add("isa-debug-exit")), "No 'ISA' bus found for device 'isa-debug-exit'");
}

#[test]
fn a_running_machine_takes_no_isa_devices() {
    let rig = Rig::ready("pc");
    assert_eq!(desc(rig.add("i8042,id=z")), "Bus 'isa.0' does not support hotplugging");
}

#[test]
fn deleting_what_is_not_there_is_refused() {
    let rig = Rig::build(config("pc")).unwrap();
    rig.add("isa-debug-exit,id=x").unwrap();
    rig.machine.finish().unwrap();
    let del = |id| device_del(&rig.machine, id).unwrap_err();
    assert_eq!(
        (del("nope").desc(), del("nope").class()),
        ("Device 'nope' not found", ErrorClass::DeviceNotFound)
    );
    assert_eq!(del("/machine").desc(), "/machine is not a device");
    assert_eq!(del("x").desc(), "Bus 'isa.0' does not support hotplugging");
}

#[test]
fn globals_replace_defaults_and_report_bad_values() {
    let rig = Rig::build(config("pc")).unwrap();
    let global = |value: &str| crate::core::Global {
        driver: "isa-debug-exit".into(),
        property: "iobase".into(),
        value: value.into(),
    };
    rig.machine.globals().add_user(global("0x700"));
    let device = rig.add("isa-debug-exit").unwrap();
    assert_eq!((device as ObjectRef).get("iobase").unwrap(), Value::Int(0x700));
    rig.machine.globals().add_user(global("abc"));
    assert_eq!(
        desc(rig.add("isa-debug-exit")),
        "can't apply global isa-debug-exit.iobase=abc: Parameter 'iobase' expects uint64"
    );
}

#[test]
fn a_realized_device_refuses_changes() {
    let rig = Rig::build(config("pc")).unwrap();
    let named: ObjectRef = rig.add("isa-debug-exit,id=x").unwrap();
    let anonymous: ObjectRef = rig.add("isa-debug-exit,iobase=0x600").unwrap();
    let set = |o: &ObjectRef| o.set("iobase", Input::Text("1")).unwrap_err().desc().to_owned();
    assert_eq!(
        set(&named),
        "Attempt to set property 'iobase' on device 'x' (type 'isa-debug-exit') after it was realized"
    );
    assert_eq!(
        set(&anonymous),
        "Attempt to set property 'iobase' on anonymous device (type 'isa-debug-exit') after it was realized"
    );
    assert_eq!(
        named.set("hotplugged", Input::Text("on")).unwrap_err().desc(),
        "Property 'isa-debug-exit.hotplugged' is not writable"
    );
}

fn virtio_mem(machine: &Arc<Machine>) -> Result<()> {
    let size = Value::from(1u64 << 30);
    for id in ["mem0", "mem1"] {
        machine.tree().create_user_object("memory-backend-ram", id, [("size", Input::Json(&size))])?;
    }
    Ok(())
}

const EJECT_BUS: u64 = 0xae10;
const EJECT_SLOTS: u64 = 0xae08;

#[test]
fn an_unplug_waits_for_the_guest_and_then_everything_is_gone() {
    let mut rig = Rig::build_with(config("pc"), virtio_mem).unwrap();
    rig.machine.finish().unwrap();
    rig.machine.start();
    rig.events();
    rig.add("virtio-mem-pci,id=vm0,memdev=mem0").unwrap();
    assert_eq!(rig.read(0xae00, 4), 1 << 2, "the guest is told of slot 2");
    assert_eq!(desc(rig.add("virtio-mem-pci,id=vm0,memdev=mem1")), "Duplicate device ID 'vm0'");
    assert_eq!(
        desc(rig.add("virtio-mem-pci,id=z,memdev=mem1,addr=2")),
        "PCI: slot 2 function 0 not available for virtio-mem-pci, in use by virtio-mem-pci,id=vm0"
    );
    assert_eq!(
        desc(rig.add("virtio-mem-pci,id=z,memdev=mem1,addr=1")),
        "PCI: slot 1 function 0 not available for virtio-mem-pci, in use by PIIX3,id=(null)"
    );
    // Before the first millisecond of the guest's time is over a request counts for ever, as in QEMU.
    while rig.machine.mainloop().now_ns(Clock::Virtual) < 1_000_000 {
        rig.turn();
    }
    device_del(&rig.machine, "vm0").unwrap();
    device_del(&rig.machine, "vm0").expect("a guest that starts may have missed it");
    assert_eq!((rig.read(0xae04, 4), rig.events().len()), (1 << 2, 0));
    rig.outl(EJECT_BUS, 0);
    rig.outl(EJECT_SLOTS, 1 << 2);
    assert_eq!(rig.config_read(2, 0, 0), u32::MAX, "the guest finds nothing there from now on");
    rig.turn();
    assert_eq!(
        rig.events(),
        [
            "DEVICE_DELETED {\"path\": \"/machine/peripheral/vm0/virtio-backend\"}",
            "DEVICE_DELETED {\"device\": \"vm0\", \"path\": \"/machine/peripheral/vm0\"}"
        ]
    );
    rig.machine.tree().delete_user_object("mem0").unwrap();
    assert_eq!(rig.config_read(2, 0, 0), u32::MAX);
    // The slot and the id are free again.
    rig.add("virtio-mem-pci,id=vm0,memdev=mem1,addr=2").unwrap();
}

#[test]
fn the_guest_cannot_eject_the_chipset() {
    let mut rig = Rig::ready("pc");
    rig.outl(EJECT_SLOTS, u32::MAX);
    rig.turn();
    assert_eq!((rig.config_read(1, 0, 0), rig.read(0xae0c, 4)), (0x7000_8086, 0));
}

#[test]
fn a_root_complex_takes_no_devices_while_running() {
    let rig = Rig::build_with(config("q35"), virtio_mem).unwrap();
    rig.add("virtio-mem-pci,id=vm0,memdev=mem0").unwrap();
    rig.machine.finish().unwrap();
    let text = desc(rig.add("virtio-mem-pci,id=vm1,memdev=mem1"));
    assert_eq!(text, "Bus 'pcie.0' does not support hotplugging");
    assert_eq!(
        device_del(&rig.machine, "vm0").unwrap_err().desc(),
        "Bus 'pcie.0' does not support hotplugging"
    );
}

#[test]
fn a_machine_that_is_dropped_gives_its_memory_back() {
    let rig = Rig::build_with(config("pc"), virtio_mem).unwrap();
    rig.add("virtio-mem-pci,id=vm0,memdev=mem0").unwrap();
    rig.machine.finish().unwrap();
    rig.machine.shut_down();
    let memory = Arc::downgrade(rig.machine.memory());
    let machine = Arc::downgrade(&rig.machine);
    drop(rig);
    assert_eq!((machine.strong_count(), memory.strong_count()), (0, 0));
}

#[test]
fn functions_of_a_slot_must_agree_on_being_several() {
    let rig = Rig::build_with(config("pc"), virtio_mem).unwrap();
    rig.add("virtio-mem-pci,memdev=mem0,addr=4.1").unwrap();
    assert_eq!(
        desc(rig.add("virtio-mem-pci,memdev=mem1,addr=4")),
        "PCI: 4.0 indicates single function, but 4.1 is already populated."
    );
    rig.add("virtio-mem-pci,memdev=mem1,addr=4,multifunction=on").unwrap();
    assert_eq!(desc(rig.add("virtio-mem-pci,addr=1.4")), "'memdev' property must be set");
}

#[test]
fn only_what_can_come_and_go_is_realized_by_a_client() {
    let rig = Rig::build_with(config("pc"), virtio_mem).unwrap();
    rig.add("isa-debug-exit,id=x").unwrap();
    rig.machine.finish().unwrap();
    rig.machine.start();
    rig.add("virtio-mem-pci,id=vm0,memdev=mem0").unwrap();
    let set = |path: &str, on: bool| {
        let object = rig.machine.tree().absolute(path).expect(path);
        object.set("realized", Input::Json(&Value::Bool(on))).map_err(|e| e.desc().to_owned())
    };
    let isa = Err("Bus 'isa.0' does not support hotplugging".to_owned());
    assert_eq!(set("/machine/peripheral/x", false), isa);
    let cpu = Err("Device 'qemu64-x86_64-cpu' does not support hotplugging".to_owned());
    assert_eq!(set("/machine/unattached/device[0]", false), cpu);
    let behind = Err("Bus 'virtio-bus' does not support hotplugging".to_owned());
    assert_eq!(set("/machine/peripheral/vm0/virtio-backend", false), behind);
    for _ in 0..3 {
        assert_eq!(set("/machine/peripheral/vm0", false), Ok(()));
        assert_eq!(rig.config_read(2, 0, 0), u32::MAX);
        assert_eq!(set("/machine/peripheral/vm0", true), Ok(()));
        assert_eq!(rig.config_read(2, 0, 0), 0x1058_1af4);
    }
    let bus = |name: &str| {
        bus::find(&rig.machine.main_bus(), &mut |b| (b.bus().name() == name).then(|| Arc::clone(b)))
    };
    assert_eq!(bus("virtio-bus").unwrap().bus().children().len(), 1);
    // What the guest does not see any more need not be given up by it.
    assert_eq!(set("/machine/peripheral/vm0", false), Ok(()));
    device_del(&rig.machine, "vm0").unwrap();
    assert!(rig.machine.tree().absolute("/machine/peripheral/vm0").is_none());
    assert_eq!(rig.config_read(0, 0, 0), 0x1237_8086, "the host bridge is where it was");
}

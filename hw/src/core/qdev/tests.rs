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
    assert_eq!(text("isa-serial"), "Can't create serial device, empty char device");
    assert_eq!(text("isa-serial,chardev=c"), "Property 'isa-serial.chardev' can't find value 'c'");
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

//! What the description at the end of a stream says is what is in it: every section, every field, every byte.

use std::fs;

use serde_json::json;
use tests::stream::Stream;
use tests::{Need, Vm, VmBuilder, have};

use super::{M, capabilities, file, migrate, plug, reached};

/// Machines with devices of all kinds.
fn machines() -> [VmBuilder; 3] {
    let common = "-device virtio-rng-pci -device virtio-balloon-pci -device virtio-serial-pci,max_ports=3 -device vmgenid \
                  -smp 2 -object memory-backend-ram,id=mem0,size=64M";
    [
        Vm::new().line("-machine pc -m 16M,maxmem=1G -device virtio-mem-pci,id=vm0,memdev=mem0").line(common),
        Vm::new()
            .line("-machine q35 -m 16M,maxmem=1G -device pcie-root-port,id=port,chassis=1 -device isa-serial")
            .line(common)
            .line("-device virtio-mem-pci,id=vm0,memdev=mem0,bus=port"),
        Vm::new()
            .line("-machine pc,memory-backend=base -m 16M,maxmem=1G -object memory-backend-memfd,id=base,size=16M")
            .line(common)
            .line("-device virtio-mem-pci,id=vm0,memdev=mem0,requested-size=16M"),
    ]
}

/// Saves such a machine in a way, and takes the file apart.
fn saved(vm: &mut Vm, names: &[&str], command: bool) -> Stream {
    capabilities(vm, &["events"]);
    capabilities(vm, names);
    vm.qmp().events();
    let path = file(vm, "saved");
    let scheme = if command { "exec:cat > " } else { "file:" };
    migrate(vm, &format!("{scheme}{}", path.display()));
    reached(vm, "completed");
    let stream =
        Stream::take_apart(&fs::read(path).unwrap()).unwrap_or_else(|error| panic!("{names:?}: {error}"));
    assert_eq!(stream.description["page_size"], 4096);
    vm.qmp().ok("cont", json!({}));
    let off: Vec<_> = names.iter().map(|name| json!({ "capability": name, "state": false })).collect();
    vm.qmp().ok("migrate-set-capabilities", json!({ "capabilities": off }));
    stream
}

#[test]
fn every_byte_of_a_saved_machine_is_described() {
    if !have(&[Need::Pliant]) {
        return;
    }
    for (number, machine) in machines().into_iter().enumerate() {
        let mut vm = machine.qmp().qtest().start();
        if number == 0 {
            plug(&mut vm);
            vm.qtest().memset(0x20_0000, M, 0x5a);
        }
        let plain = saved(&mut vm, &[], number == 1);
        let names: Vec<&str> = plain.parts.iter().map(|part| &*part.name).collect();
        for name in ["virtio-mem", "virtio-balloon", "globalstate"] {
            assert!(names.iter().any(|own| own.ends_with(name)), "{name}: {names:?}");
        }
        assert!(names.iter().filter(|name| **name == "ram").count() >= 3, "{names:?}");
        for forms in
            [&["mapped-ram"][..], &["mapped-ram", "multifd"], &["x-ignore-shared"], &["validate-uuid"]]
        {
            let stream = saved(&mut vm, forms, false);
            let forming: Vec<&str> =
                forms.iter().copied().filter(|name| !["multifd", "validate-uuid"].contains(name)).collect();
            assert_eq!(stream.capabilities, forming);
            // The same sections, whatever else changes.
            assert_eq!(
                stream.description["devices"].as_array().map(Vec::len),
                plain.description["devices"].as_array().map(Vec::len)
            );
        }
    }
}

#[test]
fn a_stream_and_a_description_that_disagree_are_found_out() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let [machine, ..] = machines();
    let mut vm = machine.qmp().qtest().start();
    saved(&mut vm, &[], false);
    let bytes = fs::read(file(&vm, "saved")).unwrap();
    let stream = Stream::take_apart(&bytes).unwrap();
    // A byte more or fewer in a section, another version, a section that is missing.
    let part = stream.parts.iter().find(|part| part.name.ends_with("virtio-mem")).unwrap().range.clone();
    let longer = [&bytes[..part.end - 6], &[0], &bytes[part.end - 6..]].concat();
    let shorter = [&bytes[..part.end - 6], &bytes[part.end - 5..]].concat();
    let missing = [&bytes[..part.start], &bytes[part.end..]].concat();
    for changed in [longer, shorter, missing, bytes[..bytes.len() - 1].to_vec()] {
        assert!(Stream::take_apart(&changed).is_err());
    }
}
